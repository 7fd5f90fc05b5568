"""Why a stream ended, as a value. Pending reads raise it; cancellation means shutdown and nothing else."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["closed", "reset", "killed", "timeout", "tls", "blocked", "shutdown", "protocol"]


class Reason(NamedTuple):
    """kind: what happened, for code; text: one line for a person; detail: more for code, such as the TLS alert."""

    kind: Kind
    text: str
    detail: str = ""

    def error(self) -> Gone:
        return _ERRORS.get(self.kind, Gone)(self)


class Gone(Exception):
    """A stream is no more. Raised by reads and waits on it."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.text)
        self.reason = reason


class Reset(Gone):
    """The peer reset the connection, or the network did."""


class Killed(Gone):
    """An add-on killed the flow."""


class TimedOut(Gone):
    """A deadline of ours passed."""


class TlsFailed(Gone):
    """TLS failed: handshake, verification, or a fatal alert later."""


_ERRORS: dict[str, type[Gone]] = {"reset": Reset, "killed": Killed, "timeout": TimedOut, "tls": TlsFailed}

CLOSED = Reason("closed", "connection closed")
KILLED = Reason("killed", "Connection killed.")
SHUTDOWN = Reason("shutdown", "the gateway is shutting down")
