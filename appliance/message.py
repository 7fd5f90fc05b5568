"""What requests and responses share: version, headers, body, trailers, times."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Self

from . import charset, encoding
from .connection import State
from .headers import Field, Headers, assemble_content_type, parse_content_type, to_bytes, to_str

Stream = bool | Callable[[bytes], bytes | Iterable[bytes]]
HeaderSource = Mapping[str, str] | Mapping[str, bytes] | Iterable[Field]
_CACHED = 1 << 20  # decoded bodies up to this many bytes are kept for the next read


class Message:
    """An HTTP message. What came over the wire is kept as bytes in `raw_*`; the properties decode and encode.

    `raw_content` is the body as transferred (content codings still applied), None when it is missing because it was
    streamed; `moved` is then its size. `stream`: False, True, or a callable that gets each piece and finally b"" and
    returns bytes or an iterable of bytes to send in its place. Times are seconds since the epoch.
    """

    raw_http_version: bytes
    headers: Headers
    raw_content: bytes | None
    trailers: Headers | None
    timestamp_start: float
    timestamp_end: float | None
    stream: Stream = False
    moved: int | None = None  # bytes of a body that streamed past; not part of the state
    tee: Any = None  # what the flow store keeps of such a body, or has kept (`store.records.Kept`); nor is this
    _decoded: tuple[bytes, str, bytes] | None = None

    _raw: ClassVar[frozenset[str]] = frozenset({"http_version", "content"})  # in `data` and the state: without raw_
    _plain: ClassVar[tuple[str, ...]] = ("headers", "trailers", "timestamp_start", "timestamp_end")

    @property
    def data(self) -> MessageData:
        """The raw attributes under their short names: `data.content`, `data.path` … are bytes."""
        return MessageData(self)

    @property
    def http_version(self) -> str:
        return to_str(self.raw_http_version)

    @http_version.setter
    def http_version(self, value: str | bytes) -> None:
        self.raw_http_version = to_bytes(value)

    @property
    def is_http10(self) -> bool:
        return self.raw_http_version == b"HTTP/1.0"

    @property
    def is_http11(self) -> bool:
        return self.raw_http_version == b"HTTP/1.1"

    @property
    def is_http2(self) -> bool:
        return self.raw_http_version == b"HTTP/2.0"

    @property
    def is_http3(self) -> bool:
        return self.raw_http_version == b"HTTP/3"

    # Body

    def get_content(self, strict: bool = True, limit: int = encoding.DECODED_LIMIT) -> bytes | None:
        """The body without its content codings, at most `limit` bytes; None when it is missing.

        Raises ValueError when it cannot be decoded; the raw body is given instead when not `strict`.
        """
        raw = self.raw_content
        if not raw:
            return raw
        coding = self.headers.get("content-encoding")
        if not coding:
            return raw
        cached = self._decoded
        if cached and cached[0] is raw and cached[1] == coding and len(cached[2]) <= limit:
            return cached[2]
        try:
            content = encoding.decode(raw, coding, limit)
        except ValueError:
            if strict:
                raise
            return raw
        if len(content) <= _CACHED:
            self._decoded = raw, coding, content
        return content

    def set_content(self, value: bytes | None) -> None:
        """Set the body, applying the codings of Content-Encoding (which goes when it is unknown).

        Content-Length follows, unless there is a Transfer-Encoding. Raises TypeError for anything but bytes or None.
        """
        if value is None:
            self.raw_content = None
            return
        if not isinstance(value, bytes):
            raise TypeError(f"content must be bytes, not {type(value).__name__}; use .text for str")
        headers = self.headers
        if coding := headers.get("content-encoding"):
            try:
                value = encoding.encode(value, coding)
            except ValueError:
                del headers["content-encoding"]
        self.raw_content = value
        if "transfer-encoding" not in headers:
            headers["content-length"] = b"%d" % len(value)

    @property
    def content(self) -> bytes | None:
        """`get_content` and `set_content`."""
        return self.get_content()

    @content.setter
    def content(self, value: bytes | None) -> None:
        self.set_content(value)

    def decode(self, strict: bool = True) -> None:
        """Take the content codings off. Raises ValueError when that fails; not `strict`: the raw body stays."""
        if self.raw_content and "content-encoding" in self.headers:
            content = self.get_content(strict)
            del self.headers["content-encoding"]
            self.set_content(content)

    def encode(self, coding: str) -> None:
        """Apply a content coding (gzip, deflate, br, zstd, identity) to the body as it is, and say so in the header.

        Raises ValueError when the coding is unknown or the body is missing.
        """
        if not encoding.supported(coding):
            raise ValueError(f"unknown content coding {coding!r}")
        if self.raw_content is None:
            raise ValueError("the body is missing")
        self.headers["content-encoding"] = coding
        self.set_content(self.raw_content)

    # Text

    def get_text(self, strict: bool = True) -> str | None:
        """The body as text, by `charset.infer`; None when it is missing.

        Raises ValueError when it cannot be decoded; not `strict`: as UTF-8, wrong bytes as surrogates. Where nobody
        named a character set, and it is not in that of its media type, it is Latin-1.
        """
        content = self.get_content(strict)
        if content is None:
            return None
        declared = self.headers.get("content-type", "")
        try:
            return charset.decode(content, charset.infer(declared, content))
        except ValueError:
            if not strict:
                return to_str(content)
            if charset.is_declared(declared, content):
                raise
            return content.decode("latin-1")

    def set_text(self, text: str | None) -> None:
        """Set the body in the character set that Content-Type or the text itself names, else in the one the body was
        in; where that cannot be, in UTF-8, which is then named.
        """
        if text is None:
            self.set_content(None)
            return
        declared = self.headers.get("content-type", "")
        try:
            self.set_content(charset.encode(text, self._charset_for(text, declared)))
        except ValueError:
            main, sub, parameters = parse_content_type(declared) or ("text", "plain", {})
            self.headers["content-type"] = assemble_content_type(main, sub, parameters | {"charset": "utf-8"})
            self.set_content(to_bytes(text))

    def _charset_for(self, text: str, declared: str) -> str:
        head = charset.head(text)
        name = charset.infer(declared, head)
        if charset.is_declared(declared, head):
            return name
        try:
            charset.decode(self.get_content(strict=False) or b"", name)
        except ValueError:
            return "latin-1"  # as it was read
        return name

    @property
    def text(self) -> str | None:
        """`get_text` and `set_text`."""
        return self.get_text()

    @text.setter
    def text(self, value: str | None) -> None:
        self.set_text(value)

    def json(self, **kwargs: Any) -> Any:
        """The body as JSON; `kwargs` go to json.loads. Raises TypeError when it is missing, ValueError if malformed."""
        content = self.get_content(strict=False)
        if content is None:
            raise TypeError("the body is missing")
        return json.loads(content, **kwargs)

    # Copies and state

    def copy(self) -> Self:
        """The same message, with headers of its own; `stream` is not taken along."""
        return self.from_state(self.get_state())

    def get_state(self) -> State:
        """Plain values only, under the names of `data`."""
        state = {name: getattr(self, "raw_" + name) for name in self._raw}
        state |= {name: getattr(self, name) for name in self._plain}
        state["headers"] = self.headers.get_state()
        state["trailers"] = None if self.trailers is None else self.trailers.get_state()
        return state

    def set_state(self, state: State) -> None:
        """Raises ValueError for a key too many or too few."""
        if state.keys() != {*self._raw, *self._plain}:
            raise ValueError(f"not a {type(self).__name__} state: {sorted(state.keys() ^ {*self._raw, *self._plain})}")
        for name in self._raw:
            setattr(self, "raw_" + name, state[name])
        for name in self._plain:
            setattr(self, name, state[name])
        self.headers = Headers.from_state(state["headers"])
        self.trailers = None if state["trailers"] is None else Headers.from_state(state["trailers"])

    @classmethod
    def from_state(cls, state: State) -> Self:
        new = cls.__new__(cls)
        new.set_state(state)
        return new


class MessageData:
    """A message's raw attributes under their short names."""

    __slots__ = ("_message",)
    _message: Message

    def __init__(self, message: Message) -> None:
        object.__setattr__(self, "_message", message)

    def _name(self, name: str) -> str:
        if name in self._message._raw:
            return "raw_" + name
        if name in self._message._plain:
            return name
        raise AttributeError(f"{type(self._message).__name__}.data has no attribute {name!r}")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, self._name(name))

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._message, self._name(name), value)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, MessageData):
            return self._message.get_state() == other._message.get_state()
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]


def as_headers(source: HeaderSource) -> Headers:
    """New Headers from what `make` takes: a mapping of names, Headers, or pairs of bytes. Raises TypeError."""
    if isinstance(source, Headers):
        return source.copy()
    if isinstance(source, Mapping):
        return Headers((to_bytes(name), to_bytes(value)) for name, value in source.items())
    return Headers(source)


def fill(message: Message, content: bytes | str | None) -> None:
    """Set the body that `make` was given. Raises TypeError."""
    if isinstance(content, str):
        message.set_text(content)
    else:
        message.set_content(content)
