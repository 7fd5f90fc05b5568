"""Field lines of HTTP/1 (RFC 9112 §5): one strict pass for the usual, a slow one that names the fault for the rest.

Every quantifier is possessive, so no input makes a pattern backtrack: the cost is linear in the head.
"""

from __future__ import annotations

import re
from typing import Final

Fields = tuple[tuple[bytes, bytes], ...]

TCHAR: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
TEXT: Final = rb"[\t -~\x80-\xff]"

_TOKEN: Final = re.compile(TCHAR + rb"++")
# A match starts behind one LF and takes exactly one: as many matches as LFs means that nothing was skipped.
_FIELD: Final = re.compile(rb"(?<=\n)(" + TCHAR + rb"++):[ \t]*+(" + TEXT + rb"*+)(?<![ \t])\r\n")
_BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_BARE_SO_FAR: Final = re.compile(rb"\r(?!\n|\Z)|(?<!\r)\n")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# Meta-characters to somebody downstream, and white space to h11: never let through.
_CONTROL_ALWAYS: Final = re.compile(rb"[\x00\x0b\x0c]")


class Refused(Exception):
    """A message that is not forwarded. `status` is what a client is told (400, 417, 431, 501, 505; 500 for a head
    that an add-on spoilt), `why` one printable line for the log and the error page."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(status, why)
        self.status = status
        self.why = why

    def __str__(self) -> str:
        return f"{self.status}: {self.why}"


def quoted(data: bytes) -> str:
    """`data` for use in a `why`: printable, and no longer than a line."""
    return ascii(data[:60])[1:] + ("..." if len(data) > 60 else "")


def is_token(data: bytes) -> bool:
    """Whether `data` is a token (RFC 9110 §5.6.2)."""
    return _TOKEN.fullmatch(data) is not None


def usual_fields(block: bytes, start: int) -> Fields | None:
    """The fields from `start` (behind the start line) to the empty line that ends `block`; None if any line is not
    of the usual shape."""
    found = _FIELD.findall(block, start)
    if len(found) != block.count(b"\n", start) - 1 or block[-4:] != b"\r\n\r\n":
        return None
    return tuple(found)


def check_characters(data: bytes | bytearray, strict: bool = True, start: int = 0, *, whole: bool = True) -> None:
    """Refuse (400) bare CR, bare LF and control characters from `start` on.

    With `whole` False, a CR at the very end may still get its LF. `strict` False lets the control characters pass
    that h11 lets pass.
    """
    bad = (_BARE if whole else _BARE_SO_FAR).search(data, start)
    if bad is not None:
        raise Refused(400, "bare CR in the head" if bad[0] == b"\r" else "bare LF in the head")
    bad = (_CONTROL if strict else _CONTROL_ALWAYS).search(data, start)
    if bad is not None:
        raise Refused(400, f"control character 0x{bad[0][0]:02x} in the head")


def unusual_fields(block: bytes, start: int) -> Fields:
    """The fields of a block whose characters are checked, with blanks around values trimmed, or what is wrong (400)."""
    if block[-4:] != b"\r\n\r\n":
        raise Refused(400, "the head does not end with an empty line")
    if b"\r\n " in block or b"\r\n\t" in block:
        raise Refused(400, "folded header line (obs-fold)")
    return tuple([_field(line) for line in block[start:-4].split(b"\r\n")]) if start < len(block) - 2 else ()


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not line:
        raise Refused(400, "empty line inside the head")
    if not colon:
        raise Refused(400, f"header line without a colon: {quoted(line)}")
    if not is_token(name):
        blank = name.rstrip(b" \t") != name
        raise Refused(400, f"{'blank before the colon' if blank else 'bad header name'}: {quoted(name)}")
    return name, value.strip(b" \t")
