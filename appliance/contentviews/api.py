"""What a content view is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.flow import Flow
    from appliance.http import Message
    from appliance.tcp import TCPMessage
    from appliance.udp import UDPMessage

SyntaxHighlight = Literal["css", "javascript", "xml", "yaml", "none", "error"]


@dataclass
class Metadata:
    """What is known about the bytes that a view is given; exactly one of the messages is set, if any."""

    flow: Flow | None = None
    content_type: str | None = None
    """Type and subtype in lower case, without parameters."""
    http_message: Message | None = None
    tcp_message: TCPMessage | None = None
    udp_message: UDPMessage | None = None
    websocket_message: Any = None
    dns_message: Any = None
    protobuf_definitions: Path | None = None
    original_data: bytes | None = None
    """Before content codings were taken off."""


@runtime_checkable
class _View(Protocol):
    def prettify(self, data: bytes, metadata: Metadata) -> str: ...


class Contentview:
    """Base of views, and of add-ons' views. `prettify` may raise anything."""

    syntax_highlight: SyntaxHighlight = "none"
    _name: str | None = None

    @property
    def name(self) -> str:
        """Shown, and given to `view_name` in any case; the class's own unless set."""
        return self._name or type(self).__name__.removesuffix("Contentview")

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        """`data` as text. Control characters are taken care of elsewhere."""
        raise NotImplementedError

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        """How well this view fits: the highest is chosen for `auto`. 0: only when asked for by name."""
        return 0

    def __lt__(self, other: Contentview) -> bool:
        return self.name < other.name


class InteractiveContentview(Contentview):
    """A view whose text can be edited."""

    def reencode(self, prettified: str, metadata: Metadata) -> bytes:
        """The bytes again. Raises ValueError."""
        raise NotImplementedError
