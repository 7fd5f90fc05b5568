"""The undo list: numbers, stale lists, replaying twice."""

from __future__ import annotations

import json
import os
from pathlib import Path

from modes.firewall import undo


def test_numbers_are_not_given_twice(tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    first, second = undo.reserve(folder), undo.reserve(folder)
    assert (first[0], second[0]) == (1, 2)
    assert os.stat(first[1]).st_mode & 0o777 == 0o600
    assert undo.stale(folder) == []  # we live
    undo.replay(first[1], routing=True)
    assert undo.reserve(folder)[0] == 1


def test_stale_is_a_list_whose_process_is_gone(tmp_path: Path) -> None:
    folder = str(tmp_path)
    _, path = undo.reserve(folder)
    data = json.loads(Path(path).read_text())
    Path(path).write_text(json.dumps({**data, "birth": "1"}))  # the number of a process is used again
    assert undo.stale(folder) == [path]


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


def test_damaged_list_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text('{"interception": [')
    undo.replay(str(path), routing=True)
    assert not path.exists()
