"""Exports: run by the shell, they send what the flow had, byte for byte."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.addons.export import Export, curl_command, formats, httpie_command, python_code, quoted, raw
from appliance.exceptions import CommandError
from appliance.http import Headers, HTTPFlow, Request
from appliance.log import escape
from tests.addons.chain import Chain
from tests.flowkit import http, tcp, websocket


@pytest.fixture(autouse=True)
def chain() -> Chain:
    return Chain(Export())


class Origin:
    """Takes one request at a time and keeps its bytes."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.got = b""

    def take(self) -> None:
        peer, _ = self.socket.accept()
        with peer:
            peer.settimeout(10)
            data = b""
            while b"\r\n\r\n" not in data:
                data += peer.recv(65536)
            head, _, body = data.partition(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
            )
            while len(body) < length:
                body += peer.recv(65536)
            self.got = head + b"\r\n\r\n" + body
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    made = Origin()
    yield made
    made.socket.close()


def sent(origin: Origin, *command: str) -> tuple[str, dict[str, str], bytes]:
    """First line, headers and body that a command sends."""
    thread = threading.Thread(target=origin.take)
    thread.start()
    done = subprocess.run(command, capture_output=True, timeout=20, check=False)
    thread.join(10)
    assert done.returncode == 0, done.stderr
    head, _, body = origin.got.partition(b"\r\n\r\n")
    first, *lines = head.decode("utf-8", "surrogateescape").split("\r\n")
    return first, {line.split(":", 1)[0].lower(): line.split(":", 1)[1].strip() for line in lines}, body


def asked(port: int, method: str = "GET", path: str = "/a", body: bytes = b"", **headers: str) -> HTTPFlow:
    flow = http()
    flow.request = Request.make(method, f"http://127.0.0.1:{port}{path}", body, headers)
    return flow


BODIES = [b"a=b", b"@/etc/passwd", b"it's \"$HOME\" `id` $(id) \\ %s !x", "grüße".encode(), b"line\nline\n\n",
          b"\x00\xff\x80", b"\r\n", b"'", b"-n", b"%d\\n"]  # fmt: skip


@pytest.mark.parametrize("body", BODIES)
def test_curl_sends_the_same(origin: Origin, body: bytes) -> None:
    flow = asked(origin.port, "PUT", "/x/../y?a=[1]&b='", body, **{"X-Odd": "$(id) 'x' \"y\"", "X-Empty": ""})
    first, headers, got = sent(origin, "/bin/sh", "-c", curl_command(flow))
    assert first == "PUT /x/../y?a=[1]&b=' HTTP/1.1" and got == body
    assert headers["x-odd"] == "$(id) 'x' \"y\"" and headers["x-empty"] == "" and "content-type" not in headers


def test_curl_words() -> None:
    flow = http("http://example.com/a")
    flow.request.headers["accept-encoding"] = "gzip, br"
    assert curl_command(flow) == "curl --compressed -H 'Host: pretty.example' -H 'X-One: quux' http://pretty.example/a"
    flow.request.method = "HEAD"
    assert " --head " in curl_command(flow) and "-X" not in curl_command(flow)


def test_curl_can_go_to_the_original_address(chain: Chain) -> None:
    chain.options.update(export_preserve_original_ip=True)
    assert "--resolve 'pretty.example:80:[2001:db8::1]' " in curl_command(http())


@pytest.mark.skipif(shutil.which("http") is None, reason="HTTPie is not installed")
@pytest.mark.parametrize("body", BODIES)
def test_httpie_sends_the_same(origin: Origin, body: bytes) -> None:
    first, _, got = sent(origin, "/bin/sh", "-c", httpie_command(asked(origin.port, "PUT", "/y", body)))
    assert first == "PUT /y HTTP/1.1" and got == body


def test_httpie_words() -> None:
    flow = http(method="POST", body=b"it's")
    assert httpie_command(flow) == (
        "printf 'it\\047s' | http POST 'http://pretty.example/foo?q=1' Host:pretty.example X-One:quux"
    )
    assert httpie_command(http()).startswith("http --ignore-stdin GET ")


ODD_FIELDS = {"X-A": "@/etc/hostname", "X-B": "=[1]", "X-C": "\\\\@a:=b;\\", "X-D": "a@b=c;d", "X-E": "", "-F": "g",
              "--h": "@i", "X-J": "\\n"}  # fmt: skip


def test_httpie_is_told_what_is_no_file_no_json_and_no_option() -> None:
    *_, dashes, a, b, c, d, e, f, h, j = shlex.split(httpie_command(asked(80, "GET", "/z", **ODD_FIELDS)))
    assert dashes == "--"
    assert [a, b, d, e, f, h] == ["X-A:\\@/etc/hostname", "X-B:\\=[1]", "X-D:a@b=c;d", "X-E;", "-F:g", "--h:\\@i"]
    assert [c, j] == ["X-C:" + ODD_FIELDS["X-C"], "X-J:\\n"]
    for value in ("\\@a", "x\\\\\\=", "y\\;"):
        with pytest.raises(CommandError, match="would change the header X-K"):
            httpie_command(asked(80, "GET", "/", **{"X-K": value}))


@pytest.mark.skipif(shutil.which("http") is None, reason="HTTPie is not installed")
def test_httpie_sends_odd_fields(origin: Origin) -> None:
    _, headers, _ = sent(origin, "/bin/sh", "-c", httpie_command(asked(origin.port, "GET", "/z", **ODD_FIELDS)))
    assert {name: headers[name.lower()] for name in ODD_FIELDS} == ODD_FIELDS


def test_curl_sends_odd_fields(origin: Origin) -> None:
    _, headers, _ = sent(origin, "/bin/sh", "-c", curl_command(asked(origin.port, "GET", "/z", **ODD_FIELDS)))
    assert {name: headers[name.lower()] for name in ODD_FIELDS} == ODD_FIELDS


def test_what_would_be_an_option_or_a_file_is_refused() -> None:
    flow = asked(80, "-oX")
    with pytest.raises(CommandError, match="-OX would be taken for an option"):
        httpie_command(flow)
    flow = asked(80, "GET", "/", **{"@/etc/passwd": "x"})
    with pytest.raises(CommandError, match="header @/etc/passwd for a file"):
        curl_command(flow)
    assert shlex.split(httpie_command(flow))[-1] == "\\@/etc/passwd:x"


@pytest.mark.parametrize("body", BODIES[2:7])
def test_python_sends_the_same(origin: Origin, body: bytes) -> None:
    flow = asked(origin.port, "POST", "/p?x", body, **{"X-Odd": "a\"'b", "Host": "other.example"})
    first, headers, got = sent(origin, sys.executable, "-c", python_code(flow))
    assert first == "POST /p?x HTTP/1.1" and got == body
    assert headers["host"] == "other.example" and headers["x-odd"] == "a\"'b"


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=20).filter(lambda raw: b"\x00" not in raw and not raw.endswith(b"\n")))
def test_any_word_is_one_word_to_the_shell(word: bytes) -> None:
    printed = subprocess.run(
        ["/bin/sh", "-c", f"printf %s {quoted(word)}"], capture_output=True, check=True, timeout=10
    )
    assert printed.stdout == word


def test_nothing_of_a_command_reorders_what_is_read_of_it() -> None:
    """U+202E and the like (CVE-2021-42574), line separators, C1."""
    flow = asked(80, "POST", "/", "a\u202eb\u2028".encode(), **{"X-A": "c\u2066d\x9b"})
    for command in (curl_command(flow), httpie_command(flow)):
        assert escape(command) == command and "\\342\\200\\256" in command


def test_what_no_shell_can_pass_is_refused() -> None:
    for word in (b"a\x00b", b"\xffa\n"):
        with pytest.raises(CommandError, match="export it as raw"):
            quoted(word)


def test_raw() -> None:
    flow = http(method="POST", body=b"asked", answer=b"", content_type="x/y")
    assert flow.response is not None
    flow.response.content = b"\x00\xff"
    flow.response.encode("gzip")
    made = raw(flow)
    assert (
        made.startswith(b"POST /foo?q=1 HTTP/1.1\r\nHost: pretty.example\r\n")
        and b"\r\n\r\nasked\r\n\r\nHTTP/1.1 200 OK" in made
    )
    assert made.endswith(b"content-length: 2\r\n\r\n\x00\xff") and b"gzip" not in made
    assert b"[OUTGOING] gr" in raw(websocket()) and raw(websocket()).endswith(b"[INCOMING] \x00\xff")


def test_chunked_messages_are_chunked_again() -> None:
    flow = http(status=200)
    assert flow.response is not None
    flow.response.headers = Headers(transfer_encoding="chunked")
    flow.response.raw_content, flow.response.trailers = b"hello", Headers(x_sum="1")
    made = formats["raw_response"](flow)
    assert made == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n"


def test_http2_is_written_as_http1() -> None:
    flow = http()
    flow.request.http_version = "HTTP/2.0"
    flow.request.headers = Headers(a="b")
    flow.request.authority = "auth.example"
    made = formats["raw_request"](flow)
    assert isinstance(made, bytes) and made.startswith(b"GET /foo?q=1 HTTP/1.1\r\nhost: auth.example\r\na: b")
    assert "-H 'host: auth.example'" in curl_command(flow)


def test_commands(chain: Chain, tmp_path: Path) -> None:
    assert chain.call("export.formats") == ["curl", "httpie", "python", "raw", "raw_request", "raw_response"]
    flow = http(answer=b"\xff")
    assert chain.call("export", "raw_response", flow).endswith("\\xff")
    chain.call("export.file", "raw_response", flow, str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes().endswith(b"\xff")
    for format, bad, why in (("nope", flow, "no export format"), ("curl", tcp(), "no HTTP request"),
                             ("raw_response", http(status=None), "no HTTP response"), ("raw", tcp(), "neither"),
                             ("curl", http(body=None), "streamed past"),
                             ("raw_response", http(answer=None), "streamed")):  # fmt: skip
        with pytest.raises(CommandError, match=why):
            chain.call("export", format, bad)
    with pytest.raises(CommandError, match="cannot export"):
        chain.call("export.file", "raw", flow, str(tmp_path))
