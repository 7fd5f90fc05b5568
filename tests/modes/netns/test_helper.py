"""The helper's own side, without a namespace."""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Iterator

import pytest

from modes.netns import helper
from modes.netns.helper import Helper


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Helper, socket.socket]]:
    """A helper and the end of the gateway that has joined."""
    monkeypatch.setattr(helper, "transparent", lambda family, kind, protocol=0: socket.socket(family, kind))
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, ours:
        made = Helper(ours)
        made._poll = select.poll()
        made._answer({"second": True})
        _, (fd,), _, _ = socket.recv_fds(theirs, 4096, 1)
        with socket.socket(fileno=fd) as second:
            yield made, second
        for sock in made._seconds.values():
            sock.close()


@pytest.mark.timeout(20)
def test_a_gateway_that_asks_and_never_reads_is_let_go_of(made: tuple[Helper, socket.socket]) -> None:
    """The helper has others to answer, and its owner's end to see."""
    running, second = made
    (ours,) = running._seconds.values()
    for number in range(1, 5000):
        second.send(json.dumps({"sockets": "udp4", "count": 64, "number": number}).encode())
        running._serve_second(ours)
        if not running._seconds:
            break
    assert not running._seconds and ours.fileno() < 0 and running._number == 0


@pytest.mark.parametrize(
    "said", [b"", b"x", b"1", b'"x"', b"[]", b"{}", b'{"number": 1, "sockets": []}', b"[" * 60000, b"9" * 60000]
)
def test_whatever_it_says_the_helper_goes_on(made: tuple[Helper, socket.socket], said: bytes) -> None:
    running, second = made
    (ours,) = running._seconds.values()
    if said:
        second.send(said)
    else:
        second.shutdown(socket.SHUT_WR)
    running._serve_second(ours)
    assert not running._seconds and running._number == 0


def test_it_is_answered(made: tuple[Helper, socket.socket]) -> None:
    running, second = made
    (ours,) = running._seconds.values()
    second.send(b'{"sockets": "udp6", "count": 2, "number": 7}')
    running._serve_second(ours)
    data, fds, _, _ = socket.recv_fds(second, 4096, 8)
    assert json.loads(data) == {"sockets": "udp6", "number": 7}
    for fd in fds:
        with socket.socket(fileno=fd) as sock:
            assert sock.family == socket.AF_INET6
    assert len(fds) == 2 and running._seconds
