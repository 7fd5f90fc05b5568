"""Leaving secrets out of what is exported. What is in the store stays as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from appliance import encoding
from appliance.flow import Flow
from appliance.headers import parse_content_type
from appliance.http import HTTPFlow, Message
from appliance.multipart import boundary_of
from appliance.store.records import Kept

PLACEHOLDER: Final = "[redacted]"
SECRETS: Final = (
    "authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "x-auth-token", "x-csrf-token",
    "api_key", "apikey", "access_token", "refresh_token", "id_token", "token", "password", "passwd", "secret",
    "client_secret",
)  # fmt: skip
"""What `--redact` leaves out, beside `store_redact`."""


_PARAMETER: Final = re.compile(rb"([?&#;])([^=?&#;]+)=([^&#;]*)")
_PART_NAME: Final = re.compile(
    rb'^content-disposition:(?:[^\r\n]|\r?\n[ \t])*?[;\s]name="?([^"\r\n;]*)', re.IGNORECASE | re.MULTILINE
)
_PART_TYPE: Final = re.compile(rb"^content-type:([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_BLANK_LINE: Final = re.compile(rb"\r?\n\r?\n")
_JSON: Final = json.JSONDecoder()


class Redactor:
    """Changes flows in place: values of header fields, of parameters in URLs and forms, and of members of JSON objects
    with these names. What a flow was before it was edited goes altogether, and so does a body that cannot be read for
    its content coding. Of raw TCP and UDP messages only JSON is known.
    """

    def __init__(self, names: Iterable[str]) -> None:
        lower = {name.strip().lower() for name in names} - {""}
        self._names = {name.encode("utf-8", "surrogateescape") for name in lower}
        self._member = re.compile(
            # One of the names, or any that has an escape in it.
            rf'(?:"(?:{"|".join(map(re.escape, lower))})"|(?<!\\)("[^"\\]*+\\(?:[^"\\]|\\.)*+"))\s*:\s*',
            re.IGNORECASE | re.DOTALL,
        )

    def __call__(self, flow: Flow) -> list[str]:
        """What had to be left out altogether, and why."""
        flow._backup = None
        if not isinstance(flow, HTTPFlow):
            for one in getattr(flow, "messages", ()):
                one.content = self._body(one.content, "")
            return []
        flow.request.raw_path = self._parameters(flow.request.raw_path)
        left_out = [f"the request's {why}"] if (why := self._message(flow.request)) else []
        if flow.response is not None and (why := self._message(flow.response)):
            left_out.append(f"the response's {why}")
        for said in flow.websocket.messages if flow.websocket is not None else ():
            said.content = self._body(said.content, "")
        if b"proxy-authorization" in self._names and "proxyauth" in flow.metadata:
            flow.metadata["proxyauth"] = (flow.metadata["proxyauth"][0], PLACEHOLDER)
        return left_out

    def _message(self, message: Message) -> str:
        """What had to be left out of it, "" = nothing."""
        for headers in (message.headers, message.trailers):
            if headers:
                headers.fields = tuple((name, self._field(name.lower(), value)) for name, value in headers.fields)
        kind = message.headers.get("content-type", "")
        coding = message.headers.get("content-encoding", "")
        if (kept := message.tee) is not None and kept.content:  # the beginning of a larger one
            if encoding.names(coding):  # which decoders read as far as it goes
                message.tee = Kept(kept.size, kept.sha256, b"", "left out: it cannot be redacted")
                return f"body is left out: the beginning of {coding[:40]!r} cannot be redacted"
            kept.content = self._body(kept.content, kind)
        try:
            content = message.content
        except ValueError as error:  # others may read it, as far as it goes or in spite of what it is called
            message.moved = len(message.raw_content or b"")
            message.raw_content = None
            return f"body is left out: it cannot be redacted: {error}"
        if content and (hidden := self._body(content, kind)) is not content:
            message.content = hidden
        return ""

    def _field(self, name: bytes, value: bytes) -> bytes:
        """Many have URLs in them: Referer, Location, Link …"""
        return PLACEHOLDER.encode() if name in self._names else self._parameters(value)

    def _body(self, content: bytes, kind: str) -> bytes:
        """The same object if there is nothing to hide."""
        main, sub, _ = parse_content_type(kind) or ("", kind.lower(), {})
        if "urlencoded" in sub:
            hidden = self._parameters(b"&" + content)[1:]
            return content if hidden == content else hidden
        if main == "multipart":
            hidden = self._multipart(content, kind)
            return content if hidden == content else hidden
        if "json" in sub or sub == "event-stream" or content.lstrip()[:1] in (b"{", b"["):
            return self._json(content)
        return content

    def _parameters(self, text: bytes) -> bytes:
        """Of a query, or of a fragment, where OAuth has its tokens."""
        return _PARAMETER.sub(self._parameter, text)

    def _parameter(self, found: re.Match[bytes]) -> bytes:
        return b"%b%b=%b" % (found[1], found[2], quote(PLACEHOLDER).encode()) if self._secret(found[2]) else found[0]

    def _secret(self, name: bytes) -> bool:
        """Of a field of a form: also as ``user[name]``."""
        plain = unquote_to_bytes(name).strip().lower()
        return plain in self._names or (plain[-1:] == b"]" and plain[plain.rfind(b"[") + 1 : -1] in self._names)

    def _multipart(self, content: bytes, kind: str) -> bytes:
        boundary = b"--" + (boundary_of(kind) or content.partition(b"\n")[0].strip()[2:])
        if boundary == b"--":
            return content
        first, *parts = content.split(boundary)
        made = [first]
        for part in parts:
            blank = _BLANK_LINE.search(part)
            if blank is None:  # the end, or the end of what is kept
                made.append(part)
                continue
            head, body = part[: blank.end()], part[blank.end() :]
            name = _PART_NAME.search(head)
            if name is not None and self._secret(name[1]):
                body = PLACEHOLDER.encode() + b"\r\n"
            else:
                of = _PART_TYPE.search(head)
                inner = "" if of is None else of[1].decode("latin-1").strip()
                body = self._body(body, "" if inner.lower().startswith("multipart") else inner)
            made.append(head + body)
        return boundary.join(made)

    def _json(self, content: bytes) -> bytes:
        """Where it is cut off in such a value, or is no JSON there, all the rest goes."""
        charset = json.detect_encoding(content)
        if charset.startswith("utf-8"):
            hidden = self._members(content.decode("utf-8", "surrogateescape"))
            return content if hidden is None else hidden.encode("utf-8", "surrogateescape")
        hidden = self._members(content.decode(charset, "replace"))
        return content if hidden is None else hidden.encode(charset, "replace")

    def _members(self, text: str) -> str | None:
        """None: there is nothing to hide."""
        out, at, start = [], 0, 0
        while (member := self._member.search(text, start)) is not None:
            if member[1] is not None and not self._named(member[1]):
                start = member.start() + 1  # where it is no JSON, a name may follow inside
                continue
            start = member.end()
            out += [text[at:start], f'"{PLACEHOLDER}"']
            try:
                at = start = _JSON.raw_decode(text, start)[1]
            except (ValueError, RecursionError):
                at = start = len(text)
        return "".join([*out, text[at:]]) if out else None

    def _named(self, key: str) -> bool:
        try:
            name: str = json.loads(key, strict=False)
        except ValueError:
            return False
        return name.lower().encode("utf-8", "surrogatepass") in self._names
