"""A gateway as its own process on loopback, an origin, and clients that note what they got and when."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from appliance.control.client import Client
from appliance.exceptions import LockgateError
from tests.harness import until

ROOT = Path(__file__).parents[2]
LOCKGATE = (sys.executable, "-m", "appliance.cli")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


class Running:
    """`port`: of the proxy. `log`: the file that it writes to."""

    def __init__(self, confdir: Path, log: Path, process: asyncio.subprocess.Process) -> None:
        self.confdir, self.log, self.process = confdir, log, process
        self.port = 0

    async def call(self, method: str, **params: Any) -> Any:
        def once() -> Any:
            with Client(self.confdir / "control.sock") as client:
                return client.call(method, **params)

        return await asyncio.to_thread(once)

    async def up(self) -> None:
        """Until it listens."""
        why: Exception = TimeoutError()
        for _ in range(500):
            assert self.process.returncode is None, self.log.read_text()
            try:
                self.port = (await self.call("status"))["modes"][0]["addresses"][0][1]
                return
            except (LockgateError, LookupError) as error:
                why = error
            await asyncio.sleep(0.02)
        pytest.fail(f"it does not answer: {why!r}\n{self.log.read_text()}")

    def kill(self) -> float:
        """SIGKILL; when that was."""
        self.process.send_signal(signal.SIGKILL)
        return time.monotonic()

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(self.process.wait(), 20) == 0, self.log.read_text()

    async def lockgate(self, *words: str) -> tuple[int, str]:
        """Another subcommand for this gateway: exit code, and what it says."""
        process = await asyncio.create_subprocess_exec(
            *LOCKGATE, *words, "--set", f"confdir={self.confdir}", env=ENVIRONMENT, stdout=-1, stderr=-2
        )
        out, _ = await asyncio.wait_for(process.communicate(), 30)
        return process.returncode or 0, out.decode()


@contextlib.asynccontextmanager
async def gateway(confdir: Path, **options: Any) -> AsyncIterator[Running]:
    """Ended in good order, unless it has been killed."""
    os.makedirs(confdir, exist_ok=True)
    values = {"confdir": confdir, "mode": "regular@127.0.0.1:0", "ca_key": "ec", "flow_detail": 0, **options}
    log = confdir / "log"
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            *LOCKGATE, "run", *(word for name, value in values.items() for word in ("--set", f"{name}={value}")),
            env=ENVIRONMENT, stdout=file, stderr=file,
        )  # fmt: skip
    made = Running(confdir, log, process)
    try:
        await made.up()
        yield made
        await made.stop()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def origin(body: bytes) -> AsyncIterator[int]:
    """Answers everything with `body`; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
                writer.write(body)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


class Load:
    """Clients that ask one request after the other until `stop`.

    done: URLs, and when the answer was whole; failed: what befell a client; slowest: seconds.
    """

    def __init__(self, proxy: int, origin: int, body: bytes, clients: int = 8, name: str = "") -> None:
        self.done: list[tuple[str, float]] = []
        self.failed: list[str] = []
        self.slowest = 0.0
        self._body = body
        self._ends = proxy, origin
        self._stop = False
        self._tasks = [asyncio.ensure_future(self._client(f"{name}{number}")) for number in range(clients)]

    async def _client(self, name: str) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._ends[0])
            count = 0
            while not self._stop:
                count += 1
                self.done.append(await self.ask(reader, writer, f"/{name}/{count}"))
            writer.close()
        except (OSError, asyncio.IncompleteReadError) as error:
            self.failed.append(f"{name}: {error!r}")

    async def ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> tuple[str, float]:
        began = time.monotonic()
        url = f"http://127.0.0.1:{self._ends[1]}{path}"
        writer.write(f"GET {url} HTTP/1.1\r\nHost: 127.0.0.1:{self._ends[1]}\r\n\r\n".encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert await reader.readexactly(len(self._body)) == self._body
        ended = time.monotonic()
        self.slowest = max(self.slowest, ended - began)
        return url, ended

    async def stop(self) -> None:
        self._stop = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), 20)


async def download(proxy: int, origin: int, body: bytes, path: str = "/big") -> float:
    """Of `body`, checked; seconds."""
    load = Load(proxy, origin, body, clients=0)
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy, limit=1 << 20)
    began = time.monotonic()
    _, ended = await load.ask(reader, writer, path)
    writer.close()
    return ended - began


__all__ = ["Load", "Running", "download", "gateway", "origin", "until"]
