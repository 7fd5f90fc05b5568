"""Raw TCP flows."""

from __future__ import annotations

from .conversation import ContentMessage, Conversation


class TCPMessage(ContentMessage):
    """Bytes as one read gave them: boundaries mean nothing. Empty content is not passed on."""

    __slots__ = ()


class TCPFlow(Conversation[TCPMessage]):
    """A TCP conversation."""

    type = "tcp"
    _message = TCPMessage
