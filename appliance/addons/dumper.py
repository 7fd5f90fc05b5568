"""The terminal: one line a flow, one for each connection that was passed or blocked, more with `flow_detail`."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO

from appliance import ctx
from appliance.addons.filters import option_filter
from appliance.addons.switch import Switch
from appliance.connection import Client
from appliance.conversation import ContentMessage
from appliance.dns import DNSFlow, response_codes, types
from appliance.flow import Flow
from appliance.flowfilter import FlowFilter
from appliance.hooks import body_not_needed
from appliance.http import Headers, HTTPFlow, Message
from appliance.human import pretty_duration, pretty_size
from appliance.log import escape
from appliance.outlet import LAST_SECONDS, Outlet
from appliance.tcp import TCPFlow
from appliance.udp import UDPFlow
from appliance.verdict import Verdict
from appliance.websocket import WebSocketMessage

HEADERS, CONTENTS, ALL = 2, 3, 4
"""Values of `flow_detail` from which on more is shown."""
MAX_URL = 300
MAX_LINE = 500
"""Characters, where not everything is asked for."""
MAX_VIEWED = 1 << 16
"""Bytes of a body that go through a content view: half a megabyte would hold up the gateway for up to 0.4 s."""
MAX_ANSWERS, MAX_ANSWER = 4, 100
"""Records on a line of DNS, and characters of each."""
_TEXTUAL = (
    "text/",
    "application/json",
    "application/xml",
    "application/javascript",
    "application/x-www-form-urlencoded",
)
_DIM, _RED, _GREEN, _YELLOW = "2", "31", "32", "33"


class Dumper(Switch):
    """Has a listener below itself while `flow_detail` asks for one; with `-q` nothing listens."""

    name = "dumper"

    def __init__(self, out: TextIO | None = None, *, color: bool | None = None) -> None:
        """`out`: standard output unless given. `color` defaults to: a terminal, and no NO_COLOR."""
        super().__init__()
        self._screen = Screen(out if out is not None else sys.stdout, color)

    def configure(self, updated: frozenset[str]) -> None:
        if "flow_detail" not in updated and "dumper_filter" not in updated:
            return
        self._screen.filter = flt = option_filter("dumper_filter")
        detail = ctx.options.flow_detail
        lines = Lines if flt is None or flt.heads else Matched
        kind = None if detail <= 0 else Contents if detail >= CONTENTS else lines
        if [type(addon) for addon in self.addons] != ([kind] if kind else []):
            self.use(kind(self._screen) if kind else None)

    def done(self) -> None:
        self._screen.end()


class Screen:
    """Writes lines; a reader that went away, or a narrow encoding, is no error."""

    def __init__(self, out: TextIO, color: bool | None) -> None:
        self._out = Outlet(out)
        self.filter: FlowFilter | None = None
        self._color = out.isatty() and not os.environ.get("NO_COLOR") if color is None else color

    def style(self, text: str, style: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._color else text

    def write(self, lines: Iterable[str]) -> None:
        """`lines` have to be free of control characters, but for styles."""
        with contextlib.suppress(OSError, ValueError):  # gone, or closed
            self._out.write("\n".join(lines) + "\n")

    def end(self) -> None:
        """What a slow reader has not read yet."""
        self._out.drain(LAST_SECONDS)


class Lines:
    """Shows each flow when it has ended. Needs no body and no message: nothing is held for its sake."""

    name = "dumper lines"

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    # -- HTTP

    @body_not_needed
    def response(self, flow: HTTPFlow) -> None:
        self._http(flow)

    def error(self, flow: HTTPFlow) -> None:
        self._http(flow)

    def http_connect_error(self, flow: HTTPFlow) -> None:
        self._http(flow)

    def _http(self, flow: HTTPFlow) -> None:
        if (flt := self._screen.filter) is not None and not flt(flow):
            return
        request, response, error = flow.request, flow.response, flow.error
        style, detail = self._screen.style, ctx.options.flow_detail
        url = escape(request.pretty_url if ctx.options.showhost else request.url)
        if detail < ALL and len(url) > MAX_URL:
            url = url[:MAX_URL] + "…"
        words = [_client(flow.client_conn), escape(request.method), url]
        if flow.is_replay:
            words.insert(0, "[replay]")
        if error is not None:
            status = error.status or (response.status_code if response is not None else 0)
            if status:
                words.append(style(str(status), _RED))
            words.append(style(f"error: {escape(error.msg)}", _RED))
        elif response is not None:
            status = response.status_code
            words.append(style(str(status), _GREEN if status < 400 else _YELLOW if status < 500 else _RED))
            size = _size(response)
            words.append("size unknown" if size is None else pretty_size(size))
        failed = error.timestamp if error is not None else None
        end = (response.timestamp_end if response is not None else None) or failed or time.time()
        words.append(pretty_duration(end - request.timestamp_start))
        lines = [" ".join(words) + self._verdict(flow.client_conn.verdict)]
        if detail >= HEADERS:
            lines += _headers(">", request.headers, request.trailers)
            if detail >= CONTENTS:
                lines += _body(request, flow, detail)
            if response is not None:
                lines += _headers("<", response.headers, response.trailers)
                if detail >= CONTENTS:
                    lines += _body(response, flow, detail)
        self._screen.write(lines)

    # -- WebSocket

    @body_not_needed
    def websocket_end(self, flow: HTTPFlow) -> None:
        data = flow.websocket
        if data is None or ((flt := self._screen.filter) is not None and not flt(flow)):
            return
        style = self._screen.style
        words = [_client(flow.client_conn), "websocket", escape(flow.request.pretty_url)[:MAX_URL]]
        if flow.error is not None:
            words.append(style(f"error: {escape(flow.error.msg)}", _RED))
        elif data.close_code is not None:
            who = "client" if data.closed_by_client else "server"
            reason = f" {escape(data.close_reason)}" if data.close_reason else ""
            words.append(
                style(f"closed by {who}: {data.close_code}{reason}", _GREEN if data.close_code < 1002 else _YELLOW)
            )
        sent = sum(message.from_client for message in data.messages)
        up, down = data.carried or (sent, len(data.messages) - sent)
        words.append(f"{up} + {down} messages")
        words.append(pretty_duration((data.timestamp_end or time.time()) - flow.request.timestamp_start))
        self._screen.write([" ".join(words)])

    # -- TCP and UDP

    def tcp_end(self, flow: TCPFlow) -> None:
        self._conversation(flow)

    def tcp_error(self, flow: TCPFlow) -> None:
        self._conversation(flow)

    def udp_end(self, flow: UDPFlow) -> None:
        self._conversation(flow)

    def udp_error(self, flow: UDPFlow) -> None:
        self._conversation(flow)

    def _conversation(self, flow: TCPFlow | UDPFlow) -> None:
        if (flt := self._screen.filter) is not None and not flt(flow):
            return
        messages: list[ContentMessage] = [*flow.messages]
        up, down = flow.moved or _moved(messages)
        words = [_client(flow.client_conn), flow.type, _host(flow.server_conn.address)]
        if flow.error is not None:
            words.append(self._screen.style(f"error: {escape(flow.error.msg)}", _RED))
        end = flow.client_conn.timestamp_end or flow.server_conn.timestamp_end or time.time()
        words.append(_amount(up, down, end - flow.timestamp_created))
        if messages:
            sent = sum(message.from_client for message in messages)
            words.append(f"in {sent} + {len(messages) - sent} messages")
        lines = [" ".join(words) + self._verdict(flow.client_conn.verdict)]
        detail = ctx.options.flow_detail
        if detail >= CONTENTS:
            for message in messages:
                lines.append(f"    {'>' if message.from_client else '<'} {pretty_size(len(message.content))}")
                lines += _viewed(message, message.content, flow, detail)
        self._screen.write(lines)

    # -- DNS

    def dns_response(self, flow: DNSFlow) -> None:
        self._dns(flow)

    def dns_error(self, flow: DNSFlow) -> None:
        self._dns(flow)

    def _dns(self, flow: DNSFlow) -> None:
        if (flt := self._screen.filter) is not None and not flt(flow):
            return
        style, detail = self._screen.style, ctx.options.flow_detail
        words = [_client(flow.client_conn), "dns"]
        words += [f"{types.to_str(q.type)} {escape(q.name or '.')}" for q in flow.request.questions]
        response, answers = flow.response, []
        if flow.error is not None:
            words.append(style(f"error: {escape(flow.error.msg)}", _RED))
        elif response is None:
            words.append(style("dropped", _YELLOW))
        else:
            code, answers = response.response_code, response.answers
            words.append(style(response_codes.to_str(code), _GREEN if code == 0 else _YELLOW))
            shown = [escape(str(one)) for one in (answers if detail >= ALL else answers[:MAX_ANSWERS])]
            words += [", ".join(line if detail >= ALL else line[:MAX_ANSWER] for line in shown)] if shown else []
            if len(shown) < len(answers):
                words.append(f"and {len(answers) - len(shown)} more")
            if response.truncation:
                words.append("truncated")
        words.append(pretty_duration((response.timestamp if response else time.time()) - flow.request.timestamp))
        lines = [" ".join(words) + self._verdict(flow.client_conn.verdict)]
        if detail >= HEADERS and response is not None:
            for mark, part in (
                ("", answers),
                ("authority ", response.authorities),
                ("additional ", response.additionals),
            ):
                lines += [f"    < {mark}{escape(repr(one)[1:-1])}" for one in part]
        self._screen.write(lines)

    # -- connections without a flow

    def client_disconnected(self, client: Client) -> None:
        verdict = client.verdict
        if verdict is None or verdict.action == "decrypt":
            return
        words = [_client(client), self._screen.style(verdict.action, _YELLOW), _host(client.wanted), _why(verdict)]
        if verdict.action == "pass":
            up, down = client.passed or (0, 0)
            words.append(_amount(up, down, (client.timestamp_end or 0.0) - (client.timestamp_start or 0.0)))
        self._screen.write([" ".join(filter(None, words))])

    def _verdict(self, verdict: Verdict | None) -> str:
        return "" if verdict is None else self._screen.style(f"  {verdict.action} {_why(verdict)}", _DIM)


class Matched(Lines):
    """Shows no more, but has a filter that looks into bodies or messages."""

    def request(self, flow: HTTPFlow) -> None:
        """So that its body is there."""

    def response(self, flow: HTTPFlow) -> None:
        self._http(flow)

    def websocket_message(self, flow: HTTPFlow) -> None:
        """So that there are messages."""

    def tcp_message(self, flow: TCPFlow) -> None:
        """So that there are messages."""

    def udp_message(self, flow: UDPFlow) -> None:
        """So that there are messages."""


class Contents(Lines):
    """Shows bodies and messages too, and therefore needs them: bodies are held as for any add-on with these hooks."""

    def request(self, flow: HTTPFlow) -> None:
        """Shown with the response."""

    def response(self, flow: HTTPFlow) -> None:
        self._http(flow)

    def websocket_message(self, flow: HTTPFlow) -> None:
        """Shown at once: its connection may last for days."""
        if flow.websocket is None or ((flt := self._screen.filter) is not None and not flt(flow)):
            return
        message = flow.websocket.messages[-1]
        marks = [name for name in ("dropped", "injected") if getattr(message, name)]
        arrow, kind = ">" if message.from_client else "<", "text" if message.is_text else "binary"
        words = [_client(flow.client_conn), arrow, escape(flow.request.pretty_url)[:MAX_URL], kind]
        words += [pretty_size(len(message.content)), *marks]
        content = _viewed(message, message.content, flow, ctx.options.flow_detail)
        self._screen.write([" ".join(words), *content])

    def tcp_message(self, flow: TCPFlow) -> None:
        """Shown at the end."""

    def udp_message(self, flow: UDPFlow) -> None:
        """Shown at the end."""


def _client(client: Client) -> str:
    return client.peername[0] if client.peername else "-"


def _host(address: tuple[str, int] | None) -> str:
    if address is None:
        return ""
    return escape(f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}")


def _why(verdict: Verdict) -> str:
    """The reason in brackets, and the rule behind it as far as the reason does not name it."""
    reason = verdict.reason
    if verdict.rule:
        option, _, value = verdict.rule.partition(" ")
        rule = value if option in reason else verdict.rule
        reason = f"{reason}, {rule}" if rule else reason
    return f"({escape(reason)})"


def _amount(up: int, down: int, seconds: float) -> str:
    return f"{pretty_size(up)} up {pretty_size(down)} down {pretty_duration(seconds)}"


def _moved(messages: Iterable[ContentMessage]) -> tuple[int, int]:
    up = down = 0
    for message in messages:
        if message.from_client:
            up += len(message.content)
        else:
            down += len(message.content)
    return up, down


def _size(message: Message) -> int | None:
    """Bytes of the body as transferred, None while they are not known."""
    if message.raw_content is not None:
        return len(message.raw_content)
    if message.moved is not None:
        return message.moved
    declared = message.headers.get("content-length", "")
    return int(declared) if declared.isdecimal() else None


def _headers(mark: str, headers: Headers, trailers: Headers | None) -> Iterator[str]:
    for name, value in (*headers.fields, *(trailers.fields if trailers else ())):
        yield f"    {mark} {escape(name.decode('latin-1'))}: {escape(value.decode('utf-8', 'backslashreplace'))}"


def _body(message: Message, flow: Flow, detail: int) -> Iterable[str]:
    if message.raw_content is None:
        size = _size(message)
        return [f"      (streamed, not kept{'' if size is None else f': {pretty_size(size)}'})"]
    return _viewed(message, message.get_content(strict=False) or b"", flow, detail)


def _viewed(
    message: Message | ContentMessage | WebSocketMessage, data: bytes, flow: Flow, detail: int
) -> Iterator[str]:
    """As a content view shows it, indented; what is long: as text or hex."""
    from appliance import contentviews  # not before bodies are shown

    if not data:
        return
    if len(data) > MAX_VIEWED:
        headers = getattr(message, "headers", {})
        yield from _content(data, headers.get("content-type", ""), detail)
        return
    shown = contentviews.prettify_message(message, flow, ctx.options.dumper_default_contentview)
    if notes := [note for note in shown.description.split(", ") if note and not note.startswith("[decoded")]:
        yield f"      ({escape(', '.join(note.strip('[]') for note in notes))})"
    yield from _indented((line.expandtabs(4) for line in shown.text.removesuffix("\n").split("\n")), detail)


def _content(data: bytes, kind: str, detail: int) -> Iterator[str]:
    """Text as lines, anything else as hex, both indented."""
    return _indented(_as_lines(data, kind), detail)


def _indented(lines: Iterable[str], detail: int) -> Iterator[str]:
    limit = ctx.options.content_view_lines_cutoff if detail < ALL else None
    for number, line in enumerate(lines):
        if number == limit:
            yield "      (cut here: flow_detail 4 shows all)"
            return
        cut = detail < ALL and len(line) > MAX_LINE
        yield f"      {line[:MAX_LINE]}…" if cut else f"      {line}"


def _as_lines(data: bytes, kind: str) -> Iterator[str]:
    text = _text(data, kind)
    if text is not None:
        return (escape(line.rstrip("\r").expandtabs(4)) for line in text.removesuffix("\n").split("\n"))
    return (_hex(at, data[at : at + 16]) for at in range(0, len(data), 16))


def _text(data: bytes, kind: str) -> str | None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1") if kind.lower().startswith(_TEXTUAL) else None
    return None if "\0" in text else text


def _hex(at: int, row: bytes) -> str:
    shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
    return f"{at:010x}  {row.hex(' '):<47}  {shown}"
