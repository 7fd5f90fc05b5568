"""Leaving secrets out of what is exported. What is in the store stays as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from appliance.flow import Flow
from appliance.http import HTTPFlow, Message

PLACEHOLDER: Final = "[redacted]"
SECRETS: Final = (
    "authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "x-auth-token", "x-csrf-token",
    "api_key", "apikey", "access_token", "refresh_token", "id_token", "token", "password", "passwd", "secret",
    "client_secret",
)  # fmt: skip
"""What `--redact` leaves out, beside `store_redact`."""


_PARAMETER: Final = re.compile(rb"([?&#;])([^=?&#;]+)=([^&#;]*)")
_JSON: Final = json.JSONDecoder()


class Redactor:
    """Changes flows in place: values of header fields, of parameters in URLs and forms, and of members of JSON objects
    with these names. What a flow was before it was edited goes altogether.
    """

    def __init__(self, names: Iterable[str]) -> None:
        lower = {name.strip().lower() for name in names} - {""}
        self._names = {name.encode("utf-8", "surrogateescape") for name in lower}
        self._member = re.compile(rf'"(?:{"|".join(map(re.escape, lower))})"\s*:\s*', re.IGNORECASE)

    def __call__(self, flow: Flow) -> None:
        flow._backup = None
        if not isinstance(flow, HTTPFlow):
            return
        flow.request.raw_path = self._parameters(flow.request.raw_path)
        self._message(flow.request)
        if flow.response is not None:
            self._message(flow.response)
        for said in flow.websocket.messages if flow.websocket is not None else ():
            said.content = self._body(said.content, "")
        if b"proxy-authorization" in self._names and "proxyauth" in flow.metadata:
            flow.metadata["proxyauth"] = (flow.metadata["proxyauth"][0], PLACEHOLDER)

    def _message(self, message: Message) -> None:
        for headers in (message.headers, message.trailers):
            if headers:
                headers.fields = tuple((name, self._field(name.lower(), value)) for name, value in headers.fields)
        kind = message.headers.get("content-type", "").lower()
        if message.tee is not None:  # the beginning of a larger one
            message.tee.content = self._body(message.tee.content, kind)
        try:
            content = message.content
        except ValueError:
            return  # nobody can read it
        if content and (hidden := self._body(content, kind)) is not content:
            message.content = hidden

    def _field(self, name: bytes, value: bytes) -> bytes:
        """Many have URLs in them: Referer, Location, Link …"""
        return PLACEHOLDER.encode() if name in self._names else self._parameters(value)

    def _body(self, content: bytes, kind: str) -> bytes:
        """The same object if there is nothing to hide."""
        if "urlencoded" in kind:
            hidden = self._parameters(b"&" + content)[1:]
            return content if hidden == content else hidden
        return self._json(content) if "json" in kind or content.lstrip()[:1] in (b"{", b"[") else content

    def _parameters(self, text: bytes) -> bytes:
        """Of a query, or of a fragment, where OAuth has its tokens."""
        return _PARAMETER.sub(self._parameter, text)

    def _parameter(self, found: re.Match[bytes]) -> bytes:
        name = unquote_to_bytes(found[2]).lower()
        return b"%b%b=%b" % (found[1], found[2], quote(PLACEHOLDER).encode()) if name in self._names else found[0]

    def _json(self, content: bytes) -> bytes:
        """Where it is cut off in such a value, or is no JSON there, all the rest goes."""
        text = content.decode("utf-8", "surrogateescape")
        out, at = [], 0
        while (member := self._member.search(text, at)) is not None:
            out += [text[at : member.end()], f'"{PLACEHOLDER}"']
            try:
                at = _JSON.raw_decode(text, member.end())[1]
            except (ValueError, RecursionError):
                at = len(text)
        return "".join([*out, text[at:]]).encode("utf-8", "surrogateescape") if out else content
