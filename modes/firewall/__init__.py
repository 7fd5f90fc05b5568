"""The redirect of `transparent:IFACE`: a plan, the two firewalls that can carry it out, and its removal."""

from __future__ import annotations

from modes.firewall.lay import Firewall

__all__ = ["Firewall"]
