"""Input that is broken, hostile or endless: told to its sender and in the log, `error` once, others unharmed."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator

import pytest

from tests.lab.bytes_on_wire import get, read_all
from tests.lab.gateway_proc import Gateway
from tests.lab.labkit import HTTP, HTTPS, Lab
from tests.lab.netns import wait_for
from tests.lab.recorder import Origins
from tests.lab.witness import (
    REGULAR,
    TRANSPARENT,
    Witness,
    both_modes,
    connect,
    read_head,
    read_response,
    server,
    status,
    tunnel,
)

Running = tuple[Gateway, Witness]
ABSOLUTE = f"http://origin.test:{HTTP}"
GOOD = f"GET {ABSOLUTE}/x HTTP/1.1\r\nHost: origin.test:{HTTP}\r\n\r\n".encode()


@pytest.fixture(scope="module")
def module(lab: Lab) -> Iterator[Running]:
    with both_modes(lab, "--set", "client_header_timeout=2", "--set", "tls_handshake_timeout=2") as running:
        yield running


@pytest.fixture
def running(lab: Lab, module: Running) -> Iterator[Running]:
    """The gateway before and after every test: another client is served as ever."""
    module[1].forget()
    yield module
    assert lab.curl(f"{ABSOLUTE}/after", via=module[0]).status == 200


def ask(lab: Lab, request: bytes, *, port: int = REGULAR, end: bool = False) -> bytes:
    """All that comes back for these bytes."""
    with connect(lab, port=port) as sock:
        sock.settimeout(10)
        with contextlib.suppress(ConnectionError):
            sock.sendall(request)
            if end:
                sock.shutdown(socket.SHUT_WR)
        return read_all(sock)


# -- HTTP


@pytest.mark.parametrize("size", [70_000, 1_000_000])
@pytest.mark.parametrize("shape", ["one field", "many fields", "target", "endless"])
def test_head_over_the_limit(lab: Lab, running: Running, shape: str, size: int) -> None:
    request = {
        "one field": GOOD[:-2] + b"X: " + b"a" * size + b"\r\n\r\n",
        "many fields": GOOD[:-2] + b"X: aaaaaa\r\n" * (size // 11) + b"\r\n",
        "target": GOOD.replace(b"/x", b"/" + b"a" * size),
        "endless": GOOD[:-2] + b"X: " + b"a" * size,
    }[shape]
    assert status(ask(lab, request)) in (431, 414)
    assert running[1].endings() == ["error"]
    running[0].wait_output(r"(431|414) error: ")


def test_garbage_instead_of_http(lab: Lab, running: Running) -> None:
    for garbage in (b"\x00\x01\x02\x03\r\n\r\n", b"hello, is anybody there?\r\n\r\n", b"\xff" * 5000 + b"\r\n\r\n",
                    b"SSH-2.0-x\r\n", b"GET\r\n\r\n", b"* / HTTP/1.1\r\n\r\n", b"\x05\x01\x00",
                    b"\r\n\r\nA B C\r\n\r\n"):  # fmt: skip
        running[1].forget()
        assert status(ask(lab, garbage, end=True)) == 400, garbage
        assert running[1].endings() == ["error"], garbage


def test_garbage_instead_of_tls(lab: Lab, running: Running) -> None:
    gateway, witness = running
    for garbage in (b"\x16\x03\x01\x00\x05hello", b"\x16\x03\x03\xff\xff" + b"\x01" * 70_000,
                    b"\x16\x03\x01\x00\x04\x01\xff\xff\xff" * 20_000, b"\x16\x03\x01\x00\x00" * 1000,
                    b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00"):  # fmt: skip
        for sock in (lab.connect(port=HTTPS), tunnel(lab, "origin.test", HTTPS), connect(lab)):
            with sock:
                witness.forget()
                sock.settimeout(5)
                with contextlib.suppress(ConnectionError):
                    sock.sendall(garbage)
                    sock.shutdown(socket.SHUT_WR)
                assert read_all(sock)[:1] in (b"", b"\x15")  # nothing, or an alert
                assert len(witness.wait("tls_failed_client")) == 1
    gateway.wait_output("TLS with the client failed: no TLS ClientHello")


def test_hello_a_byte_at_a_time(lab: Lab, running: Running) -> None:
    """Over a socket pair, so that what the TLS library writes can be torn to pieces."""
    for sock, pause in ((lab.connect(port=HTTPS), 0.001), (tunnel(lab, "origin.test", HTTPS), 0)):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(running[0].ca)
        into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(into, out, server_hostname="origin.test")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with sock:
            while True:
                with contextlib.suppress(ssl.SSLWantReadError):
                    tls.do_handshake()
                    break
                for byte in out.read():
                    sock.sendall(bytes([byte]))
                    time.sleep(pause)
                into.write(sock.recv(65536))
            tls.write(get("/x"))
            sock.sendall(out.read())
            answer = b""
            while b"HTTP/1.1 200" not in answer:
                into.write(sock.recv(65536))
                with contextlib.suppress(ssl.SSLWantReadError):
                    answer += tls.read(65536)


@pytest.mark.parametrize("end", [False, True], ids=["silence", "FIN"])
def test_half_a_hello_fifty_times(lab: Lab, running: Running, end: bool) -> None:
    gateway, witness = running
    half = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x55" * 100
    socks = [lab.connect(port=HTTPS) for _ in range(25)] + [tunnel(lab, "origin.test", HTTPS) for _ in range(25)]
    for sock in socks:
        sock.sendall(half)
        if end:
            sock.shutdown(socket.SHUT_WR)
    time.sleep(0.3)
    before, began = gateway.cpu_seconds(), time.monotonic()
    time.sleep(1.2)
    assert (gateway.cpu_seconds() - before) / (time.monotonic() - began) < 0.02
    for sock in socks:  # each is told, or at least ended, within the time limit
        with sock:
            sock.settimeout(5)
            assert read_all(sock)[:1] in (b"", b"\x15")
    assert len(witness.wait("tls_failed_client", count=50)) == 50


def test_slow_loris(lab: Lab, running: Running) -> None:
    """A head that comes a line now and then, and one of which nothing comes: 408 after client_header_timeout=2."""
    began = time.monotonic()
    drip, start, nothing = connect(lab), connect(lab), connect(lab)
    drip.sendall(GOOD[:-2])
    start.sendall(b"GE")
    for _ in range(20):
        with contextlib.suppress(ConnectionError):
            drip.sendall(b"X: a\r\n")
        time.sleep(0.15)
    for sock in (drip, start):
        sock.settimeout(5)
        with sock:
            assert status(read_all(sock)) == 408
    nothing.settimeout(5)
    with nothing:
        assert read_all(nothing) == b""
    assert time.monotonic() - began < 5
    assert running[1].endings() == ["error"] * 2
    running[0].wait_output(r"408 error: ")


def test_second_request_dripping(lab: Lab, running: Running) -> None:
    """The clock runs for every head, not only the first of a connection."""
    with connect(lab) as sock:
        sock.settimeout(5)
        sock.sendall(GOOD + GOOD[:20])
        assert status(read_response(sock)[0]) == 200
        assert status(read_all(sock)) == 408


def test_truncated_requests(lab: Lab, running: Running, origins: Origins) -> None:
    post = GOOD.replace(b"GET", b"POST")[:-2]
    chunked = post + b"Transfer-Encoding: chunked\r\n\r\n"
    for cut in (GOOD[:20], GOOD[:-2], post + b"Content-Length: 10\r\n\r\nfour", chunked, chunked + b"5\r\nhel"):
        running[1].forget()
        assert status(ask(lab, cut, end=True)) in (400, 408), cut
        assert running[1].endings() == ["error"], cut
    assert origins.received() == b""


def test_client_that_vanishes(lab: Lab, running: Running) -> None:
    """In the middle of its body, and while the server thinks."""
    post = GOOD.replace(b"GET", b"POST")[:-2] + b"Content-Length: 10\r\n\r\nfour"
    thinks, drips = (GOOD.replace(b"/x", path) for path in (b"/slow?head=-1", b"/slow?head=0&n=1000&gap=20"))
    for request in (post, thinks, drips):
        running[1].forget()
        with connect(lab) as sock:
            sock.sendall(request)
            time.sleep(0.1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert running[1].endings() == ["error"], request
        assert len(running[1].events("server_disconnected")) == len(running[1].events("server_connected"))


@pytest.mark.parametrize("how", ["length", "chunked", "head", "none", "reset"])
@pytest.mark.parametrize("port", [HTTP, HTTPS])
def test_server_that_closes_in_the_middle(lab: Lab, running: Running, how: str, port: int) -> None:
    reply = lab.curl(f"{'https' if port == HTTPS else 'http'}://origin.test:{port}/truncate/{how}", via=running[0])
    assert reply.status == 502 or reply.exit in (18, 56), reply  # a page, or a body visibly cut short
    if reply.exit == 0:
        assert b"lockgate" in reply.body
    assert running[1].endings() == ["error"]
    running[0].wait_output(f"/truncate/{how}")


def test_server_that_closes_in_the_middle_of_a_stream(lab: Lab, running: Running) -> None:
    """More than is held: the head has gone out, so the body must be seen to be cut, also when it is chunked."""

    def cut(framing: bytes) -> Callable[[socket.socket], None]:
        def serve(sock: socket.socket) -> None:
            read_head(sock)
            sock.sendall(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
            for _ in range(30):
                sock.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n" if b"chunked" in framing else b"x" * 65536)

        return serve

    for framing in (b"Content-Length: 5000000", b"Transfer-Encoding: chunked"):
        running[1].forget()
        with server(lab, 8053, cut(framing)):
            reply = lab.curl("http://origin.test:8053/x", via=running[0])
        assert reply.exit in (18, 56), reply
        assert running[1].endings() == ["error"]


def test_endless_response_head(lab: Lab, running: Running) -> None:
    def serve(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            sock.sendall(b"X: " + b"a" * 1000 + b"\r\n")

    with server(lab, 8054, serve):
        reply = lab.curl("http://origin.test:8054/x", via=running[0])
    assert reply.status == 502
    assert running[1].endings() == ["error"]


def test_garbage_as_tls_server(lab: Lab, running: Running) -> None:
    def serve(sock: socket.socket) -> None:
        sock.recv(1)
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with server(lab, 8055, serve):
        reply = lab.curl("https://origin.test:8055/x", via=running[0])
    assert reply.status == 502
    assert b"TLS" in reply.body
    assert running[1].endings() == ["error"]


def test_body_size_limit(lab: Lab, origins: Origins) -> None:
    witness = Witness(lab)
    with lab.gateway_proc("-p", "8090", "--set", "body_size_limit=1k", addon=witness.addon) as gateway:
        for how, body in (("X: y", "x" * 2000), ("Transfer-Encoding: chunked", "x" * 2000)):
            reply = lab.curl(f"{ABSOLUTE}/x", "-H", how, "-d", body, via=gateway)
            assert reply.status == 413, reply
        for query in ("", "?chunked=100"):
            assert lab.curl(f"{ABSOLUTE}/bytes/2000{query}", via=gateway).status == 502
        assert lab.curl(f"{ABSOLUTE}/bytes/1000", "-d", "x" * 1000, via=gateway).status == 200
    assert [seen.method for seen in origins.requests()] == ["GET", "GET", "POST"]
    assert [e.event for e in witness.events("response", "error")] == ["error"] * 4 + ["response"]


# -- where it must not go


@pytest.mark.parametrize(
    "target",
    [f"127.0.0.1:{REGULAR}", f"10.61.1.1:{REGULAR}", f"10.61.2.1:{REGULAR}", f"gateway.test:{REGULAR}",
     f"localhost:{REGULAR}", f"0.0.0.0:{REGULAR}", f"[::]:{REGULAR}", f"[::1]:{REGULAR}", f"[fd61:1::1]:{REGULAR}",
     f"[::ffff:127.0.0.1]:{REGULAR}", f"127.1.2.3:{REGULAR}", f"127.0.0.1:{TRANSPARENT}",
     "169.254.169.254:80", "[fd00:ec2::254]:80", "[::ffff:169.254.169.254]:80", "[::ffff:a9fe:a9fe]:80"],
)  # fmt: skip
def test_it_never_dials_itself(lab: Lab, running: Running, target: str) -> None:
    gateway, witness = running
    reply = lab.curl(f"http://{target}/x", via=gateway, timeout=5)
    assert reply.status == 502, reply
    assert re.search(b"this gateway itself|metadata address", reply.body), reply.body
    reply = lab.curl(f"https://{target}/x", via=gateway, timeout=5)
    assert reply.exit == 56  # the CONNECT was answered with 502
    assert reply.heads[0].line.split()[1] == "502", reply
    assert witness.endings(2)
    assert len(witness.events("client_connected")) == 2  # us, and nobody else
    gateway.wait_output("this gateway itself|metadata address")


def test_client_redirected_to_the_metadata_address(lab: Lab, running: Running) -> None:
    with lab.connect("169.254.169.254", 80, family=None) as sock:
        sock.sendall(get("/latest/meta-data/"))
        assert status(read_response(sock)[0]) == 502
    running[0].wait_output("169.254.169.254 is a link-local or metadata address")


def test_allowed_metadata_address_is_only_unreachable(lab: Lab) -> None:
    allowed = {"allow_metadata_addresses": True, "connect_timeout": 1}
    with lab.gateway_proc("-p", "8090", options=allowed) as gateway:
        reply = lab.curl("http://169.254.169.254/x", via=gateway)
    assert reply.status == 502
    assert b"metadata" not in reply.body


def test_names_that_lead_nowhere(lab: Lab, running: Running) -> None:
    for name, says in (("no-such-name.test", b"cannot be resolved"), ("a" * 64 + ".test", b""), ("x..test", b"")):
        running[1].forget()
        reply = lab.curl(f"http://{name}/x", via=running[0])
        assert reply.status in (400, 502), reply
        assert says in reply.body
        assert running[1].endings() == ["error"]


# -- add-ons that misbehave

NONSENSE = {
    "raises": "raise ValueError('oh no')",
    "status": "flow.response.status_code = 'many'",
    "header": "flow.response.headers['x'] = 'a\\r\\nInjected: 1'",
    "content": "flow.response.content = 5",
    "no response": "flow.response = None",
    "wrong response": "flow.response = 'hello'",
    "no headers": "flow.response.headers = None",
    "raw": "flow.response.raw_content = 'text'",
    "length": "flow.response.headers['content-length'] = '99999'",
    "trailers": "flow.response.trailers = 5",
    "no request": "flow.request = None",
}  # fmt: skip


@pytest.fixture(scope="module")
def nonsense(lab: Lab) -> Iterator[Gateway]:
    body = "".join(f"    if flow.request.path == '/{n}': {what}\n" for n, what in enumerate(NONSENSE.values()))
    addon = f"def response(flow):\n{body}\ndef error(flow):\n    print('error fired', flow.error, flush=True)\n"
    with lab.gateway_proc("-p", "8070", addon=addon) as gateway:
        yield gateway
    assert "unexpected fault in a connection" not in gateway.output, gateway.output


@pytest.mark.parametrize("what", NONSENSE)
def test_addon_that_sets_nonsense(lab: Lab, nonsense: Gateway, what: str) -> None:
    path = list(NONSENSE).index(what)
    with connect(lab, port=8070) as sock:
        sock.settimeout(5)
        sock.sendall(GOOD.replace(b"/x", b"/%d" % path))
        head = read_head(sock)
        assert status(head) in (200, 500, 502) or head == b"", head  # an answer, or an end; no hanging
        assert b"Injected" not in head
    if what == "raises":
        nonsense.wait_output("ValueError: oh no")
        assert status(head) == 200
    assert lab.curl(f"{ABSOLUTE}/after", via=nonsense).status == 200


def test_addon_that_blocks_is_named(lab: Lab) -> None:
    addon = "import time\ndef request(flow):\n    if 'slow' in flow.request.path: time.sleep(0.5)\n"
    with lab.gateway_proc("-p", "8090", addon=addon) as gateway:
        assert lab.curl(f"{ABSOLUTE}/slow-addon", via=gateway).status == 200
        line = gateway.wait_output(r"^.*addon\d+.*$")[0]
        assert re.search(r"request", line)
        assert re.search(r"[45]\d\d ?ms|0\.5", line), line
        assert lab.curl(f"{ABSOLUTE}/x", via=gateway).status == 200


def test_addons_that_raise_in_every_hook(lab: Lab, origins: Origins) -> None:
    hooks = ("client_connected", "client_disconnected", "server_connect", "server_connected", "server_disconnected",
             "requestheaders", "request", "responseheaders", "response", "error", "http_connect", "http_connected",
             "tls_clienthello", "tls_start_client", "tls_start_server", "tls_established_client",
             "tls_established_server", "next_layer", "update")  # fmt: skip
    addon = "".join(f"def {hook}(x): raise ValueError('in {hook}')\n" for hook in hooks)
    with lab.gateway_proc("-p", "8090", addon=addon) as gateway:
        assert lab.curl(f"https://origin.test:{HTTPS}/x", via=gateway).status == 200
        assert lab.curl("http://no-such-name.test/x", via=gateway).status == 502
        for hook in hooks:
            gateway.wait_output(f"ValueError: in {hook}")


# -- too much at once


def test_out_of_files(lab: Lab) -> None:
    """64 files, 100 connections: some wait, none is lost, and nothing is left of it afterwards."""
    with lab.gateway_proc(
        "-m", "regular@8090", nofile=64, options={"max_connections": 1000, "store": False}
    ) as gateway:
        before = gateway.open_files()
        socks = [connect(lab, port=8090) for _ in range(100)]
        gateway.wait_output("cannot accept|no more are accepted|Too many open files")
        cpu, began = gateway.cpu_seconds(), time.monotonic()
        time.sleep(1)
        assert (gateway.cpu_seconds() - cpu) / (time.monotonic() - began) < 0.1
        for sock in socks[:80]:
            sock.close()
        for sock in socks[80:]:  # those that had to wait get their turn
            sock.settimeout(10)
            with sock:
                sock.sendall(GOOD)
                assert status(read_response(sock)[0]) == 200
        wait_for(lambda: gateway.open_files() <= before, 5, "files are given back")
        assert gateway.process.poll() is None
        assert len(re.findall("cannot accept|no more are accepted", gateway.output)) < 10
    assert gateway.output.find("Traceback") < 0, gateway.output[-3000:]


def test_limit_of_its_own_keeps_files_in_reserve(lab: Lab) -> None:
    """Without max_connections the limit follows from nofile, and a connection that was accepted can reach a server."""
    with lab.gateway_proc("-m", "regular@8090", nofile=128) as gateway:
        socks = [connect(lab, port=8090) for _ in range(100)]
        gateway.wait_output("no more are accepted")
        served = 0
        for sock in socks:
            sock.settimeout(10)
            with sock:
                sock.sendall(GOOD)
                served += status(read_response(sock)[0]) == 200
        assert served == 100
        assert "Too many open files" not in gateway.output


def test_max_connections(lab: Lab) -> None:
    with lab.gateway_proc("-m", "regular@8090", options={"max_connections": 5}) as gateway:
        socks = [connect(lab, port=8090) for _ in range(8)]
        for sock in socks[:5]:
            sock.sendall(GOOD)
            assert status(read_response(sock)[0]) == 200
        gateway.wait_output("5 connections are open")
        late = socks[5:]
        for sock in late:
            sock.sendall(GOOD)
            sock.settimeout(0.2)
            with pytest.raises(TimeoutError):
                sock.recv(1)
        for sock in socks[:3]:
            sock.close()
        for sock in late:
            sock.settimeout(5)
            assert status(read_response(sock)[0]) == 200
        for sock in socks:
            sock.close()
        assert lab.curl(f"{ABSOLUTE}/x", via=gateway).status == 200
