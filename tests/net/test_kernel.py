"""Netlink in its own thread: what needs no network of its own. The rest: tests/lab/test_kernel.py."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from appliance.net import kernel
from appliance.net.kernel import Kernel, KernelError


@pytest.fixture
async def asked() -> AsyncIterator[Kernel]:
    made = Kernel()
    yield made
    made.close()
    made.close()


async def test_links_and_addresses(asked: Kernel) -> None:
    links = {link.name: link for link in await asked.links()}
    lo = links["lo"]
    assert lo.mtu >= 1280
    assert lo.up
    assert any(a.address == "127.0.0.1" and (a.interface, a.prefix, a.version) == (lo.index, 8, 4)
               for a in await asked.addresses())  # fmt: skip
    assert await asked.mac("198.51.100.77") is None


async def test_many_at_once_in_one_thread(asked: Kernel) -> None:
    await asyncio.gather(*[asked.links() for _ in range(20)])
    assert [thread.name for thread in threading.enumerate()].count("netlink") == 1


async def test_bounded_and_timed(asked: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never() -> list[kernel.Link]:
        await asyncio.sleep(60)
        return []

    monkeypatch.setattr(kernel, "_links", never)
    monkeypatch.setattr(kernel, "SECONDS", 0.1)
    monkeypatch.setattr(kernel, "MAX_WAITING", 3)
    results = await asyncio.gather(*[asked.links() for _ in range(5)], return_exceptions=True)
    assert sorted(str(e).partition(": ")[2] for e in results) == [
        *["3 questions wait for the kernel already"] * 2,
        *["the kernel did not answer within 0.1 s"] * 3,
    ]
    assert await asked.addresses()  # the thread lives


async def test_closed_under_way(asked: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never() -> list[kernel.Link]:
        await asyncio.sleep(60)
        return []

    monkeypatch.setattr(kernel, "_links", never)
    task = asyncio.ensure_future(asked.links())
    await asyncio.sleep(0.05)
    asked.close()
    with pytest.raises(KernelError, match="shutting down"):
        await task
    with pytest.raises(KernelError, match="shutting down"):
        await asked.addresses()
    assert "netlink" not in [thread.name for thread in threading.enumerate()]


async def test_refusals_say_what_to_do(asked: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KernelError, match="mark 0"):
        await asked.flush_marked(0)

    async def refused(mark: int, mask: int) -> None:
        raise OSError(code, "no")

    monkeypatch.setattr(kernel, "_flush", refused)
    for code, remedy in ((1, "CAP_NET_ADMIN"), (93, "nf_conntrack_netlink"), (12, "Cannot allocate memory")):
        with pytest.raises(KernelError, match=remedy) as caught:
            await asked.flush_marked(7)
        assert caught.value.errno == code
