"""Replay of flows out of the store: store:FILTER in options and commands."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from appliance.addons.clientplayback import ClientPlayback
from appliance.addons.serverplayback import ServerPlayback
from appliance.exceptions import CommandError, OptionsError
from appliance.http import HTTPFlow
from appliance.store.recorder import Recorder
from appliance.store.store import Store
from tests.addons.chain import Chain
from tests.flowkit import http, tcp, websocket
from tests.harness import Make, until
from tests.layers.http.httpkit import OK, Origin
from tests.store.storekit import fill

WRONG = [
    ("store:", "store:FILTER, or store:~all"),
    ("store:~nonsense", "there is no operator ~nonsense at character 1\n  ~nonsense\n  \\^"),
    ("store:(~d x", "filter:"),
    ("store:~d nobody", "no HTTP flow in .* matches"),
    ("store:~tcp", "no HTTP flow in .* matches"),
]


@pytest.fixture
def confdir(tmp_path: Path) -> Path:
    """Three flows to a.example, of which one has no response; a conversation and a WebSocket to elsewhere."""
    flows = [http(f"http://a.example/{n}", status=200 if n else None, answer=b"%d" % n) for n in range(3)]
    for flow in flows:
        flow.request.headers["host"] = "a.example"
    fill(tmp_path / "flows", [*flows, tcp(), websocket()])
    return tmp_path


@pytest.mark.parametrize(("text", "says"), WRONG)
@pytest.mark.parametrize("option", ["client_replay", "server_replay"])
def test_a_wrong_filter_or_none_that_matches(confdir: Path, option: str, text: str, says: str) -> None:
    """Said before anything has begun, and what was set before stays."""
    with pytest.raises(OptionsError, match=f"{option}: .*{says}"):
        Chain(ClientPlayback(), ServerPlayback(), confdir=str(confdir), **{option: [text]})
    chain = Chain(ClientPlayback(), ServerPlayback(), confdir=str(confdir), server_replay=["store:~d a.example"])
    with pytest.raises(OptionsError, match=f"{option}: .*{says}"):
        chain.options.update(**{option: [text]})
    assert chain.call("replay.server.count") == 2
    with pytest.raises(CommandError, match=says):
        chain.call("replay.server.file" if option == "server_replay" else "replay.client.file", text)
    assert chain.call("replay.server.count") == 2


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="no flows have been recorded there"):
        Chain(ClientPlayback(), confdir=str(tmp_path), client_replay=["store:~all"])
    assert not list(tmp_path.iterdir())


def test_what_only_the_flows_can_tell(confdir: Path) -> None:
    """Nothing matches, and the index did not know it: told all the same."""
    with pytest.raises(OptionsError, match=r"no HTTP flow in .* matches"):
        Chain(ServerPlayback(), confdir=str(confdir), server_replay=["store:~b nonesuch"])
    chain = Chain(ServerPlayback(), confdir=str(confdir), server_replay=["store:~bs 2"])
    assert chain.call("replay.server.count") == 1


def test_a_file_of_such_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store:x").write_bytes(b"")
    assert Chain(ServerPlayback(), server_replay=["./store:x"]).call("replay.server.count") == 0


async def test_requests_again_and_recorded_beside_the_old_ones(rigs: Make, confdir: Path) -> None:
    origin = Origin(OK)
    playback = ClientPlayback()
    rig = await rigs(playback, confdir=str(confdir))
    rig.addons.configure()
    await rig.addons.trigger_event("running")
    host, port = await rig.origin(origin)
    flows = [http(f"http://{host}:{port}/{n}", "POST", b"body %d" % n, answer=b"old") for n in range(30)]
    fill(confdir / "flows", flows)
    recorder = rig.worker.recorder = Recorder(confdir / "flows", loop=asyncio.get_running_loop())
    recorder.start()
    rig.addons.commands.call("replay.client.file", "store:~m POST & ~u /1")
    await until(lambda: recorder.flows == 11 and not playback.count())
    recorder.close()
    assert [seen.start.split()[1] for seen in origin.requests] == [b"/1", *(b"/%d" % n for n in range(10, 20))]
    assert [seen.body for seen in origin.requests][:2] == [b"body 1", b"body 10"]
    with Store(confdir / "flows") as store:
        old, new = list(store.flows("~u /1 & !~replay & ~m POST")), list(store.flows("~replayq"))
    assert len(old) == len(new) == 11 and not {flow.id for flow in old} & {flow.id for flow in new}
    for flow in new:
        assert isinstance(flow, HTTPFlow) and flow.response is not None and flow.response.content == b"hello"
    for flow in old:
        assert isinstance(flow, HTTPFlow) and flow.response is not None and flow.response.content == b"old"


async def test_nothing_matches_at_its_turn(rigs: Make, confdir: Path, caplog: pytest.LogCaptureFixture) -> None:
    playback = ClientPlayback()
    rig = await rigs(playback, confdir=str(confdir))
    rig.addons.configure()
    await rig.addons.trigger_event("running")
    rig.addons.commands.call("replay.client.file", "store:~b nonesuch")
    await until(lambda: not playback.count())
    assert rig.exit_code == 1 and "store:~b nonesuch: no HTTP flow in" in caplog.text  # type: ignore[attr-defined]
