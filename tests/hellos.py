"""ClientHellos put together by hand."""

from __future__ import annotations

import struct


def numbers(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


def name(text: bytes = b"a.example") -> tuple[int, bytes]:
    return 0, struct.pack(">HBH", len(text) + 3, 0, len(text)) + text


def alpn(*protocols: bytes) -> tuple[int, bytes]:
    listed = b"".join(bytes((len(one),)) + one for one in protocols)
    return 16, len(listed).to_bytes(2) + listed


def signatures(*values: int) -> tuple[int, bytes]:
    return 13, numbers(len(values) * 2, *values)


def versions(*values: int) -> tuple[int, bytes]:
    return 43, bytes((len(values) * 2,)) + numbers(*values)


def body(
    suites: tuple[int, ...], *extensions: tuple[int, bytes], version: int = 0x0303, cookie: bytes | None = None
) -> bytes:
    listed = b"".join(struct.pack(">HH", kind, len(data)) + data for kind, data in extensions)
    return b"".join(
        (
            version.to_bytes(2), bytes(32), b"\0", cookie or b"", (len(suites) * 2).to_bytes(2), numbers(*suites),
            b"\1\0", len(listed).to_bytes(2), listed,
        )
    )  # fmt: skip
