"""WebSockets with real peers: the `websockets` library, Chromium, Node; over HTTP/1 and HTTP/2, an add-on between."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.io import read_flows_from_paths
from tests.lab import netns
from tests.lab.clients import chromium_path
from tests.lab.gateway_proc import ROOT, Gateway
from tests.lab.labkit import Lab
from tests.lab.netns import wait_for
from tests.lab.websocket_peer import LARGE

PLAIN, TLS, NODE = 9000, 9001, 9444
ADDON = """
import logging
from mitmproxy import ctx, http

def tls_clienthello(data):
    name = data.client_hello.sni or ""
    if name.startswith("www."):  # the client speaks HTTP/1, the server may speak HTTP/2
        data.context.client.alpn = b"http/1.1"
    elif name.startswith("v4."):  # and the other way round
        data.context.client.alpn = b"h2"

def websocket_start(flow: http.HTTPFlow):
    assert flow.websocket is not None
    logging.info("START %s %s", flow.request.http_version, flow.response.http_version)

def websocket_message(flow: http.HTTPFlow):
    message = flow.websocket.messages[-1]
    if message.injected:
        return
    if message.from_client and b"drop" in message.content:
        message.drop()
    elif message.from_client and message.is_text:
        message.text = message.text.replace("client", "CLIENT")
        if message.text == "CLIENT 1":
            ctx.master.commands.call("inject.websocket", flow, True, b"from nobody", True)
            ctx.master.commands.call("inject.websocket", flow, False, b"said by nobody")
    else:
        message.content = message.content.replace(b"server", b"SERVER")

def websocket_end(flow: http.HTTPFlow):
    data = flow.websocket
    logging.info("END %s %s %s %d", data.close_code, data.close_reason, data.closed_by_client, len(data.messages))
"""


@pytest.fixture(scope="module")
def peers(lab: Lab) -> Iterator[None]:
    """Servers: plain, in TLS, and one of HTTP/2 only."""
    log = lab.scratch / "websocket-peers.log"
    peer = [sys.executable, "-m", "tests.lab.websocket_peer", "serve"]
    pair = [str(lab.pki.good.cert), str(lab.pki.good.key)]
    with log.open("wb") as out:
        commands: list[list[str | Path]] = [[*peer, str(PLAIN)], [*peer, str(TLS), *pair]]
        if shutil.which("node"):
            origin = Path(__file__).parent / "h2_origin.js"
            commands.append(["node", origin, str(NODE), lab.pki.good.key, lab.pki.good.cert])
        processes = [lab.server.popen(command, output=out, cwd=ROOT) for command in commands]
        wait_for(lambda: log.read_text().count("ready") == len(commands), 20, f"peers listen: {log.read_text()}")
        yield
        for process in processes:
            netns.end_process(process)


@pytest.fixture(scope="module")
def running(lab: Lab, peers: None) -> Iterator[tuple[Gateway, Path]]:
    flows = lab.scratch / "websockets.flows"
    with (
        lab.gateway_proc("-m", "regular@8080", "-m", "transparent@8081", "-w", str(flows), addon=ADDON) as gateway,
        lab.redirect(8081, "tproxy"),
    ):
        yield gateway, flows


def talk(lab: Lab, gateway: Gateway, url: str, proxy: bool = False) -> dict[str, Any]:
    words = [url, str(gateway.ca) if url.startswith("wss") else "", gateway.proxy if proxy else ""]
    done = lab.client.run([sys.executable, "-m", "tests.lab.websocket_peer", "talk", *words], timeout=40, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("url", "versions", "deflate"),
    [
        (f"ws://origin.test:{PLAIN}/chat", "HTTP/1.1 HTTP/1.1", True),
        (f"wss://origin.test:{TLS}/chat", "HTTP/1.1 HTTP/1.1", True),
        pytest.param(f"wss://www.origin.test:{NODE}/chat", "HTTP/1.1 HTTP/2.0", False,
                     marks=pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")),
    ],
    ids=["plain", "tls", "to HTTP/2"],
)  # fmt: skip
def test_an_addon_between_two_peers(
    lab: Lab, running: tuple[Gateway, Path], url: str, versions: str, deflate: bool
) -> None:
    gateway, flows = running
    before = gateway.output.count("END ")
    got = talk(lab, gateway, url)
    heard = got["heard"]
    assert "from nobody" in heard
    assert [one for one in heard if one != "from nobody"] == [
        "SERVER heard CLIENT 1", "SERVER heard said by nobody", "SERVER heard CLIENT in fragments",
        "SERVER heard \0\1", LARGE, "SERVER heard last",
    ]  # fmt: skip
    assert (got["code"], got["reason"]) == (1000, "bye")
    assert got["extensions"] == (["permessage-deflate"] if deflate else [])
    wait_for(lambda: gateway.output.count("END ") > before, 5, gateway.output)
    start, end = re.findall(r"(?:START|END) .*", gateway.output)[-2:]
    assert start == f"START {versions}", start
    assert end.startswith("END 1000 bye True"), end
    flow = list(read_flows_from_paths([flows]))[-1]
    assert flow.websocket is not None and flow.request.path == "/chat"  # type: ignore[attr-defined]
    messages = flow.websocket.messages  # type: ignore[attr-defined]
    assert [m.content for m in messages if m.dropped] == [b"drop me"]
    assert sum(m.injected for m in messages) == 2
    assert f"websocket {'https' if 'wss' in url else 'http'}://" in gateway.output


@pytest.mark.parametrize("url", [f"ws://origin.test:{PLAIN}/chat", f"wss://origin.test:{TLS}/chat"], ids=["ws", "wss"])
def test_through_a_proxy(lab: Lab, running: tuple[Gateway, Path], url: str) -> None:
    """By CONNECT, as clients do for both."""
    gateway, _ = running
    got = talk(lab, gateway, url, proxy=True)
    assert "SERVER heard CLIENT 1" in got["heard"] and "from nobody" in got["heard"] and got["code"] == 1000


@pytest.mark.skipif(chromium_path() is None, reason="chromium is not installed")
@pytest.mark.parametrize(
    ("name", "version"),
    [pytest.param("origin.test", "HTTP/1.1", marks=pytest.mark.slow), ("v4.origin.test", "HTTP/2.0")],
)
def test_chromium(lab: Lab, running: tuple[Gateway, Path], name: str, version: str) -> None:
    """By extended CONNECT where the page came over HTTP/2."""
    gateway, _ = running
    before = gateway.output.count("END ")
    page = lab.chromium(f"https://{name}:{TLS}/", ca=gateway.ca)
    wait_for(lambda: gateway.output.count("END ") > before, 5, gateway.output)
    shown = re.search(r"<pre id=.log.>(.*)</pre>", page.dom)
    assert shown and shown[1], (page.dom, page.log)
    log = json.loads(shown[1])
    assert log[-3:-1] == [1000, "bye"] and log[-1].startswith("permessage-deflate")
    assert sorted(log[:-3]) == sorted([
        "SERVER heard CLIENT 1", "from nobody", "SERVER heard said by nobody", "SERVER heard CLIENT 2"
    ])  # fmt: skip
    assert f"START {version} HTTP/1.1" in gateway.output
