"""Views of what is text: raw, JSON, XML and HTML, CSS, JavaScript."""

from __future__ import annotations

import json
import re

from appliance import charset
from appliance.contentviews.api import Contentview, Metadata

MAX_LENGTH = 8 << 20  # characters
MAX_INDENT = 40


class Raw(Contentview):
    def prettify(self, data: bytes, metadata: Metadata) -> str:
        return decode(data, metadata)

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        return 0.1


class JSON(Contentview):
    syntax_highlight = "yaml"

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        return bounded(json.loads(data))

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        kind = metadata.content_type or ""
        if not data:
            return 0
        return float(kind in ("application/json", "application/json-rpc", "text/json") or kind.endswith("+json"))


_MARKUP = re.compile(
    r"<!--(?:[^-]|-(?!->))*+(?:-->)?|<!\[CDATA\[(?:[^\]]|\](?!\]>))*+(?:\]\]>)?|<[?!/]?[^<>]*+>|[^<]++|<"
)
_VOID = frozenset("area base br col embed hr img input link meta source track wbr".split())  # noqa: SIM905
_NAME = re.compile(r"</?\s*+([\w:.-]+)")
_VERBATIM = re.compile(r"<(script|style|pre|textarea)\b", re.IGNORECASE)


class XmlHtml(Contentview):
    """A tag or a text a line, indented by depth. Tags that are not closed cost nothing: the depth is only shown."""

    syntax_highlight = "xml"
    _name = "XML/HTML"

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        return "\n".join(self._lines(decode(data, metadata)))

    def _lines(self, text: str) -> list[str]:
        lines: list[str] = []
        depth = at = 0
        size = len(text)
        while at < size:
            found = _MARKUP.match(text, at)
            assert found is not None  # the last alternatives take any character
            piece, at = found[0], found.end()
            name = _NAME.match(piece)
            if piece.startswith("</"):
                depth = max(0, depth - 1)
            if shown := piece.strip():
                pad = "  " * min(depth, MAX_INDENT)
                lines += [pad + line.rstrip() for line in shown.split("\n")]
            if verbatim := _VERBATIM.match(piece):
                end = re.compile(rf"</{verbatim[1]}", re.IGNORECASE).search(text, at)
                stop = end.start() if end else size
                lines += [line.rstrip() for line in text[at:stop].strip("\n").split("\n") if line.strip()]
                at = stop
            if name and piece[1:2] not in "/?!" and not piece.endswith("/>") and name[1].lower() not in _VOID:
                depth += 1
        return lines

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        kind = metadata.content_type or ""
        if not data:
            return 0
        if kind in ("text/xml", "text/html", "application/xml") or kind.endswith("+xml"):
            return 1
        head = data[:200].lstrip()
        return 0.4 if head.startswith((b"<?xml", b"<!DOCTYPE", b"<html", b"<HTML", b"<!doctype")) else 0


# What is not closed goes on to the end (of the line): a second look at the same characters would cost the square.
_STRINGS = r"""/\*(?:[^*]|\*(?!/))*+(?:\*/)?|"(?:[^"\\\n]|\\.)*+"?|'(?:[^'\\\n]|\\.)*+'?|[{};]|\s++|[^{};"'`\s/]++"""
_CSS = re.compile(_STRINGS + "|.", re.DOTALL)
_JS = re.compile(r"//[^\n]*+|`(?:[^`\\]|\\.)*+`?|" + _STRINGS + "|.", re.DOTALL)


def _blocks(text: str, tokens: re.Pattern[str]) -> str:
    """A line for each statement, indented by its braces; strings and comments are left alone."""
    lines: list[str] = []
    line: list[str] = []
    depth = round_ = 0

    def end() -> None:
        if shown := "".join(line).strip():
            lines.append("  " * min(depth, MAX_INDENT) + shown)
        line.clear()

    for found in tokens.finditer(text):
        piece = found[0]
        if piece == "{":
            line.append("{")
            end()
            depth += 1
        elif piece == "}":
            end()
            depth = max(0, depth - 1)
            line.append("}")
            end()
        elif piece == ";" and round_ <= 0:
            line.append(";")
            end()
        elif piece.isspace():
            if "\n" in piece:
                end()
            elif line and not line[-1].endswith(" "):
                line.append(" ")
        elif piece.startswith("//") and len(piece) > 1:
            line.append(piece)
            end()
        else:
            if piece[0] not in "\"'`/":
                round_ += piece.count("(") - piece.count(")")
            line.append(piece)
    end()
    return "\n".join(lines)


class CSS(Contentview):
    syntax_highlight = "css"

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        return _blocks(decode(data, metadata), _CSS)

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        return float(bool(data) and metadata.content_type == "text/css")


class JavaScript(Contentview):
    syntax_highlight = "javascript"
    _KINDS = ("application/javascript", "application/x-javascript", "text/javascript", "application/ecmascript")

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        return _blocks(decode(data, metadata), _JS)

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        return float(bool(data) and metadata.content_type in self._KINDS)


def bounded(value: object) -> str:
    """`value` as JSON with indents, given up at `MAX_LENGTH` characters: the indents alone could be gigabytes."""
    parts, size = [], 0
    for part in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(value):
        parts.append(part)
        size += len(part)
        if size > MAX_LENGTH:
            return "".join(parts)[:MAX_LENGTH] + "\n(cut here)"
    return "".join(parts)


def decode(data: bytes, metadata: Metadata) -> str:
    """By the charset of the HTTP message if there is one, else UTF-8; bytes that are neither are spelt out."""
    message = metadata.http_message
    if message is not None:
        try:
            return data.decode(charset.infer(message.headers.get("content-type", ""), data), "backslashreplace")
        except LookupError:
            pass
    return data.decode("utf-8", "backslashreplace")


VIEWS = (Raw(), JSON(), XmlHtml(), CSS(), JavaScript())
