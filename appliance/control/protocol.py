"""The lines of the control socket, without any I/O: JSON objects, one a line, UTF-8, at most `MAX_LINE` bytes.

A request is ``{"id": 1, "method": "options.get", "params": {…}}``; its answer has the same id and either `result` or
`error`. Lines without an id are the greeting (`hello`) and what was subscribed to (`event`).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, NoReturn, TypeGuard

from appliance.exceptions import LockgateError

PROTOCOL = 1
"""Grows when something that was there changes its meaning or goes; what is merely new does not count."""
MAX_LINE = 4 << 20
"""Bytes of a request: a body of 3 MiB in base64."""
MAX_ID = 128
"""Characters of a request's id."""

Code = Literal["bad_request", "bad_params", "unknown_method", "not_found", "refused", "failed", "busy"]
CODES: dict[Code, str] = {
    "bad_request": "The line is no request.",
    "bad_params": "A parameter is missing, unknown or of the wrong type.",
    "unknown_method": "There is no such method.",
    "not_found": "What was named (a flow, a mode, a script, a subscription) is not there.",
    "refused": "The gateway, or an add-on, does not accept it. Nothing was changed.",
    "failed": "It was tried and did not work.",
    "busy": "A bound is reached.",
}


class ControlError(LockgateError):
    """An answer that is an error. `remedy`: what to do about it, "" where there is nothing to say."""

    def __init__(self, code: Code, message: str, remedy: str = "") -> None:
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.code = code
        self.message = message
        self.remedy = remedy

    @classmethod
    def of(cls, error: LockgateError, code: Code = "refused") -> ControlError:
        """`error` as an answer; its texts say ``cause; remedy``."""
        if isinstance(error, ControlError):
            return error
        text = str(error)
        message, _, remedy = ("", "", "") if "\n" in text else text.partition("; ")
        return cls(code, message or text, remedy)


class Request(NamedTuple):
    id: int | str
    method: str
    params: dict[str, Any]


class Lines:
    """Cuts a stream into lines. `feed` raises ControlError once a line is longer than `limit`: then nothing follows."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self.limit = limit
        self._buffer = bytearray()
        self._looked = 0  # bytes of the buffer that hold no line feed

    def __len__(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take what was received. Raises ControlError."""
        self._buffer += data
        if len(self._buffer) > self.limit and self._buffer.find(b"\n", 0, self.limit + 1) < 0:
            raise ControlError(
                "bad_request",
                f"the line is longer than {self.limit:,} bytes",
                "send less at once; nothing more is read",
            )

    def next(self) -> bytes | None:
        """The next whole line without its end; None: not yet. Empty ones are left out. Raises ControlError."""
        while (end := self._buffer.find(b"\n", self._looked)) >= 0:
            line = bytes(self._buffer[:end]).strip(b" \t\r")
            del self._buffer[: end + 1]
            self._looked = 0
            if end > self.limit:
                raise ControlError("bad_request", f"the line is longer than {self.limit:,} bytes", "send less at once")
            if line:
                return line
        self._looked = len(self._buffer)
        return None


def parse(line: bytes) -> Request:
    """A request from its line. Raises ControlError."""
    message = load(line)
    known = {"id", "method", "params"}
    if unknown := message.keys() - known:
        raise ControlError(
            "bad_request", f"{min(unknown)!r} is no part of a request", "there are id, method and params"
        )
    request_id, method, params = message.get("id"), message.get("method"), message.get("params", {})
    if not is_id(request_id):
        raise ControlError(
            "bad_request", "a request needs an id", f"give a number, or a text of up to {MAX_ID} characters"
        )
    if not isinstance(method, str):
        raise ControlError("bad_request", "a request needs a method", 'such as {"id": 1, "method": "status"}')
    if not isinstance(params, dict):
        raise ControlError("bad_request", "params should be an object", 'such as {"names": ["mode"]}')
    return Request(request_id, method, params)


def is_id(value: object) -> TypeGuard[int | str]:
    if isinstance(value, bool):
        return False
    return (isinstance(value, int) and abs(value) < 1 << 53) or (isinstance(value, str) and len(value) <= MAX_ID)


def load(line: bytes) -> dict[str, Any]:
    """A line as an object. Raises ControlError, whatever the bytes are."""
    try:
        value = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        text = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ControlError("bad_request", f"not JSON: {text[:200]}", "send one object a line") from None
    if not isinstance(value, dict):
        raise ControlError("bad_request", "not a JSON object", 'send lines such as {"id": 1, "method": "status"}')
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def dump(message: Mapping[str, Any]) -> bytes:
    """An object as a line. ASCII alone, so that no terminal can be steered and no surrogate breaks it."""
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def result(request_id: int | str, value: Any) -> bytes:
    return dump({"id": request_id, "result": value})


def failure(request_id: int | str | None, error: ControlError) -> bytes:
    """`request_id` None: the line was none that could be answered."""
    return dump({"id": request_id, "error": {"code": error.code, "message": error.message, "remedy": error.remedy}})


def nearest(name: str, known: Iterable[str]) -> str:
    """``did you mean X?``, or ""."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]}?" if close else ""
