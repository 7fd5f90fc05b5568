"""multipart/form-data bodies (RFC 7578) as (name, value) pairs of bytes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from .headers import parse_content_type

Pair = tuple[bytes, bytes]

_NAME = re.compile(rb'(?:^|[;\s])name=(?:"((?:[^"\\]|\\.)*+)"|([^\s;]++))', re.IGNORECASE)
_UNSAFE = {b'"': b"%22", b"\r": b"%0D", b"\n": b"%0A"}  # as the HTML standard writes names


def new_boundary() -> str:
    return os.urandom(16).hex()


def boundary_of(content_type: str) -> bytes | None:
    parsed = parse_content_type(content_type)
    if parsed is None or parsed[0] != "multipart":
        return None
    return parsed[2].get("boundary", "").encode("utf-8", "surrogateescape") or None


def decode_multipart(content_type: str, content: bytes) -> list[Pair]:
    """The named parts, in order; what comes before the first and after the last boundary is left out."""
    boundary = boundary_of(content_type)
    if boundary is None:
        return []
    pairs = []
    delimiter = rb"\r\n--" + re.escape(boundary) + rb"(?=--|[ \t]*+\r\n)"  # RFC 2046 §5.1.1
    for part in re.split(delimiter, b"\r\n" + content)[1:]:
        if part.startswith(b"--"):
            break
        head, blank, body = part.partition(b"\r\n\r\n")
        for line in head.split(b"\r\n") if blank else ():
            if line[:20].lower() == b"content-disposition:" and (found := _NAME.search(line)):
                pairs.append((found[2] if found[1] is None else found[1], body))
                break
    return pairs


def encode_multipart(content_type: str, pairs: Iterable[Pair]) -> bytes:
    """Raises ValueError when `content_type` names no boundary or a value contains it."""
    boundary = boundary_of(content_type)
    if boundary is None:
        raise ValueError(f"no boundary in content type {content_type!r}")
    out = []
    for name, value in pairs:
        if b"\r\n--" + boundary in b"\r\n" + value:
            raise ValueError(f"the value of {name!r} contains the boundary")
        for char, escaped in _UNSAFE.items():
            name = name.replace(char, escaped)
        out.append(b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (boundary, name, value))
    return b"".join([*out, b"--%b--\r\n" % boundary])
