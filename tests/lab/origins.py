"""The Python origins: servers with one peculiarity each. Standard library only.

    python -m tests.lab.origins --port 8000 --kind http
    python -m tests.lab.origins --port 8001 --kind http --tls CERT KEY
    python -m tests.lab.origins --serve http:8000 --serve http:8001:CERT:KEY --serve udp-echo:7000 --control SOCKET

`--control` is a Unix socket: the line `seen` is answered by one line of JSON, a list of `Record`s; `clear` forgets
them. It prints `ready` once everything listens. README.md has the kinds and the paths of `http`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import gzip
import itertools
import json
import signal
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from urllib.parse import parse_qsl, urlsplit

from tests.lab.origin_http import Fields, Record, RefusedError, Seen, Wire, describe_tls

REASONS = {101: "Switching Protocols", 103: "Early Hints", 200: "OK", 204: "No Content", 304: "Not Modified",
           400: "Bad Request", 401: "Unauthorized", 413: "Content Too Large", 426: "Upgrade Required"}  # fmt: skip
BODYLESS = (204, 304)
PAUSE = 3600.0


def pattern(n: int) -> bytes:
    """n bytes in which a lost, doubled or moved piece shows."""
    return b"".join(b"%07x\n" % i for i in range(-(-n // 8)))[:n]


def head(status: int, fields: Fields, version: str = "HTTP/1.1") -> bytes:
    lines = [f"{version} {status} {REASONS.get(status, 'Lab')}", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Exchange:
    """One request being answered. A path that does not ask for `body()` answers early, and the connection ends."""

    def __init__(self, wire: Wire, seen: Seen) -> None:
        self.wire, self.seen = wire, seen
        url = urlsplit(seen.target)
        self.path, self.query = url.path, url.query
        self.options = dict(parse_qsl(url.query))
        self.close = seen.version == "HTTP/1.0" or "close" in ",".join(seen.values("connection")).lower()

    def number(self, name: str, default: int) -> int:
        return int(self.options.get(name, default))

    def milliseconds(self, name: str, default: int) -> float:
        return self.number(name, default) / 1000

    async def body(self) -> bytes:
        if "100-continue" in ",".join(self.seen.values("expect")).lower():
            await self.wire.send(head(100, []))
        return await self.wire.body(self.seen)

    async def start(self, status: int, *fields: tuple[str, str], body: bytes = b"") -> None:
        connection = [("Connection", "close")] if self.close else []
        await self.wire.send(head(status, [*fields, *connection]) + body)

    async def answer(self, status: int, body: bytes, *fields: tuple[str, str]) -> None:
        """A response with a length, in one piece (no body to HEAD, with 204 and with 304)."""
        length = [] if status in BODYLESS else [("Content-Length", str(len(body)))]
        bodyless = status in BODYLESS or self.seen.method == "HEAD"
        await self.start(status, *fields, *length, body=b"" if bodyless else body)


Handler = Callable[[Exchange], Awaitable[None]]


async def report(x: Exchange) -> None:
    """What the request looked like, as JSON (any path without a meaning of its own)."""
    await x.body()
    await x.answer(200, json.dumps(asdict(x.seen)).encode(), ("Content-Type", "application/json"))


async def echo_body(x: Exchange) -> None:
    """The request's body (its first MiB)."""
    await x.answer(200, await x.body(), ("Content-Type", "application/octet-stream"))


async def some_bytes(x: Exchange) -> None:
    """/bytes/N: N bytes of the pattern; ?chunked=SIZE in chunks of that size."""
    await x.body()
    data = pattern(int(x.path.rsplit("/", 1)[1]))
    size = x.number("chunked", 0)
    if not size:
        return await x.answer(200, data)
    await x.start(200, ("Transfer-Encoding", "chunked"))
    for at in range(0, len(data), size):
        await x.wire.send(chunk(data[at : at + size]))
    await x.wire.send(b"0\r\n\r\n")


async def status(x: Exchange) -> None:
    """/status/N: that status, with a small body where one is allowed."""
    await x.body()
    code = int(x.path.rsplit("/", 1)[1])
    location = [("Location", "/")] if code in (301, 302, 303, 307, 308) else []
    await x.answer(code, f"status {code}\n".encode(), *location)


async def compressed(x: Exchange) -> None:
    """/gzip: 4 kB of the pattern with Content-Encoding: gzip."""
    await x.body()
    await x.answer(200, gzip.compress(pattern(4096)), ("Content-Encoding", "gzip"), ("Content-Type", "text/plain"))


async def events(x: Exchange) -> None:
    """/sse: an event stream; ?n= events (10), one each ?ms= (200), the first at once."""
    await x.body()
    await x.start(
        200, ("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache"), ("Transfer-Encoding", "chunked")
    )
    for i in range(x.number("n", 10)):
        await asyncio.sleep(x.milliseconds("ms", 200) if i else 0)
        await x.wire.send(chunk(b"data: %d\n\n" % i))
    await x.wire.send(b"0\r\n\r\n")


async def trailers(x: Exchange) -> None:
    """/trailers: chunked, with two trailer fields declared in Trailer; the body is the report of the request."""
    await x.body()
    await x.start(200, ("Transfer-Encoding", "chunked"), ("Trailer", "X-Checksum, X-Count"))
    data = json.dumps(asdict(x.seen)).encode()
    await x.wire.send(chunk(data) + b"0\r\nX-Checksum: abc123\r\nX-Count: " + str(len(data)).encode() + b"\r\n\r\n")


async def early_hints(x: Exchange) -> None:
    """/early/hints: 103 with a Link, ?ms= (50) later the report."""
    await x.wire.send(head(103, [("Link", "</style.css>; rel=preload")]))
    await asyncio.sleep(x.milliseconds("ms", 50))
    await report(x)


async def early(x: Exchange) -> None:
    """/early/N: that status as soon as the head is here, the body left unread; then an orderly close."""
    x.close = True
    await x.answer(int(x.path.rsplit("/", 1)[1]), b"enough\n")
    await linger(x.wire)


async def truncated(x: Exchange) -> None:
    """/truncate/length|chunked|head|none|reset: the connection ends before the response does."""
    await x.body()
    how = x.path.rsplit("/", 1)[1]
    if how == "head":
        await x.wire.send(b"HTTP/1.1 200 OK\r\nContent-Ty")
    elif how == "chunked":
        await x.start(200, ("Transfer-Encoding", "chunked"))
        await x.wire.send(chunk(pattern(1000)) + b"1000\r\nhalf a chu")
    elif how in ("length", "reset"):
        await x.start(200, ("Content-Length", "100000"))
        await x.wire.send(pattern(1000))
    if how == "reset":
        await asyncio.sleep(0.05)
        x.wire.abort()
    x.close = True


async def slow(x: Exchange) -> None:
    """/slow: ?head= ms (500) to the head, then ?n= bytes (10) one each ?gap= ms (50). ?head=-1: never an answer."""
    await x.body()
    n, delay = x.number("n", 10), x.milliseconds("head", 500)
    await asyncio.sleep(delay if delay >= 0 else PAUSE)
    await x.start(200, ("Content-Length", str(n)))
    for byte in pattern(n):
        await x.wire.send(bytes([byte]))
        await asyncio.sleep(x.milliseconds("gap", 50))


async def upgrade(x: Exchange) -> None:
    """/upgrade: 101 to the protocol asked for, then a raw echo; ?greet=TEXT comes in one segment with the 101."""
    await x.body()
    wanted = x.seen.values("upgrade")
    if not wanted:
        return await x.answer(426, b"", ("Upgrade", "lab-echo"))
    reply = head(101, [("Connection", "Upgrade"), ("Upgrade", wanted[0])])
    await x.wire.send(reply + x.options.get("greet", "").encode())
    await echo(x.wire)
    x.close = True


async def until_eof(x: Exchange) -> None:
    """/eof: ?n= bytes (1000) without any length; the end of the connection is theirs. ?version=1.0 answers so."""
    await x.body()
    x.close = True
    await x.wire.send(head(200, [("Content-Type", "text/plain")], f"HTTP/{x.options.get('version', '1.1')}"))
    if x.seen.method != "HEAD":
        await x.wire.send(pattern(x.number("n", 1000)))


async def raw(x: Exchange) -> None:
    """/raw?BASE64URL: exactly these bytes, then a close (`raw_path` makes the path)."""
    await x.body()
    await x.wire.send(base64.urlsafe_b64decode(x.query))
    x.close = True


def raw_path(answer: bytes) -> str:
    """The path at which the `http` origin answers with exactly these bytes."""
    return "/raw?" + base64.urlsafe_b64encode(answer).decode()


PATHS: dict[str, Handler] = {
    "/echo": echo_body, "/bytes/": some_bytes, "/status/": status, "/gzip": compressed, "/sse": events,
    "/trailers": trailers, "/early/hints": early_hints, "/early/": early, "/truncate/": truncated, "/slow": slow,
    "/upgrade": upgrade, "/eof": until_eof, "/raw": raw,
}  # fmt: skip


async def http(wire: Wire) -> None:
    while seen := await wire.head():
        exchange = Exchange(wire, seen)
        handler = next((h for path, h in PATHS.items() if exchange.path.startswith(path)), report)
        await handler(exchange)
        if exchange.close or not seen.complete:
            return


async def linger(wire: Wire, seconds: float = 1.0) -> None:
    """Half-close and read on for a while, so that what is still on its way causes no reset of the answer."""
    if wire.writer.can_write_eof():
        wire.writer.write_eof()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while await wire.more():
                wire.take()


async def echo(wire: Wire) -> None:
    """Everything comes back, until the peer's half-close, which comes back too."""
    while True:
        if wire.buffer:
            await wire.send(wire.take())
        if not await wire.more():
            break
    if wire.writer.can_write_eof():
        wire.writer.write_eof()


async def greeter(wire: Wire) -> None:
    """Speaks first, as SMTP does; every line is answered with 250, QUIT with 221 and the end."""
    await wire.send(b"220 greeter.test ESMTP lab\r\n")
    with contextlib.suppress(EOFError):
        while (line := await wire.line()).upper() != b"QUIT":
            await wire.send(b"250 " + line + b"\r\n")
        await wire.send(b"221 bye\r\n")


async def silent(wire: Wire) -> None:
    """Reads and never says anything."""
    while await wire.more():
        wire.take()


KINDS: dict[str, Callable[[Wire], Awaitable[None]]] = {"http": http, "echo": echo, "greeter": greeter, "silent": silent}
UDP = "udp-echo"


class Origins:
    """All listeners of this process and the record of who connected."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.ids = itertools.count(1)

    async def serve(self, kind: str, port: int, cert: str = "", key: str = "") -> None:
        if kind == UDP:
            return udp_echo(port)
        context = tls_context(cert, key) if cert else None

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self.connection(kind, port, reader, writer)

        await asyncio.start_server(connected, ["0.0.0.0", "::"], port, ssl=context, backlog=1024)

    async def connection(
        self, kind: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        peer = writer.get_extra_info("peername")[:2]
        record = Record(next(self.ids), kind, port, peer, describe_tls(writer))
        self.records.append(record)
        wire = Wire(reader, writer, record)
        try:
            await KINDS[kind](wire)
            record.ended = "eof" if reader.at_eof() else "closed"
        except RefusedError as why:
            record.refused, record.ended = str(why), "closed"
            with contextlib.suppress(OSError):
                await wire.send(head(400, [("Content-Length", "0"), ("Connection", "close"), ("X-Refused", "strict")]))
        except EOFError:
            record.ended = "eof"
        except OSError as error:
            record.ended = "reset" if isinstance(error, ConnectionError) else f"error: {error}"
        except Exception as error:
            record.ended = f"error: {error!r}"
        finally:
            writer.close()

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            if line == b"clear\n":
                self.records.clear()
            writer.write(json.dumps([record.report() for record in self.records]).encode() + b"\n")
            await writer.drain()
        writer.close()


def udp_echo(port: int) -> None:
    """Every datagram goes back, from the address it was sent to (the server has several)."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    sock.setblocking(False)
    sock.bind(("::", port))

    def readable() -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, ancillary, _, peer = sock.recvmsg(65536, 256)
                asked = [(level, kind, info[:16] + bytes(4)) for level, kind, info in ancillary]  # any interface
                with contextlib.suppress(OSError):
                    sock.sendmsg([data], asked, 0, peer)

    asyncio.get_running_loop().add_reader(sock, readable)


def tls_context(cert: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    context.set_alpn_protocols(["http/1.1"])

    def note(tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        vars(tls)["lab_sni"] = name

    context.sni_callback = note
    return context


async def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="origins")
    parser.add_argument("--kind", choices=[*KINDS, UDP])
    parser.add_argument("--port", type=int)
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"), default=())
    parser.add_argument("--serve", action="append", default=[], metavar="KIND:PORT[:CERT:KEY]")
    parser.add_argument("--control", metavar="SOCKET")
    given = parser.parse_args(arguments)
    origins = Origins()
    if given.kind:
        await origins.serve(given.kind, given.port, *given.tls)
    for spec in given.serve:
        kind, port, *files = spec.split(":")
        await origins.serve(kind, int(port), *files)
    if given.control:
        await asyncio.start_unix_server(origins.control, given.control)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    print("ready", flush=True)
    await stopped.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
