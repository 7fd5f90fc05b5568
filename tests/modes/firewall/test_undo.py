"""The undo list: numbers, stale lists, replaying twice."""

from __future__ import annotations

import fcntl
import json
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from modes.firewall import undo


def test_numbers_are_not_given_twice(tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    first, second = undo.reserve(folder), undo.reserve(folder)
    assert (first[0], second[0]) == (1, 2)
    assert os.stat(first[1]).st_mode & 0o777 == 0o600
    assert not undo.stale(folder)  # we live
    undo.replay(first[1], routing=True)
    assert undo.reserve(folder)[0] == 1


def test_stale_is_a_list_whose_process_is_gone(tmp_path: Path) -> None:
    folder = str(tmp_path)
    _, path = undo.reserve(folder)
    data = json.loads(Path(path).read_text())
    Path(path).write_text(json.dumps({**data, "birth": "1"}))  # the number of a process is used again
    assert list(undo.stale(folder)) == [path]


def test_replay_runs_all_keeps_routing_and_may_be_repeated(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    _, path = undo.reserve(str(tmp_path / "run"))
    undo.write(path, interception=[["/nonexistent"], ["touch", str(one)]], routing=[["touch", str(two)]])
    undo.replay(path, routing=False)
    assert one.exists()
    assert not two.exists()
    assert json.loads(Path(path).read_text())["routing"]
    for _ in range(2):
        undo.replay(path, routing=True)
        assert two.exists()
        assert not Path(path).exists()


GATEWAY = """
import os, subprocess, sys, time
from modes.firewall import guardian, undo
number, path = undo.reserve(sys.argv[1])
process = subprocess.Popen([sys.executable, "-I", "-S", guardian.__file__, path, "unit"], stdin=subprocess.PIPE,
                           stdout=subprocess.PIPE, start_new_session=True)
process.stdout.readline()
print(process.pid, flush=True)
time.sleep(100)
"""


def test_a_number_that_is_used_again_is_not_the_old_guardians(tmp_path: Path) -> None:
    """A unit with two modes is killed and comes again: its first mode replays the lists that are left, its second takes
    a number that became free. The guardian of the dead process must not take that list for its own.
    """
    folder, undone = str(tmp_path / "run"), tmp_path / "undone"
    root = str(Path(__file__).parents[3])
    with subprocess.Popen([sys.executable, "-c", GATEWAY, folder], stdout=subprocess.PIPE, cwd=root) as before:
        assert before.stdout is not None
        guardian = os.pidfd_open(int(before.stdout.readline()))
        before.kill()
    ((path, whose),) = undo.stale(folder).items()
    undo.replay(path, routing=True, closed=True, whose=whose)
    assert undo.reserve(folder) == (1, path)
    undo.write(path, interception=[["touch", str(undone)]])
    assert select.select([guardian], [], [], 20)[0], "it has ended"
    os.close(guardian)
    undo.replay(path, routing=True, closed=True, whose=whose)  # nor a second `firewall clean`
    assert os.path.exists(path)
    assert not undone.exists()


def test_damaged_list_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text('{"interception": [')
    undo.replay(str(path), routing=True)
    assert not path.exists()


def test_sysctls_and_tables_are_those_before_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several gateways, whichever ends last puts back what the first found."""
    values = {"a": "0"}

    def sysctl(name: str, value: str | None = None) -> str:
        return values.__setitem__(name, value) or value if value is not None else values[name]

    monkeypatch.setattr(undo, "sysctl", sysctl)
    monkeypatch.setattr(undo.nfnetlink, "has_table", lambda *table: values["a"] == "1")
    removed: list[tuple[str, str]] = []
    monkeypatch.setattr(undo.nfnetlink, "delete_if_empty", lambda *table: removed.append(table))
    lists = [undo.reserve(str(tmp_path))[1] for _ in range(3)]
    for path in lists:
        for _ in range(2):  # written again as more is laid
            undo.write(path, sysctls=["a"], tables=[("ip", "raw")])
            values["a"] = "1"
    for path in (lists[1], lists[0]):
        undo.replay(path, routing=True)
        assert (values, removed) == ({"a": "1"}, [])
    undo.replay(lists[2], routing=True)
    assert (values, removed) == ({"a": "0"}, [("ip", "raw")])


def test_sysctls_of_interception_go_back_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"forwarding": "1", "tuned": "0"}
    monkeypatch.setattr(undo, "sysctl", lambda name, value=None: values.update({name: value}) if value else "before")
    _, path = undo.reserve(str(tmp_path))
    undo.write(path, sysctls=["forwarding"], tuned=["tuned"])
    undo.replay(path, routing=False)
    assert values == {"forwarding": "1", "tuned": "before"}
    undo.replay(path, routing=True)
    assert values == {"forwarding": "before", "tuned": "before"}


def test_a_lock_that_nobody_lets_go_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undo, "_LOCK_SECONDS", 0.1)
    _, path = undo.reserve(str(tmp_path))
    with open(tmp_path / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        undo.write(path, mark=1)
    assert undo.read(path)["mark"] == 1
