"""What is written in pieces is written whole, in order, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from appliance.store import segment


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def content(fd: int) -> bytes:
    return os.pread(fd, 1 << 20, 0)


@pytest.mark.parametrize("count", [1, 511, 512, 513, 3000])
def test_many_pieces(file: int, count: int) -> None:
    pieces = [b"%d," % number for number in range(count)]
    segment.write(file, [b"head"], 0)
    segment.write(file, pieces, 4)
    assert content(file) == b"head" + b"".join(pieces)


def test_what_the_system_takes_in_parts(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces, taken, real = [b"%d," % number for number in range(1500)], [], os.pwrite

    def in_parts(fd: int, buffers: Sequence[bytes], at: int) -> int:
        taken.append(at)
        return real(fd, b"".join(buffers)[: 7 * len(taken)], at)

    monkeypatch.setattr(os, "pwritev", in_parts)
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:1000], at))
    segment.write(file, pieces, 0)
    assert content(file) == b"".join(pieces)
    assert len(taken) == 3


@pytest.mark.parametrize("room", [0, 3, 100])
def test_no_room(file: int, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    real = os.pwrite

    def full(fd: int, data: bytes, at: int) -> int:
        raise OSError(28, "No space left on device")

    segment.write(file, [b"before"], 0)
    monkeypatch.setattr(os, "pwritev", lambda fd, buffers, at: real(fd, b"".join(buffers)[:room], at))
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        segment.write(file, [b"x" * 90, b"y" * 90], 6)
    assert content(file) == b"before"
