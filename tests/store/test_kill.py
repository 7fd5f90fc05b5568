"""kill -9 under load: what had ended 250 ms before is there, and the database is whole."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sqlite3
from pathlib import Path

import pytest

from appliance.cli.main import main
from appliance.store.store import Store
from tests.store.gatewaykit import Load, gateway, origin

BODY = b"x" * 1000
PROMISED = 0.25
"""Seconds."""


async def _life(confdir: Path, port: int, seconds: float) -> tuple[list[tuple[str, float]], float]:
    """One gateway's, under load: what was done when, by the clients' clock, and when it was killed."""
    async with gateway(confdir) as one:
        load = Load(one.port, port, BODY)
        await asyncio.sleep(seconds)
        killed = one.kill()
        await one.process.wait()
        await load.stop()
    return load.done, killed


async def _lives(confdir: Path, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    random.seed(count)
    total = lost = 0
    async with origin(BODY) as port:
        for number in range(count):
            done, killed = await _life(confdir, port, random.uniform(0.5, 1.2))
            assert len(done) > 50
            words = ["list", "-n", "0", "--after", str(total), "--json"]
            assert main(["flows", *words, "--set", f"confdir={confdir}"]) == 0
            found = {json.loads(line)["url"] for line in capsys.readouterr().out.splitlines()}
            lost += sum(url not in found for url, _ in done)
            missing = [url for url, when in done if when < killed - PROMISED and url not in found]
            assert not missing, f"life {number}: {len(missing)} of {len(done)} are missing, such as {missing[:3]}"
            with Store(confdir / "flows") as store:
                assert len(list(store.flows(after=total))) == store.last() - total and store.unreadable == 0
                total = store.last()
            with contextlib.closing(sqlite3.connect(confdir / "flows" / "index.db")) as db:
                assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert not (confdir / "flows" / "damaged").exists()
    if count > 5:
        with capsys.disabled():
            print(f"\n  {count} times killed, {total} flows kept, {lost} lost, all of the last {PROMISED} s")


@pytest.mark.timeout(120)
async def test_kill_9_under_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await _lives(tmp_path / "c", 5, capsys)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_kill_9_fifty_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await _lives(tmp_path / "c", 50, capsys)
