"""Flows as something to run or to read: commands for curl and HTTPie, a Python program, the messages as on the wire.

Everything is quoted for a POSIX shell. Bodies are decoded first; one that is no plain text goes through `printf`, which
gives back its exact bytes.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence

from appliance import ctx
from appliance.addonmanager import Loader
from appliance.exceptions import CommandError
from appliance.flow import Flow
from appliance.home import expanded
from appliance.http import Headers, HTTPFlow, Message, Request, Response
from appliance.io.writer import private
from appliance.log import escape

CARRIAGE = ("content-length", "transfer-encoding", "connection", "proxy-connection", "keep-alive")
"""What says how this one message was carried; whoever sends it again sets its own."""


def request_of(flow: Flow) -> Request:
    """A copy with its body decoded, and without what its sender will set anew. Raises CommandError."""
    if not isinstance(flow, HTTPFlow) or flow.request is None:
        raise CommandError("the flow has no HTTP request")
    request = flow.request.copy()
    if request.raw_content is None:
        raise CommandError("the request's body streamed past and was not kept")
    request.decode(strict=False)
    for name in CARRIAGE:
        request.headers.pop(name, None)
    if (request.is_http2 or request.is_http3) and "host" not in request.headers and request.raw_authority:
        request.headers.insert(0, "host", request.raw_authority)
    return request


def response_of(flow: Flow) -> Response:
    """A copy with its body decoded. Raises CommandError."""
    if not isinstance(flow, HTTPFlow) or flow.response is None:
        raise CommandError("the flow has no HTTP response")
    response = flow.response.copy()
    if response.raw_content is None:
        raise CommandError("the response's body streamed past and was not kept")
    response.decode(strict=False)
    return response


def quoted(data: str | bytes) -> str:
    """One word for the shell. Raises CommandError for what no shell can pass: NUL bytes, or a newline at the end of
    what has to go through printf.
    """
    raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    if (text := _plain(raw)) is not None:
        return shlex.quote(text)
    if b"\x00" in raw or raw.endswith(b"\n"):
        raise CommandError("it has bytes that no shell can pass in an argument: export it as raw")
    return f'"$({_printf(raw)})"'


def _plain(raw: bytes) -> str | None:
    """As text, if it is one without what could steer a terminal or reorder what is read there."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if escape(text) == text else None


def _printf(raw: bytes) -> str:
    """A shell command that prints exactly these bytes. (A minus at the beginning would make an option of them.)"""
    odd = "".join(chr(b) if 0x20 <= b < 0x7F and b not in b"\\'%" else f"\\{b:03o}" for b in raw)
    return f"printf '{odd}'" if not odd.startswith("-") else f"printf '\\055{odd[1:]}'"


def _sent(headers: Headers) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers.items(multi=True) if not name.startswith(":")]


def curl_command(flow: Flow) -> str:
    """A curl command line. Raises CommandError."""
    request = request_of(flow)
    words = ["curl"]
    encodings = request.headers.pop("accept-encoding", "")
    if any(coding in encodings for coding in ("gzip", "deflate", "br")):
        words.append("--compressed")
    peer = flow.server_conn.peername
    if ctx.options.export_preserve_original_ip and peer is not None:
        address = f"[{peer[0]}]" if ":" in peer[0] else peer[0]
        words += ["--resolve", quoted(f"{request.pretty_host}:{request.port}:{address}")]
    if request.method == "HEAD":
        words.append("--head")
    elif request.method != "GET" or request.raw_content:
        words += ["-X", quoted(request.method)]
    for name, value in _sent(request.headers):
        if name.startswith("@"):
            raise CommandError(f"curl would take the header {name} for a file to read: export it as raw")
        words += ["-H", quoted(f"{name}: {value}" if value else f"{name};")]
    if request.raw_content and "content-type" not in request.headers:
        words += ["-H", "'content-type:'"]  # without the form's type, that -d would set
    if "/." in request.path:
        words.append("--path-as-is")
    if any(char in request.pretty_url for char in "[]{}"):
        words.append("--globoff")
    words.append(_plain_word(request.pretty_url))
    body = request.raw_content
    if not body:
        return " ".join(words)
    if (text := _plain(body)) is None:
        return f"{_printf(body)} | {' '.join(words)} --data-binary @-"
    return " ".join([*words, "--data-raw" if text.startswith("@") else "-d", quoted(text)])


def httpie_command(flow: Flow) -> str:
    """A command line of HTTPie. Raises CommandError."""
    request = request_of(flow)
    words = ["http"] if request.raw_content else ["http", "--ignore-stdin"]
    words += [_plain_word(request.method), _plain_word(request.pretty_url)]
    fields = [_item(name, value) for name, value in _sent(request.headers)]
    if any(field.startswith("-") for field in fields):
        words.append("--")  # or they would be options
    command = " ".join([*words, *map(quoted, fields)])
    return f"{_printf(request.raw_content)} | {command}" if request.raw_content else command


def _item(name: str, value: str) -> str:
    """A header field for HTTPie, which reads NAME:@VALUE from a file, and NAME:=VALUE as JSON. Raises CommandError for
    what it has no words for: it takes away a backslash before ``:;=@``, but none before a backslash.
    """
    if "\\" in name or re.search(r"(?<!\\)(\\\\)*\\[:;=@]", value):
        raise CommandError(f"HTTPie would change the header {name}: export it as raw")
    name = re.sub("([:;=@])", r"\\\1", name)
    return f"{name}:\\{value}" if value.startswith(("@", "=")) else f"{name}:{value}" if value else f"{name};"


def _plain_word(word: str) -> str:
    """Where an option could stand as well. Raises CommandError for what would be one."""
    if word.startswith("-"):
        raise CommandError(f"{word} would be taken for an option: export it as raw")
    return quoted(word)


def python_code(flow: Flow) -> str:
    """A program that needs nothing but Python, and sends the same request. Raises CommandError."""
    request = request_of(flow)
    kind = "HTTPSConnection" if request.scheme == "https" else "HTTPConnection"
    path = "".join(chr(byte) if 0x20 < byte < 0x7F else f"%{byte:02X}" for byte in request.raw_path)
    lines = [
        "import http.client",
        "",
        f"connection = http.client.{kind}({request.host!r}, {request.port}, timeout=30)",
        f"connection.putrequest({request.method!r}, {path!r}, skip_host=True, skip_accept_encoding=True)",
    ]
    for name, value in request.headers.fields:
        lines.append(f"connection.putheader({name.decode('latin-1')!r}, {value!r})")
    if request.raw_content:
        lines += [f"body = {request.raw_content!r}", 'connection.putheader("Content-Length", str(len(body)))',
                  "connection.endheaders(body)"]  # fmt: skip
    else:
        lines.append("connection.endheaders()")
    lines += [
        "response = connection.getresponse()",
        "print(response.status, response.reason)",
        "print(response.read())",
    ]
    return "\n".join(lines) + "\n"


def _wire(message: Message, first: bytes) -> bytes:
    content = message.raw_content or b""
    trailers = b""
    if message.headers.get("transfer-encoding", "").lower() == "chunked":
        chunk = b"%x\r\n%b\r\n" % (len(content), content) if content else b""
        trailers = bytes(message.trailers) if message.trailers else b""
        content, trailers = chunk + b"0\r\n", trailers + b"\r\n"
    return first + b"\r\n" + bytes(message.headers) + b"\r\n" + content + trailers


def raw_request(flow: Flow) -> bytes:
    """The request in the form of HTTP/1.1. Raises CommandError."""
    request_of(flow)
    assert isinstance(flow, HTTPFlow)
    request = flow.request.copy()
    request.decode(strict=False)
    target = request.url.encode("utf-8", "surrogateescape") if request.first_line_format != "relative" else b""
    if (request.is_http2 or request.is_http3) and request.first_line_format == "absolute":
        target = request.raw_path
        if "host" not in request.headers:
            request.headers.insert(0, "host", request.raw_authority)
    return _wire(request, b" ".join((request.raw_method, target or request.raw_path, _version(request))))


def raw_response(flow: Flow) -> bytes:
    """The response in the form of HTTP/1.1. Raises CommandError."""
    response = response_of(flow)
    return _wire(response, b"%b %d %b" % (_version(response), response.status_code, response.raw_reason))


def _version(message: Message) -> bytes:
    return b"HTTP/1.1" if message.is_http2 or message.is_http3 else message.raw_http_version


def raw(flow: Flow, separator: bytes = b"\r\n\r\n") -> bytes:
    """Request and response, as far as they are there, and WebSocket messages. Raises CommandError if nothing is."""
    parts = []
    if isinstance(flow, HTTPFlow):
        if flow.request is not None and flow.request.raw_content is not None:
            parts.append(raw_request(flow))
        if flow.response is not None and flow.response.raw_content is not None:
            parts.append(raw_response(flow))
        if flow.websocket is not None:
            parts += [b"[OUTGOING] " * m.from_client + b"[INCOMING] " * (not m.from_client) + m.content
                      for m in flow.websocket.messages]  # fmt: skip
    if not parts:
        raise CommandError("the flow has neither a request nor a response that could be exported")
    return separator.join(parts)


formats: dict[str, Callable[[Flow], str | bytes]] = {
    "curl": curl_command,
    "httpie": httpie_command,
    "python": python_code,
    "raw": raw,
    "raw_request": raw_request,
    "raw_response": raw_response,
}


class Export:
    """Commands alone; it listens to nothing."""

    name = "export"

    def load(self, loader: Loader) -> None:
        loader.add_command("export", self.export_str)
        loader.add_command("export.file", self.file)
        loader.add_command("export.clip", self.clip)
        loader.add_command("export.formats", self.formats)

    def formats(self) -> Sequence[str]:
        """The formats there are."""
        return list(formats)

    def export_str(self, format: str, flow: Flow) -> str:
        """A flow in a format, as text; bytes that are no UTF-8 as \\xNN. Raises CommandError."""
        made = self._made(format, flow)
        return made if isinstance(made, str) else made.decode("utf-8", "backslashreplace")

    def file(self, format: str, flow: Flow, path: str) -> None:
        """Write a flow to a file, byte for byte. Raises CommandError."""
        made = self._made(format, flow)
        try:
            with private(expanded(path)) as file:
                file.write(made if isinstance(made, bytes) else made.encode())
        except OSError as error:
            raise CommandError(f"cannot export to {path}: {error.strerror or error}") from None

    def clip(self, format: str, flow: Flow) -> None:
        """Not here: a gateway has no clipboard. Raises CommandError."""
        raise CommandError("a gateway has no clipboard: use export.file")

    def _made(self, format: str, flow: Flow) -> str | bytes:
        maker = formats.get(format)
        if maker is None:
            raise CommandError(f"no export format {format!r}; there are {', '.join(formats)}")
        return maker(flow)
