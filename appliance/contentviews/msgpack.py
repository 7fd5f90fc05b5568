"""MessagePack as values that JSON can show. Bytes are shown as hex, extensions with their number."""

from __future__ import annotations

import struct
from typing import Any

MAX_DEPTH = 64
_FIXED = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = {
    0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q",
    0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q",
}  # fmt: skip
_SIZED = {0xC4: ("bin", 1), 0xC5: ("bin", 2), 0xC6: ("bin", 4), 0xC7: ("ext", 1), 0xC8: ("ext", 2), 0xC9: ("ext", 4),
          0xD9: ("str", 1), 0xDA: ("str", 2), 0xDB: ("str", 4), 0xDC: ("list", 2), 0xDD: ("list", 4),
          0xDE: ("map", 2), 0xDF: ("map", 4)}  # fmt: skip


def decode(data: bytes) -> Any:
    """The value; a list if there are several. Raises ValueError: cut off, nested too deeply, or no MessagePack."""
    values, at = [], 0
    while at < len(data):
        value, at = _value(data, at, 0)
        values.append(value)
    if not values:
        raise ValueError("empty")
    return values[0] if len(values) == 1 else values


def _take(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    if at + size > len(data):
        raise ValueError(f"cut off at byte {len(data)}")
    return data[at : at + size], at + size


def _value(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    head, at = _take(data, at, 1)
    code = head[0]
    if code < 0x80:
        return code, at
    if code >= 0xE0:
        return code - 256, at
    if code in _FIXED:
        return _FIXED[code], at
    if code in _NUMBERS:
        raw, at = _take(data, at, struct.calcsize(_NUMBERS[code]))
        return struct.unpack(_NUMBERS[code], raw)[0], at
    if code < 0x90:
        return _map(data, at, code & 15, depth)
    if code < 0xA0:
        return _list(data, at, code & 15, depth)
    if code < 0xC0:
        return _text(data, at, code & 31)
    if 0xD4 <= code <= 0xD8:
        return _extension(data, at, 1 << code - 0xD4)
    if code not in _SIZED:
        raise ValueError(f"byte {code:#x} begins nothing")
    kind, width = _SIZED[code]
    raw, at = _take(data, at, width)
    size = int.from_bytes(raw)
    if kind == "list":
        return _list(data, at, size, depth)
    if kind == "map":
        return _map(data, at, size, depth)
    if kind == "str":
        return _text(data, at, size)
    if kind == "ext":
        return _extension(data, at, size)
    body, at = _take(data, at, size)
    return f"0x{body.hex()}", at


def _text(data: bytes, at: int, size: int) -> tuple[str, int]:
    raw, at = _take(data, at, size)
    return raw.decode("utf-8", "backslashreplace"), at


def _extension(data: bytes, at: int, size: int) -> tuple[str, int]:
    raw, at = _take(data, at, size + 1)
    return f"ext {int.from_bytes(raw[:1], signed=True)} 0x{raw[1:].hex()}", at


def _list(data: bytes, at: int, size: int, depth: int) -> tuple[list[Any], int]:
    values = []
    for _ in range(size):
        value, at = _value(data, at, depth + 1)
        values.append(value)
    return values, at


def _map(data: bytes, at: int, size: int, depth: int) -> tuple[dict[str, Any], int]:
    values: dict[str, Any] = {}
    for _ in range(size):
        key, at = _value(data, at, depth + 1)
        value, at = _value(data, at, depth + 1)
        values[key if isinstance(key, str) else repr(key)] = value
    return values, at
