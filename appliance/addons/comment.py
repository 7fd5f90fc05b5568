"""Comments on flows, by the command `flow.comment`."""

from __future__ import annotations

from collections.abc import Sequence

from appliance import command, ctx
from appliance.flow import Flow


class Comment:
    """A command alone; it listens to nothing."""

    name = "comment"

    @command.command("flow.comment")
    def comment(self, flow: Sequence[Flow], comment: str) -> None:
        """Write a comment on flows."""
        for one in flow:
            one.comment = comment
        ctx.master.addons.trigger("update", flow)
