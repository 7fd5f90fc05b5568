"""Frames of a packet socket as they come, and the TLS secrets that open them, in one pcapng file."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import struct
import threading
import time
from collections import deque

from appliance.exceptions import OptionsError
from appliance.home import expanded
from appliance.io.pcapng.blocks import ETHERNET, SNAPLEN, interface, packet, secrets, section
from appliance.log import RateLimited

logger = logging.getLogger(__name__)

_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("qq")
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_AT_ONCE = 256
"""Frames taken between two looks at the clock."""
DELAY_SECONDS, MOST_HELD = 0.25, 64 << 20
"""Frames (bytes) wait so long for the secrets that open them: those of a client are known when its data has come."""


class Capture:
    """A thread of its own writes, so that a slow disk delays nobody; what was written is whole at any time.

    frames: written. dropped: those the kernel had no room for, known at the end.
    """

    def __init__(self, path: str, name: str) -> None:
        """name: of the interface, for readers. :raises OptionsError: the file cannot be made."""
        self.frames = self.dropped = 0
        self._path = path
        self._lock = threading.Lock()
        self._told = RateLimited(logger, 1)
        self._held: deque[tuple[float, bytes]] = deque()  # when it was taken (monotonic), block
        self._size = 0
        self._thread: threading.Thread | None = None
        self._buffer = memoryview(bytearray(SNAPLEN))
        self._wake, self._woken = -1, -1
        try:  # its owner's alone: the secrets are in it
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self._file = open(os.open(expanded(path, "exec_pcap"), flags, 0o600), "wb")  # noqa: SIM115
            self._file.write(section() + interface(ETHERNET, name.encode()))
            self._file.flush()
        except OSError as error:
            raise OptionsError(f"{path}: cannot be written: {error.strerror}") from None

    def start(self, sock: socket.socket) -> None:
        """sock: of AF_PACKET and Ethernet, non-blocking; ours from now on."""
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, args=(sock,), name="capture", daemon=True)
        self._thread.start()

    def secrets(self, conn: object, line: bytes) -> None:
        """A key log callback of OpenSSL: what it says is in the file before the frames that it opens."""
        self._write(*secrets((line,)))

    def stop(self) -> None:
        """Write what has come, and close; idempotent."""
        if self._thread is not None:
            os.close(self._woken)
            self._thread.join()
            os.close(self._wake)
            self._thread = None
        with self._lock, contextlib.suppress(OSError):
            self._file.close()

    def _write(self, *blocks: bytes) -> None:
        try:
            with self._lock:
                if not self._file.closed:
                    self._file.write(b"".join(blocks))
                    self._file.flush()
        except OSError as error:
            self._told.log(logging.ERROR, error.errno, "%s: cannot be written: %s", self._path, error.strerror)

    def _run(self, sock: socket.socket) -> None:
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        with sock:
            ending = False
            while not ending:
                wait = DELAY_SECONDS * 1000 if self._held else None
                ending = any(fd == self._wake for fd, _ in poll.poll(wait))
                while self._take(sock):
                    self._pass_on()
                self._pass_on(all=ending)
            with contextlib.suppress(OSError):
                data = sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
                self.dropped = struct.unpack("II", data)[1]

    def _pass_on(self, all: bool = False) -> None:
        """What has waited long enough goes into the file."""
        before = time.monotonic() - DELAY_SECONDS
        found = []
        while self._held and (all or self._held[0][0] <= before or self._size > MOST_HELD):
            _, block = self._held.popleft()
            self._size -= len(block)
            found.append(block)
        if found:
            self._write(*found)

    def _take(self, sock: socket.socket) -> bool:
        """Frames that are there; whether there may be more."""
        now = time.monotonic()
        try:
            for _ in range(_AT_ONCE):
                size, ancillary, _, _ = sock.recvmsg_into([self._buffer], 64)
                stamp = time.time()
                for _, kind, value in ancillary:
                    if kind == _SO_TIMESTAMPNS:
                        seconds, nanoseconds = _TIMESPEC.unpack_from(value)
                        stamp = seconds + nanoseconds / 1e9
                block = packet(bytes(self._buffer[:size]), stamp)
                self._held.append((now, block))
                self._size += len(block)
                self.frames += 1
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:  # the interface has gone
            logger.debug("capture: %s", error)
            return False
        return True
