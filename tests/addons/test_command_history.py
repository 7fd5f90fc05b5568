"""commands.history.*: what is kept, and over restarts."""

from __future__ import annotations

from pathlib import Path

from appliance.addons.command_history import FILE, KEPT, MOST, CommandHistory
from tests.addons.chain import Chain


def test_lines_are_kept_and_gone_through(tmp_path: Path) -> None:
    chain = Chain(CommandHistory(), confdir=str(tmp_path))
    for line in ("set a", "view.clear", "set b", "  "):
        chain.call("commands.history.add", line)
    assert chain.call("commands.history.get") == ["set a", "view.clear", "set b"]
    assert [chain.call("commands.history.prev") for _ in range(4)] == ["set b", "view.clear", "set a", "set a"]
    assert [chain.call("commands.history.next") for _ in range(4)] == ["view.clear", "set b", "", ""]
    chain.call("commands.history.filter", "set")
    assert [chain.call("commands.history.prev") for _ in range(3)] == ["set b", "set a", "set a"]
    assert [chain.call("commands.history.next") for _ in range(2)] == ["set b", "set"]


def test_over_a_restart(tmp_path: Path) -> None:
    Chain(CommandHistory(), confdir=str(tmp_path)).call("commands.history.add", "two\nlines grüße")
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    chain = Chain(CommandHistory(), confdir=str(tmp_path))
    assert chain.call("commands.history.prev") == "two lines grüße"
    chain.call("commands.history.clear")
    assert chain.call("commands.history.get") == [] and (tmp_path / FILE).read_text() == ""


def test_the_file_is_cut(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("".join(f"set {number}\n" for number in range(MOST)))
    chain = Chain(history := CommandHistory(), confdir=str(tmp_path))
    chain.call("commands.history.add", "last")
    history.done()
    lines = (tmp_path / FILE).read_text().splitlines()
    assert len(lines) == KEPT and lines[-1] == "last"


def test_off(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("set a\n")
    chain = Chain(history := CommandHistory(), confdir=str(tmp_path), command_history=False)
    chain.call("commands.history.add", "set b")
    history.done()
    assert chain.call("commands.history.get") == ["set b"] and (tmp_path / FILE).read_text() == "set a\n"


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    chain = Chain(CommandHistory(), confdir=str(tmp_path / "missing"))
    chain.call("commands.history.add", "set a")
    assert chain.call("commands.history.prev") == "set a"
