"""HTTP status codes by name (`status_codes.NOT_FOUND`) and their reason phrases (`status_codes.RESPONSES`)."""

from __future__ import annotations

from http import HTTPStatus
from types import MappingProxyType

globals().update({status.name: status.value for status in HTTPStatus})


def __getattr__(name: str) -> int:
    raise AttributeError(f"no status code is called {name}")  # and the type checker learns that names are int


# Python's table differs between releases where RFC 9110 §15 renamed things.
RESPONSES = MappingProxyType(
    {status.value: status.phrase for status in HTTPStatus}
    | {413: "Content Too Large", 414: "URI Too Long", 416: "Range Not Satisfiable", 422: "Unprocessable Content"}
)
