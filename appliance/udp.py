"""Raw UDP flows."""

from __future__ import annotations

from .conversation import ContentMessage, Conversation


class UDPMessage(ContentMessage):
    """One datagram."""

    __slots__ = ()


class UDPFlow(Conversation[UDPMessage]):
    """Datagrams between two addresses."""

    type = "udp"
    _message = UDPMessage
