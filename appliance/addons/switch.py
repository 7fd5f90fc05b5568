"""An add-on that is there only while an option says so."""

from __future__ import annotations

from appliance import ctx


class Switch:
    """Keeps at most one add-on below itself: what is not there listens to nothing and costs nothing."""

    def __init__(self) -> None:
        self.addons: list[object] = []

    def use(self, addon: object | None) -> None:
        """Have `addon` below instead of what is there; None: nothing."""
        manager = ctx.master.addons
        before, self.addons = self.addons, []
        for old in before:
            manager.remove(old)
        if addon is not None:
            self.addons = [addon]
            manager.register(addon)
