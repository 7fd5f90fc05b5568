"""The table of what hooks cost. The dispatcher keeps the counts in any case; only the table is made on request."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.hooks import Hooks


def table(hooks: Hooks) -> str:
    """A line for each hook that was called, dearest first; times are the event loop's, as held by the hook."""
    if not hooks.profile:
        return "nothing was counted: switch it on with `--set hook_profile` or the command `set hook_profile true`"
    called = sorted((one for one in hooks.listeners() if one.count or one.errors), key=lambda one: -one.total)
    if not called:
        return "no hook was called yet"
    width = max(len(one.addon) for one in called)
    event = max(len(one.event) for one in called)
    lines = [
        f"{'add-on':<{width}}  {'hook':<{event}}  {'calls':>9}  {'total':>10}  {'mean':>9}  {'longest':>10}  errors"
    ]
    for one in called:
        mean = one.total / one.count if one.count else 0.0
        times = f"{one.total * 1e3:>7.1f} ms  {mean * 1e6:>6.0f} µs  {one.longest * 1e3:>7.2f} ms"
        lines.append(f"{one.addon:<{width}}  {one.event:<{event}}  {one.count:>9}  {times}  {one.errors:>6}")
    return "\n".join(lines)
