"""HTTP/1.1 as the lab's origin reads it: every byte is recorded and nothing ambiguous is let through.

What a gateway must never send is refused here with the reason, so that a test sees it even if the gateway does not.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
import ssl
import struct
from dataclasses import asdict, dataclass, field
from typing import Any

Fields = list[tuple[str, str]]
MAX_HEAD = 256 * 1024
KEEP = 1024 * 1024
"""So many bytes of a connection are kept in its record; `total` counts on."""

_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/1\.([01])")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,15})(;[\t\x20-\x7e]*)?")
_LONE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")


class RefusedError(Exception):
    """Not HTTP as RFC 9112 has it, or something two readers could understand in two ways."""


@dataclass
class Seen:
    """One request as it arrived. `fields` and `trailers` are in order, with the case they had."""

    method: str
    target: str
    version: str
    fields: Fields
    length: int = 0
    sha256: str = ""
    chunked: bool = False
    trailers: Fields = field(default_factory=list)
    complete: bool = False

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name]


@dataclass
class Record:
    """One connection: what came in over it (after TLS), and how it ended."""

    id: int
    kind: str
    port: int
    peer: tuple[str, int]
    tls: dict[str, str | None] | None = None
    raw: bytearray = field(default_factory=bytearray)
    total: int = 0
    requests: list[Seen] = field(default_factory=list)
    refused: str | None = None
    ended: str | None = None
    """None while it lasts; "eof" or "reset" by the peer, "closed" by the origin, "error: ..." """

    def report(self) -> dict[str, Any]:
        return {**asdict(self), "raw": self.raw.decode("latin-1")}


class Wire:
    """One connection with its record."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: Record) -> None:
        self.reader, self.writer, self.record = reader, writer, record
        self.buffer = bytearray()

    async def more(self) -> bool:
        """Wait for bytes; False at the end of the input."""
        data = await self.reader.read(65536)
        self.record.total += len(data)
        self.record.raw += data[: max(0, KEEP - len(self.record.raw))]
        self.buffer += data
        return bool(data)

    def take(self, n: int | None = None) -> bytes:
        data = bytes(self.buffer[:n])
        del self.buffer[: len(data)]
        return data

    async def line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            if len(self.buffer) > MAX_HEAD:
                raise RefusedError("line too long")
            if _LONE.search(self.buffer):
                raise RefusedError("bare CR or LF")
            if not await self.more():
                raise EOFError
        line = self.take(self.buffer.index(b"\r\n") + 2)[:-2]
        if _LONE.search(line) or line.endswith(b"\r"):
            raise RefusedError("bare CR or LF")
        return line

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def abort(self) -> None:
        """Reset instead of an orderly end."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    # -- requests
    async def head(self) -> Seen | None:
        """The next request's head, or None when the peer has ended. Raises RefusedError, EOFError (cut off)."""
        if not self.buffer and not await self.more():
            return None
        line = await self.line()
        start = _REQUEST_LINE.fullmatch(line)
        if not start:
            raise RefusedError(f"request line {line[:80]!r}")
        method, target = start[1].decode(), start[2].decode()
        seen = Seen(method, target, f"HTTP/1.{start[3].decode()}", await self.fields())
        self.record.requests.append(seen)
        hosts = seen.values("host")
        if len(hosts) > 1 or (not hosts and seen.version == "HTTP/1.1"):
            raise RefusedError(f"{len(hosts)} Host fields")
        lengths, codings = seen.values("content-length"), seen.values("transfer-encoding")
        if len(lengths) + len(codings) > 1:
            raise RefusedError("more than one framing field")
        if lengths and not re.fullmatch("[0-9]{1,18}", lengths[0]):
            raise RefusedError(f"Content-Length {lengths[0]!r}")
        if codings and (codings[0].lower() != "chunked" or seen.version == "HTTP/1.0"):
            raise RefusedError(f"Transfer-Encoding {codings[0]!r} in {seen.version}")
        seen.chunked = bool(codings)
        return seen

    async def fields(self) -> Fields:
        found: Fields = []
        while line := await self.line():
            match = _FIELD.fullmatch(line)
            if not match:
                raise RefusedError(f"field line {line[:80]!r}")
            found.append((match[1].decode(), match[2].decode("latin-1")))
        return found

    async def body(self, seen: Seen) -> bytes:
        """Read a request's body to its end, into the record; the first KEEP bytes are returned."""
        kept, digest = bytearray(), hashlib.sha256()

        async def exactly(n: int) -> None:
            while n:
                if not self.buffer and not await self.more():
                    raise EOFError
                data = self.take(n)
                n -= len(data)
                seen.length += len(data)
                digest.update(data)
                kept.extend(data[: max(0, KEEP - len(kept))])

        if seen.chunked:
            while size := await self._chunk_size():
                await exactly(size)
                if await self.line():
                    raise RefusedError("chunk longer than its size")
            seen.trailers = await self.fields()
            if any(name.lower() in ("content-length", "transfer-encoding", "host") for name, _ in seen.trailers):
                raise RefusedError("framing field in trailers")
        else:
            await exactly(int((seen.values("content-length") or ["0"])[0]))
        seen.sha256, seen.complete = digest.hexdigest(), True
        return bytes(kept)

    async def _chunk_size(self) -> int:
        line = await self.line()
        match = _CHUNK.fullmatch(line)
        if not match:
            raise RefusedError(f"chunk size {line[:80]!r}")
        return int(match[1], 16)


def describe_tls(writer: asyncio.StreamWriter) -> dict[str, str | None] | None:
    """What was agreed on a TLS connection, None on a plain one."""
    tls = writer.get_extra_info("ssl_object")
    if not isinstance(tls, ssl.SSLObject):
        return None
    return {
        "version": tls.version(),
        "cipher": (tls.cipher() or ("",))[0],
        "alpn": tls.selected_alpn_protocol(),
        "sni": getattr(tls, "lab_sni", None),
    }
