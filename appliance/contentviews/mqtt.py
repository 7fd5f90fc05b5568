"""Control packets of MQTT (OASIS, versions 3.1.1 and 5), one a line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from appliance.contentviews.api import Contentview, Metadata
from appliance.strutils import is_mostly_bin

MAX_PACKETS: Final = 1000
MAX_TOPICS: Final = 100
_NAMES: Final = (
    "reserved", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "SUBACK",
    "UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH",
)  # fmt: skip


class Mqtt(Contentview):
    """One a line. Version 5 is known where the CONNECT is seen, or was the first message of the flow."""

    _name = "MQTT"

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        shown: list[str] = []
        at, five = 0, _is_five(metadata)
        while at < len(data) and len(shown) < MAX_PACKETS:
            first = data[at]
            size, at = variable(data, at + 1)
            body = data[at : at + size]
            if first >> 4 == 1:
                five = level(body) >= 5
            shown.append(_packet(first, body, five) + ("" if at + size <= len(data) else " (cut off)"))
            at += size
        return "\n".join(shown)


def _is_five(metadata: Metadata) -> bool:
    """Whether the flow began with a CONNECT of version 5."""
    messages = getattr(metadata.flow, "messages", None) if metadata.tcp_message is not None else None
    first: bytes = messages[0].content if messages else b""
    if first[:1] != b"\x10":
        return False
    try:
        _, at = variable(first, 1)
    except ValueError:
        return False
    return level(first[at:]) >= 5


def level(connect: bytes) -> int:
    """The version in the body of a CONNECT, 0 if it is cut off."""
    _, rest = _field(connect)
    return rest[0] if rest else 0


def variable(data: bytes, at: int) -> tuple[int, int]:
    """A variable byte integer, and where it ends. Raises ValueError."""
    size = 0
    for shift in range(0, 28, 7):
        if at >= len(data):
            raise ValueError("cut off in a packet's length")
        byte = data[at]
        at += 1
        size |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return size, at
    raise ValueError("a packet's length has more than four bytes")


def _packet(first: int, body: bytes, five: bool) -> str:
    name = _NAMES[first >> 4]
    if name == "PUBLISH":
        topic, rest = _field(body)
        qos = first >> 1 & 3
        rest = rest[2:] if qos else rest
        if five:
            rest = _after_properties(rest)
        return f"{name} qos={qos}{' retain' if first & 1 else ''} {topic}: {_readable(rest)}"
    if name == "CONNECT":
        protocol, rest = _field(body)
        return f"{name} {protocol} level={rest[0] if rest else '?'} {_connect(rest)}"
    if name in ("SUBSCRIBE", "UNSUBSCRIBE"):
        rest = _after_properties(body[2:]) if five else body[2:]
        return f"{name} {' '.join(_topics(rest, 1 if name == 'SUBSCRIBE' else 0))}"
    return f"{name} {body.hex()}".rstrip()


def _connect(rest: bytes) -> str:
    """From the version on: flags, seconds to keep alive, client, user. The password is not shown."""
    flags = rest[1] if len(rest) > 1 else 0
    body = rest[4:]
    if rest[:1] and rest[0] >= 5:
        body = _after_properties(body)
    client, body = _field(body)
    words = [f"keepalive={int.from_bytes(rest[2:4])}", f"client={client}"]
    if flags & 4:
        if rest[0] >= 5:
            body = _after_properties(body)
        topic, body = _field(body)
        size = int.from_bytes(body[:2])
        words.append(f"will={topic}: {_readable(body[2 : 2 + size])}")
        body = body[2 + size :]
    if flags & 0x80:
        words.append(f"user={_field(body)[0]}")
    return " ".join(words)


def _topics(rest: bytes, more: int) -> Iterator[str]:
    """`more`: bytes after each topic."""
    for _ in range(MAX_TOPICS):
        if len(rest) < 2:
            return
        topic, rest = _field(rest)
        yield f"{topic} (qos={rest[0] & 3})" if more and rest else topic
        rest = rest[more:]


def _after_properties(data: bytes) -> bytes:
    size, at = variable(data, 0)
    return data[at + size :]


def _field(data: bytes) -> tuple[str, bytes]:
    size = int.from_bytes(data[:2])
    return data[2 : 2 + size].decode("utf-8", "backslashreplace"), data[2 + size :]


def _readable(data: bytes) -> str:
    return data.hex() if is_mostly_bin(data) else data.decode("utf-8", "backslashreplace")
