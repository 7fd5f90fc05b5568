"""`lockgate convert`: flow files, HAR and pcapng into each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.cli.main import main
from appliance.io import FlowWriter, read_flows_from_paths
from tests import flowkit

KEYS = "CLIENT_RANDOM " + "ab" * 32 + " " + "cd" * 48 + "\n"


@pytest.fixture
def flows(tmp_path: Path) -> Path:
    path = tmp_path / "flows"
    with path.open("wb") as file:
        for flow in (
            flowkit.http(),
            flowkit.tcp(),
            flowkit.http("http://other.example/", status=404),
            flowkit.websocket(),
        ):
            FlowWriter(file).add(flow)
    return path


def convert(*words: object) -> int:
    return main(["convert", *map(str, words)])


def test_to_har_and_back(flows: Path, tmp_path: Path) -> None:
    har, back = tmp_path / "out.har", tmp_path / "back"
    assert convert(flows, har) == 0
    urls = [entry["request"]["url"] for entry in json.loads(har.read_text())["log"]["entries"]]
    assert len(urls) == 3
    assert convert(har, back) == 0
    assert [flow.type for flow in read_flows_from_paths([back])] == ["http"] * 3
    assert convert(flows, tmp_path / "out.zhar") == 0 and (tmp_path / "out.zhar").read_bytes()[:1] == b"\x78"


def test_filter(flows: Path, tmp_path: Path) -> None:
    assert convert(flows, tmp_path / "some", "--filter", "~c 404 | ~tcp") == 0
    assert [flow.type for flow in read_flows_from_paths([tmp_path / "some"])] == ["tcp", "http"]


def test_to_pcapng(flows: Path, tmp_path: Path) -> None:
    assert convert(flows, tmp_path / "out.pcapng") == 0
    data = (tmp_path / "out.pcapng").read_bytes()
    assert data[:4] == b"\n\r\r\n" and b"GET /foo?q=1 HTTP/1.1\r\n" in data and b"BAR\xff" in data
    done = subprocess.run([sys.executable, "-m", "appliance.cli", "convert", str(flows), "-", "--to", "pcapng"],
                          capture_output=True, timeout=30, check=True)  # fmt: skip
    assert done.stdout[:4] == b"\n\r\r\n" and len(done.stdout) == len(data)


def test_secrets_into_a_capture(flows: Path, tmp_path: Path) -> None:
    capture, keys, out = tmp_path / "a.pcapng", tmp_path / "keys", tmp_path / "b.pcapng"
    convert(flows, capture)
    keys.write_text(KEYS)
    assert convert(capture, out, "--secrets", keys) == 0
    assert KEYS.encode() in out.read_bytes()
    assert len(out.read_bytes()) > len(capture.read_bytes())


def test_a_broken_flow_file(flows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flows.write_bytes(flows.read_bytes() + b"12:not a flow")
    assert convert(flows, tmp_path / "out") == 1
    assert len(read_flows_from_paths([tmp_path / "out"])) == 4
    assert "4 flows were read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("{tmp}/none", "{tmp}/out"), "No such file"),
        (("{tmp}/flows", "{tmp}/flows"), "is what is to be read"),
        (("{tmp}/flows", "{tmp}/out", "--filter", "~nope"), "~nope"),
        (("{tmp}/flows", "{tmp}/out.pcapng", "--secrets", "{tmp}/flows"), "is no capture"),
        (("{tmp}/a.pcapng", "{tmp}/out.pcapng"), "give --secrets"),
        (("{tmp}/a.pcapng", "{tmp}/out.har", "--secrets", "{tmp}/keys"), ".pcapng to write to"),
        (("{tmp}/a.pcapng", "{tmp}/out.pcapng", "--secrets", "{tmp}/empty"), "no line of a TLS key log"),
        (("{tmp}/a.pcapng", "{tmp}/out.pcapng", "--secrets", "{tmp}/none"), "No such file"),
    ],
)
def test_refusals(
    flows: Path, tmp_path: Path, words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(flows, tmp_path / "a.pcapng")
    (tmp_path / "keys").write_text(KEYS)
    (tmp_path / "empty").write_text("# nothing\n")
    before = flows.read_bytes()
    assert convert(*(word.format(tmp=tmp_path) for word in words)) == 1
    assert says in capsys.readouterr().err
    assert flows.read_bytes() == before and not list(tmp_path.glob("out*"))


def test_a_disk_that_is_full_is_not_said_of_what_is_read(flows: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "appliance.cli", "convert", str(flows), "-"],
            stdout=full, stderr=subprocess.PIPE, timeout=60, cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONUNBUFFERED": ""},
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == b"lockgate: what was asked for: cannot be written: No space left on device\n"
