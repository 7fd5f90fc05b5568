"""The data of SVCB and HTTPS records (RFC 9460)."""

from __future__ import annotations

import base64
import ipaddress
import struct
from dataclasses import dataclass, field

from appliance.net.dns import DNSError, names

MANDATORY, ALPN, NO_DEFAULT_ALPN, PORT, IPV4HINT, ECH, IPV6HINT = range(7)
DOHPATH, OHTTP = 7, 8
_KEYS = ("mandatory", "alpn", "no-default-alpn", "port", "ipv4hint", "ech", "ipv6hint", "dohpath", "ohttp")


@dataclass(slots=True)
class HTTPSRecord:
    """priority: 0 = an alias. params: key number to value as on the wire; they are sent in the order of their keys."""

    priority: int = 1
    target_name: str = ""
    params: dict[int, bytes] = field(default_factory=dict)

    def __str__(self) -> str:
        """The presentation form (RFC 9460 §2.1)."""
        words = [str(self.priority), (self.target_name or "") + "."]
        for key in sorted(self.params):
            value = _text(key, self.params[key])
            words.append(key_name(key) if value is None else f'{key_name(key)}="{value}"')
        return " ".join(words)


def key_name(key: int) -> str:
    """alpn, port, …, or key123."""
    return _KEYS[key] if key < len(_KEYS) else f"key{key}"


def unpack(data: bytes) -> HTTPSRecord:
    """:raises DNSError: it is no such data (keys out of order or doubled, too short, a compressed target)."""
    if len(data) < 3:
        raise DNSError("SVCB data is cut short")
    target, at = names.unpack(data[2:], 0)
    record = HTTPSRecord(int.from_bytes(data[:2], "big"), target)
    at += 2
    last = -1
    while at < len(data):
        if at + 4 > len(data):
            raise DNSError("an SVCB parameter is cut short")
        key, size = struct.unpack_from("!HH", data, at)
        at += 4
        if key <= last:
            raise DNSError("SVCB parameters are not in the order of their keys")
        if at + size > len(data):
            raise DNSError("an SVCB parameter is cut short")
        record.params[key] = data[at : at + size]
        last, at = key, at + size
    return record


def pack(record: HTTPSRecord) -> bytes:
    """:raises DNSError: a number or a length does not fit."""
    try:
        parts = [struct.pack("!H", record.priority), names.pack(record.target_name)]
        for key in sorted(record.params):
            parts += [struct.pack("!HH", key, len(record.params[key])), record.params[key]]
    except struct.error as e:
        raise DNSError(f"SVCB: {e}") from None
    return b"".join(parts)


def pack_alpn(protocols: tuple[bytes, ...]) -> bytes:
    """:raises DNSError: a protocol is empty or longer than 255 bytes."""
    if not all(0 < len(protocol) < 256 for protocol in protocols):
        raise DNSError("an ALPN protocol has 1 to 255 bytes")
    return b"".join([bytes([len(protocol)]) + protocol for protocol in protocols])


def unpack_alpn(data: bytes) -> tuple[bytes, ...]:
    """:raises DNSError: it is no list of protocols."""
    found, at = [], 0
    while at < len(data):
        size = data[at]
        if not size or at + 1 + size > len(data):
            raise DNSError("an ALPN list is cut short")
        found.append(data[at + 1 : at + 1 + size])
        at += 1 + size
    return tuple(found)


def strip(record: HTTPSRecord) -> bool:
    """Take out what hides a server's name from the gateway (ECH) or leads past it (HTTP/3); whether there was any.

    A record that promised HTTP/3 alone promises HTTP/1.1 then (RFC 9460 §7.1); nothing that is gone stays mandatory.

    :raises DNSError: a list in it is malformed.
    """
    params = record.params
    before = dict(params)
    params.pop(ECH, None)
    if ALPN in params:
        offered = unpack_alpn(params[ALPN])
        kept = tuple([one for one in offered if one != b"h3" and not one.startswith(b"h3-")])
        if not kept:
            params.pop(ALPN)
            params.pop(NO_DEFAULT_ALPN, None)
        elif kept != offered:
            params[ALPN] = pack_alpn(kept)
    if (listed := params.get(MANDATORY)) is not None:
        if len(listed) % 2:
            raise DNSError("an SVCB list of mandatory keys is cut short")
        keys = [listed[at : at + 2] for at in range(0, len(listed), 2)]
        needed = b"".join([key for key in keys if int.from_bytes(key, "big") in params])
        if needed:
            params[MANDATORY] = needed
        else:
            del params[MANDATORY]
    return params != before


def _text(key: int, data: bytes) -> str | None:
    """The value for people; None: it has none. What is not of the form its key asks for is shown as bytes."""
    try:
        if key == MANDATORY and data and len(data) % 2 == 0:
            return ",".join(key_name(number) for (number,) in struct.iter_unpack("!H", data))
        if key == ALPN:
            return ",".join(quoted(one.replace(b"\\", b"\\\\").replace(b",", b"\\,")) for one in unpack_alpn(data))
        if key in (NO_DEFAULT_ALPN, OHTTP) and not data:
            return None
        if key == PORT and len(data) == 2:
            return str(int.from_bytes(data, "big"))
        if key == IPV4HINT and data and len(data) % 4 == 0:
            return ",".join(str(ipaddress.IPv4Address(data[i : i + 4])) for i in range(0, len(data), 4))
        if key == IPV6HINT and data and len(data) % 16 == 0:
            return ",".join(str(ipaddress.IPv6Address(data[i : i + 16])) for i in range(0, len(data), 16))
        if key == ECH:
            return base64.b64encode(data).decode()
    except DNSError:
        pass
    return quoted(data)


def quoted(data: bytes) -> str:
    """The inside of a quoted string (RFC 1035 §5.1)."""
    return "".join(
        f"\\{chr(byte)}" if byte in b'"\\' else chr(byte) if 32 <= byte < 127 else f"\\{byte:03d}" for byte in data
    )
