"""Dialling: literals, names, refusals, timeouts, the guard, the source address."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from appliance.net.dial import DialError, Refused, dial, literal_family
from appliance.net.guard import LoopGuard
from tests.harness import descriptors


@pytest.fixture
def v4() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def v6() -> Iterator[int]:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    with listener:
        yield listener.getsockname()[1]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def to(
    host: str, port: int, guard: LoopGuard | None = None, seconds: float = 5, source: str | None = None
) -> Any:
    sock = await dial(asyncio.get_running_loop(), (host, port), guard or LoopGuard(), seconds, source)
    try:
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not sock.get_inheritable()
        return sock.getsockname(), sock.getpeername()
    finally:
        sock.close()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What names resolve to."""
    table: dict[str, list[str]] = {}

    async def getaddrinfo(host: str, port: int, **kw: Any) -> list[Any]:
        if host not in table and literal_family(host) is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET6, 1, 6, "", (ip, port, 0, 0)) if ":" in ip else (socket.AF_INET, 1, 6, "", (ip, port))
            for ip in table.get(host, [host])
        ]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", lambda self, *args, **kw: getaddrinfo(*args, **kw))
    return table


async def test_v4_literal(v4: int) -> None:
    assert (await to("127.0.0.1", v4))[1] == ("127.0.0.1", v4)


async def test_v6_literal(v6: int) -> None:
    assert (await to("::1", v6))[1][:2] == ("::1", v6)


async def test_v4_mapped_literal(v4: int) -> None:
    assert (await to("::ffff:127.0.0.1", v4))[1][1] == v4


async def test_a_real_name(v4: int) -> None:
    assert (await to("localhost", v4))[1][1] == v4


async def test_a_name_with_one_and_with_many_addresses(v4: int, names: dict[str, list[str]]) -> None:
    names["one.test"] = ["127.0.0.1"]
    names["many.test"] = ["::1", "127.0.0.1"]
    assert (await to("one.test", v4))[1] == ("127.0.0.1", v4)
    assert (await to("many.test", v4))[1] == ("127.0.0.1", v4), "the one that answers"


async def test_refused() -> None:
    port = closed_port()
    with pytest.raises(DialError, match=rf"127\.0\.0\.1:{port}: Connection refused"):
        await to("127.0.0.1", port)


async def test_refused_by_all_of_a_name(names: dict[str, list[str]]) -> None:
    names["many.test"] = ["127.0.0.1", "127.0.0.2"]
    with pytest.raises(DialError, match=r"many\.test"):
        await to("many.test", closed_port())


async def test_no_such_name(names: dict[str, list[str]]) -> None:
    with pytest.raises(DialError, match=r"nowhere\.test: the name cannot be resolved"):
        await to("nowhere.test", 80)


@pytest.mark.parametrize("name", ["a" * 64 + ".test", "", "a..b", "1.2.3.999", "\udcff"])
async def test_impossible_names(name: str) -> None:
    with pytest.raises(DialError):
        await to(name, 80, seconds=3)


@pytest.mark.parametrize("name", ["a:b", "::1::", "[::1]", "fe80::1%nosuchdevice"])
async def test_impossible_literals_ask_no_resolver(name: str) -> None:
    with pytest.raises(DialError):
        await asyncio.wait_for(to(name, 80), 0.5)


@pytest.mark.parametrize("port", [0, -1, 65536, 99999])
async def test_impossible_ports(port: int) -> None:
    with pytest.raises(DialError, match="is not a port"):
        await to("127.0.0.1", port)


async def test_timeout_and_cancellation_leave_nothing_open() -> None:
    """A listener whose queue is full answers nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        before = descriptors()
        with pytest.raises(DialError, match=r"no connection within 0\.2 s"):
            await to(*address, seconds=0.2)
        assert descriptors() == before
        task = asyncio.ensure_future(to(*address))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert descriptors() == before
        for filler in fillers:
            filler.close()


async def test_a_resolver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*args: Any, **kw: Any) -> Any:
        await asyncio.sleep(60)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    with pytest.raises(DialError, match=r"slow\.test:80: no connection within 0\.1 s"):
        await to("slow.test", 80, seconds=0.1)


async def test_own_listener_by_literal_and_by_name(v4: int, names: dict[str, list[str]]) -> None:
    guard = LoopGuard()
    guard.listening(("0.0.0.0", v4))
    names["me.test"] = ["127.0.0.1"]
    names["mapped.test"] = ["::ffff:127.0.0.1"]
    for host in ("127.0.0.1", "::ffff:127.0.0.1", "me.test", "mapped.test"):
        with pytest.raises(Refused, match="this gateway itself"):
            await to(host, v4, guard)


async def test_a_name_for_the_metadata_address(names: dict[str, list[str]]) -> None:
    names["innocent.test"] = ["169.254.169.254"]
    with pytest.raises(Refused, match="allow_metadata_addresses"):
        await to("innocent.test", 80)


async def test_addresses_that_are_refused_are_left_out(v4: int, names: dict[str, list[str]]) -> None:
    names["mixed.test"] = ["169.254.169.254", "127.0.0.1"]
    assert (await to("mixed.test", v4))[1] == ("127.0.0.1", v4)


async def test_source_address(v4: int, names: dict[str, list[str]]) -> None:
    names["one.test"] = ["127.0.0.1"]
    names["two.test"] = ["127.0.0.1", "127.0.0.1"]
    for host in ("127.0.0.1", "one.test", "two.test"):
        own, _ = await to(host, v4, source="127.0.0.9")
        assert own[0] == "127.0.0.9", host
    with pytest.raises(DialError):
        await to("127.0.0.1", v4, source="192.0.2.1")


async def test_out_of_descriptors(v4: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*args: object) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("appliance.net.dial.socket.socket", none)
    with pytest.raises(DialError, match="Too many open files"):
        await dial(asyncio.get_running_loop(), ("127.0.0.1", v4), LoopGuard(), 1)


def test_literal_family() -> None:
    assert literal_family("192.0.2.1") == socket.AF_INET
    assert literal_family("::1") == socket.AF_INET6
    for name in ("a.test", "1.2.3", "a1", "", "1.2.3.4.5", "0x7f.1"):
        assert literal_family(name) is None, name
