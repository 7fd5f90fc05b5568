from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import time
import types

import pytest

from appliance.exceptions import AddonHalt, AddonManagerError, OptionsError
from appliance.hooks import EVENTS, Hooks, Listener
from appliance.script import concurrent


class Recorder:
    def __init__(self, name: str, calls: list[str]) -> None:
        self.name = name
        self.calls = calls

    def request(self, flow: object) -> None:
        self.calls.append(self.name)


class AsyncRecorder(Recorder):
    async def request(self, flow: object) -> None:  # type: ignore[override]
        self.calls.append(f"{self.name} in")
        await asyncio.sleep(0)
        self.calls.append(f"{self.name} out")


class Raising(Recorder):
    def __init__(self, name: str, calls: list[str], exc: BaseException) -> None:
        super().__init__(name, calls)
        self.exc = exc

    def request(self, flow: object) -> None:
        self.calls.append(self.name)
        raise self.exc

    def configure(self, updated: object) -> None:
        self.calls.append(self.name)
        raise self.exc


class AsyncRaising(Raising):
    async def request(self, flow: object) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        super().request(flow)

    configure = None  # type: ignore[assignment]


def listener(hooks: Hooks, addon: str, event: str = "request") -> Listener:
    return next(one for one in hooks.listeners() if one.addon == addon and one.event == event)


async def fire(hooks: Hooks, event: str = "request", *args: object) -> None:
    if (pending := hooks.fire(event, *(args or ("flow",)))) is not None:
        await pending


# -- the table of events


def test_every_event_of_this_release_is_marked() -> None:
    later = {"http_connect_upstream", "socks5_auth"}
    later |= {name for name in EVENTS if name.startswith("quic_")}
    assert {name for name, event in EVENTS.items() if not event.yet} == later and len(later) == 4
    assert len(EVENTS) - len(later) == 42
    assert {name for name, event in EVENTS.items() if event.sync_only} == {"load", "configure"}
    assert all((event.args == ("flow",)) == event.flow and event.when for event in EVENTS.values())


# -- order


def test_nobody_listens() -> None:
    hooks = Hooks()
    assert hooks.table["request"] == ()
    assert not hooks.wants("request")
    assert hooks.fire("request", "flow") is None


def test_an_unknown_event_is_an_error_of_the_caller() -> None:
    with pytest.raises(KeyError):
        Hooks().fire("requests", "flow")
    with pytest.raises(KeyError):
        Hooks().wants("requests")


def test_sync_listeners_run_in_chain_order_without_a_coroutine() -> None:
    calls: list[str] = []
    hooks = Hooks(*(Recorder(name, calls) for name in "abc"))
    assert hooks.wants("request") and not hooks.wants("response")
    assert hooks.fire("request", "flow") is None
    assert calls == ["a", "b", "c"]


async def test_async_listeners_are_awaited_in_their_turn() -> None:
    calls: list[str] = []
    a, c = (Recorder(name, calls) for name in "ac")
    b, d = (AsyncRecorder(name, calls) for name in "bd")
    hooks = Hooks(a, b, c, d)
    pending = hooks.fire("request", "flow")
    assert pending is not None
    assert calls == ["a"]
    await pending
    assert calls == ["a", "b in", "b out", "c", "d in", "d out"]
    assert [listener(hooks, name).count for name in "abcd"] == [1, 1, 1, 1]


def test_arrange_changes_the_order_and_leaves_the_running_event_alone() -> None:
    calls: list[str] = []

    class Remover(Recorder):
        def request(self, flow: object) -> None:
            super().request(flow)
            hooks.arrange([b])

    a, b = Remover("a", calls), Recorder("b", calls)
    hooks = Hooks(a, b)
    table = hooks.table
    hooks.fire("request", "flow")
    assert calls == ["a", "b"]
    hooks.fire("request", "flow")
    assert calls == ["a", "b", "b"]
    assert hooks.table is table  # the engine may hold on to it
    hooks.arrange([b, a])
    hooks.fire("request", "flow")
    assert calls[3:] == ["b", "a"]
    hooks.dismiss(a)
    hooks.arrange([b, a])
    assert len(hooks.table["request"]) == 1


def test_functions_of_a_module_are_hooks() -> None:
    calls: list[object] = []
    module = types.ModuleType("script")
    module.__dict__["request"] = calls.append
    Hooks(module).fire("request", "flow")
    assert calls == ["flow"]


# -- what add-ons raise


@pytest.mark.parametrize("exc", [ValueError("oops"), asyncio.CancelledError(), OptionsError("not here")])
@pytest.mark.parametrize("kind", [Raising, AsyncRaising])
async def test_an_exception_hides_the_event_from_nobody(
    kind: type[Raising], exc: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []
    hooks = Hooks(kind("bad", calls, exc), kind("worse", calls, exc), Recorder("good", calls))
    await fire(hooks)
    assert calls == ["bad", "worse", "good"]
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "add-on bad failed in request: " in caplog.text and type(exc).__name__ in caplog.messages[0]
    assert listener(hooks, "bad").errors == listener(hooks, "bad").count == 1
    assert listener(hooks, "good").errors == 0


def test_the_traceback_begins_in_the_addon(caplog: pytest.LogCaptureFixture) -> None:
    Hooks(Raising("bad", [], ValueError("oops"))).fire("request", "flow")
    info = caplog.records[0].exc_info
    assert info and info[2]
    assert info[2].tb_frame.f_code.co_filename == __file__


async def test_the_traceback_of_a_thread_begins_in_the_addon(caplog: pytest.LogCaptureFixture) -> None:
    class Bad:
        @concurrent
        def request(self, flow: object) -> None:
            raise ValueError("oops")

    await fire(Hooks(Bad()))
    (info,) = [record.exc_info for record in caplog.records if record.exc_info]  # beside what was slow
    assert info and info[2]
    assert info[2].tb_frame.f_code.co_filename == __file__


def test_an_addon_that_always_fails_does_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    hooks = Hooks(Raising("bad", [], ValueError("oops")))
    for _ in range(1000):
        hooks.fire("request", "flow")
    assert len(caplog.records) == 10
    assert listener(hooks, "bad").errors == 1000


@pytest.mark.parametrize("kind", [Raising, AsyncRaising])
async def test_halt_ends_the_chain(kind: type[Raising], caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []
    hooks = Hooks(Recorder("a", calls), kind("b", calls, AddonHalt()), Recorder("c", calls))
    await fire(hooks)
    assert calls == ["a", "b"]
    assert not caplog.records
    assert listener(hooks, "b").count == 1 and listener(hooks, "b").errors == 0


def test_options_error_refuses_a_change() -> None:
    with pytest.raises(OptionsError, match="no"):
        Hooks(Raising("bad", [], OptionsError("no"))).fire("configure", {"mode"})


def test_a_built_in_one_that_fails_refuses_the_change() -> None:
    """An option must not look as if it were in force: without `proxyauth` there would be an open proxy."""

    class ProxyAuth:
        name = "proxyauth"

        def configure(self, updated: frozenset[str]) -> None:
            raise RuntimeError("no home")

    users = type("Users", (), {"configure": lambda self, updated: 1 / 0})()
    Hooks(users).fire("configure", frozenset({"x"}))  # logged
    ProxyAuth.configure.__module__ = "appliance.addons.proxyauth"
    with pytest.raises(OptionsError, match=r"^proxyauth: RuntimeError: no home$"):
        Hooks(users, ProxyAuth()).fire("configure", frozenset({"proxyauth"}))


async def test_cancelling_the_connection_cancels_the_hook_and_runs_no_other() -> None:
    calls: list[str] = []

    class Slow(Recorder):
        async def request(self, flow: object) -> None:  # type: ignore[override]
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                calls.append("cancelled")
                raise

    task = asyncio.ensure_future(fire(Hooks(Slow("slow", calls), Recorder("after", calls))))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert calls == ["cancelled"]


async def test_what_an_awaited_future_raises_reaches_the_listener() -> None:
    caught: list[str] = []
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    class Careful:
        async def request(self, flow: object) -> None:
            try:
                await future
            except OSError as exc:
                caught.append(str(exc))
            await asyncio.sleep(0)
            caught.append("went on")

    pending = Hooks(Careful()).fire("request", "flow")
    asyncio.get_running_loop().call_later(0.01, future.set_exception, OSError("gone"))
    assert pending is not None
    await pending
    assert caught == ["gone", "went on"]


async def test_any_awaitable_will_do_and_other_results_are_ignored() -> None:
    done = asyncio.Event()

    class Odd:
        def request(self, flow: object) -> asyncio.Task[bool]:
            asyncio.get_running_loop().call_later(0.01, done.set)
            return asyncio.ensure_future(done.wait())

        def response(self, flow: object) -> object:
            return flow

    hooks = Hooks(Odd())
    await fire(hooks)
    assert done.is_set()
    assert hooks.fire("response", "flow") is None


# -- costs


def test_time_is_kept_for_each_listener() -> None:
    class Busy:
        def request(self, flow: object) -> None:
            time.sleep(0.02)

    hooks = Hooks(Busy(), Recorder("quick", []))
    for _ in range(3):
        hooks.fire("request", "flow")
    busy, quick = listener(hooks, "busy"), listener(hooks, "quick")
    assert busy.count == quick.count == 3
    assert 0.06 <= busy.total < 1 and 0.02 <= busy.longest <= busy.total
    assert quick.total < busy.total / 2


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_over_budget_is_logged_once_with_name_and_event(
    asynchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Hog:
        def request(self, flow: object) -> None:
            time.sleep(0.03)

    class AsyncHog:
        name = "hog"

        async def request(self, flow: object) -> None:
            await asyncio.sleep(0)
            time.sleep(0.03)  # noqa: ASYNC251 - the offence

    hooks = Hooks(AsyncHog() if asynchronous else Hog(), budget=0.01)
    for _ in range(3):
        await fire(hooks)
    assert len(caplog.messages) == 1
    assert "add-on hog held the gateway for" in caplog.text and "in request" in caplog.text


async def test_waiting_is_within_budget(caplog: pytest.LogCaptureFixture) -> None:
    class Patient:
        async def request(self, flow: object) -> None:
            await asyncio.sleep(0.2)

    hooks = Hooks(Patient(), budget=0.1)
    await fire(hooks)
    assert not caplog.records
    assert listener(hooks, "patient").total < 0.1


def test_a_lowered_budget_holds_at_once(caplog: pytest.LogCaptureFixture) -> None:
    class Hog:
        def request(self, flow: object) -> None:
            time.sleep(0.02)

    hooks = Hooks(Hog(), budget=10)
    hooks.fire("request", "flow")
    assert not caplog.records
    hooks.budget = 0.01
    hooks.fire("request", "flow")
    assert len(caplog.records) == 1


# -- what is refused, and what is warned of


def test_a_class_is_not_an_addon() -> None:
    with pytest.raises(AddonManagerError, match=r"Recorder is a class.*Recorder\(\)"):
        Hooks(Recorder)


def test_a_module_of_a_hooks_name_is_ignored() -> None:
    module = types.ModuleType("script")
    module.__dict__["response"] = json
    assert not Hooks(module).wants("response")


def test_a_hook_that_is_no_function_is_refused() -> None:
    class Bad:
        request = 7

    with pytest.raises(AddonManagerError, match="add-on bad: request is a hook's name"):
        Hooks(Bad())


def test_wrong_arity_is_refused_at_load() -> None:
    class Bad:
        def request(self) -> None: ...

    class Worse:
        def running(self, flow: object) -> None: ...

    class Fine:
        def request(self, flow: object, extra: int = 1) -> None: ...
        def response(self, *args: object) -> None: ...

    with pytest.raises(AddonManagerError, match=r"add-on bad: request\(\).* should take flow"):
        Hooks(Bad())
    with pytest.raises(AddonManagerError, match=r"running\(flow.* should take no argument"):
        Hooks(Worse())
    assert Hooks(Fine()).wants("response")


@pytest.mark.parametrize("event", ["load", "configure"])
def test_load_and_configure_must_be_sync(event: str, caplog: pytest.LogCaptureFixture) -> None:
    class Bad:
        pass

    async def hook(argument: object) -> None: ...

    bad = Bad()
    setattr(bad, event, hook)
    with pytest.raises(AddonManagerError, match=f"{event} must not be async"):
        Hooks(bad)
    setattr(bad, event, lambda argument: hook(argument))  # only the call tells
    hooks = Hooks(bad)
    assert hooks.fire(event, None) is None
    assert f"{event} must not be async" in caplog.text
    with pytest.raises(AddonManagerError, match="must not be async"):
        hooks.call(bad, event, None)


def test_near_misses_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    class Sloppy:
        def requests(self, flow: object) -> None: ...
        def tls_client_hello(self, data: object) -> None: ...
        def on_response(self, flow: object) -> None: ...
        def _requests(self, flow: object) -> None: ...
        def errors(self, one: object, two: object) -> None: ...
        def helper(self, flow: object) -> None: ...

        @property
        def responses(self) -> None:
            raise AssertionError("a property was run")

    Hooks(Sloppy())
    assert sorted(caplog.messages) == [
        "add-on sloppy: on_response is not an event; did you mean response?",
        "add-on sloppy: requests is not an event; did you mean request?",
        "add-on sloppy: tls_client_hello is not an event; did you mean tls_clienthello?",
    ]


def test_an_event_that_is_not_fired_yet_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    class Early:
        def quic_start_client(self, data: object) -> None: ...

    Hooks(Early())
    assert caplog.messages == ["add-on early: the event quic_start_client is not fired by this release yet"]


# -- @concurrent


async def test_concurrent_hooks_leave_the_loop_free() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("seen")
    seen: list[str] = []
    ticks = 0

    class Blocking:
        @concurrent
        def request(self, flow: object) -> None:
            time.sleep(0.1)
            seen.append(variable.get())

    hooks = Hooks(Blocking(), budget=0.05)
    task = asyncio.ensure_future(fire(hooks))
    while not task.done():
        ticks += 1
        await asyncio.sleep(0.005)
    assert seen == ["seen"]
    assert ticks > 5
    assert listener(hooks, "blocking").total < 0.05


def test_concurrent_refuses_what_cannot_be() -> None:
    def load(loader: object) -> None: ...
    def configure(updated: object) -> None: ...
    def helper(flow: object) -> None: ...
    async def request(flow: object) -> None: ...

    for hook in (load, configure, helper, request):
        with pytest.raises(NotImplementedError, match=hook.__name__):
            concurrent(hook)


def test_concurrent_keeps_the_arity_check() -> None:
    class Bad:
        @concurrent
        def request(self) -> None: ...

    with pytest.raises(AddonManagerError, match="should take flow"):
        Hooks(Bad())


def test_logging_a_fault_never_raises() -> None:
    class Rude(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("appliance.hooks").addHandler(handler)
    try:
        Hooks(Raising("bad", [], Rude())).fire("request", "flow")
    finally:
        logging.getLogger("appliance.hooks").removeHandler(handler)
    assert len(records) == 1 and "add-on bad failed in request" in records[0] and "Rude" in records[0]
