"""Add-ons in mitmproxy's idiom, forty and more in one gateway (`-s` with a folder), each seen at the other end."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.addons.inspection import inspect_file
from appliance.events import EVENTS
from appliance.io import FlowReader
from tests.lab import netns, origin_dns
from tests.lab.clients import Reply
from tests.lab.gateway_proc import ROOT, Gateway
from tests.lab.labkit import BAD, ECHO, HTTP, HTTPS, Lab
from tests.lab.netns import wait_for
from tests.lab.recorder import Origins
from tests.lab.witness import read_head, tunnel

FOLDER = Path(__file__).parents[1] / "addons_mitm"
PLAIN, TLS = f"http://origin.test:{HTTP}", f"https://origin.test:{HTTPS}"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept") / "flows"


@pytest.fixture(scope="module")
def gateway(lab: Lab, kept: Path) -> Iterator[Gateway]:
    """All of them at work, as a proxy, behind a redirect, and as a name server."""
    arguments = ["-m", "regular@8080", "-m", "transparent@8081", "-m", "dns@53", "-s", str(FOLDER)]
    options = {
        "tag": "bench3",
        "filtered_by": "~m POST & ~u form",
        "filtered_times": 2,
        "kept_in": kept,
        "dns_name_servers": "10.61.2.2",
    }
    more = ["--set", "filtered_kinds=a", "--set", "filtered_kinds=b"]
    with origin_dns.nameserver(lab):
        proc = lab.gateway_proc(*arguments, *more, options=options, ports=[8080, 8081, 53])
        with proc as gateway, lab.redirect(8081, "tproxy", udp=True):
            yield gateway
        assert "ticker is done" in proc.output


@pytest.fixture
def seen(origins: Origins) -> Origins:
    return origins


def field(reply: Reply, name: str) -> str:
    assert reply.status, reply.error
    value = reply.header(name)
    assert value is not None, (name, reply.fields)
    return value


def test_there_are_enough_and_of_every_kind() -> None:
    files = [inspect_file(FOLDER / name) for name in ("asked_for.py", "grouped.py", "http_kinds.py", "wire_kinds")]
    assert not [one.text for file in files for one in file.findings if one.fatal]
    hooks = {name: events for file in files for name, events in file.hooks.items()}
    assert len([events for events in hooks.values() if events]) >= 40
    used = {event for events in hooks.values() for event in events}
    flows = {
        name for name in EVENTS if name.startswith(("request", "response", "tcp_m", "udp_m", "dns_r", "websocket_"))
    }
    assert flows <= used
    assert used >= {"load", "configure", "running", "done", "next_layer", "tls_clienthello", "tls_start_client"}
    assert used >= {"tls_start_server", "server_connect", "http_connect", "error", "client_connected", "tcp_start"}


# -- HTTP


def test_requests_and_responses(lab: Lab, gateway: Gateway, seen: Origins) -> None:
    reply = lab.curl(f"{TLS}/a?b=c", via=gateway)
    assert reply.status == 200
    (asked,) = seen.requests(HTTPS)
    for name, value in (
        ("x-added", "1"),
        ("x-tag", "bench3"),
        ("cookie", "session=s1"),
        ("x-async", "1"),
        ("x-thread", "1"),
        ("x-command", "hello lab"),
        ("x-changed", "False"),
    ):
        assert asked.values(name) == [value], name
    assert asked.values("x-head") == ["request", "twice"]
    assert "added=by+query" in asked.target
    assert "GOT" in reply.body.decode()  # Body
    assert field(reply, "x-connection") == "True True True origin.test origin.test"
    assert field(reply, "x-head") == "response"
    assert field(reply, "x-ticking") == "True"
    assert field(reply, "x-notes") == "0b GET /a?b= :red_circle: True"
    assert field(reply, "x-typed") == r"left 3 False b'\x00a' True one/two"
    assert "'up' is not one of left, right" in field(reply, "x-refused")
    assert field(reply, "x-ja4").startswith("t13d") and field(reply, "x-ja4").endswith(" True True")
    assert reply.header("x-filtered") is None
    gateway.wait_output("on purpose")  # Broken hides nothing from the others


def test_forms_and_filters(lab: Lab, gateway: Gateway, seen: Origins) -> None:
    posted = lab.curl(f"{PLAIN}/form", "-d", "field=old&other=1", via=gateway)
    assert field(posted, "x-filtered") == "a-b-a-b"
    parts = lab.curl(f"{PLAIN}/parts", "-F", "one=1", "-F", "two=2", via=gateway)
    assert parts.status == 200 and parts.header("x-filtered") is None
    raw = seen.received(HTTP)
    assert b"field=changed&other=1" in raw
    assert b'name="one"' in raw and b'name="added"\r\n\r\npart\r\n' in raw


def test_cookies_of_a_response(lab: Lab, gateway: Gateway) -> None:
    assert field(lab.curl(f"{PLAIN}/?seen=yes", via=gateway), "set-cookie") == "seen=yes; Path=/; Secure"


def test_made_responses(lab: Lab, gateway: Gateway, seen: Origins) -> None:
    made = lab.curl(f"{TLS}/synthetic", via=gateway)
    assert (made.status, made.body, made.header("x-from")) == (418, b"short and stout", "addon")
    refused = lab.curl(f"{PLAIN}/guarded", via=gateway)
    assert (refused.status, refused.header("www-authenticate")) == (401, "Basic")
    assert not seen.requests(HTTP)
    assert lab.curl(f"{PLAIN}/guarded", "-u", "a:b", via=gateway).status == 200
    assert len(seen.requests(HTTP)) == 1


def test_streams(lab: Lab, gateway: Gateway, seen: Origins) -> None:
    down = lab.curl(f"{PLAIN}/stream-down", via=gateway)
    assert down.body.endswith(b"<end>") and b'"METHOD": "GET"' in down.body
    up = lab.curl(f"{PLAIN}/stream-up", "-d", "speak up, up", via=gateway)
    assert up.status == 200 and b"speak UP, UP" in seen.received(HTTP)


def test_killed(lab: Lab, gateway: Gateway, seen: Origins) -> None:
    reply = lab.curl(f"{PLAIN}/kill", via=gateway)
    assert reply.status == 0 and reply.exit in (52, 56)  # closed or reset without an answer
    assert not seen.requests(HTTP)
    gateway.wait_output("killer: error is 'Connection killed.', killed True")


def test_held_and_let_go(lab: Lab, gateway: Gateway, seen: Origins) -> None:
    reply = lab.curl(f"{PLAIN}/held", via=gateway)
    assert reply.status == 200 and reply.seconds >= 0.05
    assert seen.requests(HTTP)[0].values("x-held") == ["True"]


def test_another_destination(lab: Lab, gateway: Gateway, seen: Origins) -> None:
    assert lab.curl(f"{PLAIN}/elsewhere", via=gateway).status == 200
    (asked,) = seen.requests(HTTP)
    assert asked.target.startswith("/else/where%3F") and asked.values("host") == [f"alt.test:{HTTP}"]


def test_codings(lab: Lab, gateway: Gateway) -> None:
    reply = lab.curl(f"{PLAIN}/gzip", "-H", "Accept-Encoding: gzip, br", "--compressed", via=gateway)
    assert field(reply, "content-encoding") == "br"
    assert reply.exit != 0 or reply.body.endswith(b" after gzip")  # a curl without brotli says so


def test_a_content_view(lab: Lab, gateway: Gateway) -> None:
    reply = lab.curl(f"{PLAIN}/viewed", via=gateway)
    assert field(reply, "x-viewed") == "reversed: desserts"


def test_a_flow_file(lab: Lab, gateway: Gateway, kept: Path) -> None:
    assert lab.curl(f"{PLAIN}/kept", via=gateway).status == 200
    with kept.open("rb") as file:
        (flow,) = FlowReader(file).stream()
    assert flow.metadata["curl"].startswith("curl ") and flow.marked == ":red_circle:"


def test_a_copy_is_replayed(lab: Lab, gateway: Gateway, seen: Origins) -> None:
    assert lab.curl(f"{PLAIN}/again", via=gateway).status == 200
    wait_for(lambda: len(seen.requests(HTTP)) == 2, 5, "the copy arrives")
    assert [one.target.partition("?")[0] for one in seen.requests(HTTP)] == ["/again", "/replayed"]


def test_web_applications(lab: Lab, gateway: Gateway) -> None:
    asgi = lab.curl("http://asgi.lab/x%20y", "-H", "Content-Type: text/plain", "-d", "+body", via=gateway)
    assert (asgi.status, asgi.body, asgi.header("x-app")) == (203, b"/x y+body", "asgi")
    wsgi = lab.curl("https://wsgi.lab/", via=gateway)
    assert (wsgi.status, wsgi.body, wsgi.header("x-app")) == (200, b"GOT", "wsgi")


# -- what they ask of the program


def test_where_it_listens(lab: Lab, gateway: Gateway) -> None:
    reply = lab.curl(f"{TLS}/", via=gateway)
    assert field(reply, "x-ports") == "[53, 8080, 8081] regular 8080" and field(reply, "x-peer") == "True"
    assert field(reply, "x-rules") == "1 True"


def test_requests_as_the_server_gets_them(lab: Lab, gateway: Gateway, seen: Origins) -> None:
    reply = lab.curl(f"{PLAIN}/line", via=gateway)  # in absolute form, for it is said to a proxy
    assert field(reply, "x-line") == "GET /line HTTP/1.1 True relative"
    assert b"GET /line?added=by+query HTTP/1.1\r\n" in seen.received(HTTP)


def test_names_of_old(lab: Lab, gateway: Gateway) -> None:
    reply = lab.curl(f"{PLAIN}/of-old", via=gateway)
    assert (reply.status, reply.body, field(reply, "x-old")) == (404, b"nothing here", "1")


def test_text_that_nobody_declares(lab: Lab, gateway: Gateway) -> None:
    reply = lab.curl(f"{PLAIN}/latin", via=gateway)
    assert (field(reply, "x-length"), reply.body) == ("5", "grüße".encode("latin-1"))


def test_an_event_of_their_own(lab: Lab, gateway: Gateway) -> None:
    assert field(lab.curl(f"{PLAIN}/fires", via=gateway), "x-heard") == "/made-up"


def test_a_copy_is_kept_and_replayed(lab: Lab, gateway: Gateway, seen: Origins) -> None:
    assert lab.curl(f"{PLAIN}/twice", via=gateway).status == 200
    wait_for(lambda: len(seen.requests(HTTP)) == 2, 5, "the copy arrives")
    assert ["again=yes" in one.target for one in seen.requests(HTTP)] == [False, True]


def test_one_server_is_trusted(lab: Lab, gateway: Gateway) -> None:
    assert lab.curl(f"https://origin.test:{BAD['self-signed']}/", via=gateway).status == 200
    assert lab.curl(f"https://origin.test:{BAD['expired']}/", via=gateway).status == 502


# -- connections and TLS


def test_destinations(lab: Lab, gateway: Gateway, seen: Origins) -> None:
    reply = lab.curl(f"http://nowhere.invalid:{HTTP}/", via=gateway)
    assert reply.status == 200
    assert seen.requests(HTTP)[0].values("host") == [f"nowhere.invalid:{HTTP}"]
    refused = lab.curl(f"http://refused.invalid:{HTTP}/", via=gateway)
    assert refused.status == 502 and b"refused by the add-on" in refused.body


def test_tunnels(lab: Lab, gateway: Gateway) -> None:
    refused = lab.curl("https://forbidden.test/", via=gateway)
    assert refused.exit == 56 and "403" in refused.error
    moved = lab.curl(f"http://moved.test:{HTTP}/", "--proxytunnel", via=gateway)
    assert moved.status == 200
    assert ("x-tunnel", "origin.test") in [(name.lower(), value) for name, value in moved.heads[0].fields]


def test_a_connection_that_an_addon_passes(lab: Lab, gateway: Gateway) -> None:
    with tunnel(lab, "www.origin.test", HTTPS) as sock, lab.connect_tls("www.origin.test", HTTPS, over=sock) as inside:
        inside.sendall(b"GET / HTTP/1.1\r\nHost: www.origin.test\r\n\r\n")
        head = read_head(inside)
    assert head.startswith(b"HTTP/1.1 200") and b"x-head" not in head


def test_the_name_said_to_the_server(lab: Lab, gateway: Gateway, seen: Origins) -> None:
    reply = lab.curl(f"https://v4.origin.test:{HTTPS}/", via=gateway)
    assert reply.status == 200 and seen.connections(HTTPS)[0].tls["sni"] == "v6.origin.test"


def test_a_certificate_of_an_addons_own(lab: Lab, gateway: Gateway) -> None:
    reply = lab.curl(f"https://alt.test:{HTTPS}/", "-k", "-v", via=gateway)
    assert reply.status == 200
    with tunnel(lab, "alt.test", HTTPS) as sock, lab.connect_tls("alt.test", HTTPS, over=sock, ca=False) as inside:
        der = inside.getpeercert(binary_form=True)
    assert der is not None and b"own" in der


# -- below HTTP


def talk(sock: socket.socket, data: bytes) -> bytes:
    with sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        found = b""
        with contextlib.suppress(TimeoutError):
            while more := sock.recv(65536):
                found += more
    return found


def test_raw_bytes(lab: Lab, gateway: Gateway) -> None:
    assert talk(lab.connect(port=ECHO), b"\0ping") == b"\0pong"
    gateway.wait_output(f"tcp_start {ECHO}")
    gateway.wait_output("tcp_end after 2 messages")
    assert sorted(talk(lab.connect(port=ECHO), b"\0inject").replace(b"\0asked", b"")) == sorted(b"[injected]")


def test_what_a_protocol_is_taken_for(lab: Lab, gateway: Gateway) -> None:
    request = b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\nping"
    assert talk(lab.connect(port=ECHO), request % b"as-tcp") == request.replace(b"ping", b"pong") % b"as-tcp"
    assert talk(lab.connect(port=ECHO), request % b"unseen") == request % b"unseen"


def test_datagrams(lab: Lab, gateway: Gateway) -> None:
    with lab.client.udp("origin.test", ECHO) as sock:
        sock.send(b"stressed")
        assert sock.recv(100) == b"desserts"


def test_names(lab: Lab, gateway: Gateway) -> None:
    def dig(name: str, *words: str) -> str:
        command = ["dig", "+tries=1", "+time=8", "@10.61.1.1", name, *words]
        return lab.client.run(command, timeout=20, check=False).stdout

    assert "192.0.2.55" in dig("made.lab.test")
    assert "NXDOMAIN" in dig("gone.lab.test")
    assert "192.0.2.66" in dig("www.lab.test", "+tcp")


def test_websocket_messages(lab: Lab, gateway: Gateway) -> None:
    log = lab.scratch / "addons-websocket.log"
    peer = [sys.executable, "-m", "tests.lab.websocket_peer"]
    with log.open("wb") as out:
        process = lab.server.popen([*peer, "serve", "9002"], output=out, cwd=ROOT)
        wait_for(lambda: "ready" in log.read_text(), 20, "the peer listens")
        done = lab.client.run([*peer, "talk", "ws://origin.test:9002/chat", "", ""], timeout=40, cwd=ROOT)
        netns.end_process(process)
    assert done.returncode == 0, done.stderr
    heard = json.loads(done.stdout)["heard"]
    assert heard[:2] == ["server heard guest 1", "server heard guest in fragments"]  # one was dropped
    gateway.wait_output("websocket_start /chat")
    gateway.wait_output("websocket_end 1000")
