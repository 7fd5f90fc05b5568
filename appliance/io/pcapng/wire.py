"""Ethernet frames with IPv4 and IPv6, TCP and UDP in them, checksums right; and a TCP connection made of them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

CLIENT_MAC, SERVER_MAC = b"\x02\x00\x00\x00\x00\x01", b"\x02\x00\x00\x00\x00\x02"
"""Locally administered: nobody's."""
SEGMENT = 1440
"""Bytes of payload in a packet: an Ethernet's, with IPv6."""
WINDOW = 65535
UNACKNOWLEDGED = 32
"""Segments after which the receiver acknowledges."""
MAX_DATAGRAM = 65507
"""Bytes of UDP payload that fit an IPv4 packet."""
_FIN, _SYN, _RST, _PSH, _ACK = 1, 2, 4, 8, 16
_TCP, _UDP = 6, 17

Address = IPv4Address | IPv6Address


def checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071): the ones' complement sum of 16-bit words is the number modulo 65535."""
    if len(data) & 1:
        data += b"\0"
    return 65535 - (int.from_bytes(data, "big") % 65535 or 65535)


def address(text: str | None) -> Address | None:
    """The IP address in `text`, a scope left off; None: there is none."""
    if text is None:
        return None
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


class Path:
    """Packets between two addresses. Where their families differ, the IPv4 one is written IPv4-mapped."""

    def __init__(self, client: Address, client_port: int, server: Address, server_port: int) -> None:
        if client.version != server.version:
            client, server = _six(client), _six(server)
        self.version = client.version
        self._ends = (server.packed, client.packed)  # [from the server, from the client] is the source
        self._ports = (server_port & 65535, client_port & 65535)
        self._ids = [0, 0]

    def datagram(self, from_client: bool, payload: bytes) -> bytes:
        """A UDP packet."""
        ports = self._ports
        length = len(payload) + 8
        head = struct.pack(">HHHH", ports[from_client], ports[not from_client], length, 0)
        total = checksum(self._pseudo(from_client, _UDP, length) + head + payload) or 65535
        return self._ip(from_client, _UDP, head[:6] + total.to_bytes(2, "big") + payload)

    def segment(
        self, from_client: bool, sequence: int, acknowledged: int, flags: int, payload: bytes, options: bytes = b""
    ) -> bytes:
        """A TCP packet."""
        ports = self._ports
        size = 20 + len(options)
        head = struct.pack(
            ">HHIIBBHHH", ports[from_client], ports[not from_client], sequence & 0xFFFFFFFF,
            acknowledged & 0xFFFFFFFF, size << 2, flags, WINDOW, 0, 0,
        ) + options  # fmt: skip
        total = checksum(self._pseudo(from_client, _TCP, size + len(payload)) + head + payload)
        return self._ip(from_client, _TCP, head[:16] + total.to_bytes(2, "big") + head[18:] + payload)

    def _pseudo(self, from_client: bool, protocol: int, length: int) -> bytes:
        ends = self._ends
        if self.version == 4:
            return ends[from_client] + ends[not from_client] + struct.pack(">BBH", 0, protocol, length)
        return ends[from_client] + ends[not from_client] + struct.pack(">IHBB", length, 0, 0, protocol)

    def _ip(self, from_client: bool, protocol: int, payload: bytes) -> bytes:
        source, target = self._ends[from_client], self._ends[not from_client]
        macs = SERVER_MAC + CLIENT_MAC if from_client else CLIENT_MAC + SERVER_MAC
        if self.version == 6:
            head = struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64) + source + target
            return macs + b"\x86\xdd" + head + payload
        number = self._ids[from_client] = (self._ids[from_client] + 1) & 65535
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), number, 0x4000, 64, protocol, 0) + source + target
        return macs + b"\x08\x00" + head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def _six(one: Address) -> IPv6Address:
    return one if isinstance(one, IPv6Address) else IPv6Address(b"\0" * 10 + b"\xff\xff" + one.packed)


class TcpConnection:
    """A connection from its handshake to its end, as the packets of a flawless network. start: makes the sequence
    numbers."""

    def __init__(self, path: Path, start: int = 0) -> None:
        self._path = path
        self._next = [(start * 2654435761 + 1) & 0xFFFFFFFF, (start * 40503 + 77) & 0xFFFFFFFF]

    def open(self) -> Iterator[bytes]:
        mss = struct.pack(">BBH", 2, 4, SEGMENT)
        server, client = self._next
        yield self._path.segment(True, client, 0, _SYN, b"", mss)
        yield self._path.segment(False, server, client + 1, _SYN | _ACK, b"", mss)
        self._next = [server + 1, client + 1]
        yield self._acknowledge(True)

    def say(self, from_client: bool, data: bytes) -> Iterator[bytes]:
        """`data` in segments, acknowledged."""
        for number, at in enumerate(range(0, len(data), SEGMENT), 1):
            part = data[at : at + SEGMENT]
            flags = _ACK | _PSH if at + SEGMENT >= len(data) else _ACK
            yield self._path.segment(from_client, self._next[from_client], self._next[not from_client], flags, part)
            self._next[from_client] += len(part)
            if not number % UNACKNOWLEDGED:
                yield self._acknowledge(not from_client)
        if data:
            yield self._acknowledge(not from_client)

    def close(self, by_client: bool) -> Iterator[bytes]:
        for side in (by_client, not by_client):
            yield self._path.segment(side, self._next[side], self._next[not side], _FIN | _ACK, b"")
            self._next[side] += 1
        yield self._acknowledge(by_client)

    def reset(self, by_client: bool) -> Iterator[bytes]:
        yield self._path.segment(by_client, self._next[by_client], self._next[not by_client], _RST | _ACK, b"")

    def _acknowledge(self, from_client: bool) -> bytes:
        return self._path.segment(from_client, self._next[from_client], self._next[not from_client], _ACK, b"")
