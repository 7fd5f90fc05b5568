"""Leaving secrets out of what is exported. What is in the store stays as it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from appliance.flow import Flow
from appliance.headers import Headers
from appliance.http import HTTPFlow

PLACEHOLDER: Final = "[redacted]"
SECRETS: Final = (
    "authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "x-auth-token", "x-csrf-token",
    "api_key", "apikey", "access_token", "refresh_token", "id_token", "token", "password", "passwd", "secret",
    "client_secret",
)  # fmt: skip
"""What `--redact` leaves out, beside `store_redact`."""


class Redactor:
    """Changes flows in place: values of header fields, parameters of the query and of forms with these names."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {name.strip().lower() for name in names}
        self._fields = {name.encode("utf-8", "surrogateescape") for name in self._names}

    def __call__(self, flow: Flow) -> None:
        if not isinstance(flow, HTTPFlow):
            return
        request = flow.request
        self._headers(request.headers)
        if request.trailers:
            self._headers(request.trailers)
        pairs = list(request.query.items(multi=True))
        if any(name.lower() in self._names for name, _ in pairs):
            request.query = [(name, self._value(name, value)) for name, value in pairs]
        if request.raw_content:
            form = list(request.urlencoded_form.items(multi=True))
            if any(name.lower() in self._names for name, _ in form):
                request.urlencoded_form = [(name, self._value(name, value)) for name, value in form]
        if flow.response is not None:
            self._headers(flow.response.headers)
            if flow.response.trailers:
                self._headers(flow.response.trailers)

    def _headers(self, headers: Headers) -> None:
        if not self._fields.isdisjoint(headers.names()):
            hidden = PLACEHOLDER.encode()
            headers.fields = tuple(
                (name, hidden if lower in self._fields else value)
                for (name, value), lower in zip(headers.fields, headers.names(), strict=True)
            )

    def _value(self, name: str, value: str) -> str:
        return PLACEHOLDER if name.lower() in self._names else value
