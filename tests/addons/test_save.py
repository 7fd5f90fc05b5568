"""Flows into files as they end, back from files, as HAR, and on demand."""

from __future__ import annotations

import asyncio
import io
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.addons import save
from appliance.addons.dumper import Dumper
from appliance.addons.export import Export
from appliance.addons.readfile import ReadFile
from appliance.addons.save import Save
from appliance.addons.savehar import HarStream, SaveHar
from appliance.addons.savepcapng import SavePcapng
from appliance.exceptions import CommandError, OptionsError
from appliance.flow import Error, Flow
from appliance.io import FlowWriter, read_flows_from_paths
from appliance.tcp import TCPFlow, TCPMessage
from appliance.websocket import WebSocketData, WebSocketMessage
from tests.addons.chain import Chain
from tests.flowkit import http, several, tcp, udp, websocket
from tests.io.har_schema import check


def kinds(path: Path) -> list[str]:
    return [flow.type for flow in read_flows_from_paths([path])]


def test_off_it_listens_to_nothing() -> None:
    assert Chain(Save(), SaveHar(), ReadFile()).listens() == set()


def test_each_flow_is_in_the_file_when_it_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "new" / "flows"
    chain = Chain(Save(), save_stream_file=str(path))
    web, talk, broken = http(), tcp(), http(status=None)
    chain.fire(talk, "tcp_start", "tcp_message")
    chain.fire(web, "request")
    assert kinds(path) == []
    chain.fire(web, "response")
    assert kinds(path) == ["http"]
    chain.fire(talk, "tcp_message", "tcp_end")
    assert kinds(path) == ["http", "tcp"]
    broken.error = Error("x")
    chain.fire(broken, "request", "error")
    upgraded = websocket()
    chain.fire(upgraded, "request", "response", "websocket_start")
    assert kinds(path) == ["http", "tcp", "http"]
    chain.fire(upgraded, "websocket_end")
    chain.fire(udp(), "udp_start", "udp_end")
    assert kinds(path) == ["http", "tcp", "http", "http", "udp"]


def test_what_is_written_is_its_owners_alone(tmp_path: Path) -> None:
    """There are secrets in it. A file that is there keeps its mode."""
    before = os.umask(0o022)
    try:
        shared = tmp_path / "shared"
        shared.touch(0o644)
        chain = Chain(Save(), SaveHar(), SavePcapng(), Export(), save_stream_file=str(tmp_path / "flows"),
                      hardump=str(tmp_path / "har"))  # fmt: skip
        chain.fire(flow := http(), "request", "response")
        for command in ("save.file", "save.har", "save.pcapng"):
            chain.call(command, [flow], str(tmp_path / command))
        chain.call("export.file", "raw", flow, str(tmp_path / "export.file"))
        chain.call("save.file", [flow], f"+{shared}")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes.pop("shared") == 0o644 and len(modes) == 6 and set(modes.values()) == {0o600}, modes


async def test_unfinished_ones_are_written_at_the_end(tmp_path: Path) -> None:
    chain = Chain(Save(), save_stream_file=str(tmp_path / "flows"))
    chain.fire(tcp(), "tcp_start")
    chain.fire(http(status=None), "request")
    await chain.addons.done()
    assert kinds(tmp_path / "flows") == ["tcp", "http"]


def test_a_long_conversation_is_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(save, "LARGEST", 100)
    chain, flow = Chain(Save(), save_stream_file=str(tmp_path / "flows")), tcp()
    flow.messages = []
    chain.fire(flow, "tcp_start")
    for number in range(10):
        flow.messages.append(TCPMessage(number % 2 == 0, b"%d" % number * 40))
        chain.fire(flow, "tcp_message")
        assert len(flow.messages) <= 3 and flow.messages[-1].content[:1] == b"%d" % number
    chain.fire(flow, "tcp_end")
    *parts, last = read_flows_from_paths([tmp_path / "flows"])
    assert all(part.metadata["part_of"] == flow.id != part.id for part in parts)
    assert last.id == flow.id and last.metadata["parts_before"] == len(parts) == 4
    said = [message.content for part in [*parts, last] if isinstance(part, TCPFlow) for message in part.messages]
    assert said == [b"%d" % number * 40 for number in range(10)]


def test_a_long_websocket_is_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(save, "MOST", 4)
    chain, flow = Chain(Save(), save_stream_file=str(tmp_path / "flows")), http()
    flow.websocket = WebSocketData()
    chain.fire(flow, "response")
    chain.fire(flow, "websocket_start")
    for number in range(10):
        flow.websocket.messages.append(WebSocketMessage(1, True, b"%d" % number))
        chain.fire(flow, "websocket_message")
        assert len(flow.websocket.messages) <= 4
    flow.websocket.close_code = 1000
    chain.fire(flow, "websocket_end")
    read = list(read_flows_from_paths([tmp_path / "flows"]))
    assert [one.metadata.get("part_of") for one in read] == [flow.id, flow.id, None]
    said = [message.content for one in read for message in one.websocket.messages]
    assert said == [b"%d" % number for number in range(10)]
    assert read[-1].websocket.close_code == 1000 and read[-1].response is not None


def test_append_filter_and_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "flows"
    chain = Chain(Save(), save_stream_file=str(path), save_stream_filter="~m POST")
    chain.fire(http(), "request", "response")
    chain.fire(http(method="POST"), "request", "response")
    assert kinds(path) == ["http"]
    chain.options.update(save_stream_filter=None)  # the file goes on
    chain.fire(http(), "response")
    assert len(kinds(path)) == 2
    Chain(Save(), save_stream_file=f"+{path}").fire(tcp(), "tcp_end")
    assert kinds(path) == ["http", "http", "tcp"]
    Chain(Save(), save_stream_file=str(path)).fire(udp(), "udp_end")
    assert kinds(path) == ["udp"]


def test_rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = ["2024"]
    monkeypatch.setattr(save.time, "strftime", lambda pattern: pattern.replace("%Y", now[0]))
    chain = Chain(Save(), save_stream_file=str(tmp_path / "%Y" / "flows"))
    chain.fire(http(), "response")
    now[0] = "2025"
    chain.fire(tcp(), "tcp_end")
    assert kinds(tmp_path / "2024" / "flows") == ["http"] and kinds(tmp_path / "2025" / "flows") == ["tcp"]


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "file" / "below", tmp_path / "pipe"):
        with pytest.raises(OptionsError, match="save_stream_file: "):
            Chain(Save(), save_stream_file=str(path))
    chain = Chain(Save(), save_stream_file=str(tmp_path / "a"))
    with pytest.raises(OptionsError, match="save_stream_filter: filter"):
        chain.options.update(save_stream_filter="(")
    with pytest.raises(OptionsError):
        chain.options.update(save_stream_file=str(tmp_path))
    chain.fire(http(), "response")
    assert kinds(tmp_path / "a") == ["http"]  # as before


def test_a_full_disk_is_told_and_leaves_no_half_flow(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RLIMIT_FSIZE stands for the disk: writes beyond it fail with EFBIG after a part of them."""
    import resource
    import signal

    path = tmp_path / "flows"
    chain = Chain(Save(), save_stream_file=str(path))
    chain.fire(http(), "response")
    before = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before + 5000, hard))
        chain.fire(http(answer=b"x" * 1_000_000), "response")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert "1 flows could not be written" in caplog.text and "File too large" in caplog.text
    assert path.stat().st_size == before
    chain.fire(tcp(), "tcp_end")  # there is room again
    assert kinds(path) == ["http", "tcp"]


def test_full_device(caplog: pytest.LogCaptureFixture) -> None:
    chain = Chain(Save(), save_stream_file="/dev/full")
    for _ in range(2):
        chain.fire(http(), "response")
    assert "No space left" in caplog.text


def test_an_odd_flow_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chain, flow = Chain(Save(), save_stream_file=str(tmp_path / "flows")), http()
    flow.comment = object()  # type: ignore[assignment]
    chain.fire(flow, "response")
    chain.fire(http(), "response")
    assert "could not be written" in caplog.text and kinds(tmp_path / "flows") == ["http"]


def test_save_command(tmp_path: Path) -> None:
    chain, path = Chain(Save()), tmp_path / "flows"
    chain.call("save.file", several(), str(path))
    chain.call("save.file", [tcp()], f"+{path}")
    assert len(kinds(path)) == len(several()) + 1
    with pytest.raises(CommandError, match="cannot save"):
        chain.call("save.file", [], str(tmp_path))


# -- HAR


async def test_hardump_is_valid_at_any_time(tmp_path: Path) -> None:
    path = tmp_path / "out.har"
    chain = Chain(SaveHar(), hardump=str(path))
    for count in range(1, 4):
        chain.fire(http(answer=b"x" * (1000 >> count)), "request", "response")
        assert len(check(path.read_text())["log"]["entries"]) == count
    await chain.addons.done()
    assert len(check(path.read_text())["log"]["entries"]) == 3
    assert len(read_flows_from_paths([path])) == 3


async def test_hardump_deflated_and_to_standard_output(tmp_path: Path) -> None:
    chain = Chain(SaveHar(), hardump=str(tmp_path / "out.zhar"))
    chain.fire(http(), "response")
    chain.fire(websocket(), "response", "websocket_end")
    await chain.addons.done()
    assert len(check(zlib.decompress((tmp_path / "out.zhar").read_bytes()).decode())["log"]["entries"]) == 2
    out = io.BytesIO()
    stream = HarStream("-", out)
    stream.done()
    assert check(out.getvalue().decode())["log"]["entries"] == []


def test_hardump_to_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(OptionsError, match="hardump"):
        Chain(SaveHar(), hardump=str(tmp_path))
    chain = Chain(SaveHar(), hardump="/dev/full")
    chain.fire(http(answer=b"x" * 100_000), "response")
    assert "hardump: 1 flows could not be written" in caplog.text


def test_har_command(tmp_path: Path) -> None:
    Chain(SaveHar()).call("save.har", several(), str(tmp_path / "a.har"))
    assert len(check((tmp_path / "a.har").read_text())["log"]["entries"]) == 4


# -- reading


class Seen:
    """Writes down the events it hears, and how many messages there were."""

    def __init__(self) -> None:
        self.events: list[str] = []
        for name in ("requestheaders", "request", "responseheaders", "response", "error", "websocket_start",
                     "websocket_message", "websocket_end", "tcp_start", "tcp_message", "tcp_end", "udp_start",
                     "udp_message", "udp_end"):  # fmt: skip
            setattr(self, name, self._hook(name))

    def _hook(self, name: str) -> Callable[[Any], None]:
        def hook(flow: Any) -> None:
            said = (
                getattr(flow, "messages", None) if flow.type != "http" else flow.websocket and flow.websocket.messages
            )
            self.events.append(name if said is None else f"{name} {len(said)}")
            flow.intercept()

        return hook


async def read(chain: Chain) -> None:
    await chain.addons.running()
    async with asyncio.timeout(10):
        while not chain.ended:  # noqa: ASYNC110 - as a user would
            await asyncio.sleep(0.005)


def flow_file(path: Path, *flows: Flow) -> Path:
    with path.open("wb") as file:
        writer = FlowWriter(file)
        for flow in flows:
            writer.add(flow)
    return path


async def test_read_file_fires_the_events_again_and_ends(tmp_path: Path) -> None:
    flows = several()
    path, seen = flow_file(tmp_path / "flows", *flows), Seen()
    chain = Chain(Save(), seen, ReadFile(), rfile=str(path), server=False, save_stream_file=str(tmp_path / "copy"))
    await read(chain)
    await chain.addons.done()
    whole = ["requestheaders", "request", "responseheaders", "response"]
    upgraded = ["requestheaders 2", "request 2", "responseheaders 2", "response 2", "websocket_start 0",
                "websocket_message 1", "websocket_message 2", "websocket_end 2"]  # fmt: skip
    assert seen.events == [*whole, *upgraded, "tcp_start 0", "tcp_message 1", "tcp_message 2", "tcp_end 2",
                           "udp_start 0", "udp_message 1", "udp_end 1", "requestheaders", "request", "error",
                           *whole]  # fmt: skip
    assert [flow.id for flow in read_flows_from_paths([tmp_path / "copy"])] == [flow.id for flow in flows]
    assert chain.exit_code == 0


async def test_read_filter_and_stdin(tmp_path: Path) -> None:
    path = flow_file(tmp_path / "flows", http(), tcp())
    seen = Seen()
    with path.open("rb") as file:
        await read(Chain(seen, ReadFile(file), rfile="-", server=False, readfile_filter="~tcp"))
    assert seen.events[0] == "tcp_start 0" and "request" not in seen.events


async def test_a_pipe_is_as_good_as_a_file_and_holds_nobody_up(tmp_path: Path) -> None:
    """`-r <(zcat flows.gz)`; nothing else waits until somebody writes."""
    whole, pipe, seen = flow_file(tmp_path / "flows", http(), tcp()), tmp_path / "pipe", Seen()
    os.mkfifo(pipe)
    reading = asyncio.create_task(read(Chain(seen, ReadFile(), rfile=str(pipe), server=False)))
    await asyncio.sleep(0.05)
    assert not reading.done() and not seen.events
    await asyncio.to_thread(pipe.write_bytes, whole.read_bytes())
    await reading
    assert "response" in seen.events and "tcp_end 2" in seen.events


async def test_a_broken_file_gives_what_is_whole_and_exit_code_1(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, seen = flow_file(tmp_path / "flows", http(), tcp()), Seen()
    path.write_bytes(path.read_bytes()[:-5])
    chain = Chain(seen, ReadFile(), rfile=str(path), server=False)
    await read(chain)
    assert chain.exit_code == 1 and "response" in seen.events
    assert f"rfile: {path}: flow 2 (at byte " in caplog.text and "the file ends in the middle" in caplog.text


async def test_keepserving(tmp_path: Path) -> None:
    reader = ReadFile()
    chain = Chain(reader, rfile=str(flow_file(tmp_path / "flows", http())), keepserving=True)
    await chain.addons.running()
    async with asyncio.timeout(10):
        while chain.call("readfile.reading"):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert not chain.ended


def test_no_such_file() -> None:
    with pytest.raises(OptionsError, match="rfile: /nonexistent: no such file"):
        Chain(ReadFile(), rfile="/nonexistent")
    with pytest.raises(OptionsError, match="rfile: /: no such file"):
        Chain(ReadFile(), rfile="/")
    with pytest.raises(OptionsError, match="readfile_filter: filter"):
        Chain(ReadFile(), readfile_filter="(")


def test_dumper_filter() -> None:
    out = io.StringIO()
    chain = Chain(Dumper(out, color=False), dumper_filter="~c 404 | ~udp")
    for status in (200, 404):
        chain.fire(http(status=status), "response")
    chain.fire(tcp(), "tcp_end")
    chain.fire(udp(), "udp_end")
    assert [line.split()[1] for line in out.getvalue().splitlines()] == ["GET", "udp"]
    chain.options.update(dumper_filter=None)
    chain.fire(tcp(), "tcp_end")
    assert len(out.getvalue().splitlines()) == 3
