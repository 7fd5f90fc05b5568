"""Interception namespaces: private networks in which every TCP connection and UDP datagram lands on our listeners."""

from modes.netns.namespace import Namespace

__all__ = ["Namespace"]
