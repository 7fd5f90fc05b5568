"""The lines of the terminal, from flows made by hand."""

from __future__ import annotations

import io
import os
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.addonmanager import AddonManager
from appliance.addons.dumper import Dumper, Lines, Screen
from appliance.connection import Client, Server
from appliance.flow import Error
from appliance.hooks import Hooks, body_not_needed
from appliance.http import Headers, HTTPFlow, Request, Response
from appliance.human import pretty_duration, pretty_size
from appliance.log import escape
from appliance.options import Options
from appliance.tcp import TCPFlow, TCPMessage
from appliance.udp import UDPFlow, UDPMessage
from appliance.verdict import Verdict
from appliance.websocket import WebSocketData, WebSocketMessage

DECRYPT = Verdict("decrypt", "TLS")


class Terminal:
    """A dumper in a chain of its own."""

    def __init__(self, *, color: bool = False, **options: Any) -> None:
        self.out = io.StringIO()
        self.options = Options(**options)
        self.hooks = Hooks()
        self.addons = AddonManager(self, self.options, self.hooks)  # which makes this ctx.master
        self.addons.add(Dumper(self.out, color=color))
        self.addons.configure()

    def fire(self, event: str, argument: object) -> list[str]:
        """The lines that come of it."""
        at = self.out.tell()
        assert self.hooks.fire(event, argument) is None
        return self.out.getvalue()[at:].splitlines()


def client(verdict: Verdict | None = DECRYPT, peer: str = "10.61.1.2") -> Client:
    made = Client(peername=(peer, 40000), sockname=("10.61.1.1", 8080), timestamp_start=100.0)
    made.verdict = verdict
    return made


def http(content: bytes | None = b"x" * 1234, **more: Any) -> HTTPFlow:
    flow = HTTPFlow(client(), Server(address=("origin.test", 443)))
    headers = Headers(host="www.origin.test", **more)
    flow.request = Request("origin.test", 443, "GET", "https", "", "/x", "HTTP/1.1", headers, b"", None, 50.0, 50.0)
    flow.response = Response("HTTP/1.1", 200, "OK", Headers(a="b"), content, None, 50.01, 50.034)
    return flow


def test_one_line() -> None:
    assert Terminal().fire("response", http()) == ["10.61.1.2 GET https://origin.test/x 200 1.2k 34ms  decrypt (TLS)"]


def test_showhost() -> None:
    assert "https://www.origin.test/x 200" in Terminal(showhost=True).fire("response", http())[0]


def test_size_of_a_streamed_body() -> None:
    terminal, flow = Terminal(), http(None)
    assert flow.response is not None
    assert "200 size unknown 34ms" in terminal.fire("response", flow)[0]
    flow.response.headers["content-length"] = "2048"
    assert "200 2.0k 34ms" in terminal.fire("response", flow)[0]
    flow.response.moved = 70000
    assert "200 68k 34ms" in terminal.fire("response", flow)[0]


def test_error_with_and_without_a_page() -> None:
    flow = http()
    flow.response = None
    flow.error = Error("the certificate of origin.test has expired", status=502)
    (line,) = Terminal().fire("error", flow)
    assert line.startswith("10.61.1.2 GET https://origin.test/x 502 error: the certificate of origin.test has expired ")
    flow.error = Error("Connection killed.")
    assert " /x error: " in Terminal().fire("error", flow)[0].replace("test/x", "test /x")


def test_nothing_captured_can_steer_the_terminal() -> None:
    evil = "\x1b]0;owned\x07\r\n\u202e"
    flow = http(evil.encode(), **{"x_evil": "\x9b31m"})
    flow.request.raw_path = b"/\x1b[2J\xc2\x9b"
    flow.request.raw_method = b"G\x1bT"
    flow.client_conn.verdict = Verdict("decrypt", evil)
    assert flow.response is not None
    flow.response.headers = Headers([(b"a\x1b", evil.encode())])
    failed = http()
    failed.error = Error(evil)
    tcp = TCPFlow(client(), Server(address=(evil, 1)))
    tcp.messages.append(TCPMessage(True, evil.encode()))
    passed = client(Verdict("pass", evil, evil))
    passed.wanted = (evil, 1)
    terminal = Terminal(flow_detail=4)
    shown = [
        *terminal.fire("response", flow),
        *terminal.fire("error", failed),
        *terminal.fire("tcp_end", tcp),
        *terminal.fire("client_disconnected", passed),
    ]
    assert "\\x1b" in "".join(shown)
    assert not [line for line in shown if any(ord(char) < 32 or char in "\x7f\x9b\u202e" for char in line)]


def test_colour_is_ours_alone() -> None:
    flow = http()
    flow.request.raw_path = b"/\x1b[31m"
    (line,) = Terminal(color=True).fire("response", flow)
    assert "\x1b[32m200\x1b[0m" in line
    assert "\x1b[31m" not in line


def test_headers_and_bodies() -> None:
    flow = http(b'{"a":\t1}\nline 2\n')
    assert flow.response is not None
    flow.response.trailers = Headers(sum="1")
    two = Terminal(flow_detail=2).fire("response", flow)
    assert two[1:] == ["    > host: www.origin.test", "    < a: b", "    < sum: 1"]
    assert Terminal(flow_detail=3).fire("response", flow)[-2:] == ['      {"a":   1}', "      line 2"]


def test_bodies_are_cut_and_binary_is_hex() -> None:
    flow = http(b"line\n" * 100 + b"end")
    lines = Terminal(flow_detail=3, content_view_lines_cutoff=4).fire("response", flow)
    assert lines[-5:] == ["      line"] * 4 + ["      (cut here: flow_detail 4 shows all)"]
    assert Terminal(flow_detail=4, content_view_lines_cutoff=4).fire("response", flow)[-1] == "      end"
    (row,) = Terminal(flow_detail=3).fire("response", http(b"\x00\xffGIF"))[-1:]
    assert row == "      0000000000  00 ff 47 49 46" + " " * 35 + "..GIF"
    assert Terminal(flow_detail=3).fire("response", http(b"y" * 5000))[-1] == "      " + "y" * 500 + "…"


def test_bodies_go_through_content_views() -> None:
    flow = http(b'{"a":{"b":1}}', content_type="text/plain")
    assert flow.response is not None
    flow.response.headers["content-type"] = "application/json"
    lines = ["      {", '        "a": {', '          "b": 1', "        }", "      }"]
    assert Terminal(flow_detail=3).fire("response", flow)[-5:] == lines
    assert Terminal(flow_detail=3, dumper_default_contentview="raw").fire("response", flow)[-1] == '      {"a":{"b":1}}'
    assert Terminal(flow_detail=3, dumper_default_contentview="HEX stream").fire("response", flow)[-1].endswith("7d7d")
    flow.response.raw_content = b"{"
    assert Terminal(flow_detail=3).fire("response", flow)[-2:] == ["      (failed to parse as JSON)", "      {"]
    unknown = Terminal(flow_detail=3, dumper_default_contentview="nosuch").fire("response", flow)
    assert unknown[-2:] == ["      (unknown view 'nosuch')", "      {"]
    flow.response.headers["content-encoding"] = "gzip"
    assert Terminal(flow_detail=3).fire("response", flow)[-2:] == [
        "      (cannot decode gzip, failed to parse as JSON)",
        "      {",
    ]
    flow.response.content = b"[1]"
    assert Terminal(flow_detail=3).fire("response", flow)[-3:] == ["      [", "        1", "      ]"]
    flow.response.raw_content = b""
    assert Terminal(flow_detail=4).fire("response", flow)[-1] == "    < content-length: 23"


def test_a_long_body_is_shown_as_it_is() -> None:
    flow = http(b"x\x1b\n" * 300_000)
    lines = Terminal(flow_detail=4).fire("response", flow)
    assert lines[-1] == "      x\\x1b" and sum(line == "      x\\x1b" for line in lines) == 300_000
    assert Terminal(flow_detail=3).fire("response", flow)[-1].startswith("      (cut here")
    flow = http(b"[" + b"1, " * 30_000 + b"1]")
    assert flow.response is not None
    flow.response.headers["content-type"] = "application/json"
    assert Terminal(flow_detail=3).fire("response", flow)[-1].startswith("      [1, 1, 1")


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["", "application/json", "text/html", "application/grpc", "image/png"]),
       st.sampled_from(["auto", "raw", "hex dump", "mqtt"]))  # fmt: skip
def test_any_body_shows_no_control_characters(body: bytes, kind: str, view: str) -> None:
    flow = http(body)
    assert flow.response is not None
    flow.response.headers["content-type"] = kind
    for detail in (3, 4):
        for line in Terminal(flow_detail=detail, dumper_default_contentview=view).fire("response", flow):
            assert escape(line) == line and "\t" not in line, line


def test_conversations() -> None:
    flow = TCPFlow(client(Verdict("decrypt", "raw TCP: binary")), Server(address=("fd61::2", 7000)))
    flow.moved = 1234, 34000
    (line,) = Terminal().fire("tcp_end", flow)
    assert re.fullmatch(r"10\.61\.1\.2 tcp \[fd61::2\]:7000 1\.2k up 33k down \d+ms  decrypt \(raw TCP: binary\)", line)
    udp = UDPFlow(client(None), Server(address=("8.8.8.8", 53)))
    udp.messages += [UDPMessage(True, b"abc"), UDPMessage(True, b"d"), UDPMessage(False, b"1" * 10)]
    udp.error = Error("refused")
    (line,) = Terminal().fire("udp_error", udp)
    assert re.fullmatch(r"10\.61\.1\.2 udp 8\.8\.8\.8:53 error: refused 4b up 10b down \d+ms in 2 \+ 1 messages", line)


def websocket(**end: Any) -> HTTPFlow:
    flow = http(b"")
    messages = [WebSocketMessage(1, True, b"ping"), WebSocketMessage(2, False, b"\0\1", dropped=True)]
    flow.websocket = WebSocketData(messages, **end)
    return flow


def test_websocket() -> None:
    flow = websocket(close_code=1000, close_reason="b\x1bye", closed_by_client=True, timestamp_end=0.0)
    (line,) = Terminal().fire("websocket_end", flow)
    assert "websocket" in line and "closed by client: 1000 b\\x1bye 1 + 1 messages" in line, line
    lines = Terminal(flow_detail=3).fire("websocket_message", flow)
    assert "binary 2b dropped" in lines[0].lower() and lines[1].strip().startswith("0000000000  00 01"), lines
    flow.websocket.messages.pop()
    lines = Terminal(flow_detail=3).fire("websocket_message", flow)
    assert "> " in lines[0] and lines[1].strip() == "ping"
    flow.websocket.messages, flow.websocket.carried = [], (7, 8)
    assert "7 + 8 messages" in Terminal().fire("websocket_end", flow)[0]
    assert Terminal(dumper_filter="~m POST").fire("websocket_end", flow) == []


def test_connections_that_were_not_decrypted() -> None:
    passed = client(Verdict("pass", "origin.test:443 matches ignore_hosts", r"ignore_hosts origin\.test", "hello"))
    passed.wanted, passed.passed, passed.timestamp_end = ("10.61.2.2", 443), (1200, 35000), 102.3
    assert Terminal().fire("client_disconnected", passed) == [
        r"10.61.1.2 pass 10.61.2.2:443 (origin.test:443 matches ignore_hosts, origin\.test) 1.2k up 34k down 2.3s"
    ]
    blocked = client(Verdict("block", "no data", "rawtcp"), peer="fd61:1::2")
    assert Terminal().fire("client_disconnected", blocked) == ["fd61:1::2 block (no data, rawtcp)"]
    assert Terminal().fire("client_disconnected", client()) == []
    assert Terminal().fire("client_disconnected", client(None)) == []


def test_without_detail_nothing_listens() -> None:
    terminal = Terminal(flow_detail=0)
    heard = {event for event, listeners in terminal.hooks.table.items() if listeners}
    assert heard <= {"configure", "done"}
    terminal.options.update(flow_detail=1)
    assert terminal.fire("response", http())
    terminal.options.update(flow_detail=0)
    assert not terminal.hooks.wants("response")


def test_a_line_a_flow_holds_no_body() -> None:
    terminal = Terminal()
    assert terminal.hooks.wants("response") and not terminal.hooks.holds["response"]
    assert not terminal.hooks.wants("request")
    assert not terminal.hooks.wants("tcp_message")
    terminal.options.update(flow_detail=3)
    assert terminal.hooks.holds["response"] and terminal.hooks.holds["request"]
    assert terminal.hooks.wants("tcp_message")
    terminal.options.update(flow_detail=2)
    assert not terminal.hooks.holds["response"]


def test_a_filter_that_looks_into_bodies_needs_them() -> None:
    """Or it would match those alone that happen to come in one piece."""
    terminal = Terminal(dumper_filter="~bs x{1000}")
    assert terminal.hooks.holds["response"] and terminal.hooks.holds["request"]
    assert all(terminal.hooks.wants(f"{kind}_message") for kind in ("tcp", "udp", "websocket"))
    assert len(terminal.fire("response", http())) == 1 and terminal.fire("response", http(b"y")) == []
    assert terminal.fire("websocket_message", websocket()) == []
    terminal.options.update(dumper_filter="~u x")
    assert not terminal.hooks.holds["response"] and not terminal.hooks.wants("tcp_message")


def test_one_listener_that_needs_the_body_is_enough() -> None:
    class Looks:
        @body_not_needed
        def response(self, flow: HTTPFlow) -> None: ...

    class Reads:
        def response(self, flow: HTTPFlow) -> None: ...

    assert not Hooks(Looks()).holds["response"]
    assert Hooks(Looks(), Reads()).holds["response"]
    assert not Hooks().holds["response"]


def test_a_reader_that_does_not_read_holds_no_flow_up() -> None:
    """Nobody waits for a terminal that is stopped (Ctrl-S), or for who reads the other end of a pipe."""
    read, write = os.pipe()
    with open(write, "w") as out:
        screen = Screen(out, color=False)
        for _ in range(5000):
            Lines(screen).response(http())
        os.close(read)
        Lines(screen).response(http())


def test_a_reader_that_went_away_is_no_error() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    terminal = Terminal()
    terminal.addons.get("dumper")._screen._out = Gone()
    assert terminal.fire("response", http()) == []
    assert terminal.hooks.table["response"][0].errors == 0


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0b"), (1023, "1023b"), (1024, "1.0k"), (10188, "9.9k"), (10190, "10k"), (1048064, "1.0m"), (5 << 40, "5.0t")],
)
def test_sizes(size: int, shown: str) -> None:
    assert pretty_size(size) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(-1, "0ms"), (0.034, "34ms"), (0.9996, "1.0s"), (9.96, "10s"), (599, "599s"), (720, "12min")]
)
def test_durations(seconds: float, shown: str) -> None:
    assert pretty_duration(seconds) == shown
