"""The other end: a thin client, for the command line, tests and scripts of users. It blocks.

with Client.of_confdir() as gateway:
    print(gateway.call("status")["uptime"])
    gateway.call("flows.subscribe", filter="~c 500")
    for event in gateway.events():
        print(event)
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from appliance.control.address import NAME, connect
from appliance.control.protocol import PROTOCOL, ControlError, Lines, dump, load
from appliance.home import expanded

MAX_ANSWER = 64 << 20
MOST_EVENTS = 10_000
"""Events that arrive while an answer is waited for; of more, the oldest go."""


class _Silent(ControlError):
    """Nothing has come for as long as it is waited for."""


class Client:
    """A connection to a running gateway. Raises ControlError: none runs, or it speaks another protocol.

    `timeout`: seconds to wait for an answer, None = for ever.
    """

    def __init__(self, path: Path | str, timeout: float | None = 30.0) -> None:
        self.path = Path(path)
        self.timeout = timeout
        self._lines = Lines(MAX_ANSWER)
        self._events: deque[dict[str, Any]] = deque(maxlen=MOST_EVENTS)
        self._id = 0
        self._give: Sequence[int] = ()
        self._sock = connect(self.path, 10.0)
        try:
            self._sock.settimeout(timeout)
            first = self._read()
            if "error" in first:
                raise _error(first["error"])
            self.hello: dict[str, Any] = first.get("hello", {})
            if self.hello.get("protocol") != PROTOCOL:
                raise ControlError(
                    "failed",
                    f"the gateway (lockgate {self.hello.get('lockgate')}) speaks version {self.hello.get('protocol')} "
                    f"of the control protocol, this program {PROTOCOL}",
                    "use the `lockgate` of the same release",
                )
        except BaseException:
            self._sock.close()
            raise

    @classmethod
    def of_confdir(cls, confdir: Path | str = "~/.lockgate", timeout: float | None = 30.0) -> Self:
        """By the gateway's configuration folder, where it has not been told to put its socket elsewhere."""
        return cls(expanded(confdir) / NAME, timeout)

    def call(self, method: str, /, **params: Any) -> Any:
        """The result. Raises ControlError: as the gateway says, or it has gone."""
        self._id += 1
        try:
            self._sock.sendall(dump({"id": self._id, "method": method, "params": params}))
        except TimeoutError:
            raise ControlError("failed", "the gateway does not read what it is asked", "it may hang") from None
        except OSError:
            pass  # what it said before it went may be the reason
        while True:
            message = self._read()
            if message.get("event") == "descriptors":
                socket.send_fds(self._sock, [b"\n"], self._give)
            elif "event" in message:
                self._events.append(message)
            elif message.get("id") in (self._id, None):
                if "error" in message:
                    raise _error(message["error"])
                return message["result"]

    def call_with(self, descriptors: Sequence[int], method: str, /, **params: Any) -> Any:
        """`call` for a method that takes descriptors, when the gateway asks for them."""
        self._give = descriptors
        try:
            return self.call(method, **params)
        finally:
            self._give = ()

    def events(self, idle: float | None = None) -> Iterator[dict[str, Any]]:
        """What was subscribed to, as it comes; ends when the gateway does. `timeout` does not hold here.

        idle: seconds after which, where nothing comes, an empty one is given.
        """
        try:
            while True:
                if self._events:
                    yield self._events.popleft()
                    continue
                self._sock.settimeout(idle)
                try:
                    message = self._read()
                except _Silent:
                    self._sock.settimeout(self.timeout)
                    yield {}
                    continue
                except ControlError:
                    return
                if "event" in message:
                    yield message
        finally:
            if self._sock.fileno() >= 0:
                self._sock.settimeout(self.timeout)

    def wait_end(self, seconds: float | None = None) -> None:
        """Until the gateway has closed the connection: it has gone then, but for its last breath. Raises ControlError:
        it has not within that time.
        """
        self._sock.settimeout(seconds)
        while self._receive():
            pass

    def _read(self) -> dict[str, Any]:
        while (line := self._lines.next()) is None:
            data = self._receive()
            if not data:
                raise ControlError("failed", "the gateway has closed the connection", "has it been stopped?")
            self._lines.feed(data)
        return load(line)

    def _receive(self) -> bytes:
        try:
            return self._sock.recv(1 << 18)
        except TimeoutError:
            raise _Silent("failed", "the gateway does not answer in time", "it may hang: see its log") from None
        except OSError:
            return b""

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def _error(found: dict[str, Any]) -> ControlError:
    return ControlError(found["code"], found["message"], found["remedy"])
