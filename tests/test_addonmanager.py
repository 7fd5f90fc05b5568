from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from appliance import ctx
from appliance.addonmanager import AddonManager, Loader
from appliance.addons.engineparts import TlsConfig
from appliance.addons.eventstore import EventStore
from appliance.exceptions import AddonHalt, AddonManagerError, OptionsError
from appliance.hooks import Hooks
from appliance.log import LogEntry
from appliance.options import Options


class Gateway:
    def __init__(self) -> None:
        self.options = Options()
        self.addons = AddonManager(self, self.options, Hooks())

    def shutdown(self) -> None:
        raise AssertionError("not asked for")


class Addon:
    """Notes what it hears; `addons` are below it."""

    def __init__(self, name: str, calls: list[str], addons: Sequence[object] = ()) -> None:
        self.name = name
        self.calls = calls
        self.addons = list(addons)

    def load(self, loader: Loader) -> None:
        self.calls.append(f"{self.name} load")

    def configure(self, updated: frozenset[str]) -> None:
        self.calls.append(f"{self.name} configure {'all' if len(updated) > 5 else ' '.join(sorted(updated))}")

    def running(self) -> None:
        self.calls.append(f"{self.name} running")

    def request(self, flow: object) -> None:
        self.calls.append(f"{self.name} request")

    def done(self) -> None:
        self.calls.append(f"{self.name} done")


@pytest.fixture
def calls() -> list[str]:
    return []


@pytest.fixture
def manager() -> AddonManager:
    return Gateway().addons


# -- order and names


def test_order_is_depth_first_along_the_chain(manager: AddonManager, calls: list[str]) -> None:
    c = Addon("c", calls)
    b = Addon("b", calls, [c, Addon("d", calls)])
    manager.add(Addon("a", calls), b)
    manager.add(Addon("e", calls))
    assert calls == [f"{name} load" for name in "abcde"]
    calls.clear()
    manager.trigger("request", "flow")
    assert calls == [f"{name} request" for name in "abcde"]
    assert len(manager) == 5
    assert manager.get("c") is c and manager.get("x") is None
    assert c in manager and "c" in manager and Addon("c", calls) not in manager
    assert manager.chain[1] is b


def test_a_holder_adds_below_itself(manager: AddonManager, calls: list[str]) -> None:
    holder = Addon("holder", calls)
    manager.add(holder, Addon("last", calls))
    inner = Addon("inner", calls)
    holder.addons.append(inner)
    manager.register(inner)
    calls.clear()
    manager.trigger("request", "flow")
    assert calls == ["holder request", "inner request", "last request"]
    holder.addons.insert(0, holder.addons.pop())
    manager.remove(inner)
    calls.clear()
    manager.trigger("request", "flow")
    assert calls == ["holder request", "last request"]


def test_default_name_is_that_of_the_class(manager: AddonManager) -> None:
    class Counter: ...

    manager.add(Counter())
    assert "counter" in manager


def test_names_are_unique_and_a_refused_addon_leaves_no_trace(manager: AddonManager, calls: list[str]) -> None:
    first = Addon("a", calls)
    manager.add(first)
    calls.clear()
    with pytest.raises(AddonManagerError, match="named a is there already"):
        manager.add(Addon("b", calls, [Addon("a", calls)]))
    with pytest.raises(AddonManagerError, match="named c is there already"):
        manager.add(Addon("b", calls, [Addon("c", calls), Addon("c", calls)]))
    assert calls == []
    assert list(manager.lookup) == ["a"] and manager.chain == [first]
    manager.trigger("request", "flow")
    assert calls == ["a request"]


def test_an_addon_inside_itself_is_refused(manager: AddonManager, calls: list[str]) -> None:
    a = Addon("a", calls)
    a.addons.append(a)
    with pytest.raises(AddonManagerError, match="holds itself"):
        manager.add(a)
    assert len(manager) == 0 and not manager.chain


def test_an_unusable_hook_is_refused(manager: AddonManager) -> None:
    class Bad:
        def request(self) -> None: ...

    with pytest.raises(AddonManagerError, match="add-on bad: request"):
        manager.add(Bad())
    assert not manager.chain and "bad" not in manager


@pytest.mark.parametrize("stage", ["load", "configure"])
def test_failing_to_start_undoes_the_registration(manager: AddonManager, calls: list[str], stage: str) -> None:
    def fail(argument: object) -> None:
        raise ValueError("oops")

    manager.configure()
    bad = Addon("bad", calls)
    setattr(bad, stage, fail)
    with pytest.raises(ValueError, match="oops"):
        manager.add(bad)
    assert "bad" not in manager and not manager.chain and not manager.hooks.wants("request")


def test_removing_what_is_not_there(manager: AddonManager, calls: list[str]) -> None:
    with pytest.raises(AddonManagerError, match="no such add-on: a"):
        manager.remove(Addon("a", calls))


# -- life


async def test_life_of_an_addon(manager: AddonManager, calls: list[str]) -> None:
    manager.add(Addon("a", calls, [Addon("b", calls)]))
    manager.options.tcp_timeout = 9  # not told: configure will tell all
    assert calls == ["a load", "b load"]
    manager.configure()
    assert calls[2:] == ["a configure all", "b configure all"]
    await manager.running()
    assert calls[4:] == ["a running", "b running"]
    manager.options.tcp_timeout = 10
    assert calls[6:] == ["a configure tcp_timeout", "b configure tcp_timeout"]
    await manager.done()
    assert calls[8:] == ["a done", "b done"]
    manager.options.tcp_timeout = 11
    assert len(calls) == 10


async def test_a_late_addon_catches_up(manager: AddonManager, calls: list[str]) -> None:
    manager.configure()
    early = Addon("early", calls)
    manager.add(early)
    assert calls == ["early load", "early configure all"]
    await manager.running()
    calls.clear()
    late = Addon("late", calls, [Addon("inner", calls)])
    manager.add(late)
    assert calls == [
        *("late load", "inner load"),
        *("late configure all", "inner configure all"),
        *("late running", "inner running"),
    ]
    calls.clear()
    manager.remove(late)
    assert calls == ["late done", "inner done"]
    calls.clear()
    manager.trigger("request", "flow")
    assert calls == ["early request"]


async def test_async_running_and_done_are_finished(manager: AddonManager, calls: list[str]) -> None:
    class Async:
        def __init__(self, name: str) -> None:
            self.name = name

        async def running(self) -> None:
            await asyncio.sleep(0.01)
            calls.append(f"{self.name} running")

        async def done(self) -> None:
            await asyncio.sleep(0.01)
            calls.append(f"{self.name} done")

    manager.add(Async("a"))
    manager.configure()
    await manager.running()
    assert calls == ["a running"]
    b = Async("b")
    manager.add(b)
    await asyncio.sleep(0.05)
    assert calls == ["a running", "b running"]
    manager.remove(b)
    await manager.done()
    assert sorted(calls[2:]) == ["a done", "b done"]


async def test_a_running_that_never_returns_holds_up_nothing(
    manager: AddonManager, calls: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`while True: await asyncio.sleep(60)` is what people write there. It ends with its add-on."""

    class Loop:
        def __init__(self, name: str) -> None:
            self.name = name

        async def running(self) -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                calls.append(f"{self.name} ended")

    monkeypatch.setattr("appliance.addonmanager.RUNNING_SECONDS", 0.01)
    manager.add(Loop("early"), Addon("after", calls))
    manager.configure()
    await manager.running()
    assert calls[-1] == "after running"
    assert "add-on early: running has not returned after 0.01 s, and nothing waits for it any more" in caplog.messages
    late = Loop("late")
    manager.add(late)
    await asyncio.sleep(0)
    manager.remove(late)
    await asyncio.sleep(0)
    assert calls[-1] == "late ended"
    async with asyncio.timeout(10):
        await manager.done()
    await asyncio.sleep(0)
    assert calls[-2:] == ["after done", "early ended"]


@pytest.mark.parametrize("is_async", [True, False])
async def test_running_may_end_the_chain(manager: AddonManager, calls: list[str], is_async: bool) -> None:
    class Halt:
        if is_async:

            async def running(self) -> None:
                raise AddonHalt
        else:

            def running(self) -> None:
                raise AddonHalt

    manager.add(Halt(), Addon("after", calls))
    await manager.running()
    assert "after running" not in calls


async def test_failing_in_running_or_done_is_logged(
    manager: AddonManager, calls: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    class Bad:
        def running(self) -> None:
            raise ValueError("sync oops")

        async def done(self) -> None:
            raise ValueError("async oops")

    manager.configure()
    await manager.running()
    bad = Bad()
    manager.add(bad)
    assert "add-on bad failed in running: ValueError: sync oops" in caplog.messages
    manager.remove(bad)
    await asyncio.sleep(0.01)
    assert "add-on bad failed in done: ValueError: async oops" in caplog.messages
    info = caplog.records[0].exc_info
    assert info and info[2] and info[2].tb_frame.f_code.co_filename == __file__


def test_async_done_without_a_loop(manager: AddonManager, calls: list[str]) -> None:
    class Async:
        async def done(self) -> None:
            await asyncio.sleep(0)
            calls.append("done")

    addon = Async()
    manager.add(addon)
    manager.remove(addon)
    assert calls == ["done"]


async def test_trigger_event(manager: AddonManager, calls: list[str]) -> None:
    class Async:
        async def request(self, flow: object) -> None:
            await asyncio.sleep(0)
            calls.append("async")

    manager.add(Async(), Addon("a", calls))
    calls.clear()
    await manager.trigger_event("request", "flow")
    assert calls == ["async", "a request"]
    manager.trigger("request", "flow")
    assert len(calls) == 2
    await asyncio.sleep(0.01)
    assert calls[2:] == ["async", "a request"]


# -- options


def test_an_addon_may_refuse_a_change(manager: AddonManager) -> None:
    seen: list[int] = []

    class Watching:
        def configure(self, updated: frozenset[str]) -> None:
            seen.append(ctx.options.tcp_timeout)

    class Refusing:
        def configure(self, updated: frozenset[str]) -> None:
            if ctx.options.tcp_timeout < 5:
                raise OptionsError("too short")

    manager.add(Watching(), Refusing())
    manager.configure()
    before = manager.options.tcp_timeout
    with pytest.raises(OptionsError, match="too short"):
        manager.options.update(tcp_timeout=1, connect_timeout=3)
    assert manager.options.tcp_timeout == before and manager.options.connect_timeout != 3
    assert seen == [before, 1, before]  # whoever had taken the new value saw the old one again


def test_an_addon_may_refuse_the_start(manager: AddonManager) -> None:
    class Refusing:
        def configure(self, updated: frozenset[str]) -> None:
            raise OptionsError("not like this")

    manager.add(Refusing())
    with pytest.raises(OptionsError, match="not like this"):
        manager.configure()


def test_waiting_values_are_applied_before_configure(manager: AddonManager) -> None:
    seen: list[Any] = []

    class Registering:
        def load(self, loader: Loader) -> None:
            loader.add_option("greeting", str, "hello", "what to say")
            loader.add_option("volume", str, "low", "how", choices=["low", "high"])
            seen.append(ctx.options.greeting)

        def configure(self, updated: frozenset[str]) -> None:
            seen.append("greeting" in updated and ctx.options.greeting)

    manager.options.set("greeting=servus")
    manager.configure()
    manager.add(Registering())
    assert seen == ["servus", "servus"]
    manager.options.apply_deferred()
    manager.options.greeting = "moin"
    assert seen[2:] == ["moin"]


def test_registering_an_option_again(manager: AddonManager, caplog: pytest.LogCaptureFixture) -> None:
    loader = Loader(manager)
    loader.add_option("volume", str, "low", "how", choices=["low", "high"])
    manager.options.volume = "high"
    loader.add_option("volume", str, "low", "how", choices=["low", "high"])
    assert not caplog.records and manager.options.volume == "high"
    loader.add_option("volume", int, 3, "how")
    assert caplog.messages == ["option volume was there already and is redefined"]
    assert manager.options.volume == 3


def test_commands_are_kept(manager: AddonManager) -> None:
    def greet(name: str) -> str:
        return f"hello {name}"

    Loader(manager).add_command("greet", greet)
    assert manager.commands.execute("greet you") == "hello you"


@pytest.mark.parametrize(("milliseconds", "seconds"), [(100, 0.1), (5, 0.005)])
def test_the_budget_is_an_option(manager: AddonManager, milliseconds: int, seconds: float) -> None:
    manager.configure()
    manager.options.update(hook_budget_ms=7)
    manager.options.update(hook_budget_ms=milliseconds)
    assert manager.hooks.budget == seconds


# -- ctx


def test_ctx_is_set(manager: AddonManager) -> None:
    assert ctx.options is manager.options
    assert ctx.master.addons is manager


def test_ctx_before_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ctx, "options", raising=False)
    monkeypatch.delattr(ctx, "master", raising=False)
    for name in ("options", "master"):
        with pytest.raises(AttributeError, match="inside a hook"):
            getattr(ctx, name)
    with pytest.raises(AttributeError, match="no attribute 'view'"):
        _ = ctx.view  # type: ignore[attr-defined]


def test_an_option_like_a_built_in_one_is_that_option(caplog: pytest.LogCaptureFixture) -> None:
    """Scripts hold copies of built-in add-ons, with their options."""

    class Copy:
        def load(self, loader: Loader) -> None:
            loader.add_option("block_list", Sequence[str], [], "Its own words.")
            loader.add_option("anticache", bool, False, "Its own words.")

    chain = Gateway().addons
    chain.add(Copy())
    assert chain.options.is_default("block_list") and "block_list is a built-in one" in caplog.text
    for kind, default in ((bool, True), (str, "x")):
        loader = Loader(chain)
        with pytest.raises(OptionsError, match="it is a built-in one"):
            loader.add_option("anticache", kind, default, "Another.")


def test_parts_of_the_engine_hear_nothing() -> None:
    part = TlsConfig()
    chain = Gateway().addons
    chain.add(part, EventStore())
    chain.arrange()
    assert not chain.hooks.wants("tls_start_server") and chain.get("tlsconfig") is part
    chain.remove(part)
    assert chain.get("tlsconfig") is None


async def test_the_event_store() -> None:
    store = EventStore(2)
    chain = Gateway().addons
    chain.add(store)
    for number in range(3):
        await chain.trigger_event("add_log", LogEntry(str(number), "info"))
    assert [entry.msg for entry in store.data] == ["1", "2"] and store.size == 2
    chain.commands.execute("eventstore.clear")
    assert not store.data
