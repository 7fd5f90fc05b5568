"""HTTP/2 with real peers: nginx, curl, h2load, Chromium, Node and gRPC, through each of our codecs, with hooks."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import netns
from tests.lab.clients import Reply, chromium_path
from tests.lab.gateway_proc import Gateway
from tests.lab.labkit import HTTPS, Lab
from tests.lab.netns import wait_for
from tests.lab.nginx import H2
from tests.lab.origins import pattern
from tests.lab.recorder import Origins
from tests.lab.witness import Witness, both_modes
from tests.layers.http import h2_frames as h2

HERE = Path(__file__).parent
NODE, GRPC = 9443, 9444
FORCE = """
import asyncio

def tls_clienthello(data):
    name = data.client_hello.sni or ""
    if name.startswith("www."):  # the client speaks HTTP/1, the server may speak HTTP/2
        data.context.client.alpn = b"http/1.1"
    elif name.startswith("v4."):  # and the other way round
        data.context.client.alpn = b"h2"

def request(flow):
    if flow.request.path.startswith("/held/"):
        flow.intercept()
        asyncio.get_running_loop().call_later(float(flow.request.path.rpartition("/")[2]), flow.kill)

def response(flow):
    if flow.request.path.startswith("/page"):
        flow.response.headers["content-type"] = "text/html"
"""
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
Running = tuple[Gateway, Witness]


@pytest.fixture(scope="module", params=["lean", "h2"])
def running(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Running]:
    """Both modes, all hooks, one codec."""
    force = lab.scratch / "force-alpn.py"
    force.write_text(FORCE)
    with both_modes(lab, "-s", str(force), options={"http2_codec": request.param}) as running:
        yield running


@pytest.fixture(scope="module")
def node(lab: Lab) -> Iterator[None]:
    """An origin that speaks HTTP/2 and nothing else."""
    process = lab.server.popen(["node", HERE / "h2_origin.js", str(NODE), lab.pki.good.key, lab.pki.good.cert])
    wait_for(lambda: NODE in lab.server.listening(), 10, "node listens")
    yield
    netns.end_process(process)


def ask(lab: Lab, gateway: Gateway, url: str, *wishes: dict[str, Any], timeout: float = 20.0) -> list[dict[str, Any]]:
    """By Node's client, all at once on one connection."""
    done = lab.client.run(["node", HERE / "h2_client.js", url, gateway.ca, json.dumps(wishes)], timeout=timeout)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def by_mode(lab: Lab, gateway: Gateway, mode: str) -> Callable[..., Reply]:
    if mode == "regular":
        return lambda url, *more, **kw: lab.curl(url, "--http2", *more, via=gateway, **kw)
    return lambda url, *more, **kw: lab.curl(url, "--http2", *more, ca=gateway.ca, **kw)


@pytest.mark.parametrize("mode", ["regular", "transparent"])
def test_curl_and_nginx(lab: Lab, running: Running, mode: str) -> None:
    gateway, witness = running
    witness.forget()
    curl = by_mode(lab, gateway, mode)
    page = curl(f"https://origin.test:{H2}/")
    assert (page.status, page.http, page.exit) == (200, "2", 0), page
    assert b"over HTTP/2.0" in page.body
    for name, size in (("1k", 1024), ("100k", 102400), ("10m", 10 << 20)):
        got = curl(f"https://origin.test:{H2}/{name}")
        assert got.body == pattern(size), (name, len(got.body), got.error)
    head = curl(f"https://origin.test:{H2}/100k", "--head")
    assert (head.status, head.header("content-length"), head.size) == (200, "102400", 0)
    assert curl(f"https://origin.test:{H2}/missing").status == 404
    assert witness.endings(6) == ["response"] * 6
    paths = [event.path for event in witness.events("request")]
    assert paths == ["/", "/1k", "/100k", "/10m", "/100k", "/missing"]


def test_http2_to_http1(lab: Lab, running: Running, origins: Origins) -> None:
    """The strict origin gets one Host, one Cookie, and nothing of HTTP/2."""
    gateway, _ = running
    got = lab.curl(
        f"https://v4.origin.test:{HTTPS}/x?a=b", "--http2", "-H", "Cookie: a=1; b=2", "-H", "X-Mixed: Case", "-H",
        "Accept:", "-d", "q=1", ca=gateway.ca,
    )  # fmt: skip
    assert (got.status, got.http) == (200, "2"), got
    seen = origins.requests(HTTPS)[0]
    assert (seen.method, seen.target) == ("POST", "/x?a=b")
    assert seen.values("host") == [f"v4.origin.test:{HTTPS}"]
    assert seen.values("cookie") == ["a=1; b=2"]
    assert seen.values("content-length") == ["3"]
    assert seen.values("x-mixed") == ["Case"]
    names = {name.lower() for name, _ in seen.fields}
    assert names <= {"host", "cookie", "content-length", "x-mixed", "user-agent", "content-type"}, seen.fields
    assert not [record.refused for record in origins.connections(HTTPS) if record.refused]
    trailers = lab.curl(f"https://v4.origin.test:{HTTPS}/trailers", "--http2", ca=gateway.ca)
    assert [name.lower() for name, _ in trailers.trailers] == ["x-checksum", "x-count"]
    big = lab.curl(f"https://v4.origin.test:{HTTPS}/bytes/3000000?chunked=7777", "--http2", ca=gateway.ca)
    assert big.body == pattern(3000000)
    hints = lab.curl(f"https://v4.origin.test:{HTTPS}/early/hints", "--http2", ca=gateway.ca)
    assert [head.line.split()[1] for head in hints.heads] == ["103", "200"]


@pytest.mark.parametrize("kind", ["length", "chunked", "reset"])
def test_http1_origin_that_cuts_a_body(lab: Lab, running: Running, kind: str) -> None:
    gateway, _ = running
    got = lab.curl(f"https://v4.origin.test:{HTTPS}/truncate/{kind}", "--http2", ca=gateway.ca)
    assert got.status == 502 or got.exit in (18, 56, 92), got
    assert lab.curl(f"https://v4.origin.test:{HTTPS}/x", "--http2", ca=gateway.ca).status == 200


@needs_node
def test_http1_to_http2(lab: Lab, running: Running, node: None) -> None:
    gateway, _ = running
    page = lab.curl(f"https://www.origin.test:{H2}/", ca=gateway.ca)
    assert (page.http, page.status) == ("1.1", 200) and b"over HTTP/2.0" in page.body
    got = lab.curl(
        f"https://www.origin.test:{NODE}/x?a=b", "-H", "X-Mixed: Case", "-H", "Connection: keep-alive, X-Hop", "-H",
        "X-Hop: 1", "-H", "Keep-Alive: timeout=5", "-H", "TE: trailers", "-H", "Cookie: a=1; b=2",
        "--data-binary", "x" * 1000, ca=gateway.ca,
    )  # fmt: skip
    assert (got.status, got.http) == (200, "1.1"), got
    seen = got.json()
    pairs = list(zip(seen["raw"][::2], seen["raw"][1::2], strict=True))
    assert pairs[:4] == [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", f"www.origin.test:{NODE}"),
        (":path", "/x?a=b"),
    ]
    fields = dict(pairs)
    assert (fields["x-mixed"], fields["cookie"], fields["content-length"]) == ("Case", "a=1; b=2", "1000")
    assert not {"connection", "keep-alive", "x-hop", "host", "transfer-encoding"} & set(fields), pairs
    assert seen["size"] == 1000
    reply = lab.curl(f"https://www.origin.test:{NODE}/trailers", ca=gateway.ca)
    assert reply.body == b"body" and ("x-checksum", "abc") in [(n.lower(), v) for n, v in reply.trailers]


@needs_node
def test_node(lab: Lab, running: Running, node: None) -> None:
    """Node at both ends: bodies both ways, trailers, 103, resets, cancelling, forty at once on one connection."""
    gateway, witness = running
    witness.forget()
    wishes: list[dict[str, Any]] = [
        {"path": "/report", "headers": {"x-a": "1"}, "keep": True},
        {"path": "/upload", "body": 5_000_000, "trailers": {"x-sum": "9"}, "keep": True},
        {"path": "/trailers"},
        {"path": "/hints"},
        {"path": "/reset/x"},
        {"path": "/never/x", "cancel": 300},
        *({"path": f"/bytes/{1000 * n}"} for n in range(1, 41)),
    ]
    got = ask(lab, gateway, f"https://origin.test:{NODE}", *wishes)
    report, upload, trailers, hints, reset, never, *many = got
    assert (report["status"], report["error"]) == (200, "")
    sent = json.loads(upload["text"])
    assert (sent["size"], sent["trailers"]) == (5_000_000, ["x-sum", "9"])
    assert sent["sha256"] == hashlib.sha256(b"pattern." * 625_000).hexdigest()
    assert trailers["trailers"] == {"x-checksum": "abc", "x-count": "2"}
    assert (hints["informational"], hints["status"]) == ([103], 200)
    assert reset["status"] == 502 or reset["rst"] == 2, reset
    assert (never["status"], never["rst"]) == (0, 8), never
    for n, one in enumerate(many, 1):
        assert (one["status"], one["size"], one["error"]) == (200, 1000 * n, ""), one
        assert one["sha256"] == hashlib.sha256((b"pattern." * (1000 * n))[: 1000 * n]).hexdigest()
    witness.endings()
    ended = [(event.event, event.path) for event in witness.events("response", "error")]
    assert sorted(ended) == sorted(
        ("error" if wish["path"] in ("/reset/x", "/never/x") else "response", wish["path"]) for wish in wishes
    )


@needs_node
def test_events_come_at_once(lab: Lab, running: Running, node: None) -> None:
    gateway, _ = running
    ask(lab, gateway, f"https://origin.test:{NODE}", {"path": "/report"})
    (got,) = ask(lab, gateway, f"https://origin.test:{NODE}", {"path": "/sse", "keep": True})
    assert got["text"] == "".join(f"data: {n}\n\n" for n in range(4))
    assert got["ms"] > 400
    # The connection's own making (TCP, two TLS handshakes) is in it.
    assert got["first"] < 250, got


@needs_node
def test_first_event_within_100_ms(lab: Lab, running: Running, node: None) -> None:
    """On a connection that stands."""
    gateway, _ = running
    done = lab.client.run(
        ["node", "-e", """
const http2 = require("http2"), fs = require("fs");
const session = http2.connect(process.argv[1], { ca: fs.readFileSync(process.argv[2]), ALPNProtocols: ["h2"] });
const ask = (path) => new Promise((done) => {
  const began = performance.now(); let first = 0;
  const stream = session.request({ ":path": path });
  stream.on("data", () => { first = first || performance.now() - began; }); stream.on("close", () => done(first));
});
(async () => { await ask("/report"); console.log(Math.min(await ask("/sse"), await ask("/sse"))); session.close(); })();
""", f"https://origin.test:{NODE}", gateway.ca],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout) < 100


@needs_node
@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(120)])])
def test_a_held_stream_and_its_siblings(lab: Lab, running: Running, node: None, seconds: int) -> None:
    gateway, witness = running
    witness.forget()
    held, *siblings = ask(
        lab, gateway, f"https://origin.test:{NODE}", {"path": f"/held/{seconds}"},
        *({"path": f"/bytes/{n}"} for n in range(100, 120)), timeout=seconds + 20,
    )  # fmt: skip
    for one in siblings:
        assert (one["status"], one["error"]) == (200, "") and one["ms"] < 3000, one
    assert held["status"] == 0 and held["rst"] != 0 and held["ms"] >= 1000 * seconds - 50, held
    witness.endings()
    assert [event.path for event in witness.events("error")] == [f"/held/{seconds}"]
    assert len(witness.events("response")) == 20
    assert len(witness.events("client_connected")) == 1


@pytest.mark.timeout(90)
@pytest.mark.parametrize("mode", ["regular", "transparent"])
def test_64_mib_exact(lab: Lab, running: Running, mode: str) -> None:
    gateway, _ = running
    big = lab.scratch / "nginx/www/64m"
    if not big.exists():
        big.write_bytes(pattern(64 << 20))
    before = gateway.rss_kb()
    way = ["--proxy", gateway.proxy] if mode == "regular" else []
    done = lab.client.run(
        ["sh", "-c", 'curl -q -sS --http2 --noproxy "" "$@" | sha256sum', "curl", "--cacert", gateway.ca, *way,
         f"https://origin.test:{H2}/64m"], timeout=60,
    )  # fmt: skip
    assert done.stdout.split()[0] == hashlib.sha256(big.read_bytes()).hexdigest(), done.stderr
    assert gateway.rss_kb() - before < 40_000, "it was held"


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load (nghttp2-client) is not installed")
@pytest.mark.timeout(90)
def test_h2load(lab: Lab, running: Running) -> None:
    witness = running[1]
    witness.forget()
    done = lab.client.run(["h2load", "-n", "3000", "-c", "5", "-m", "40", f"https://origin.test:{H2}/1k"], timeout=80)
    assert "3000 succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout, done.stdout + done.stderr
    assert "Application protocol: h2" in done.stdout
    assert witness.endings(5).count("response") == 3000
    assert not witness.events("error")


PAGE = """<!doctype html><title>objects</title><p id=told>nothing</p><script>
const names = Array.from({length: 200}, (_, n) => "/o" + n);
Promise.all(names.map((name) => fetch(name).then((got) => got.text()))).then((texts) => {
  const right = texts.filter((text, n) => text === "object " + n + " " + "x".repeat(n * 50)).length;
  const over = new Set(performance.getEntriesByType("resource").map((one) => one.nextHopProtocol));
  document.getElementById("told").textContent = right + " right over " + [...over].join(",");
}).catch((error) => { document.getElementById("told").textContent = String(error); });
</script>"""


@pytest.mark.skipif(chromium_path() is None, reason="no chromium here")
@pytest.mark.timeout(90)
@pytest.mark.parametrize("mode", ["regular", "transparent"])
def test_chromium_loads_200_objects(lab: Lab, running: Running, mode: str) -> None:
    gateway, witness = running
    witness.forget()
    files = lab.scratch / "nginx/www"
    (files / "page.html").write_text(PAGE)
    for n in range(200):
        (files / f"o{n}").write_text(f"object {n} " + "x" * (n * 50))
    url = f"https://origin.test:{H2}/page.html"
    page = lab.chromium(url, via=gateway) if mode == "regular" else lab.chromium(url, ca=gateway.ca)
    told = re.search(r"<p id=\"?told\"?>(.*?)</p>", page.dom)
    assert told and told[1] == "200 right over h2", (told, page.log[-2000:])
    asked = [event.path for event in witness.events("response")]
    assert {f"/o{n}" for n in range(200)} <= set(asked)


@pytest.mark.skipif(importlib.util.find_spec("grpc") is None, reason="grpcio is not installed")
@pytest.mark.timeout(90)
def test_grpc(lab: Lab, running: Running) -> None:
    """Unary, both ways in lockstep, a failure with its status, a cancelled stream, a deadline, fifty at once."""
    gateway, witness = running
    witness.forget()
    peer = HERE / "grpc_peer.py"
    server = lab.server.popen([sys.executable, peer, "server", str(GRPC), lab.pki.good.key, lab.pki.good.cert])
    try:
        wait_for(lambda: GRPC in lab.server.listening(), 15, "grpc listens")
        done = lab.client.run([sys.executable, peer, "client", f"origin.test:{GRPC}", gateway.ca], timeout=60)
    finally:
        netns.end_process(server)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == {
        "unary": True,
        "trailing": "yes",
        "bidi": True,
        "fail": ["FAILED_PRECONDITION", "not today"],
        "slow": "first",
        "deadline": "DEADLINE_EXCEEDED",
        "many": True,
    }
    witness.endings()
    ended = [(event.event, event.path.rpartition("/")[2]) for event in witness.events("response", "error")]
    assert ended.count(("response", "Unary")) == 51
    assert ended.count(("response", "Bidi")) == ended.count(("response", "Fail")) == 1
    # The cancelled call; the one over its deadline may also end with the server's own trailers, which keeps time too.
    assert ("error", "Slow") in ended and sum(path == "Slow" for _, path in ended) == 2
    assert len(witness.events("request")) == len(ended)


# -- attacks, on a gateway in a process of its own


def rapid_resets() -> Iterator[bytes]:
    for n in range(1, 40001, 2):
        yield h2.headers(n, h2.request(b"/1k", scheme=b"https")) + h2.rst(n)


def pings() -> Iterator[bytes]:
    for _ in range(200):
        yield h2.ping() * 1000


def continuations() -> Iterator[bytes]:
    yield h2.frame(h2.T.HEADERS, 1, 1, h2.block(h2.request()))
    for _ in range(4000):
        yield h2.continuation(1, h2.literal(b"x", b"v" * 16000), end=False)


def empty_data() -> Iterator[bytes]:
    yield h2.post(1)
    for _ in range(200):
        yield h2.data(1) * 1000


def zero_window() -> Iterator[bytes]:
    yield h2.settings((h2.S.INITIAL_WINDOW_SIZE, 0))
    for n in range(1, 200, 2):
        yield h2.headers(n, h2.request(b"/10m", scheme=b"https"))


@pytest.mark.parametrize("attack", [rapid_resets, pings, continuations, empty_data, zero_window])
def test_attacks(lab: Lab, running: Running, attack: Callable[[], Iterator[bytes]]) -> None:
    """Five attackers at once: memory and processor time stay bounded, and others are served meanwhile."""
    gateway, _ = running
    before, used = gateway.rss_kb(), gateway.cpu_seconds()
    socks = [lab.connect_tls("origin.test", H2, ca=gateway.ca, alpn=["h2"]) for _ in range(5)]
    try:
        for sock in socks:
            sock.settimeout(2)
            try:
                sock.sendall(h2.PREFACE + h2.settings())
                for part in attack():
                    sock.sendall(part)
            except (TimeoutError, OSError):
                pass  # it was cut off, or is not read any more
        start = time.monotonic()
        other = lab.curl(f"https://origin.test:{H2}/1k", "--http2", ca=gateway.ca)
        assert other.body == pattern(1024), other
        assert time.monotonic() - start < 8  # begun exchanges of five attackers are ended first; two cores may be busy
        assert gateway.rss_kb() - before < 100_000
        assert gateway.cpu_seconds() - used < 12
    finally:
        for sock in socks:
            sock.close()


# -- the codecs against each other


@pytest.fixture(scope="module")
def told() -> dict[str, object]:
    """What each codec made of the same requests."""
    return {}


@needs_node
def test_codecs_agree(lab: Lab, running: Running, node: None, told: dict[str, object]) -> None:
    wishes: list[dict[str, Any]] = [
        {"path": "/report", "headers": {"x-a": "1", "cookie": "a=1; b=2", "te": "trailers"}, "keep": True},
        {"path": "/upload", "body": 300_000, "trailers": {"x-sum": "9"}, "keep": True},
        {"path": "/trailers"},
        {"path": "/hints"},
        {"path": "/bytes/1000000"},
        {"path": "/report", "method": "HEAD"},
        {"path": "/report", "method": "DELETE", "keep": True},
        {"path": "/never/x", "cancel": 200},
    ]
    gateway, _ = running
    got = ask(lab, gateway, f"https://origin.test:{NODE}", *wishes)
    for one in got:
        for volatile in ("first", "ms"):
            del one[volatile]
        one["headers"].pop("date", None)
    codec = next(word for word in gateway.command if word.startswith("http2_codec="))
    told[codec] = got
    assert all(other == got for other in told.values()), told


@needs_node
def test_two_tunnels_in_one_connection_to_the_proxy(lab: Lab, running: Running) -> None:
    """TLS to the proxy, HTTP/2 in it, CONNECT in that, TLS again, and a request in the clear to our hooks."""
    gateway, witness = running
    witness.forget()
    to = [f"origin.test:{HTTPS}", f"www.origin.test:{HTTPS}"]
    command = ["node", HERE / "h2_tunnel.js", "https://gateway.test:8080", gateway.ca, *to]
    done = lab.client.run(command, timeout=30)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert [one.get("status") for one in got] == [200, 200], got
    assert all(one["line"].startswith("HTTP/1.1 200") and one["size"] > 200 for one in got), got
    wait_for(lambda: len(witness.events("client_disconnected")) == 3, 5, "both tunnels and their connection are over")
    assert len(witness.events("http_connected")) == 2
    assert [event.path for event in witness.events("response")] == ["/1k", "/1k"]


@pytest.mark.skipif(chromium_path() is None, reason="chromium is not installed")
def test_chromium_with_a_proxy_over_tls(lab: Lab, running: Running) -> None:
    """Chromium speaks HTTP/2 with it, and gives a page's connections a tunnel each in one connection."""
    gateway, witness = running
    witness.forget()
    page = lab.chromium(f"https://origin.test:{H2}/", ca=gateway.ca, proxy="https://gateway.test:8080")
    assert "over HTTP/2.0" in page.dom, page
    assert witness.events("http_connected")


@needs_node
def test_extended_connect(lab: Lab, running: Running, node: None) -> None:
    """RFC 8441, Node at both ends."""
    gateway, witness = running
    witness.forget()
    command = ["node", HERE / "h2_tunnel.js", f"https://origin.test:{NODE}", gateway.ca, "extended"]
    done = lab.client.run(command, timeout=30)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [{"allowed": True, "text": "ping", "rst": 0}]
    wait_for(lambda: witness.events("tcp_end"), 5, "the conversation ends")
    assert [(event.method, event.status) for event in witness.events("response")] == [("GET", 101)]
