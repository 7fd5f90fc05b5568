"""Subcommands that speak to a running gateway: what they ask for, and what they make of the answers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from appliance.cli import flowline, remote
from appliance.cli.main import REMOTE, main
from appliance.cli.parser import build
from appliance.cli.statustext import text
from appliance.control.protocol import ControlError
from appliance.control.summary import connection, details, summary
from appliance.exceptions import OptionsError
from appliance.ids import new_id, short_id
from appliance.test import tflow
from appliance.verdict import Verdict


class Gateway:
    """Notes what it is asked. answers: by method."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def call(self, method: str, /, **params: Any) -> Any:
        self.asked.append((method, params))
        return self.answers[method.replace(".", "_")]


def parse(*argv: str) -> argparse.Namespace:
    return build().parse(argv)


def changes(*argv: str, flow: Any = None) -> dict[str, Any]:
    gateway: Any = Gateway(flows_get={"flow": details(flow or tflow.tflow(resp=False))})
    return remote._changes(gateway, parse("intercepted", "edit", "1", *argv))


def test_every_one_has_help_with_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    for name in REMOTE:
        with pytest.raises(SystemExit) as caught:
            parse(name, "--help")
        assert caught.value.code == 0
        assert "--set confdir=DIR" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv", [["status"], ["tail"], ["modes"], ["options", "get"], ["intercepted"], ["stop"], ["log"]]
)
def test_without_a_gateway(argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*argv, "--set", f"confdir={tmp_path}"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert str(tmp_path) in err and "`lockgate run`" in err


def test_where_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCKGATE_CONFDIR", str(tmp_path))
    assert remote.find([]) == tmp_path / "control.sock"
    (tmp_path / "config.yaml").write_text("control_socket: run/x.sock\nsome_addons_option: 5\n")
    assert remote.find([]) == tmp_path / "run/x.sock"
    assert remote.find(["control_socket=/y.sock"]) == Path("/y.sock")
    (tmp_path / "config.yaml").write_text("nonsense: [\n")
    assert remote.find([]) == tmp_path / "control.sock"
    with pytest.raises(OptionsError, match="cannot be reached"):
        remote.find(["control_socket=none"])


def test_options_of_the_table_are_still_those_of_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["options", "--set", f"confdir={tmp_path}"]) == 0
    assert "tcp_timeout  (int" in capsys.readouterr().out


def test_arguments_of_commands_are_taken_as_they_are() -> None:
    args = parse("command", "flow.comment", "@all", "--not a flag", "-x")
    assert (args.name, args.args) == ("flow.comment", ["@all", "--not a flag", "-x"])


def test_what_an_edit_asks_for(tmp_path: Path) -> None:
    assert changes("--path", "/x", "--port", "80") == {"request": {"path": "/x", "port": 80}}
    assert changes("--header", "A: b: c", "--no-header", "D", "--body", "") == {
        "request": {"set_headers": {"D": None, "A": "b: c"}, "text": ""}
    }
    (tmp_path / "body").write_bytes(b"\xff")
    assert changes("--status", "404", "--body-file", str(tmp_path / "body")) == {
        "response": {"status_code": 404, "base64": "/w=="}
    }
    assert changes("--body", "x", flow=tflow.tflow(resp=True)) == {"response": {"text": "x"}}
    assert changes("--body", "x", "--part", "request", flow=tflow.tflow(resp=True)) == {"request": {"text": "x"}}
    assert changes("--body", "x", flow=tflow.ttcpflow()) == {"message": {"text": "x"}}
    assert changes("--resume") == {}
    with pytest.raises(ControlError, match="nothing is to be changed"):
        changes()
    with pytest.raises(ControlError, match="no header field"):
        changes("--header", "novalue")


def test_a_line_of_each_kind() -> None:
    flow = tflow.tflow(resp=True)
    flow.client_conn.verdict = Verdict("decrypt", "TLS")
    assert flowline.line(summary(flow)).startswith("127.0.0.1 GET http://address:22/path 200 7b ")
    assert flowline.line(summary(flow)).endswith("  decrypt (TLS)")
    assert "error: error" in flowline.line(summary(tflow.tflow(err=True)))
    assert " tcp address:22 " in flowline.line(summary(tflow.ttcpflow()))
    assert " dns A dns.google NOERROR " in flowline.line(summary(tflow.tdnsflow(resp=True)))
    client = tflow.tclient_conn()
    client.wanted, client.passed = ("bank.test", 443), (10, 2048)
    client.verdict = Verdict("pass", "matches ignore_hosts", "ignore_hosts bank")
    assert (
        flowline.line(connection(client))
        == "127.0.0.1 pass bank.test:443 (matches ignore_hosts, bank) 10b up 2.0k down"
    )


def test_what_was_captured_cannot_steer_the_terminal() -> None:
    flow = tflow.tflow(resp=True)
    flow.request.path = "/\x1b[31m\u202e"
    flow.request.headers["x"] = "\x1b]0;title\x07"
    assert flow.response is not None
    flow.response.text = "\x1b[2J\nsecond"
    for shown in (flowline.line(summary(flow)), flowline.held(summary(flow)), flowline.whole(details(flow))):
        assert "\x1b" not in shown and "\u202e" not in shown
    assert flowline.whole(details(flow)).endswith("\\x1b[2J\nsecond")


def test_nor_can_a_server_that_was_asked_for_by_a_name() -> None:
    client = tflow.tclient_conn()
    client.wanted, client.verdict = ("ba\x1b[31mnk\u202e", 443), Verdict("block", "because")
    assert flowline.line(connection(client)) == r"127.0.0.1 block ba\x1b[31mnk\u202e:443 (because)"


def test_nor_can_an_error_that_names_a_url(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(args: argparse.Namespace) -> int:
        raise ControlError("refused", "GET /\x9b31m\u202e: cannot be replayed\nsecond line")

    monkeypatch.setattr(remote, "main", refuse)
    assert main(["status"]) == 1
    assert capsys.readouterr().err == "lockgate: GET /\\x9b31m\\u202e: cannot be replayed\nsecond line\n"


def test_short_ids() -> None:
    one = new_id()
    assert short_id(one) == one[12:].lstrip("0")
    assert short_id("a" * 12 + "0" * 20) == "0"
    assert short_id("ec8b5f6c-0c0f-4f0a-9a57-3ea0b2f3e7d1") == "ec8b5f6c"


def test_the_text_of_status() -> None:
    status = {
        "version": "1", "protocol": 1, "pid": 7, "confdir": "/x", "started": 0.0, "uptime": 90061.0,
        "modes": [
            {"spec": "regular@8080", "type": "regular", "addresses": [["0.0.0.0", 8080]], "facts": {},
             "firewall": None},
            {"spec": "local", "type": "local", "addresses": [], "facts": {"program": "curl-7"}, "firewall": None},
            {"spec": "wireguard", "type": "wireguard", "addresses": [["0.0.0.0", 51820]], "firewall": None,
             "facts": {"peers": 2, "backend": "kernel", "dropped": {"replayed": 1000, "x": 0}}},
            {"spec": "transparent:lan0", "type": "transparent", "addresses": [["10.0.0.1", 80]], "facts": {},
             "firewall": {"interfaces": ["lan0"], "backend": "nftables", "method": "tproxy", "heartbeat": 9.0}},
        ],
        "connections": {"open": 1, "limit": 2, "total": 3000, "passed": 4, "blocked": 5},
        "flows": {"total": 6, "errors": 7, "held": 8},
        "scripts": [{"path": "/a.py", "loaded": False}],
        "hooks": [{"addon": "a", "event": "request", "longest": 0.2, "errors": 0, "calls": None, "total": None},
                  {"addon": "b", "event": "request", "longest": 0.0, "errors": 0, "calls": None, "total": None}],
        "store": {"folder": "/x", "fault": "No space left on device", "flows": 5, "bytes": 2048, "dropped": 3,
                  "waiting": 1024, "longest": 0.1}, "dropped": {"events": 1, "flow_files": 2},
        "memory": {"resident": 1 << 20, "peak": 2 << 20}, "clients": 1, "subscriptions": 0,
    }  # fmt: skip
    shown = text(status)
    for part in ("process 7, up 1 d 1 h, /x", "regular@8080  on *:8080\n", "  local; program curl-7\n",
                 "wireguard  on *:51820; peers 2; backend kernel; dropped 1,000 replayed\n",
                 "(nftables, tproxy, no heartbeat for 9 s)",
                 "1 open of at most 2; 3,000 in all", "8 held: `lockgate intercepted`", "/a.py: not loaded",
                 "a request: 200ms at most", "5 flows recorded, 2.0k, in /x",
                 "cannot be written now: No space left on device; 1.0k wait in memory",
                 "3 flows could not be recorded", "1 events", "2 flows"):  # fmt: skip
        assert part in shown, shown
    assert " b request" not in shown
