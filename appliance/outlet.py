"""Text for somebody who may not read it: a stopped terminal (Ctrl-S) or a full pipe holds nobody up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final, TextIO

MOST_WAITING: Final = 1 << 20
"""Bytes that wait for a slow reader; further texts are left out, and their number is told."""
AGAIN_SECONDS: Final = 0.1
LAST_SECONDS: Final = 0.5
"""For which a reader is waited for at the end."""
_AT_ONCE: Final = 1 << 16


class Outlet:
    """Writes to a terminal, a pipe or a socket without waiting; to anything else (a file) as ever. From any thread.

    Looks enough like a stream for a logging handler.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"
        self._send, self._close = _unwaiting(stream)
        self._lock = threading.Lock()
        self._waiting = bytearray()
        self._lost = 0
        self._timer: asyncio.TimerHandle | None = None

    def write(self, text: str) -> None:
        """What cannot be encoded is spelt out. Raises OSError, ValueError: nobody reads it any more."""
        data = text.encode(self.encoding, "backslashreplace")
        with self._lock:
            if self._send is None:
                self.stream.write(data.decode(self.encoding))
                self.stream.flush()
            elif self._waiting and len(self._waiting) + len(data) > MOST_WAITING:
                self._lost += 1
                self._pour()
            else:
                self._waiting += data
                self._pour()

    def _pour(self) -> None:
        assert self._send is not None
        try:
            while self._waiting or self._lost:
                if not self._waiting:
                    self._waiting += b"(%d more were left out here: this is read too slowly)\n" % self._lost
                    self._lost = 0
                del self._waiting[: self._send(bytes(self._waiting[:_AT_ONCE]))]
        except BlockingIOError:
            if self._timer is None:
                with contextlib.suppress(RuntimeError):  # in a thread: the next text tries again
                    self._timer = asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._again)
        except OSError:
            self._waiting.clear()
            raise

    def _again(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._timer = None
            self._pour()

    def flush(self) -> None:
        """Nothing is held that could be written."""

    def drain(self, seconds: float) -> None:
        """Wait for a slow reader once, at the end."""
        end = time.monotonic() + seconds
        with self._lock, contextlib.suppress(OSError):
            while (self._waiting or self._lost) and time.monotonic() < end:
                self._pour()
                time.sleep(0.01)

    def isatty(self) -> bool:
        return self.stream.isatty()

    def __del__(self) -> None:
        self._close()


def _unwaiting(stream: TextIO) -> tuple[Callable[[bytes], int] | None, Callable[[], None]]:
    """What sends without waiting, None where nothing would have to be waited for; and what ends it.

    By an open file of our own: that of the descriptor is others' too, who would not expect it not to wait.
    """
    try:
        fd = stream.fileno()
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):
            sock = socket.socket(fileno=os.dup(fd))
            stream.flush()  # what comes from here on does not go through its buffer
            return lambda data: sock.send(data, socket.MSG_DONTWAIT), sock.close
        if stat.S_ISFIFO(mode) or os.isatty(fd):
            own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            stream.flush()
            return partial(os.write, own), partial(os.close, own)
    except (OSError, ValueError, AttributeError):
        pass
    return None, lambda: None
