"""A store under a gateway that works: budgets, a full disk, two gateways; traffic is the same all the while."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.store.store import Store
from tests.io import har_schema
from tests.store.gatewaykit import Load, Running, download, gateway, origin, until

SMALL = os.urandom(20_000)


def bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.glob("*.seg*"):
        with contextlib.suppress(FileNotFoundError):  # upkeep deletes
            total += path.stat().st_size
    return total


def whole(folder: Path) -> None:
    """Everything in the index is in a segment that is there, and everything can be read."""
    with contextlib.closing(sqlite3.connect(folder / "index.db")) as db:
        there = {int(path.name.split(".")[0]) for path in folder.glob("*.seg*")}
        assert {row[0] for row in db.execute("SELECT DISTINCT seg FROM flow")} <= there
        assert {row[0] for row in db.execute("SELECT DISTINCT id >> 20 FROM name")} <= there
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    with Store(folder) as store:
        assert len(list(store.flows())) == store.stats()["flows"] and store.unreadable == 0


async def store_of(one: Running) -> dict[str, Any]:
    found: dict[str, Any] = (await one.call("status"))["store"]
    return found


@pytest.mark.timeout(120)
async def test_the_budget_in_bytes_while_traffic_runs(tmp_path: Path) -> None:
    folder = tmp_path / "flows"
    async with origin(SMALL) as port, gateway(tmp_path, store_max_bytes="16m") as one:
        load = Load(one.port, port, SMALL, clients=4)
        await until(lambda: len(load.done) > 2500, 60, "50 MB did not come")
        await load.stop()
        await until(lambda: bytes_in(folder) < 16 << 20, 10, "the oldest were not deleted")
        assert not load.failed and load.slowest < 2.0
        assert (await store_of(one))["dropped"] == 0
    whole(folder)
    with Store(folder) as store:
        rows = list(store.rows())
    newest = [url for url, _ in sorted(load.done, key=lambda each: each[1])[-max(1, len(rows) - 20) :]]
    assert 100 < len(rows) < 1000 and set(newest) <= {row.url for row in rows}  # what went are the oldest


@pytest.mark.timeout(120)
async def test_the_age_while_traffic_runs(tmp_path: Path) -> None:
    folder = tmp_path / "flows"
    async with origin(b"x" * 500) as port, gateway(tmp_path, store_max_age="3s") as one:
        load = Load(one.port, port, b"x" * 500, clients=2)
        await asyncio.sleep(7)
        await load.stop()
        assert not load.failed and load.slowest < 2.0
        assert (await store_of(one))["dropped"] == 0
        await one.stop()
    now = time.monotonic()
    with Store(folder) as store:
        rows = list(store.rows())
        assert len(list(folder.glob("*.seg*"))) > 3
        assert time.time() - rows[-1].begun < 3 + 3 / 8 + 2.5  # a segment, and the next look
    kept = {row.url for row in rows}
    assert all(url in kept for url, when in load.done if now - when < 2.5)
    assert len(kept) < len(load.done)
    whole(folder)


async def test_the_age_when_nothing_comes_any_more(tmp_path: Path) -> None:
    async with origin(b"x") as port, gateway(tmp_path, store_max_age="2s") as one:
        await download(one.port, port, b"x")
        for _ in range(100):
            await asyncio.sleep(0.1)
            with Store(tmp_path / "flows") as store:
                if not store.last():
                    return
        pytest.fail("it is there yet")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root (mount)")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "lockgate-test", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.timeout(120)
async def test_the_disk_becomes_full_in_the_middle_of_a_download(tmp_path: Path, small_disk: Path) -> None:
    """It is complete and no slower; the loss is counted, and the terminal, status and doctor say so."""
    large, middling = os.urandom(60 << 20), os.urandom(200_000)
    async with origin(large) as port, origin(middling) as other, gateway(
        tmp_path / "c", store_dir=small_disk / "flows", store_body_limit="64m"
    ) as one:  # fmt: skip
        await download(one.port, port, large)  # of it 6 MiB fit
        await until(lambda: "flows cannot be recorded" in one.log.read_text(), 10, "the terminal did not say so")
        full = min([await download(one.port, port, large) for _ in range(3)])
        load = Load(one.port, other, middling, clients=4)
        await until(lambda: len(load.done) > 400, 30)  # 80 MB, for a queue of 32 MiB
        await load.stop()
        assert not load.failed and load.slowest < 2.0
        status = await store_of(one)
        assert status["dropped"] > 50 and "No space left on device" in status["fault"]
        assert status["waiting"] < 34 << 20
        assert "up to 32 MiB wait in memory" in one.log.read_text() or "flows are lost so far" in one.log.read_text()
        code, shown = await one.lockgate("status")
        assert code == 0 and "cannot be written now: No space left on device" in shown
        assert "flows could not be recorded and are lost" in shown
        _, shown = await one.lockgate(
            "doctor", "--no-self-test", "--json", "--set", f"store_dir={small_disk / 'flows'}"
        )
        found = {each["check"] for each in json.loads(shown)["findings"]}
        assert {"store.fault", "store.full"} <= found
        # There is room again.
        await asyncio.to_thread(subprocess.run, ["mount", "-o", "remount,size=1g", small_disk], check=True)
        for _ in range(1000):
            if not (await store_of(one))["fault"]:
                break
            await asyncio.sleep(0.01)
        assert not (await store_of(one))["fault"] and "flows are recorded again" in one.log.read_text()
        room = min([await download(one.port, port, large, f"/after/{n}") for n in range(3)])
        assert full < 2 * room, (full, room)
        lost = (await store_of(one))["dropped"]
    with Store(small_disk / "flows") as store:
        assert store.stats()["dropped"] == lost >= status["dropped"]
        rows = list(store.rows("~u /after/"))
        assert [(row.down, row.cut) for row in rows] == [(len(large), False)] * 3
        assert list(store.rows("~u /big$"))[-1].cut  # the beginning of the one that came when it became full
        assert len(list(store.flows("~http"))) == store.stats()["flows"] and store.unreadable == 0


@pytest.mark.timeout(120)
async def test_two_gateways_in_one_store(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    async with origin(b"x" * 500) as port, gateway(tmp_path / "a", store_dir=shared) as one, gateway(
        tmp_path / "b", store_dir=shared
    ) as two:  # fmt: skip
        loads = [Load(each.port, port, b"x" * 500, clients=3, name=name) for each, name in ((one, "a"), (two, "b"))]
        await asyncio.sleep(3)
        for load in loads:
            await load.stop()
            assert not load.failed and len(load.done) > 100
        for each in (one, two):
            await each.stop()
            assert "cannot be recorded" not in each.log.read_text()
    whole(shared)
    with Store(shared) as store:
        assert sorted(row.url or "" for row in store.rows()) == sorted(url for load in loads for url, _ in load.done)
        assert store.stats()["dropped"] == 0


async def test_a_har_of_20_mb_is_complete(tmp_path: Path) -> None:
    """As a download went through the gateway."""
    body = os.urandom(20 << 20)
    async with origin(body) as port, gateway(tmp_path, store_body_limit="32m") as one:
        await download(one.port, port, body)
        target = tmp_path / "big.har"
        await asyncio.sleep(0.5)
        code, shown = await one.lockgate("flows", "export", "har", "-o", str(target), "~u /big$")
        assert code == 0, shown
    [entry] = har_schema.check(target.read_text())["log"]["entries"]
    content = entry["response"]["content"]
    assert base64.b64decode(content["text"]) == body and content["size"] == len(body)
