"""HTTP status codes by name (`status_codes.NOT_FOUND`) and their reason phrases (`status_codes.RESPONSES`)."""

from __future__ import annotations

from http import HTTPStatus
from types import MappingProxyType

globals().update({status.name: status.value for status in HTTPStatus})
#: Names that scripts know, and two codes that servers made up.
globals().update(
    SWITCHING=101, MULTIPLE_CHOICE=300, NOT_ALLOWED=405, PROXY_AUTH_REQUIRED=407, PAYLOAD_TOO_LARGE=413,
    REQUEST_URI_TOO_LONG=414, UNPROCESSABLE_CONTENT=422, NO_RESPONSE=444, CLIENT_CLOSED_REQUEST=499,
    INSUFFICIENT_STORAGE_SPACE=507,
)  # fmt: skip


def __getattr__(name: str) -> int:
    raise AttributeError(f"no status code is called {name}")  # and the type checker learns that names are int


# Python's table differs between releases where RFC 9110 §15 renamed things.
RESPONSES = MappingProxyType(
    {status.value: status.phrase for status in HTTPStatus}
    | {413: "Content Too Large", 414: "URI Too Long", 416: "Range Not Satisfiable", 422: "Unprocessable Content"}
)
