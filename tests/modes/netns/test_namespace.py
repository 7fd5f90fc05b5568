"""The gateway's side of the talk with a helper, which is played here."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from appliance.exceptions import ModeError
from modes.netns import Namespace


class Helper:
    """The other end of a namespace's socket pair."""

    def __init__(self, made: Namespace) -> None:
        self._end = made._theirs

    def say(self, said: object, *fds: int) -> None:
        socket.send_fds(self._end, [json.dumps(said).encode()], fds)

    def asked(self) -> Any:
        return json.loads(self._end.recv(65536))


@pytest.fixture
def made() -> Iterator[Namespace]:
    made = Namespace()
    yield made
    made.close()


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_a_late_answer_is_not_the_answer_to_the_next_question(made: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = Helper(made)
    with pytest.raises(ModeError, match="did not answer"):
        made.ask({"sockets": "raw6", "count": 1}, 0.05)
    began = time.monotonic()
    with pytest.raises(OSError, match="has not answered yet"):
        made.fresh("udp4")
    assert time.monotonic() - began < 0.04, "it holds the loop once, not again and again"
    assert helper.asked()["number"] == 1
    monkeypatch.setattr(made, "_late", 0.0)
    before = descriptors()
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as late, socket.socket() as right:
        helper.say({"sockets": "raw6", "number": 1}, late.fileno())
        helper.say({"exit": 0, "number": 0})
        helper.say({"sockets": "udp4", "number": 2}, right.fileno())
        with made.fresh("udp4") as sock:
            assert sock.family == socket.AF_INET
    assert descriptors() == before, "what was late is closed"
    assert helper.asked()["number"] == 2
    assert [said["exit"] for said in made._unasked] == [0]


async def test_a_helper_that_is_heard_is_asked_again(made: Namespace) -> None:
    helper = Helper(made)
    adopted = Namespace.adopt(made._control, {})
    told: list[object] = []
    adopted.heard = told.append
    with pytest.raises(ModeError):
        adopted.ask({"second": True}, 0.02)
    before = descriptors()
    with socket.socket() as late:
        helper.say({"second": True, "number": 1}, late.fileno())
        await asyncio.sleep(0.02)
    helper.say({"second": True, "number": 2})
    assert adopted.ask({"second": True}) == ({"second": True, "number": 2}, [])
    assert descriptors() == before and told == []
    helper.say({"exit": 3, "number": 0})
    await asyncio.sleep(0.02)
    assert told == [{"exit": 3, "number": 0}]
    adopted.close()


@pytest.mark.parametrize("said", [None, [], {}, {"number": "1"}, "x"])
async def test_one_that_talks_nonsense_is_gone(made: Namespace, said: object) -> None:
    """It may be another user's, who has joined."""
    helper = Helper(made)
    adopted = Namespace.adopt(made._control, {})
    ended: list[bool] = []
    adopted.ended = lambda: ended.append(True)
    before = descriptors()
    with socket.socket() as beside:
        helper.say(said, beside.fileno())
        await asyncio.sleep(0.02)
    assert ended == [True] and descriptors() == before
    helper.say(said)
    with pytest.raises(ModeError, match="is gone"):
        adopted.ask({"second": True})
    adopted.close()
