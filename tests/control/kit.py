"""A real Gateway in the test's process with its control socket, and a client that holds every line to the schema."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from appliance.control.client import Client
from appliance.gateway import Gateway
from appliance.options import Options
from tests.harness import until

FILE = Path(__file__).parents[2] / "docs/control.schema.json"
SCHEMA: dict[str, Any] = json.loads(FILE.read_text())
_REGISTRY: Any = Registry().with_resource("control", Resource.from_contents(SCHEMA))


@functools.cache
def _validator(where: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"control#{where}"}, registry=_REGISTRY)


def check(value: Any, where: str) -> None:
    """`where`: a pointer into the schema. Raises jsonschema.ValidationError."""
    _validator(where).validate(value)


def check_params(method: str, params: dict[str, Any]) -> None:
    about = SCHEMA["methods"][method]
    assert params.keys() <= about["params"].keys()
    assert set(about.get("required", ())) <= params.keys()
    for name, value in params.items():
        check(value, f"/methods/{method}/params/{name}")


class Checked(Client):
    """A Client that checks what is asked (unless `right` is False), what is answered, and every event."""

    right = True

    def call(self, method: str, /, **params: Any) -> Any:
        check({"id": 1, "method": method, "params": params}, "/$defs/request")
        if self.right:
            check_params(method, params)
        result = super().call(method, **params)
        check(result, f"/methods/{method}/result")
        return result

    def _read(self) -> dict[str, Any]:
        message = super()._read()
        kind = "hello" if "hello" in message else "event" if "event" in message else "answer"
        check(message, f"/$defs/{kind}")
        return message


class Running:
    """A gateway on a free port of 127.0.0.1. `proxy`: its address."""

    def __init__(self, confdir: Path, **options: Any) -> None:
        values: dict[str, Any] = {
            "confdir": str(confdir),
            "mode": ["regular@127.0.0.1:0"],
            "termlog_verbosity": "error",
            "flow_detail": 0,
            "ca_key": "ec",
        }
        self.gateway = Gateway(Options(**values | options))
        self.confdir = confdir
        self.task = asyncio.ensure_future(self.gateway.run())
        self.clients: list[Checked] = []

    @property
    def proxy(self) -> Any:
        return next(iter(self.gateway.live)).mode.addresses[0]

    @property
    def path(self) -> Path:
        return self.confdir / "control.sock"

    async def client(self) -> Checked:
        made = await asyncio.to_thread(Checked, self.path)
        self.clients.append(made)
        return made

    async def call(self, method: str, /, **params: Any) -> Any:
        """By a client of its own."""

        def once() -> Any:
            with Checked(self.path) as client:
                return client.call(method, **params)

        return await asyncio.to_thread(once)

    async def stop(self) -> None:
        for client in self.clients:
            client.close()
        self.gateway.shutdown()
        await self.task


@contextlib.asynccontextmanager
async def running(confdir: Path, **options: Any) -> AsyncIterator[Running]:
    made = Running(confdir, **options)
    try:
        await until(lambda: made.task.done() or made.path.exists(), 10, "it does not start")
        if made.task.done():
            made.task.result()
        yield made
    finally:
        await made.stop()


async def raw(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which anything can be said; the greeting is read."""
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 24)
    check(json.loads(await asyncio.wait_for(reader.readline(), 10)), "/$defs/hello")
    return reader, writer


async def answer(reader: asyncio.StreamReader) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await asyncio.wait_for(reader.readline(), 10))
    check(found, "/$defs/event" if "event" in found else "/$defs/answer")
    return found


def plain_socket(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    return sock
