"""Server replay: which recorded response a request gets, and what becomes of one that has none."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.addons import default_addons
from appliance.addons.serverplayback import ServerPlayback, digest
from appliance.connection import Server
from appliance.exceptions import CommandError, OptionsError
from appliance.flow import Flow
from appliance.http import HTTPFlow, Request
from appliance.io import FlowWriter
from tests.addons.chain import Chain
from tests.flowkit import http, tcp, websocket
from tests.harness import Events, Make, Peer
from tests.layers.http.httpkit import OK, Origin, read_response


def flow_of(
    url: str, method: str = "GET", body: bytes = b"", answer: bytes | None = b"recorded", **fields: str
) -> HTTPFlow:
    flow = http(url, method, body, 200 if answer is not None else None, answer)
    flow.request.headers["host"] = flow.request.host
    for name, value in fields.items():
        flow.request.headers[name.replace("_", "-")] = value
    return flow


def ask(chain: Chain, url: str, method: str = "GET", body: bytes = b"", **fields: str) -> HTTPFlow:
    """A request that comes now, and what it got."""
    flow = http(url, method, body, None, live=True)
    flow.request.headers["host"] = flow.request.host
    for name, value in fields.items():
        flow.request.headers[name.replace("_", "-")] = value
    chain.fire(flow, "requestheaders", "request")
    return flow


def file_of(path: Path, *flows: Flow) -> str:
    with path.open("wb") as file:
        for flow in flows:
            FlowWriter(file).add(flow)
    return str(path)


def test_off_it_listens_to_nothing() -> None:
    chain = Chain(ServerPlayback())
    assert chain.listens() == set()
    chain.call("replay.server", [http()])
    assert chain.listens() == {"requestheaders", "request", "http_connect", "tls_clienthello"}
    chain.call("replay.server.stop")
    assert chain.listens() == set()
    chain.call("replay.server", [tcp(), websocket()])  # nothing that could be an answer
    assert chain.listens() == set()


def test_responses_in_order_each_once() -> None:
    chain = Chain(ServerPlayback())
    chain.call("replay.server", [flow_of("http://a.example/x", answer=b"1"), flow_of("http://a.example/y")])
    chain.call("replay.server.add", [flow_of("http://a.example/x", answer=b"2")])
    assert chain.call("replay.server.count") == 3
    first, second, third = (ask(chain, "http://a.example/x") for _ in range(3))
    assert first.response is not None and first.response.content == b"1" and first.is_replay == "response"
    assert second.response is not None and second.response.content == b"2"
    assert third.response is None and third.is_replay is None and third.error is None  # forwarded
    assert chain.call("replay.server.count") == 1
    chain.call("replay.server", [flow_of("http://b.example/")])
    assert ask(chain, "http://a.example/y").response is None  # `replay.server` forgets the others
    assert chain.call("replay.server.count") == 1


@pytest.mark.parametrize("option", ["server_replay_reuse", "server_replay_nopop"])
def test_reuse(option: str) -> None:
    on: Any = {option: True}
    chain = Chain(ServerPlayback(), **on)
    chain.call(
        "replay.server", [flow_of("http://a.example/x", answer=b"1"), flow_of("http://a.example/x", answer=b"2")]
    )
    answers = [ask(chain, "http://a.example/x").response for _ in range(3)]
    assert [answer and answer.content for answer in answers] == [b"1"] * 3
    assert answers[0] is not answers[1] and chain.call("replay.server.count") == 2


FORM = "application/x-www-form-urlencoded"
MULTI = "multipart/form-data; boundary=b"


def multi(**fields: str) -> bytes:
    parts = [f'--b\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items()]
    return ("".join(parts) + "--b--\r\n").encode()


@pytest.mark.parametrize(("options", "recorded", "asked", "same"), [
    ({}, {"url": "http://a.example/x?a=1&b="}, {"url": "http://a.example/x?a=1&b="}, True),
    ({}, {"url": "http://a.example/x"}, {"url": "http://a.example/y"}, False),
    ({}, {"url": "http://a.example/x"}, {"url": "http://a.example/x", "method": "PUT"}, False),
    ({}, {"url": "http://a.example/x"}, {"url": "https://a.example:80/x"}, False),
    ({}, {"url": "http://a.example/x?a=1"}, {"url": "http://a.example/x?a=2"}, False),
    ({}, {"url": "http://a.example/x?a=1"}, {"url": "http://a.example/x?a=1&b=1"}, False),
    ({}, {"url": "http://a.example/x", "body": b"1"}, {"url": "http://a.example/x", "body": b"2"}, False),
    ({}, {"url": "http://a.example/x", "X_A": "1"}, {"url": "http://a.example/x", "X_A": "2"}, True),
    ({"server_replay_ignore_content": True}, {"url": "http://a.example/x", "body": b"1"},
     {"url": "http://a.example/x", "body": b"2"}, True),
    ({"server_replay_ignore_params": ["n"]}, {"url": "http://a.example/x?n=1&a=1"},
     {"url": "http://a.example/x?a=1&n=2"}, True),
    ({"server_replay_ignore_params": ["n"]}, {"url": "http://a.example/x?n=1&a=1"},
     {"url": "http://a.example/x?a=2&n=1"}, False),
    ({"server_replay_ignore_host": True}, {"url": "http://a.example/x"}, {"url": "http://b.example/x"}, True),
    ({"server_replay_ignore_host": True}, {"url": "http://a.example/x"}, {"url": "http://b.example:81/x"}, False),
    ({}, {"url": "http://a.example/x"}, {"url": "http://a.example:81/x"}, False),
    ({"server_replay_ignore_port": True}, {"url": "http://a.example/x"}, {"url": "http://a.example:81/x"}, True),
    ({"server_replay_use_headers": ["x-a"]}, {"url": "http://a.example/x", "X_A": "1"},
     {"url": "http://a.example/x", "X_A": "2"}, False),
    ({"server_replay_use_headers": ["X-A"]}, {"url": "http://a.example/x", "X_A": "1"},
     {"url": "http://a.example/x", "x_a": "1"}, True),
    ({"server_replay_ignore_payload_params": ["t"]},
     {"url": "http://a.example/x", "method": "POST", "body": b"t=1&a=1", "content_type": FORM},
     {"url": "http://a.example/x", "method": "POST", "body": b"t=2&a=1", "content_type": FORM}, True),
    ({"server_replay_ignore_payload_params": ["t"]},
     {"url": "http://a.example/x", "method": "POST", "body": b"t=1&a=1", "content_type": FORM},
     {"url": "http://a.example/x", "method": "POST", "body": b"t=1&a=2", "content_type": FORM}, False),
    ({"server_replay_ignore_payload_params": ["t"]},
     {"url": "http://a.example/x", "method": "POST", "body": multi(t="1", a="1"), "content_type": MULTI},
     {"url": "http://a.example/x", "method": "POST", "body": multi(t="2", a="1"), "content_type": MULTI}, True),
    ({"server_replay_ignore_payload_params": ["t"]},
     {"url": "http://a.example/x", "method": "POST", "body": multi(t="1", a="1"), "content_type": MULTI},
     {"url": "http://a.example/x", "method": "POST", "body": multi(t="1", a="2"), "content_type": MULTI}, False),
    ({"server_replay_ignore_payload_params": ["t"]}, {"url": "http://a.example/x", "body": b"t=1"},
     {"url": "http://a.example/x", "body": b"t=2"}, False),
])  # fmt: skip
def test_what_has_to_be_the_same(options: dict[str, Any], recorded: Any, asked: Any, same: bool) -> None:
    chain = Chain(ServerPlayback(), **options)
    chain.call("replay.server", [flow_of(**recorded)])
    assert (ask(chain, **asked).response is not None) is same
    # and by options that change later
    chain = Chain(ServerPlayback())
    chain.call("replay.server", [flow_of(**recorded)])
    chain.options.update(**options)
    assert (ask(chain, **asked).response is not None) is same


def test_the_name_counts_and_not_the_address() -> None:
    """Recorded as proxy, asked for behind a redirect."""
    chain = Chain(ServerPlayback())
    chain.call("replay.server", [flow_of("http://a.example/x")])
    flow = http("http://192.0.2.7/x", status=None, live=True)
    flow.request.headers["host"] = "A.example"
    chain.fire(flow, "requestheaders", "request")
    assert flow.response is not None


@pytest.mark.parametrize("extra", ["forward", "kill", "204", "400", "404", "500"])
def test_what_was_not_recorded(extra: str) -> None:
    chain = Chain(ServerPlayback(), server_replay_extra=extra)
    chain.call("replay.server", [flow_of("http://a.example/x")])
    assert ask(chain, "http://a.example/x").is_replay == "response"
    for url in ("http://a.example/x", "http://else.example/"):  # also when all are used
        flow = ask(chain, url)
        assert flow.killed is (extra == "kill")
        if extra.isdecimal():
            assert flow.response is not None and flow.response.status_code == int(extra)
        else:
            assert flow.response is None
    chain.call("replay.server.stop")
    flow = ask(chain, "http://a.example/x")
    assert flow.response is None and not flow.killed


def test_the_older_kill_extra_and_who_came_first() -> None:
    chain = Chain(ServerPlayback(), server_replay_kill_extra=True)
    chain.call("replay.server", [flow_of("http://a.example/x")])
    assert ask(chain, "http://a.example/y").killed
    flow = http("http://a.example/x", status=418, live=True)
    chain.fire(flow, "requestheaders", "request")
    assert flow.response is not None and flow.response.status_code == 418 and chain.call("replay.server.count") == 1


def test_dates_are_of_now_unless_told_otherwise() -> None:
    recorded = flow_of("http://a.example/x")
    assert recorded.response is not None
    recorded.response.timestamp_start = 1_000_000_000.0
    date = "Sun, 09 Sep 2001 01:46:40 GMT"
    recorded.response.headers["date"] = date
    recorded.response.headers["set-cookie"] = f"a=b; expires={date}"
    chain = Chain(ServerPlayback(), server_replay_reuse=True)
    chain.call("replay.server", [recorded])
    answer = ask(chain, "http://a.example/x").response
    assert answer is not None and answer.headers["date"] != date and "2001" not in answer.headers["set-cookie"]
    assert abs(answer.timestamp_start - time.time()) < 10
    chain.options.update(server_replay_refresh=False)
    answer = ask(chain, "http://a.example/x").response
    assert answer is not None and answer.headers["date"] == date and date in answer.headers["set-cookie"]
    assert recorded.response.headers["date"] == date


def test_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    streamed = flow_of("http://a.example/big")
    assert streamed.response is not None
    streamed.response.raw_content = None
    path = file_of(tmp_path / "flows", flow_of("http://a.example/x"), tcp(), streamed, http(status=None))
    chain = Chain(ServerPlayback(), server_replay=[path])
    assert chain.call("replay.server.count") == 1 and "1 responses are left out" in caplog.text
    ask(chain, "http://a.example/x")
    chain.options.update(server_replay_reuse=True)  # nothing is loaded again for that
    assert chain.call("replay.server.count") == 0
    chain.call("replay.server.file", path)
    assert chain.call("replay.server.count") == 1
    for broken, why in ((tmp_path / "none", "No such file"), (tmp_path / "cut", "the file ends")):
        (tmp_path / "cut").write_bytes((tmp_path / "flows").read_bytes()[:-3])
        with pytest.raises(CommandError, match=why):
            chain.call("replay.server.file", str(broken))
        with pytest.raises(OptionsError, match=f"server_replay: .*{why}"):
            chain.options.update(server_replay=[str(broken)])
        assert chain.call("replay.server.count") == 1
    chain.options.update(server_replay=[path, path])
    assert chain.call("replay.server.count") == 2
    chain.options.reset("server_replay")
    assert chain.listens() == set()


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain(ServerPlayback())
    chain.call("replay.server", [flow_of("http://a.example/x", answer=b"1" * 60)])
    monkeypatch.setattr("appliance.addons.serverplayback.MOST_BYTES", 100)
    for command in ("replay.server.add", "replay.server"):
        with pytest.raises(CommandError, match="more than"):
            chain.call(command, [flow_of("http://a.example/y", answer=b"1" * (60 if command.endswith("add") else 101))])
        assert chain.call("replay.server.count") == 1
    monkeypatch.setattr("appliance.addons.serverplayback.MOST", 1)
    with pytest.raises(CommandError, match="more than 1 responses"):
        chain.call("replay.server.add", [flow_of("http://a.example/y", answer=b"")])


def test_what_is_used_up_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.addons.serverplayback.MOST_BYTES", 100)
    chain = Chain(ServerPlayback())
    for _ in range(3):
        chain.call("replay.server.add", [flow_of("http://a.example/x", answer=b"1" * 60)])
        assert ask(chain, "http://a.example/x").response is not None


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=60),
    st.binary(max_size=60) | st.binary(max_size=20).map(lambda middle: b"--b" + middle + b"\r\n\r\n--b--"),
    st.binary(max_size=30) | st.sampled_from([FORM.encode(), MULTI.encode(), b"multipart/form-data; boundary="]),
    st.binary(max_size=12),
)
def test_any_request_has_a_digest(path: bytes, body: bytes, kind: bytes, coding: bytes) -> None:
    Chain(server_replay_ignore_payload_params=["a"], server_replay_use_headers=["x"])
    fields = [(b"content-type", kind), (b"content-encoding", coding), (b"host", coding), (b"x", body)]
    request = Request("h", 80, b"GET", b"http", b"", path, b"HTTP/1.1", fields, body, None, 0.0, 0.0)
    assert digest(request) == digest(request.copy())


async def test_through_the_engine_with_the_origin_down(rigs: Make) -> None:
    """CONNECT, TLS and the request, while nobody listens there; what was not recorded goes to its server."""
    playback, events = ServerPlayback(), Events("server_connect", "response", "error")
    rig = await rigs(playback, events)
    rig.addons.configure()
    origin = Origin(OK)
    _, up = await rig.origin(origin, tls=True)
    recorded = [flow_of("https://origin.test:1/x", answer=b"of long ago"), flow_of(f"https://origin.test:{up}/x")]
    for flow in recorded:
        flow.request.headers["host"] = f"origin.test:{flow.request.port}"
        flow.server_conn = Server(address=(flow.request.host, flow.request.port))
    rig.addons.commands.call("replay.server", recorded)
    proxy = await rig.regular()
    for port, want in ((1, b"of long ago"), (up, b"recorded")):
        client = await rig.tunnel(proxy, f"origin.test:{port}")
        await client.start_tls("origin.test")
        await client.say(f"GET /x HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n".encode())
        assert (await read_response(client)).body == want
        assert "server_connect" not in events.names and not origin.requests
    await client.say(f"GET /new HTTP/1.1\r\nHost: origin.test:{up}\r\n\r\n".encode())
    assert (await read_response(client)).body == b"hello" and len(origin.requests) == 1
    assert [flow.is_replay for flow in events.of("response")] == ["response", "response", None]


async def test_a_body_is_waited_for_where_it_counts(rigs: Make) -> None:
    playback = ServerPlayback()
    rig = await rigs(playback, server_replay_extra="404")
    rig.addons.configure()
    rig.addons.commands.call("replay.server", [flow_of("http://a.test/", "POST", b"x" * 2_000_000)])
    client: Peer = await rig.connect(await rig.regular())
    head = b"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2000000\r\n\r\n"
    await client.say(head + b"x" * 2_000_000)
    assert (await read_response(client)).body == b"recorded"
    await client.say(head + b"y" * 2_000_000)
    assert (await read_response(client)).status == 404


def test_it_is_in_the_chain() -> None:
    names = [type(addon).__name__ for addon in default_addons()]
    assert names.index("AntiComp") < names.index("ClientPlayback") < names.index("Export")
    assert names.index("ScriptLoader") < names.index("ServerPlayback") < names.index("MapRemote")
