"""Which character set a body is written in."""

from __future__ import annotations

import codecs
import re

from .headers import parse_content_type

_BOMS = (  # the UTF-32 marks first: the little-endian one begins like that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_HEAD = 4096  # bytes in which a declaration is looked for
_META = re.compile(rb"""<meta[^>]+charset\s*=\s*["']?([\w:.-]+)""", re.IGNORECASE)
_XML = re.compile(rb"""<\?xml[^>]+encoding\s*=\s*["']([\w:.-]+)""", re.IGNORECASE)
_CSS = re.compile(rb"""@charset\s+["']([\w:.-]+)["']""", re.IGNORECASE)

# Not character sets of text, or of quadratic cost on hostile input.
_REFUSED = {"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "mbcs", "oem"}


def infer(content_type: str, content: bytes = b"") -> str:
    """The character set of `content`: byte order mark, else charset parameter, else by media type, else latin-1."""
    parsed = parse_content_type(content_type)
    for mark, name in _BOMS:
        if content.startswith(mark):
            # The mark of UTF-32 is also that of UTF-16 before a NUL.
            declared = parsed[2].get("charset", "") if parsed and mark == codecs.BOM_UTF32_LE else ""
            return "utf-16" if declared.lower().replace("_", "-").startswith("utf-16") else name
    media = content_type.lower()
    name = (parsed[2].get("charset") if parsed else None) or _by_media_type(media, content)
    # Every text in gb2312 or gbk is text in gb18030, and what is labelled so often needs the larger set.
    return "gb18030" if name.lower() in ("gb2312", "gbk") else name


def head(text: str) -> bytes:
    """The beginning of a text, to look for what it says about itself. A mark at its start is no byte order."""
    return text[:_HEAD].lstrip("\ufeff").encode("utf-8", "replace")


def is_declared(content_type: str, content: bytes) -> bool:
    """Whether anybody says which character set `content` is in, or its media type leaves no choice (JSON)."""
    parsed = parse_content_type(content_type)
    if (parsed and "charset" in parsed[2]) or content.startswith(tuple(mark for mark, _ in _BOMS)):
        return True
    media = content_type.lower()
    return "json" in media or any(found.search(content, 0, _HEAD) for found in _declarations(media))


def _declarations(media: str) -> tuple[re.Pattern[bytes], ...]:
    if "html" in media:
        return (_META,)
    return (_XML,) if "xml" in media else (_CSS,) if "text/css" in media else ()


def _by_media_type(media: str, content: bytes) -> str:
    if "json" in media or "javascript" in media or "ecmascript" in media:
        return "utf-8"
    for declaration in _declarations(media):
        found = declaration.search(content, 0, _HEAD)
        return found[1].decode("ascii", "replace") if found else "utf-8"
    return "latin-1"


def _codec(name: str) -> str:
    try:
        canonical = codecs.lookup(name).name
    except (LookupError, ValueError) as error:
        raise ValueError(f"unknown character set {name!r}") from error
    if canonical.replace("-", "_") in _REFUSED:
        raise ValueError(f"{name!r} is not a character set for content")
    return canonical


def decode(content: bytes, name: str) -> str:
    """Raises ValueError when the character set is unknown or `content` is not valid in it."""
    codec = _codec(name)
    try:
        return content.decode(codec)
    except LookupError as error:  # a codec that is no text encoding, such as rot13
        raise ValueError(f"{name!r} is not a character set") from error


def encode(text: str, name: str) -> bytes:
    """Raises ValueError when the character set is unknown or cannot express `text`."""
    codec = _codec(name)
    try:
        return text.encode(codec)
    except LookupError as error:
        raise ValueError(f"{name!r} is not a character set") from error
