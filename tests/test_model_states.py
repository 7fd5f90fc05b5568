"""Flows and their parts: what is left over by the tests of each, mostly representations, states and copies."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.connection import Client, ModeName, Server
from appliance.conversation import ContentMessage
from appliance.exceptions import ControlException
from appliance.flow import Error, Flow, Live
from appliance.http import Headers, MultiDict, MultiDictView, Request, Response
from appliance.layers.base import Context
from appliance.layers.next_layer import NextLayer
from appliance.message import as_headers, fill
from appliance.net.stream import Stream
from appliance.options import Options
from appliance.proxy import mode_specs
from appliance.tcp import TCPMessage
from appliance.test import taddons, tflow, tutils
from appliance.tls import ClientHello, starts_like_dtls_record, starts_like_tls_record
from appliance.websocket import WebSocketMessage
from tests.hellos import alpn, body, signatures, versions

# -- flows


class Hold(Live):
    def __init__(self) -> None:
        self.killed = 0
        self.said: list[tuple[bool, bytes]] = []

    def kill(self) -> None:
        self.killed += 1

    def inject(self, to_client: bool, message: ContentMessage) -> None:
        self.said.append((to_client, message.content))


def test_live_is_set_by_hand_but_the_engines_hold_stays() -> None:
    flow = tflow.tflow()
    flow.live = False
    assert not flow.live and not flow.killable
    flow.live = True
    assert flow.killable
    hold = Hold()
    engines = Flow(tflow.tclient_conn(), tflow.tserver_conn(), hold)
    engines.live = False
    assert engines.live
    engines.kill()
    engines.intercept()
    assert hold.killed == 1 and engines.killed and not engines.killable and engines.intercepted
    engines.resume()
    with pytest.raises(ControlException):
        engines.kill()


def test_identity_and_notes() -> None:
    flow = tflow.tflow()
    flow.id = "abc"
    assert flow.id == "abc" and flow.metadata == {}
    flow.metadata["a"] = 1
    assert flow.metadata == {"a": 1}
    flow.metadata = {"b": 2}
    assert flow.copy().metadata == {"b": 2} and flow.copy().metadata is not flow.metadata
    assert repr(tflow.tdummyflow()).startswith("<DummyFlow Client(127.0.0.1:22")
    assert repr(Error("oops", 1.0)) == "Error('oops')"


async def test_waiting_for_resume_returns_at_once_when_not_held() -> None:
    flow = tflow.tflow()
    await flow.wait_for_resume()
    flow.intercept()
    waiter = asyncio.create_task(flow.wait_for_resume())
    await asyncio.sleep(0)
    assert not waiter.done()
    flow.resume()
    flow.resume()
    await waiter


@pytest.mark.parametrize("flow", tflow.tflows())
def test_states_of_all_kinds(flow: Flow) -> None:
    again = tflow.tflow() if flow.type == "http" else type(flow)(tflow.tclient_conn(), tflow.tserver_conn())
    again.set_state(flow.get_state())
    assert again.get_state() == flow.get_state()
    with pytest.raises(ValueError, match="version"):
        again.set_state({**flow.get_state(), "version": 1})
    with pytest.raises(ValueError, match="more"):
        again.set_state({**flow.get_state(), "more": 1})


def test_messages_and_injection() -> None:
    message = TCPMessage(True, b"x", 2.0)
    assert TCPMessage.from_state(message.get_state()).get_state() == (True, b"x", 2.0)
    hold = Hold()
    flow = tflow.ttcpflow()
    flow._live = hold
    flow.inject(True, b"to client")
    flow.inject(False, b"to server")
    assert hold.said == [(True, b"to client"), (False, b"to server")]
    for over in (tflow.tudpflow(), tflow.ttcpflow()):
        with pytest.raises(ControlException, match="over"):
            over.inject(True, b"x")


# -- HTTP


@pytest.mark.parametrize(("left", "kept"), [
    (b"a", b"a"), ("g\xfc", b"g\xc3\xbc"), ("\udcff", b"\xff"), (bytearray(b"b"), b"b"), (memoryview(b"c"), b"c"),
    (None, b""), (7, b""),
])  # fmt: skip
def test_a_messages_state_has_bytes(left: Any, kept: bytes) -> None:
    """Whatever a script has put there."""
    for message in (TCPMessage(True, b"x"), WebSocketMessage(1, True, b"x")):
        message.content = left
        state = message.get_state()
        assert [type(value) for value in state if value == kept and type(value) is not bool] == [bytes]
        assert type(message).from_state(state).content == kept


@given(st.lists(st.tuples(st.binary(max_size=5), st.binary(max_size=5)), max_size=6))
def test_multidicts(fields: list[tuple[bytes, bytes]]) -> None:
    one: MultiDict[bytes, bytes] = MultiDict(fields)
    other: MultiDict[bytes, bytes] = MultiDict()
    other.set_state(one.get_state())
    assert other == one and len(one) == len({key for key, _ in fields})
    assert repr(one) == f"MultiDict[{', '.join(repr(field) for field in one.fields)}]"
    for key, value in fields:
        assert key in one and value in one.get_all(key)
    one.clear()
    assert not one and other.fields == tuple(fields)


def test_a_view_takes_fields() -> None:
    kept: list[tuple[str, str]] = [("a", "1")]

    def write(pairs: tuple[tuple[str, str], ...]) -> None:
        kept[:] = pairs

    view = MultiDictView(lambda: kept, write)
    view.fields = (("b", "2"), ("b", "3"))
    assert kept == [("b", "2"), ("b", "3")] and view.get_all("b") == ["2", "3"]
    assert list(view.keys(multi=True)) == ["b", "b"] and list(view.values(multi=True)) == ["2", "3"]
    assert "b" in view and "a" not in view and len(view) == 1
    view.insert(0, "c", "4")
    view.setdefault("d", "5")
    assert view.pop("b") == "2" and list(view.items()) == [("c", "4"), ("d", "5")]
    assert view.copy().fields == view.fields


def test_headers_by_name() -> None:
    headers = Headers([(b"A", b"1"), (b"b", b"\xff"), (b"a", b"2")])
    assert headers.names() == (b"a", b"b", b"a") and headers.names() is headers.names()
    assert headers.raw("A") == b"1, 2" and headers.raw(b"b") == b"\xff" and headers.raw("c") is None
    headers.set_state([[b"X", b"y"]])
    assert headers.names() == (b"x",) and bytes(headers) == b"X: y\r\n"


def test_what_make_takes() -> None:
    given = Headers(a="1")
    assert as_headers(given) == given and as_headers(given) is not given
    assert as_headers({"a": "1"}) == as_headers({b"a": b"1"}) == as_headers([(b"a", b"1")]) == given
    with pytest.raises(TypeError):
        as_headers([("a", "1")])  # type: ignore[list-item]
    message = tutils.tresp()
    fill(message, "ü")
    assert message.raw_content == b"\xfc"  # nothing says which: Latin-1, as HTTP once had it
    fill(message, "日")
    assert message.raw_content == "日".encode() and message.headers["content-type"] == "text/plain; charset=utf-8"
    fill(message, None)
    assert message.raw_content is None
    with pytest.raises(TypeError):
        fill(message, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("message", [tutils.treq(), tutils.tresp()])
def test_data_and_states_of_messages(message: Request | Response) -> None:
    again = message.copy()
    again.set_state(message.get_state())
    assert again.data == message.data and again.data != 3
    again.set_content(b"other")
    again.set_text("text")
    assert again.data.content == b"text" and again.data != message.data
    again.data.http_version = b"HTTP/2.0"
    assert again.is_http2
    with pytest.raises(AttributeError, match="nosuch"):
        _ = again.data.nosuch
    with pytest.raises(AttributeError, match="nosuch"):
        again.data.nosuch = 1
    with pytest.raises(ValueError, match="more"):
        again.set_state({**message.get_state(), "more": 1})


def test_a_requests_scheme() -> None:
    request = tutils.treq()
    request.scheme = "https"
    assert request.data.scheme == b"https" and request.url == "https://address:22/path"


# -- connections and TLS


def test_the_hello_of_a_client() -> None:
    hello = ClientHello(
        body((0x1301, 0xC02B), (10, b"\0\4\0\x1d\0\x17"), signatures(0x0403), alpn(b"h2"), versions(0x0304, 0x0303))
    )
    assert hello.cipher_suites == [0x1301, 0xC02B] and hello.alpn_protocols == [b"h2"]
    assert hello.supported_groups == [29, 23] and hello.signature_algorithms == [0x0403]
    assert hello.supported_versions == [0x0304, 0x0303] and not hello.wants_rsa
    assert ClientHello(body((0x009C,))).wants_rsa
    assert hello.ja4.startswith("t13i0204h2_")


@pytest.mark.parametrize(
    "data, tls, dtls",
    [
        (b"\x16\x03\x01\0", True, False),
        (b"\x16\x03\x03", True, False),
        (b"\x16\x03\x04", False, False),
        (b"\x16\x03", False, False),
        (b"\x17\x03\x03", False, False),
        (b"\x16\xfe\xfd\0", False, True),
        (b"\x16\xfe\xff", False, True),
        (b"\x16\xfe\x01", False, False),
        (b"GET / ", False, False),
        (b"", False, False),
    ],
)
def test_the_start_of_records(data: bytes, tls: bool, dtls: bool) -> None:
    assert starts_like_tls_record(data) is tls and starts_like_dtls_record(bytearray(data)) is dtls


def test_modes() -> None:
    mode = ModeName("transparent:lan0@8081")
    assert (mode.full_spec, mode.type_name) == ("transparent:lan0@8081", "transparent")
    for kind, name in (
        (mode_specs.RegularMode, "regular"),
        (mode_specs.UpstreamMode, "upstream"),
        (mode_specs.Socks5Mode, "socks5"),
        (mode_specs.DnsMode, "dns"),
        (mode_specs.WireGuardMode, "wireguard"),
        (mode_specs.LocalMode, "local"),
        (mode_specs.TunMode, "tun"),
    ):
        assert isinstance(kind.parse(f"{name}@1"), kind) and not isinstance(mode, kind)
    client = tflow.tclient_conn()
    client.proxy_mode = mode
    assert Client.from_state(client.get_state()).proxy_mode.type_name == "transparent"
    server = Server(address=("a.example", 443))
    assert server.copy().id != server.id


# -- layers, for tests of next_layer hooks


async def test_a_next_layer_by_hand() -> None:
    with taddons.context() as tctx:
        context = Context(tflow.tclient_conn(), tctx.options)
        about = NextLayer(context)
        assert (about.data_client(), about.data_server(), about.layer) == (b"", b"", None)
        about.data_client = lambda: b"GET / HTTP/1.1\r\n"  # type: ignore[method-assign]
        assert about.data_client().startswith(b"GET")
        assert repr(context).startswith("<Context ('127.0.0.1', 22) -> None")
        assert not hasattr(context, "handler") and isinstance(context.options, Options)


def test_a_layer_without_run() -> None:
    from appliance.layers.base import Layer

    context = Context(tflow.tclient_conn(), Options())
    layer = Layer(context)
    assert context.layers == [layer]
    any_stream: Any = object.__new__(Stream)
    with pytest.raises(NotImplementedError):
        layer.run(any_stream).send(None)


# -- copies


@pytest.mark.parametrize(
    "part",
    [
        Error("oops", 1.0),
        TCPMessage(True, b"x", 1.0),
        tflow.twebsocket(),
        tflow.twebsocket().messages[0],
        tutils.tdnsreq().questions[0],
        tutils.tdnsresp().answers[0],
    ],
)
def test_copies_of_parts(part: Any) -> None:
    copy = part.copy()
    assert copy is not part and copy.get_state() == part.get_state()
    other = type(part).from_state(part.get_state())
    for name in ("msg", "content", "name", "close_reason"):
        if hasattr(other, name):
            setattr(other, name, type(getattr(other, name))())
    assert other.get_state() != part.get_state()
    other.set_state(part.get_state())
    assert other.get_state() == part.get_state()


def test_views_of_multidicts_have_a_length() -> None:
    request = tutils.treq(path=b"/?a=1&a=2&b=3", headers=Headers())
    assert not request.headers.items() and not request.urlencoded_form.items() and not request.cookies.keys()
    assert len(request.query.items()) == 2 and len(request.query.items(multi=True)) == 3
    assert ("b", "3") in request.query.items() and "a" in request.query and "3" in request.query.values()
    pairs = request.query.items()
    assert dict(pairs) == dict(pairs) == {"a": "1", "b": "3"}
    with pytest.raises(TypeError):
        Headers()[3]  # type: ignore[index]


def test_a_killed_flow_is_no_longer_live() -> None:
    flow = tflow.tflow()
    flow.kill()
    assert not flow.live and not flow.killable


def test_a_new_host_header_is_spelt_as_usual() -> None:
    request = tutils.treq(headers=Headers())
    request.host_header = "a.example"
    assert request.headers.fields == ((b"Host", b"a.example"),)
