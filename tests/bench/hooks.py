"""What an event costs, in µs of CPU time: `python tests/bench/hooks.py` (not a test).

Through `gate`, as the layers fire it: the hooks, `update`, then intercepted? killed? The add-ons are written as scripts
are, their hooks do nothing, and they stand in a real chain below the built-in add-ons. Best and median of `ROUNDS`, by
`time.process_time`, the loop's own cost taken off.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from appliance.addons import default_addons
from appliance.gateway import Gateway
from appliance.layers.gate import gate
from appliance.options import Options
from appliance.test import tflow

CALLS, ROUNDS = 20_000, 15


class Idle:
    def __init__(self, name: str) -> None:
        self.name = name

    def request(self, flow: object) -> None:
        pass


class Updated(Idle):
    def update(self, flows: object) -> None:
        pass


class Waiting:
    def __init__(self, name: str) -> None:
        self.name = name

    async def request(self, flow: object) -> None:
        pass


def handler(*addons: object, profile: bool = False) -> Any:
    """What `gate` wants of a connection's handler, with the hooks of a gateway that is set up but does not run."""
    gateway = Gateway(Options(hook_profile=profile))
    gateway.addons.add(*default_addons(), *addons)
    gateway.addons.configure()
    return SimpleNamespace(worker=SimpleNamespace(hooks=gateway.hooks), gated=0)


def cost(run: Callable[[], None]) -> tuple[float, float]:
    """(best, median) of a call in µs."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(CALLS):
            run()
        middle = time.process_time()
        for _ in range(CALLS):
            pass
        rounds.append((2 * middle - began - time.process_time()) / CALLS * 1e6)
    return min(rounds), median(rounds)


def sync(on: Any) -> Callable[[], None]:
    flow = tflow.tflow(live=False)

    def run() -> None:
        assert gate(on, "request", flow) is None

    return run


async def waited(on: Any) -> tuple[float, float]:
    flow = tflow.tflow(live=False)
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(CALLS):
            pending = gate(on, "request", flow)
            assert pending is not None
            await pending
        rounds.append((time.process_time() - began) / CALLS * 1e6)
    return min(rounds), median(rounds)


def names(count: int) -> list[str]:
    return [f"idle{number}" for number in range(count)]


def main() -> None:
    rows = {
        "nobody listens": cost(sync(handler())),
        "1 add-on": cost(sync(handler(*map(Idle, names(1))))),
        "5 add-ons": cost(sync(handler(*map(Idle, names(5))))),
        "5 add-ons, each also with update": cost(sync(handler(*map(Updated, names(5))))),
        "5 add-ons, hook_profile on": cost(sync(handler(*map(Idle, names(5)), profile=True))),
        "5 add-ons, async": asyncio.run(waited(handler(*map(Waiting, names(5))))),
    }
    print(f"{'µs an event':40}{'best':>8}{'median':>8}")
    for name, (best, middle) in rows.items():
        print(f"{name:40}{best:8.2f}{middle:8.2f}")


if __name__ == "__main__":
    main()
