"""Writes the table of events in docs/addons.md from `appliance.events`: `python docs/events_table.py`."""

from __future__ import annotations

from pathlib import Path

from appliance.events import EVENTS

PAGE = Path(__file__).with_name("addons.md")
BEGIN, END = "<!-- events: made by docs/events_table.py -->\n", "<!-- end of events -->\n"


def table() -> str:
    """A row an event, in the order of a connection's life."""
    rows = ["| event | when | what you may change |", "| --- | --- | --- |"]
    for event in EVENTS.values():
        notes = ("" if event.yet else " *Not fired yet.*") + (" Must not be async." if event.sync_only else "")
        cells = (f"`{event.name}({', '.join(event.args)})`", event.when + notes, event.may)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def page(text: str) -> str:
    """`text` with the present table."""
    head, _, rest = text.partition(BEGIN)
    return head + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
