"""Texts and bytes, for scripts: escapes, conversions, and what is text at all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import overload

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"\\": b"\\", b"'": b"'", b'"': b'"', b"0": b"\0"}


@overload
def always_bytes(value: None, *encode_args: str) -> None: ...
@overload
def always_bytes(value: str | bytes, *encode_args: str) -> bytes: ...
def always_bytes(value: str | bytes | None, *encode_args: str) -> bytes | None:
    """Bytes as they are, texts encoded. Raises TypeError for anything else."""
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode(*encode_args)
    raise TypeError(f"expected str or bytes, not {type(value).__name__}")


@overload
def always_str(value: None, *decode_args: str) -> None: ...
@overload
def always_str(value: str | bytes, *decode_args: str) -> str: ...
def always_str(value: str | bytes | None, *decode_args: str) -> str | None:
    """Texts as they are, bytes decoded. Raises TypeError for anything else."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode(*decode_args)
    raise TypeError(f"expected str or bytes, not {type(value).__name__}")


def bytes_to_escaped_str(data: bytes, keep_spacing: bool = False, escape_single_quotes: bool = False) -> str:
    """Printable ASCII with Python's escapes. `keep_spacing`: line ends and tabs stay as they are."""
    if not isinstance(data, bytes):
        raise TypeError(f"expected bytes, not {type(data).__name__}")
    text = repr(b'"' + data)[3:-1]  # the quote makes repr choose single quotes
    if not escape_single_quotes:
        text = re.sub(r"(?<!\\)((?:\\\\)*)\\'", r"\1'", text)
    if keep_spacing:
        text = re.sub(r"(?<!\\)((?:\\\\)*)\\([nrt])", lambda m: m[1] + {"n": "\n", "r": "\r", "t": "\t"}[m[2]], text)
    return text


def escaped_str_to_bytes(data: str) -> bytes:
    """The inverse: `\\xff`, `\\n`, `\\r`, `\\t`, `\\0`, quotes and backslash. Raises ValueError for another escape."""
    if not isinstance(data, str):
        raise TypeError(f"expected str, not {type(data).__name__}")

    def one(match: re.Match[bytes]) -> bytes:
        text = match[1]
        if len(text) == 3:
            return bytes.fromhex(text[1:].decode())
        try:
            return _ESCAPES[text]
        except KeyError:
            raise ValueError(f"unknown escape \\{text.decode('utf-8', 'replace')}") from None

    return _ESCAPE.sub(one, data.encode("utf-8", "surrogateescape"))


def escape_control_characters(text: str, keep_spacing: bool = True) -> str:
    """Control characters as dots; line ends and tabs stay if `keep_spacing`."""
    if not isinstance(text, str):
        raise TypeError(f"expected str, not {type(text).__name__}")
    text = _CONTROL.sub(lambda m: m[0] if keep_spacing and m[0] == "\r" else ".", text)
    return text if keep_spacing else text.replace("\n", ".").replace("\t", ".")


def is_mostly_bin(data: bytes) -> bool:
    """More than 30% of the first 100 bytes are neither text nor space."""
    head = data[:100]
    try:
        data[:1000].decode()
        high = False  # UTF-8 is text
    except UnicodeDecodeError as error:
        high = error.reason != "unexpected end of data"
    odd = sum(byte < 9 or 13 < byte < 32 or byte == 127 or (high and byte > 126) for byte in head)
    return bool(head) and odd / len(head) > 0.3


def is_xml(data: bytes) -> bool:
    return data[:200].lstrip().startswith(b"<")


def clean_hanging_newline(text: str) -> str:
    return text.removesuffix("\n")


def cut_after_n_lines(text: str, n: int) -> str:
    """At most `n` lines, with a note if there were more."""
    lines = text.split("\n", n)
    return text if len(lines) <= n else "\n".join([*lines[:n], "(cut off)"])


def hexdump(data: bytes) -> Iterator[tuple[str, str, str]]:
    """(offset, hex, text) for every 16 bytes."""
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        yield f"{at:010x}", f"{row.hex(' '):<47}", shown
