"""Pieces of flows as rows."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.addons.cut import Cut, extract
from appliance.addons.export import Export
from appliance.addons.view import View
from appliance.exceptions import CommandError
from appliance.test import tflow
from tests.addons.chain import Chain
from tests.flowkit import http, tcp


@pytest.mark.parametrize(
    ("cut", "value"),
    [
        ("request.host", "address"),
        ("request.port", "22"),
        ("request.header[header]", "qvalue"),
        ("request.header[a.b]", ""),
        ("request.headers", b"header: qvalue\r\ncontent-length: 7\r\n"),
        ("request.content", b"content"),
        ("response.status_code", "200"),
        ("response.text", "message"),
        ("response.trailers", ""),
        ("client_conn.tls_established", "true"),
        ("client_conn.peername.host", "127.0.0.1"),
        ("client_conn.address.port", "22"),
        ("server_conn.address.host", "address"),
        ("server_conn.cert", ""),
        ("error.msg", ""),
        ("websocket.close_code", ""),
        ("messages", ""),
        ("type", "http"),
    ],
)
def test_paths(cut: str, value: str | bytes) -> None:
    assert extract(cut, tflow.tflow(resp=True)) == value


def test_what_a_flow_does_not_have() -> None:
    assert extract("response.status_code", http(status=None)) == ""
    assert extract("request.host", tcp()) == ""
    coded = http(answer=b"no gzip")
    assert coded.response is not None
    coded.response.headers["content-encoding"] = "gzip"
    assert extract("response.content", coded) == ""
    for wrong in ("nosuch", "request.nosuch", "request._data", "request.json", "request.host.upper", "", "request..a",
                  "client_conn.peername.nosuch", "type.header[x]", "comment.header[x]"):  # fmt: skip
        with pytest.raises(CommandError, match=r"no |is no value"):
            extract(wrong, http())


_NAMES = [
    "request",
    "response",
    "headers",
    "header[x]",
    "content",
    "client_conn",
    "host",
    "cookies",
    "query",
    "copy",
    "id",
    "messages",
    "__class__",
]


@settings(deadline=None)
@given(st.text(max_size=20) | st.lists(st.sampled_from(_NAMES), max_size=4).map(".".join))
def test_any_path_is_a_value_or_an_error(cut: str) -> None:
    try:
        assert isinstance(extract(cut, http()), str | bytes)
    except CommandError:
        return


def test_commands(tmp_path: Path) -> None:
    chain = Chain(Cut(), Export(), View(), view_limit=9)
    run: Any = chain.addons.commands.execute
    for path, body in (("a,b", b"\x00\xff"), ("c", b'say "hi"\nthere')):
        chain.fire(http(f"http://h/{path}", answer=body), "requestheaders", "response")
    assert run("cut @all request.path,response.content") == [["/a,b", b"\x00\xff"], ["/c", b'say "hi"\nthere']]
    run(f"cut.save @all request.path,response.content {tmp_path}/out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["/a,b", "\x00\\xff"], ["/c", 'say "hi"\nthere']]
    run(f"cut.save '~u a,b' response.content {tmp_path}/one")
    assert (tmp_path / "one").read_bytes() == b"\x00\xff"
    run(f"cut.save '~u a,b' response.content +{tmp_path}/one")
    assert (tmp_path / "one").read_bytes() == b"\x00\xff" * 2
    for line, told in (
        (f"cut.save @all request.path {tmp_path}", r"cut\.save: .*directory"),
        ("cut.clip @all request.path", "no clipboard"),
        ("export.clip curl '~u a,b'", "no clipboard"),
        ("cut @all nosuch", "no 'nosuch'"),
    ):
        with pytest.raises(CommandError, match=told):
            run(line)
    assert run("export curl '~u /c'").startswith("curl ")
