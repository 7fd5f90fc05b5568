"""Protocol Buffers without their schema (the wire format of protobuf.dev/programming-guides/encoding)."""

from __future__ import annotations

import struct

MAX_DEPTH = 20
MAX_LINES = 20_000
MAX_FIELDS = 200_000
Field = tuple[int, int, int | bytes]


def fields(data: bytes, budget: list[int]) -> list[Field]:
    """(number, wire type, value). Raises ValueError for what is no message. `budget`: how many more may be read."""
    found: list[Field] = []
    at, size = 0, len(data)
    while at < size and budget[0] > 0:
        budget[0] -= 1
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if not 0 < number < 1 << 29:
            raise ValueError(f"{number} is no field number")
        value: int | bytes
        if kind == 0:
            value, at = _varint(data, at)
        else:
            if kind == 2:
                length, at = _varint(data, at)
            elif kind in (1, 5):
                length = 8 if kind == 1 else 4
            else:
                raise ValueError(f"wire type {kind} is none, or a group")
            if at + length > size:
                raise ValueError(f"field {number} is cut off")
            value = data[at : at + length]
            at += length
        found.append((number, kind, value))
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if at >= len(data):
            raise ValueError("cut off in a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, at
        shift += 7
    raise ValueError("a number has more than ten bytes")


def show(data: bytes, *, strict: bool = True) -> str:
    """One line a field. Raises ValueError if this is no message and `strict`, else it is shown as hex then."""
    budget = [MAX_FIELDS]
    try:
        top = fields(data, budget)
    except ValueError:
        if strict:
            raise
        return data.hex()
    lines: list[str] = []
    _lines(top, 0, lines, budget)
    if len(lines) >= MAX_LINES or budget[0] <= 0:
        lines.append("(cut here)")
    return "\n".join(lines)


def _lines(message: list[Field], depth: int, lines: list[str], budget: list[int]) -> None:
    pad = "  " * depth
    for number, kind, value in message:
        if len(lines) >= MAX_LINES:
            return
        if isinstance(value, int):
            lines.append(f"{pad}{number}: {value}")
        elif kind == 2:
            inner = _message(value, budget) if depth < MAX_DEPTH else None
            if inner is None:
                lines.append(f"{pad}{number}: {_text(value)}")
            else:
                lines.append(f"{pad}{number}:")
                _lines(inner, depth + 1, lines, budget)
        else:
            whole, real = ("<q", "<d") if kind == 1 else ("<i", "<f")
            lines.append(f"{pad}{number}: {struct.unpack(whole, value)[0]}  # or {struct.unpack(real, value)[0]:g}")


def _message(value: bytes, budget: list[int]) -> list[Field] | None:
    """Bytes that can be read as a message and hardly as a text."""
    if not value or _printable(value):
        return None
    try:
        return fields(value, budget)
    except ValueError:
        return None


def _printable(value: bytes) -> bool:
    try:
        return value.decode().isprintable()
    except UnicodeDecodeError:
        return False


def _text(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return f"0x{value.hex()}"
    return f'"{text}"' if text.isprintable() or "\n" in text else f"0x{value.hex()}"
