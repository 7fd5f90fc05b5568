from __future__ import annotations

from appliance.hookprofile import table
from appliance.hooks import Hooks


class Listens:
    name = "listens"

    def request(self, flow: object) -> None: ...

    async def response(self, flow: object) -> None: ...


async def test_counts_only_while_it_is_on() -> None:
    hooks = Hooks(Listens(), profile=False)
    hooks.fire("request", 1)
    assert "hook_profile" in table(hooks) and not any(one.count for one in hooks.listeners())
    hooks.profile = True
    for _ in range(3):
        hooks.fire("request", 1)
        pending = hooks.fire("response", 1)
        assert pending is not None
        await pending
    assert [one.count for one in hooks.listeners()] == [3, 3]
    assert "request" in table(hooks) and "response" in table(hooks)
    hooks.profile = False
    hooks.fire("request", 1)
    assert [one.count for one in hooks.listeners()] == [3, 3]
