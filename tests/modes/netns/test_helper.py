"""The helper's own side, without a namespace."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

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


OWNER = """
import os, socket, subprocess, sys, time
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
words = [sys.executable, "-I", "-S", sys.argv[1], str(theirs.fileno()), str(os.getpid() + int(sys.argv[2]))]
helper = subprocess.Popen(words, pass_fds=(theirs.fileno(),), start_new_session=True, stdout=subprocess.DEVNULL)
theirs.close()
child = os.fork()
if child:
    print(helper.pid, child, flush=True)
    print(helper.wait(), flush=True)
time.sleep(60)
"""


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_it_ends_with_its_owner_whoever_has_the_socket_too() -> None:
    """As after an add-on's `multiprocessing`: kill -9 of the gateway leaves a child with all its descriptors."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER, helper.__file__, "0"], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid, child = map(int, owner.stdout.readline().split())
    try:
        time.sleep(0.5)
        assert not ended(pid)
        owner.kill()
        owner.wait()
        end = time.monotonic() + 10
        while not ended(pid) and time.monotonic() < end:
            time.sleep(0.02)
        assert ended(pid) and not ended(child)
    finally:
        for number in (child, pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        owner.stdout.close()


def test_it_does_not_begin_when_its_owner_is_gone_already() -> None:
    """Its parent is another one then."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER, helper.__file__, "1"], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    _, child = map(int, owner.stdout.readline().split())
    try:
        assert select.select([owner.stdout], [], [], 10)[0], "it waits for somebody"
        assert owner.stdout.readline() == "0\n"
    finally:
        os.kill(child, signal.SIGKILL)
        owner.kill()
        owner.wait()
        owner.stdout.close()
