"""`lockgate flows`: what it prints, and what it refuses."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.cli import flows_parser
from appliance.cli.flows import CELLS
from appliance.cli.main import main
from appliance.flow import Flow
from appliance.headers import Headers
from appliance.http import HTTPFlow
from appliance.io import FlowReader
from appliance.store import segment
from appliance.store.recorder import Recorder
from appliance.store.store import Store
from tests import flowkit
from tests.io import har_schema
from tests.store.storekit import facts, fill, put


@pytest.fixture
def confdir(tmp_path: Path) -> Path:
    fill(tmp_path / "flows", flowkit.several())
    return tmp_path


@pytest.fixture
def flows(confdir: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Runs `lockgate flows ...`: (exit code, standard output, standard error)."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main(["flows", *words, "--set", f"confdir={confdir}"])
        out, err = capsys.readouterr()
        return code, out, err

    yield run


def test_list(flows: Any) -> None:
    code, out, err = flows("list")
    lines = out.splitlines()
    assert code == 0 and not err
    assert lines[0].split() == ["n", "time", "client", "method", "url", "status", "size", "took", "verdict"]
    assert [line.split()[0] for line in lines[1:]] == ["6", "5", "4", "3", "2", "1"]
    assert "http://pretty.example/foo?q=1" in lines[1] and "10.61.1.2" in lines[1]
    assert "error" in lines[2]


def test_list_filter_columns_pages(flows: Any) -> None:
    assert flows("list", "~tcp", "|", "~udp", "--columns", "n,kind,up,down")[1].splitlines() == [
        "n  kind  up  down", "4  udp    4     0", "3  tcp    3     4"
    ]  # fmt: skip
    _, out, err = flows("list", "-n", "2")
    assert len(out.splitlines()) == 3 and "--before 5" in err
    assert flows("list", "-n", "1", "--before", "5", "--columns", "n")[1].split() == ["n", "4"]
    assert flows("list", "--oldest", "--after", "4", "--columns", "n")[1].split() == ["n", "5", "6"]


def test_list_json(flows: Any) -> None:
    rows = [json.loads(line) for line in flows("list", "--json", "~http")[1].splitlines()]
    assert [row["n"] for row in rows] == [6, 5, 2, 1]
    assert rows[1]["error"] == "it failed" and rows[2]["websocket"] is True
    assert rows[3]["url"] == "http://pretty.example/foo?q=1" and rows[3]["status"] == 200


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("list", "~nonsense"), 2, "filter:"),
        (("list", "--columns", "n,colour"), 2, "no column 'colour'; there are n, id"),
        (("list", "~d nobody"), 1, "no flow matches"),
        (("show", "77"), 1, "77: no such flow"),
        (("show", "1", "--view", "nosuch"), 2, "there is no content view 'nosuch'; there are auto, css"),
        (("replay",), 2, "say which flows"),
        (("replay", "1", "--filter", "~all"), 2, "say which flows"),
        (("replay", "1"), 1, "no gateway runs with"),
        (("export", "har", "~tcp"), 1, "nothing of what matches can be written as har"),
        (("export", "har", "~d nobody"), 1, "no flow matches"),
        (("export", "har", "--number", "77"), 1, "77: no such flow"),
        (("export", "har", "~tcp", "--number", "1"), 2, "either a filter or --number"),
        (("delete", "~tcp", "--number", "1"), 2, "say which flows"),
        (("delete",), 2, "say which flows"),
        (("delete", "~all"), 1, "--yes"),
        (("export", "bodies"), 2, "-o DIR"),
        (("export", "har", "-o", "/nonexistent/x"), 2, "No such file"),
    ],
)
def test_refusals(flows: Any, words: tuple[str, ...], code: int, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    got, out, err = flows(*words)
    assert got == code and says in err and not err.count("\n") > 3
    assert not out or "nothing of what matches" in says


def test_flags_and_filters_in_any_order(flows: Any, confdir: Path) -> None:
    """As the README has them."""
    target = str(confdir / "x")
    for words in (("--redact", "-o", target, "~tcp", "|", "~udp"), ("~tcp | ~udp", "-o", target, "--redact"),
                  ("-o", target, "~tcp", "--redact", "|", "~udp")):  # fmt: skip
        assert flows("export", "flows", *words)[2].endswith(f"\n2 flows written to {target}\n")
    assert flows("list", "-n", "1", "~tcp", "--json")[1].count("\n") == 1
    assert flows("list", "--json", "-n", "1", "~tcp")[1].count("\n") == 1


@pytest.mark.parametrize("format", ["flows", "curl", "raw"])
def test_what_an_addon_has_put_there_ends_no_export(flows: Any, confdir: Path, format: str) -> None:
    odd = flowkit.http()
    assert odd.response is not None
    odd.response.status_code = None  # type: ignore[assignment]
    odd.request.headers = Headers.trusted((("a", "b"),))  # type: ignore[arg-type]
    odd.metadata = "nothing"  # type: ignore[assignment]
    fill(confdir / "flows", [odd, flowkit.http("http://after.example/")])
    _, _, err = flows("export", format, "-o", str(confdir / "out"), "~http")
    assert "flow 7: " in err and "Error: " in err and "\n5 flows written" in err


def test_what_comes_to_nothing_leaves_the_file_as_it_was(flows: Any, confdir: Path) -> None:
    target = confdir / "old.har"
    target.write_text("of last week")
    for words in (("~d nobody",), ("--number", "77"), ("~nonsense",)):
        assert flows("export", "har", "-o", str(target), *words)[0] > 0
        assert target.read_text() == "of last week"


def test_columns_are_named_in_the_help() -> None:
    assert tuple(CELLS) == flows_parser.COLUMNS


def test_a_view_by_the_beginning_of_its_name(flows: Any) -> None:
    assert "[Hex Dump" in flows("show", "6", "--view", "hex")[1]


def test_what_is_no_store_is_not_made_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "letter.txt").write_text("mine")
    for place, says in (("docs", "no flows have been recorded there"), ("docs/letter.txt", "is not a folder")):
        for command in (["list"], ["stats"], ["show", "1"], ["delete", "--yes", "~all"], ["tail"]):
            assert main(["flows", *command, "--set", f"store_dir={tmp_path / place}"]) == 1
            assert says in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["docs", "letter.txt"]


def test_an_empty_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "flows", [flowkit.http()])
    where = ["--set", f"confdir={tmp_path}"]
    assert main(["flows", "delete", "--yes", "~all", *where]) == 0
    assert capsys.readouterr().out == "1 flow deleted\n"
    assert main(["flows", "list", *where]) == 1
    assert capsys.readouterr().err == "lockgate: no flow matches\n"
    assert main(["flows", "stats", *where]) == 0
    assert ": no flows\n" in capsys.readouterr().out


SOMEBODY = """
import contextlib, io, os, sys
import appliance.store.deletion, appliance.cli.flows_export, appliance.cli.flows_show
from appliance.cli.main import main
where = ["--set", "confdir=."]
with contextlib.redirect_stdout(io.StringIO()):
    main(["flows", "list", "--set", "confdir=warm"])  # all is imported that is needed
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for words in (["list", "--columns", "n,url"], ["delete", "--yes", "~all"]):
    print(main(["flows", *words, *where]), flush=True)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_somebody_who_may_not_or_may_only_look() -> None:
    with tempfile.TemporaryDirectory() as place:  # pytest's own are closed to others
        _somebody(Path(place))


def _somebody(tmp_path: Path) -> None:
    fill(tmp_path / "flows", [flowkit.http("http://a.example/")])
    fill(tmp_path / "warm" / "flows", [flowkit.http("http://a.example/")])
    root = Path(__file__).parents[2]

    def somebody() -> tuple[str, str]:
        done = subprocess.run([sys.executable, "-c", SOMEBODY], cwd=tmp_path, capture_output=True, text=True,
                              env=os.environ | {"PYTHONPATH": str(root)}, check=True)  # fmt: skip
        return done.stdout, done.stderr

    tmp_path.chmod(0o755)
    out, err = somebody()
    assert out.split() == ["1", "1"] and err.count("flows is root's; run this as its owner (sudo)") == 2
    (tmp_path / "flows").chmod(0o755)
    for path in (tmp_path / "flows").iterdir():
        path.chmod(0o644)
    for made in (tmp_path / "flows").glob("index.db-*"):
        made.unlink()  # as on a medium that nothing can be written to
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "flows").glob("*.*")}
    out, err = somebody()
    assert out.split("\n")[0].split() == ["n", "url"] and "http://pretty.example/" in out and out.split()[-1] == "1"
    assert "flows cannot be deleted" in err
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "flows").glob("*.seg")}.items() <= before.items()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_leaves_nothing_of_his_in_somebodys_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`sudo lockgate flows` beside a gateway that is not root."""
    folder = tmp_path / "flows"
    fill(folder, [flowkit.http(f"http://a.example/{n}") for n in range(3)])
    segment.compress(folder, 1)
    for path in folder.glob("index.db*"):
        path.unlink()
    (folder / "upkeep.lock").unlink(missing_ok=True)
    for path in (folder, *folder.iterdir()):
        os.chown(path, 65534, 65534)
    where = ["--set", f"confdir={tmp_path}"]
    assert main(["flows", "list", *where]) == 0
    assert main(["flows", "delete", "--yes", "~u /1$", *where]) == 0
    assert {path.name for path in folder.iterdir()} >= {"index.db", "upkeep.lock", "0000000001.seg.zst"}
    assert {path.stat().st_uid for path in folder.iterdir()} == {65534}


def test_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flows", "list", "--set", f"confdir={tmp_path}"]) == 1
    assert "no flows have been recorded there (options store_dir, confdir)" in capsys.readouterr().err
    assert not (tmp_path / "flows").exists()


def test_show(flows: Any) -> None:
    code, out, _ = flows("show", "1", "2", "3")
    assert code == 0
    assert "flow 1  http" in out and "> GET http://pretty.example/foo?q=1 HTTP/1.1" in out and "    hello" in out
    assert "flow 2  websocket" in out and "grüße" in out
    assert "flow 3  tcp" in out and "    foo" in out
    assert "\x1b" not in out


def test_show_json(flows: Any, confdir: Path) -> None:
    made = json.loads(flows("show", "6", "--json")[1])
    assert made["n"] == 6 and made["request"]["content"] == "\x00\x01" and made["verdict"]["action"] == "decrypt"


def test_nothing_steers_the_terminal(flows: Any, confdir: Path) -> None:
    evil = flowkit.http("http://a.example/\x1b[2J", "G\x1bET", answer=b"\x1b]0;owned\x07")
    evil.request.headers["x\x1b"] = "\x1b[31m"
    evil.comment = "\x1b[5m"
    fill(confdir / "flows", [evil])
    for words in (("list",), ("show", "7"), ("stats",)):
        assert "\x1b" not in flows(*words)[1]


def test_stats(flows: Any) -> None:
    code, out, _ = flows("stats")
    assert code == 0 and "6 flows" in out and "4 http" in out and "6  " in out
    found = json.loads(flows("stats", "--json")[1])
    assert found["kinds"] == {"http": 4, "tcp": 1, "udp": 1} and found["top"]["client"][0][:2] == ["10.61.1.2", 6]


# -- export


def test_export_flow_file(flows: Any, confdir: Path) -> None:
    target = confdir / "out"
    assert flows("export", "flows", "-o", str(target))[0] == 0
    assert target.stat().st_mode & 0o777 == 0o600
    with target.open("rb") as file, Store(confdir / "flows") as store:
        read = list(FlowReader(file).stream())
        for ours, theirs in zip(store.flows(), read, strict=True):
            theirs.client_conn.verdict = ours.client_conn.verdict  # flow files have none
            assert facts(ours) == facts(theirs)


def test_export_har(flows: Any, confdir: Path) -> None:
    code, out, _ = flows("export", "har", "~http")
    har = har_schema.check(out)
    assert code == 0 and len(har["log"]["entries"]) == 4


def test_a_har_of_a_large_body_is_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytes(range(256)) * (20 << 12)  # 20 MiB
    flow = flowkit.http(answer=None)
    assert flow.response is not None
    recorder = Recorder(tmp_path / "flows", body_limit=64 << 20)
    recorder.start()
    tee = flow.response.tee = recorder.tee()
    for at in range(0, len(data), 100_000):
        tee(data[at : at + 100_000])
    recorder.end(flow)
    recorder.close()
    import base64

    target = tmp_path / "big.har"
    assert main(["flows", "export", "har", "-o", str(target), "--set", f"confdir={tmp_path}"]) == 0
    (entry,) = json.loads(target.read_text())["log"]["entries"]
    content = entry["response"]["content"]
    assert base64.b64decode(content["text"]) == data and content["size"] == len(data) and "_truncated" not in content


def test_a_body_that_was_cut_is_marked_in_a_har(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "flows", [flowkit.http(answer=b"x" * 5000)], body_limit=1000)
    assert main(["flows", "export", "har", "--set", f"confdir={tmp_path}"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["log"]["entries"]
    assert entry["response"]["content"] | {"mimeType": ""} == {"size": 5000, "_truncated": True, "mimeType": ""}


def test_export_curl_and_raw(flows: Any) -> None:
    assert flows("export", "curl", "--number", "1")[1].startswith("curl -H ")
    assert flows("export", "raw", "--number", "1")[1].startswith("GET /foo?q=1 HTTP/1.1\r\n")


def test_export_bodies(flows: Any, confdir: Path) -> None:
    target = confdir / "bodies"
    assert flows("export", "bodies", "-o", str(target))[0] == 0
    found = {path.name: path.read_bytes() for path in target.iterdir()}
    assert found["1-response.bin"] == b"hello" and found["6-request.bin"] == b"\x00\x01"
    assert found["3-client.bin"] == b"foo" and found["3-server.bin"] == b"BAR\xff"
    assert target.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark")
def test_export_pcapng_for_tshark(flows: Any, confdir: Path) -> None:
    """What came in TLS is HTTP there."""
    flow = flowkit.http("https://a.example/over-tls?q=1", "POST", b"user=me")
    flow.request.headers["host"] = "a.example"
    fill(confdir / "flows", [flow])
    target = confdir / "x.pcapng"
    assert flows("export", "pcapng", "-o", str(target), "~u over-tls | ~tcp")[0] == 0
    assert target.stat().st_mode & 0o777 == 0o600
    words = ["-Y", "http", "-T", "fields", "-e", "http.request.full_uri", "-e", "http.file_data", "-e",
             "http.response.code"]  # fmt: skip
    done = subprocess.run(["tshark", "-r", target, *words], capture_output=True, text=True, timeout=60, check=True)
    request, response = (line.split("\t") for line in done.stdout.splitlines())
    assert request[0] == "http://a.example/over-tls?q=1" and response[2] == "200", done.stdout


def test_redact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url, form = "http://a.example/login?token=t0ken&q=1", b"user=me&password=hunter2"
    flow = flowkit.http(url, "POST", form, Set_Cookie="sid=s3cret")
    flow.request.headers["content-type"] = "application/x-www-form-urlencoded"
    flow.request.headers["Authorization"] = "Bearer b3arer"
    flow.request.headers["X-Mine"] = "m1ne"
    fill(tmp_path / "flows", [flow])
    where = f"confdir={tmp_path}"
    assert main(["flows", "export", "raw", "--redact", "--set", where, "--set", "store_redact=x-mine"]) == 0
    out = capsys.readouterr().out
    for secret in ("t0ken", "hunter2", "s3cret", "b3arer", "m1ne"):
        assert secret not in out
    assert "q=1" in out and "user=me" in out and out.count("redacted") == 5
    assert main(["flows", "export", "raw", "--set", where, "--set", "store_redact=x-mine"]) == 0
    out = capsys.readouterr().out
    assert "m1ne" not in out and "b3arer" in out  # what the option names is never exported
    with Store(tmp_path / "flows") as store:  # and the store has it all
        (kept,) = store.flows()
    assert isinstance(kept, HTTPFlow) and kept.request.headers["x-mine"] == "m1ne"


def test_what_cannot_be_redacted_is_left_out_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The beginning of a compressed body over store_body_limit, which zcat reads as far as it goes."""
    body = gzip.compress(b'{"token": "s3cret"}' + os.urandom(5000))
    flow = flowkit.http(answer=b"")
    assert flow.response is not None
    flow.response.headers["content-encoding"] = "gzip"
    flow.response.raw_content = body
    fill(tmp_path / "flows", [flow, flowkit.tcp()], body_limit=2000)
    target = tmp_path / "bodies"
    words = ["flows", "export", "bodies", "-o", str(target), "--set", f"confdir={tmp_path}"]
    assert main(words) == 0
    assert f"1-response-first-2000-of-{len(body)}" in {path.name for path in target.iterdir()}
    capsys.readouterr()
    shutil.rmtree(target)
    assert main([*words, "--redact"]) == 0
    assert {path.name for path in target.iterdir()} == {"2-client.bin", "2-server.bin"}
    assert capsys.readouterr().err.splitlines() == [
        "lockgate: flow 1: the response's body is left out: the beginning of 'gzip' cannot be redacted",
        "lockgate: 1 flow of raw TCP or UDP: nothing but JSON is redacted in them",
        f"1 flow written to {target}",
    ]


def test_a_flow_that_cannot_be_in_a_har_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    odd, bytes_in_it = flowkit.http(), flowkit.http()
    odd.request.timestamp_start = 1e20
    bytes_in_it.comment = b"\xff"  # type: ignore[assignment]
    bytes_in_it.request.headers.fields += ((b"content-type", b"text/\xff"),)
    fill(tmp_path / "flows", [odd, bytes_in_it, flowkit.http()])
    where = ["--set", f"confdir={tmp_path}"]
    target, other = tmp_path / "x.har", tmp_path / "y.har"
    assert main(["flows", "export", "har", "-o", str(target), *where]) == 0
    assert f"flow {odd.id}: OverflowError" in capsys.readouterr().err
    har = har_schema.check(target.read_text())
    assert [entry.get("comment") for entry in har["log"]["entries"]] == ["b'\\xff'", None]
    assert b"\\ud" not in target.read_bytes()
    for words in (["list"], ["stats"], ["show", "1"]):
        assert main(["flows", *words, *where]) == 0
    assert "1e+20" in capsys.readouterr().out
    assert main(["flows", "export", "flows", "-o", str(tmp_path / "flows.mitm"), *where]) == 0
    assert main(["convert", str(tmp_path / "flows.mitm"), str(other)]) == 1
    assert len(json.loads(other.read_bytes())["log"]["entries"]) == 2
    assert other.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("format", ["flows", "pcapng", "raw"])
def test_what_was_captured_is_not_written_to_a_terminal(
    flows: Any, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    code, out, err = flows("export", format, "--number", "1")
    assert code == 2 and not out and "is not for a terminal" in err


@pytest.mark.parametrize("words", [["list"], ["stats"], ["show", "1"], ["export", "har"], ["list", "-n0", "--json"]])
def test_a_full_disk_behind_standard_output_is_told(confdir: Path, words: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "appliance.cli", "flows", *words, "--set", f"confdir={confdir}"],
            stdout=full, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2], check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == b"lockgate: what was asked for: cannot be written: No space left on device\n"


@pytest.mark.parametrize("format", ["pcapng", "har", "raw", "bodies"])
def test_what_a_script_has_left_in_a_flow_hinders_nothing(tmp_path: Path, format: str) -> None:
    flow = flowkit.websocket()
    assert flow.websocket is not None
    flow.websocket.messages[0].content = "text"  # type: ignore[assignment]
    fill(tmp_path / "flows", [flow, flowkit.http()])
    target = tmp_path / "out"
    assert main(["flows", "export", format, "-o", str(target), "--set", f"confdir={tmp_path}"]) == 0
    assert main(["flows", "show", "1", "--set", f"confdir={tmp_path}"]) == 0


def test_a_flow_that_cannot_be_packets_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "flows", [flowkit.tcp(), flowkit.http()])
    monkeypatch.setattr("appliance.io.pcapng.render.conversation", lambda flow: iter([1 // 0]))
    target = tmp_path / "out.pcapng"
    assert main(["flows", "export", "pcapng", "-o", str(target), "--set", f"confdir={tmp_path}"]) == 0
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert b"HTTP/1.1 200" in target.read_bytes()


# -- delete


@pytest.mark.parametrize("packed", [False, True])
def test_delete(tmp_path: Path, packed: bool, capsys: pytest.CaptureFixture[str]) -> None:
    large = flowkit.http("http://bank.example/large", answer=None)
    assert large.response is not None
    recorder = Recorder(tmp_path / "flows")
    recorder.start()
    tee = large.response.tee = recorder.tee()
    for _ in range(10):
        tee(b"hunter2 " * 8000)
    kept: list[Flow] = [flowkit.http(f"http://a.example/{n}", answer=b"kept") for n in range(5)]
    talk = recorder.talk(flowkit.tcp())
    for message in talk.flow.messages:  # type: ignore[attr-defined]
        talk.say(type(message)(True, b"hunter2 in a conversation"))
        recorder.flush()
    recorder.over(talk)
    for flow in (kept[0], large, flowkit.http("http://bank.example/", answer=b"hunter2"), *kept[1:]):
        put(recorder, flow)
    recorder.close()
    if packed:
        segment.compress(tmp_path / "flows", 1)
    where = f"confdir={tmp_path}"
    assert main(["flows", "delete", "--yes", "~d bank.example | ~tcp", "--set", where]) == 0
    assert "3 flows deleted" in capsys.readouterr().out
    with Store(tmp_path / "flows") as store:
        assert [facts(flow) for flow in store.flows()] == [facts(flow) for flow in kept]
        assert store.unreadable == 0
        held = b"".join(payload for _, payload in store._shelf.segment(1).records())
    assert b"hunter2" not in held and b"kept" in held
    for path in (tmp_path / "flows").glob("index.db*"):
        path.unlink()
    with Store(tmp_path / "flows") as store:  # they do not come back
        assert len(list(store.flows())) == 5


def test_tail_leaves_none_out_that_comes_while_it_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(tmp_path / "flows")
    recorder.start()
    put(recorder, flowkit.http())
    recorder.sync()
    shown: list[int] = []
    rows = Store.rows

    def slow(self: Store, *args: Any, **more: Any) -> Any:
        yield from rows(self, *args, **more)
        if recorder.flows < 6:  # others end before it has gone on
            put(recorder, flowkit.http())
            recorder.sync()

    def add(self: Any, row: Any) -> None:
        self.count += 1
        shown.append(row.n)

    def pause(seconds: float) -> None:
        if recorder.flows == 6 and (len(shown) == 6 or pauses.append(seconds) or len(pauses) > 3):
            raise KeyboardInterrupt

    pauses: list[float] = []
    monkeypatch.setattr(Store, "rows", slow)
    monkeypatch.setattr("appliance.cli.flows.Table.add", add)
    monkeypatch.setattr("appliance.cli.flows.time.sleep", pause)
    assert main(["flows", "tail", "--json", "--set", f"confdir={tmp_path}"]) == 130
    assert shown == [1, 2, 3, 4, 5, 6]
    recorder.close()


def test_tail_goes_on_when_the_index_was_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "flows"
    recorder = Recorder(folder)
    recorder.start()
    put(recorder, flowkit.http("http://a.example/before"))
    recorder.sync()
    steps = iter(["anew", "another", "", "end"])

    def pause(seconds: float) -> None:
        match next(steps):
            case "anew":
                (folder / "index.db").rename(folder / "aside")  # as `renounce` does, and nobody has begun another
                for rest in folder.glob("index.db-*"):
                    rest.unlink()
                put(recorder, flowkit.http("http://a.example/lost"))
                recorder.sync()
            case "another":
                put(recorder, flowkit.http("http://a.example/after"))
                recorder.sync()
                recorder.sync()
            case "end":
                raise KeyboardInterrupt

    monkeypatch.setattr("appliance.cli.flows.time.sleep", pause)
    assert main(["flows", "tail", "--json", "--set", f"confdir={tmp_path}"]) == 130
    out, err = capsys.readouterr()
    assert "made anew" in err
    assert json.loads(out.splitlines()[0])["n"] == 1
    recorder.close()
    put_after = [json.loads(line)["n"] for line in out.splitlines()[1:]]
    assert put_after, "nothing was shown of the new index"


def test_tail_follows_a_gateway_at_work(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "flows")
    recorder.start()
    put(recorder, flowkit.http("http://a.example/before"))
    recorder.flush()
    with subprocess.Popen(
        [
            sys.executable, "-m", "appliance.cli", "flows", "tail", "--json", "~d a.example",
            "--set", f"confdir={tmp_path}",
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"HOME": str(tmp_path), "PATH": ""},
        cwd=Path(__file__).parents[2],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # who runs the tests may ignore it
    ) as tail:  # fmt: skip
        try:
            assert tail.stdout is not None
            flow = flowkit.http()
            flow.request.headers["host"] = "a.example"
            assert json.loads(tail.stdout.readline())["n"] == 1
            time.sleep(0.1)
            put(recorder, flow)
            put(recorder, flowkit.http("http://b.example/"))
            recorder.flush()
            assert json.loads(tail.stdout.readline())["n"] == 2
            tail.send_signal(signal.SIGINT)
            assert tail.wait(10) == 130 and tail.stderr is not None and tail.stderr.read() == b""
        finally:
            tail.kill()
    recorder.close()


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    """`| head`: no complaint."""
    fill(tmp_path / "flows", [flowkit.http(f"http://a.example/{'x' * 500}/{n}") for n in range(1000)])
    for words in (["list", "-n", "0"], ["list", "-n", "0", "--json"], ["export", "raw"], ["show", "1", "2"]):
        with subprocess.Popen(
            [sys.executable, "-m", "appliance.cli", "flows", *words, "--set", f"confdir={tmp_path}"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2],
        ) as reader:  # fmt: skip
            assert reader.stdout is not None and reader.stderr is not None
            assert reader.stdout.read(10)
            reader.stdout.close()
            assert reader.stderr.read() == b"" and reader.wait(10) in (0, 1)
