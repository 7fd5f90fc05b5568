"""A capture that is written while it happens."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.exceptions import OptionsError
from appliance.io.pcapng.blocks import INTERFACE, PACKET, SECRETS, SECTION
from appliance.io.pcapng.live import Capture

LINE = b"CLIENT_RANDOM " + b"11" * 32 + b" " + b"22" * 48


def blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    data = path.read_bytes()
    while data:
        kind, length = struct.unpack_from("<II", data)
        assert struct.unpack_from("<I", data, length - 4)[0] == length
        yield kind, data[8 : length - 4]
        data = data[length:]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Stands in for a packet socket, and for what comes to it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def test_secrets_stand_before_the_frames_they_open(pair: tuple[socket.socket, socket.socket], tmp_path: Path) -> None:
    path = tmp_path / "out.pcapng"
    old = os.umask(0)
    try:
        capture = Capture(str(path), "lg0")
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600
    ours, theirs = pair
    capture.start(ours)
    before = time.time()
    theirs.send(b"frame one")
    time.sleep(0.02)
    capture.secrets(None, LINE)  # a client's are known when what it sent has come
    theirs.send(b"frame two!!")
    capture.stop()
    capture.stop()
    capture.secrets(None, LINE)  # a context in use may go on calling
    found = list(blocks(path))
    assert [kind for kind, _ in found] == [SECTION, INTERFACE, SECRETS, PACKET, PACKET]
    assert LINE in found[2][1]
    _, high, low, size, _ = struct.unpack_from("<IIIII", found[3][1])
    assert found[3][1][20 : 20 + size] == b"frame one" and capture.frames == 2
    assert abs((high << 32 | low) / 1e6 - before) < 5


def test_frames_are_in_the_file_while_it_goes_on(pair: tuple[socket.socket, socket.socket], tmp_path: Path) -> None:
    path = tmp_path / "out.pcapng"
    capture = Capture(str(path), "lg0")
    capture.start(pair[0])
    pair[1].send(bytes(1000))
    end = time.monotonic() + 5
    while path.stat().st_size < 1000 and time.monotonic() < end:
        time.sleep(0.02)
    assert [kind for kind, _ in blocks(path)][-1] == PACKET
    capture.stop()


def test_a_full_disk_is_told_and_ends_nothing(
    pair: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    capture = Capture(str(tmp_path / "out"), "lg0")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, capture._file.fileno())
    os.close(full)
    capture.start(pair[0])
    capture.secrets(None, LINE)
    pair[1].send(b"frame")
    capture.stop()
    assert caplog.text.count("No space left") == 1
    with pytest.raises(OptionsError, match="No such file"):
        Capture(str(tmp_path / "no" / "such"), "lg0")
