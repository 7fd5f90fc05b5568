"""What a connection leaves behind: nothing that only the collector could find."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from tests.harness import answering


@pytest.mark.parametrize("kind", ["http", "https", "pass"])
async def test_a_connection_leaves_no_circles(rigs: Any, kind: str) -> None:
    rig = await rigs(ignore_hosts=[".*"] if kind == "pass" else [])
    origin = await rig.origin(answering(b"x" * 100), tls=kind == "https")
    address = await rig.transparent(origin)

    async def one() -> None:
        client = await rig.connect(address)
        if kind == "https":
            await client.start_tls("origin.test")
        await client.say(b"GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n")
        await client.head()
        await client.close()
        await rig.idle()

    await one()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(3):
            await one()
        gc.collect()
        found = {type(thing).__qualname__ for thing in gc.garbage if type(thing).__module__.startswith("appliance")}
    finally:
        gc.set_debug(0)
        gc.enable()
        gc.garbage.clear()
    assert not found
