"""How a message that we send is delimited: from its fields as hooks left them to fields that cannot contradict it."""

from __future__ import annotations

from typing import NamedTuple

from appliance.headers import Headers
from appliance.layers.http.h1_fields import Fields, Refused
from appliance.layers.http.h1_framing import KNOWN, USUAL_CONNECTION, Framing, framing, strip_hop

_USUAL = frozenset({b"content-length", b"connection"})
_CONCERNED = frozenset(KNOWN) - {b"host", b"expect"}
SAID = 4096
"""Bytes of a head up to which a connection remembers the last one it wrote: mostly the same field lines, the same
object then, come again."""
_UNFRAMED = frozenset({b"content-length", b"transfer-encoding"})
_NAME_CHARS = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"


class Outgoing(NamedTuple):
    """Fields to write; whether the body goes in chunks; whether only closing the connection ends it."""

    fields: Fields
    chunked: bool
    until_close: bool


def outgoing(headers: Headers, length: int | None, trailers: bool, http10: bool, optional: bool = False) -> Outgoing:
    """The wire form of a message. Hop-by-hop fields go (RFC 9110 §7.6.1); the framing fields are made true.

    length: the body's bytes; -1 = it follows in pieces; None = there is none and the fields speak of another (HEAD,
    304). trailers: there are some, so the body has to be chunked. http10: the receiver cannot read chunks. optional: an
    empty body needs no Content-Length (RFC 9110 §8.6).

    :raises Refused: the fields are ambiguous, or a name is none (an add-on wrote them).
    """
    fields, names = headers.fields, headers.names()
    if b"" in names or b"".join(names).translate(None, _NAME_CHARS):
        raise Refused(500, "a header name that is none")
    if not trailers:
        concerned = _CONCERNED.intersection(names)
        if not concerned:
            if optional and not length:
                return Outgoing(fields, False, False)
        elif length is not None and concerned <= _USUAL and (usual := _usual(fields, names, length)) is not None:
            return Outgoing(usual, False, False)
    frame = framing(fields, names=names)
    if frame.hop:
        fields = strip_hop(fields, frame)
    if length is None:
        return Outgoing(fields, False, False)
    if length < 0:
        if frame.length is not None and not trailers:
            return Outgoing(fields, False, False)
        if http10:
            return Outgoing(_without(fields, frame), False, True)
        return Outgoing(fields if frame.chunked else _chunked(fields, frame), True, False)
    if not length and optional and frame.length is None and not frame.chunked and not trailers:
        return Outgoing(fields, False, False)
    if (frame.chunked or trailers) and not http10:
        return Outgoing(fields if frame.chunked else _chunked(fields, frame), True, False)
    if frame.length == length:
        return Outgoing(fields, False, False)
    value = b"%d" % length
    if frame.length is not None:
        return Outgoing(
            tuple([(name, value) if name.lower() == b"content-length" else (name, old) for name, old in fields]),
            False,
            False,
        )
    return Outgoing((*_without(fields, frame), (b"Content-Length", value)), False, False)


def _usual(fields: Fields, names: tuple[bytes, ...], length: int) -> Fields | None:
    """The commonest case at a third of the cost: a true Content-Length, and at most a plain Connection to take out."""
    if names.count(b"content-length") != 1 or fields[names.index(b"content-length")][1] != b"%d" % length:
        return None
    connections = names.count(b"connection")
    if not connections:
        return fields
    at = names.index(b"connection")
    if connections > 1 or fields[at][1] not in USUAL_CONNECTION:
        return None
    return fields[:at] + fields[at + 1 :]


def _without(fields: Fields, frame: Framing) -> Fields:
    return fields if frame.length is None and not frame.chunked else unframed(fields)


def unframed(fields: Fields) -> Fields:
    """The fields without those that delimit a body."""
    return tuple([field for field in fields if field[0].lower() not in _UNFRAMED])


def _chunked(fields: Fields, frame: Framing) -> Fields:
    return (*_without(fields, frame), (b"Transfer-Encoding", b"chunked"))
