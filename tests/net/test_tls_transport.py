"""TLS on a stream: over sockets, over TLS, with bytes that came early, and every way it ends."""

from __future__ import annotations

import asyncio
import ctypes
import ctypes.util
import os
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
from OpenSSL import SSL

from appliance.connection import Server
from appliance.net import relay
from appliance.net.certs import CertificateAuthority, LeafSpec, Minter
from appliance.net.reasons import Gone, Reset, TimedOut, TlsFailed
from appliance.net.stream import TLS_DEPTH, Net, Stream
from appliance.net.tls_context import TlsContexts
from appliance.options import Options
from tests.harness import recv_all, rst, tcp_pair, until

NAME = "inside.test"
LIBSSL = ctypes.util.find_library("ssl")


class Kit(NamedTuple):
    """Makes both kinds of Connection; the gateway's CA is what its own client side trusts."""

    net: Net
    tls: TlsContexts
    minter: Minter
    ca: CertificateAuthority

    async def accepting(self, name: str = NAME) -> SSL.Connection:
        return self.tls.accept(await self.minter.leaf(LeafSpec((name,), "ec")))

    def connecting(self, name: str = NAME) -> SSL.Connection:
        return self.tls.connect(Server(address=(name, 443)), sni=name)

    def context(self, trust: bool = True, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """Python's own TLS, for the other end."""
        context = ssl.create_default_context(cadata=self.ca.pem.decode()) if trust else ssl.create_default_context()
        if version:
            context.minimum_version = context.maximum_version = version
        return context

    def streams(self) -> tuple[Stream, Stream]:
        near, far = tcp_pair()
        return Stream.over_socket(self.net, near), Stream.over_socket(self.net, far)

    async def both(self, client: Stream, server: Stream, name: str = NAME) -> None:
        await asyncio.gather(client.start_tls(self.connecting(name)), server.start_tls(await self.accepting(name)))


@pytest.fixture
async def kit(ca: CertificateAuthority, tmp_path: Path) -> AsyncIterator[Kit]:
    root = tmp_path / "ca.pem"
    root.write_bytes(ca.pem)
    options = Options(ssl_verify_upstream_trusted_ca=str(root))
    tls = TlsContexts(options)
    yield Kit(Net(asyncio.get_running_loop()), tls, Minter(ca, 100), ca)
    tls.close()


class Foreign:
    """Python's ssl over a socket, stepped by hand: what reaches the wire, and when, is ours to say."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str = NAME) -> None:
        self.sock = sock
        self.into, self.out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.into, self.out, server_hostname=name)

    async def handshake(self, hold_last: bool = False) -> bytes:
        """hold_last: keep our last flight back, and return it."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await loop.sock_sendall(self.sock, self.out.read())
                self.into.write(await asyncio.wait_for(loop.sock_recv(self.sock, 65536), 5))
            except ssl.SSLError:
                await loop.sock_sendall(self.sock, self.out.read())  # the alert
                raise
        last = self.out.read()
        if not hold_last:
            await loop.sock_sendall(self.sock, last)
        return last

    def encrypt(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self.out.read()

    async def decrypt(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            try:
                got += self.tls.read(65536)
            except ssl.SSLWantReadError:
                data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.sock, 65536), 5)
                assert data, "the connection ended"
                self.into.write(data)
        return got


async def test_both_ends_ours(kit: Kit) -> None:
    client, server = kit.streams()
    assert client.tls is None
    await kit.both(client, server)
    assert client.tls is not None
    client.write(b"question")
    assert await server.read() == b"question"
    server.write(b"answer")
    assert await client.read() == b"answer"
    assert client.detach() is None, "there is TLS below"
    server.write_eof()
    assert await client.read() == b""
    assert client.tls.clean_eof
    client.write(b"half-close")
    assert await server.read() == b"half-close"
    client.close()
    server.close()


async def test_in_memory(kit: Kit) -> None:
    client, server = Stream.pair(kit.net)
    await kit.both(client, server)
    client.write(b"x" * 100_000)
    client.write_eof()
    got = b""
    while data := await server.read():
        got += data
    assert got == b"x" * 100_000


@pytest.mark.parametrize("size", [1, 16384, 65535, 65536, 65537, 200_000, 12 << 20])
async def test_big_writes_arrive_whole(kit: Kit, size: int) -> None:
    client, server = kit.streams()
    await kit.both(client, server)
    data = os.urandom(size)
    for piece in (data, bytearray(data), memoryview(data)):
        client.write(piece)
        got = bytearray()
        while len(got) < size:
            got += await asyncio.wait_for(server.read(1 << 20), 10)
        assert got == data
    client.abort()
    server.abort()


@pytest.mark.parametrize("depth", [2, 3, 4])
async def test_tls_in_tls_with_big_writes_both_ways(kit: Kit, depth: int) -> None:
    """What goes through several layers at once must not overwrite itself in shared buffers."""
    client, server = kit.streams()
    for level in range(1, depth):
        await kit.both(client, server, f"proxy{level}.test")
    await kit.both(client, server, NAME)
    data = os.urandom(5 << 20)

    async def collect(stream: Stream) -> bytes:
        got = bytearray()
        while part := await asyncio.wait_for(stream.read(1 << 20), 10):
            got += part
        return bytes(got)

    for write in (client.write, server.write):
        for start in range(0, len(data), 1 << 20):
            write(data[start : start + (1 << 20)])
    client.write_eof()
    server.write_eof()
    up, down = await asyncio.gather(collect(server), collect(client))
    assert up == data
    assert down == data
    client.close()
    server.close()


async def test_tls_in_tls_without_end(kit: Kit) -> None:
    client, server = kit.streams()
    for _ in range(TLS_DEPTH):
        await kit.both(client, server)
    with pytest.raises(TlsFailed, match="layers deep"):
        await server.start_tls(await kit.accepting())
    client.abort()
    server.abort()


async def test_tls_in_tls_under_back_pressure(kit: Kit) -> None:
    client, server = kit.streams()
    await kit.both(client, server, "proxy.test")
    await kit.both(client, server, NAME)
    data = os.urandom(24 << 20)

    async def send() -> None:
        for start in range(0, len(data), 70_000):
            if not client.write(data[start : start + 70_000]):
                await client.drain()
        client.write_eof()

    sending = asyncio.ensure_future(send())
    await asyncio.sleep(0.2)
    assert not sending.done()
    got = bytearray()
    while part := await asyncio.wait_for(server.read(1 << 20), 10):
        got += part
    assert got == data
    await sending
    client.abort()
    server.abort()


@pytest.mark.parametrize("cut", [1, 5, 100, 10_000])
async def test_ciphertext_that_came_before_start_tls(kit: Kit, cut: int) -> None:
    near, far = tcp_pair()
    stream = Stream.over_socket(kit.net, near)
    other = Foreign(far, kit.context())
    shaking = asyncio.ensure_future(other.handshake())
    await stream.peek(100)
    conn = await kit.accepting()
    hello = bytes(stream.buf)
    if cut < len(hello):  # part of it is still on its way
        stream.buf[cut:] = b""
        starting = asyncio.ensure_future(stream.start_tls(conn))
        await asyncio.sleep(0)
        stream.tls.received(memoryview(hello[cut:]))  # type: ignore[union-attr]
        await starting
    else:
        await stream.start_tls(conn)
    await shaking
    far.send(other.encrypt(b"hi"))
    assert await stream.read() == b"hi"
    stream.abort()
    far.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_request_and_an_end_in_one_segment_with_the_last_flight(kit: Kit, version: ssl.TLSVersion) -> None:
    near, far = tcp_pair()
    stream = Stream.over_socket(kit.net, near)
    other = Foreign(far, kit.context(version=version))
    starting = asyncio.ensure_future(stream.start_tls(await kit.accepting()))
    last = await other.handshake(hold_last=True)
    request = other.encrypt(b"GET / HTTP/1.1\r\n\r\n")
    await asyncio.get_running_loop().sock_sendall(far, last + request)
    far.shutdown(socket.SHUT_WR)
    await starting
    assert await stream.read() == b"GET / HTTP/1.1\r\n\r\n"
    assert await stream.read() == b""
    assert stream.tls is not None
    assert not stream.tls.clean_eof, "cut off, without a close_notify"
    stream.write(b"answer")
    assert await other.decrypt(6) == b"answer"
    stream.close()
    far.close()


async def test_a_byte_at_a_time(kit: Kit) -> None:
    near, far = tcp_pair()
    loop = asyncio.get_running_loop()
    stream = Stream.over_socket(kit.net, near)
    starting = asyncio.ensure_future(stream.start_tls(await kit.accepting()))
    other = Foreign(far, kit.context())
    while True:
        try:
            other.tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            for byte in other.out.read():
                await loop.sock_sendall(far, bytes([byte]))
                await asyncio.sleep(0)
            other.into.write(await asyncio.wait_for(loop.sock_recv(far, 65536), 5))
    for byte in other.out.read() + other.encrypt(b"slow"):
        await loop.sock_sendall(far, bytes([byte]))
        await asyncio.sleep(0)
    await starting
    assert await stream.peek(4) == b"slow"
    stream.abort()
    far.close()


async def test_a_client_that_does_not_trust_us(kit: Kit) -> None:
    """TLS 1.2: the alert comes inside the handshake."""
    near, far = tcp_pair()
    stream = Stream.over_socket(kit.net, near)
    starting = asyncio.ensure_future(stream.start_tls(await kit.accepting()))
    with pytest.raises(ssl.SSLError):
        await Foreign(far, kit.context(trust=False, version=ssl.TLSVersion.TLSv1_2)).handshake()
    with pytest.raises(TlsFailed) as e:
        await asyncio.wait_for(starting, 5)
    assert e.value.reason.detail == "unknown_ca"
    assert stream.why is not None
    assert stream.why.kind == "tls"
    far.close()


async def test_distrust_after_the_handshake(kit: Kit) -> None:
    """TLS 1.3: to the server the handshake may look complete before the alert comes."""
    near, far = tcp_pair()
    stream = Stream.over_socket(kit.net, near)
    starting = asyncio.ensure_future(stream.start_tls(await kit.accepting()))
    with pytest.raises(ssl.SSLError):
        await Foreign(far, kit.context(trust=False, version=ssl.TLSVersion.TLSv1_3)).handshake()
    with pytest.raises(TlsFailed) as e:
        await asyncio.wait_for(starting, 5)
        await asyncio.wait_for(stream.read(), 5)
    assert e.value.reason.detail == "unknown_ca"
    far.close()


async def test_our_client_side_refuses_and_says_so(kit: Kit) -> None:
    client, server = kit.streams()
    accepting = asyncio.ensure_future(server.start_tls(await kit.accepting("elsewhere.test")))
    with pytest.raises(TlsFailed):
        await client.start_tls(kit.connecting("inside.test"))
    with pytest.raises(TlsFailed, match="does not accept the certificate"):
        await asyncio.wait_for(accepting, 5)
        await asyncio.wait_for(server.read(), 5)


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-x\r\n" * 3, bytes(100), b"\x16\x03\x01\x00\x05hello"]
)
async def test_what_is_no_tls(kit: Kit, garbage: bytes) -> None:
    near, far = tcp_pair()
    stream = Stream.over_socket(kit.net, near)
    starting = asyncio.ensure_future(stream.start_tls(await kit.accepting()))
    far.send(garbage)
    with pytest.raises(TlsFailed):
        await asyncio.wait_for(starting, 5)
    assert (await recv_all(far))[:2] in (b"", b"\x15\x03"), "perhaps an alert, then the end; not a reset"
    far.close()


@pytest.mark.parametrize("how", ["eof", "eof before", "reset", "abort", "deadline", "lost before"])
async def test_handshakes_that_are_left(kit: Kit, how: str) -> None:
    near, far = tcp_pair()
    stream = Stream.over_socket(kit.net, near)
    if how == "eof before":
        far.shutdown(socket.SHUT_WR)
        assert not await stream.more()
    if how == "lost before":
        rst(far)
        await until(lambda: stream.why is not None)
    starting = asyncio.ensure_future(stream.start_tls(await kit.accepting()))
    await asyncio.sleep(0.01)
    if how == "eof":
        far.shutdown(socket.SHUT_WR)
    elif how == "reset":
        rst(far)
    elif how == "abort":
        stream.abort()
    elif how == "deadline":
        stream.limit(0, "too slow")
        stream.expire()
    wanted = {"eof": TlsFailed, "eof before": TlsFailed, "reset": Reset, "deadline": TimedOut, "lost before": Reset}
    with pytest.raises(wanted.get(how, Gone)):
        await asyncio.wait_for(starting, 2)
    far.close()


async def test_a_broken_record_later(kit: Kit) -> None:
    near, far = tcp_pair()
    stream = Stream.over_socket(kit.net, near)
    other = Foreign(far, kit.context())
    await asyncio.gather(stream.start_tls(await kit.accepting()), other.handshake())
    far.send(other.encrypt(b"good"))
    assert await stream.read() == b"good"
    bad = bytearray(other.encrypt(b"bad"))
    bad[-1] ^= 1
    far.send(bad)
    with pytest.raises(TlsFailed):
        await asyncio.wait_for(stream.read(), 5)
    stream.write(b"nobody hears it")
    far.close()


async def test_a_reset_below(kit: Kit) -> None:
    client, server = kit.streams()
    await kit.both(client, server)
    client.write(b"bye")
    assert await server.peek(3) == b"bye"
    client.abort()
    await until(lambda: server.why is not None)
    assert await server.read() == b"bye"
    with pytest.raises(Reset):
        await server.read()


async def test_a_slow_reader_bounds_memory(kit: Kit) -> None:
    client, server = kit.streams()
    await kit.both(client, server)
    sent = 0
    while client.write(bytes(65536)):
        sent += 65536
        await asyncio.sleep(0)
        assert sent < 100 << 20
    waiting = asyncio.ensure_future(client.drain())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert len(server.buf) < 1 << 20
    sent += 65536
    got = 0
    while got < sent:
        got += len(await asyncio.wait_for(server.read(1 << 20), 5))
    await waiting
    client.abort()
    server.abort()


async def test_close_says_close_notify(kit: Kit) -> None:
    client, server = kit.streams()
    await kit.both(client, server)
    client.write(b"the end")
    client.close()
    assert await server.read() == b"the end"
    assert await server.read() == b""
    assert server.tls is not None
    assert server.tls.clean_eof
    server.close()


async def test_an_unusable_connection(kit: Kit) -> None:
    near, far = tcp_pair()
    stream = Stream.over_socket(kit.net, near)
    with pytest.raises((TypeError, ValueError)):
        await stream.start_tls("not a connection")  # type: ignore[arg-type]
    assert stream.why is None
    assert stream.tls is None
    far.send(b"still plain")
    assert await stream.read() == b"still plain"
    stream.abort()
    far.close()


def ask_for_key_updates(sock: socket.socket, library: str) -> None:
    """Of TLS 1.3, until the other side has had enough; nothing is read. (Python's ssl cannot.)"""
    sock.setblocking(True)
    lib = ctypes.CDLL(library)
    for name in ("TLS_client_method", "SSL_CTX_new", "SSL_new"):
        getattr(lib, name).restype = ctypes.c_void_p
    context = ctypes.c_void_p(lib.SSL_CTX_new(ctypes.c_void_p(lib.TLS_client_method())))
    connection = ctypes.c_void_p(lib.SSL_new(context))
    lib.SSL_set_fd(connection, sock.fileno())
    assert lib.SSL_connect(connection) == 1
    while lib.SSL_key_update(connection, 1) == 1 and lib.SSL_do_handshake(connection) == 1:
        pass
    lib.SSL_free(connection)
    lib.SSL_CTX_free(context)


@pytest.mark.skipif(LIBSSL is None, reason="there is no libssl")
async def test_key_updates_without_end(kit: Kit) -> None:
    near, far = tcp_pair()
    stream = Stream.over_socket(kit.net, near)
    assert LIBSSL is not None
    asking = asyncio.ensure_future(asyncio.to_thread(ask_for_key_updates, far, LIBSSL))
    await stream.start_tls(await kit.accepting())
    stream.write(bytes(8 << 20))  # nobody reads this
    try:
        with pytest.raises(Gone, match="does not read what it asks for"):
            await asyncio.wait_for(stream.read(), 10)
    finally:
        stream.abort()
        await asking
        far.close()


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("from_client", [True, False])
async def test_a_relay_passes_the_end_on_as_it_was_said(kit: Kit, clean: bool, from_client: bool) -> None:
    """Without close_notify there may have been more (RFC 8446 §6.1); to swallow that would be a lie."""
    client, near = kit.streams()
    far, server = kit.streams()
    await kit.both(client, near)
    await kit.both(far, server)
    relaying = asyncio.ensure_future(relay.both(near, far, [0, 0]))
    ends, other = (client, server) if from_client else (server, client)
    assert ends.tls is not None and other.tls is not None
    ends.tls.silent = not clean
    ends.write(b"the end")
    ends.write_eof()
    assert await other.read() == b"the end"
    assert await other.read() == b""
    assert other.tls.clean_eof == clean
    other.write(b"an answer")  # what the other side says has an end of its own
    other.write_eof()
    assert await ends.read() == b"an answer"
    assert await ends.read() == b""
    assert ends.tls.clean_eof
    await relaying
    for stream in (client, near, far, server):
        stream.close()
