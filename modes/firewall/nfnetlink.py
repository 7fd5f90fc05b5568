"""nf_tables and connection tracking by netlink, as far as undoing needs them: no program has to be installed for it.

Standard library only: guardian.py has nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence

_SECONDS = 10
_FAMILIES = {"ip": 2, "ip6": 10, "inet": 1}
_REQUEST_ACK, _DUMP, _NONREC, _CREATE = 5, 0x300, 0x100, 0x400
_ERROR, _DONE = 2, 3
_NFTABLES = 10 << 8
_GETTABLE, _DELTABLE, _GETCHAIN, _DELCHAIN = (_NFTABLES | kind for kind in (1, 2, 4, 5))
_NEWSETELEM, _DELSETELEM = _NFTABLES | 12, _NFTABLES | 14
_TABLE, _CHAIN_TABLE, _CHAIN_NAME, _CHAIN_POLICY, _CHAIN_USE = 1, 1, 3, 5, 6
_ACCEPT = 1


def flush_conntrack(mark: int) -> None:
    """Forget every connection of this mark, IPv4 and IPv6: what was delivered here carries "no source NAT" for life,
    so a datagram of the same flow that is forwarded later would leave with its private source. :raises OSError:
    """
    attributes = struct.pack("=HH", 8, 8) + struct.pack("!I", mark)  # CTA_MARK
    attributes += struct.pack("=HH", 8, 21) + struct.pack("!I", 0xFFFFFFFF)  # CTA_MARK_MASK
    _ask([_message(1 << 8 | 2, 0, attributes)])  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE; every family


def delete_table(family: str, name: str, sock: socket.socket | None = None) -> None:
    """With all that is in it. sock: the owner's. :raises OSError: there is none (ENOENT), or somebody else owns it
    (EPERM).
    """
    _batch([_message(_DELTABLE, _FAMILIES[family], _text(_TABLE, name))], sock)


def renew(sock: socket.socket, table: str, name: str, interfaces: Sequence[str]) -> None:
    """Let the interfaces in a set of an inet table expire later: out and in again, in one transaction (adding alone
    renews nothing before Linux 6.12). sock: the owner's, where the table is owned. :raises OSError: there is no such
    set.

    libnftables does it too, but reads every set of intervals on the machine before: half a second a beat was seen
    beside a list of 20,000 networks.
    """
    keys = b"".join(_nested(1, _nested(1, _attribute(1, i.encode().ljust(16, b"\0")))) for i in interfaces)
    elements = _text(1, table) + _text(2, name) + _nested(3, keys)
    kinds = ((_NEWSETELEM, _CREATE), (_DELSETELEM, 0), (_NEWSETELEM, _CREATE))
    _batch([_message(kind, _FAMILIES["inet"], elements, flags) for kind, flags in kinds], sock)


def has_table(family: str, name: str) -> bool:
    """Whether nf_tables has it."""
    with contextlib.suppress(OSError):
        _ask([_message(_GETTABLE, _FAMILIES[family], _text(_TABLE, name))])
        return True
    return False


def delete_if_empty(family: str, name: str) -> None:
    """A table that does nothing: chains without rules that accept, no sets. The kernel refuses the whole when a rule
    has come meanwhile. :raises OSError: it is not empty, or not there.
    """
    chains = []
    for attributes in _dump(_message(_GETCHAIN, _FAMILIES[family], b"", _DUMP)):
        if attributes.get(_CHAIN_TABLE) != name.encode() + b"\0":
            continue
        policy = attributes.get(_CHAIN_POLICY, struct.pack("!I", _ACCEPT))
        if struct.unpack("!I", policy)[0] != _ACCEPT or any(attributes.get(_CHAIN_USE, b"")):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        chains.append(attributes[_CHAIN_NAME].rstrip(b"\0").decode())
    of = _FAMILIES[family]
    messages = [_message(_DELCHAIN, of, _text(_CHAIN_TABLE, name) + _text(_CHAIN_NAME, c), _NONREC) for c in chains]
    _batch([*messages, _message(_DELTABLE, of, _text(_TABLE, name), _NONREC)])


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _nested(kind: int, data: bytes) -> bytes:
    return _attribute(kind | 0x8000, data)


def _message(kind: int, family: int, attributes: bytes, flags: int = 0, resource: int = 0) -> bytes:
    """nlmsghdr (sequence 1 and its place are set by _ask), nfgenmsg, attributes."""
    body = struct.pack("=BB", family, 0) + struct.pack("!H", resource) + attributes
    return struct.pack("=IHHII", 16 + len(body), kind, _REQUEST_ACK | flags, 1, 0) + body


def _batch(messages: list[bytes], sock: socket.socket | None = None) -> None:
    begin = bytearray(_message(0x10, 0, b"", resource=10))
    end = bytearray(_message(0x11, 0, b"", resource=10))
    for edge in (begin, end):
        struct.pack_into("=HI", edge, 6, 1, 0)  # these are not acknowledged
    _ask([bytes(begin), *messages, bytes(end)], sock)


def _ask(messages: list[bytes], sock: socket.socket | None = None) -> None:
    """Send, and hear what comes: all of it has been said when send() returns. :raises OSError: the first error."""
    with contextlib.ExitStack() as stack:
        if sock is None:
            sock = stack.enter_context(socket_of_its_own())
        sock.send(b"".join(messages))
        error = None
        with contextlib.suppress(BlockingIOError):
            while True:
                for kind, body in _parts(sock.recv(65536, socket.MSG_DONTWAIT)):
                    if kind == _ERROR and (number := -struct.unpack_from("=i", body)[0]):
                        error = error or OSError(number, os.strerror(number))
        if error:
            raise error


def _dump(message: bytes) -> Iterator[dict[int, bytes]]:
    """The attributes of each object."""
    with socket_of_its_own() as sock:
        sock.settimeout(_SECONDS)
        sock.send(message)
        while True:
            for kind, body in _parts(sock.recv(65536)):
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    number = -struct.unpack_from("=i", body)[0]
                    raise OSError(number, os.strerror(number))
                yield {number & 0x3FFF: data for number, data in _attributes(body[4:])}


def socket_of_its_own() -> socket.socket:
    """To the kernel's netfilter. :raises OSError:"""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 12)


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 16:
        length, kind = struct.unpack_from("=IH", data)
        yield kind, data[16:length]
        data = data[(max(length, 16) + 3) & ~3 :]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        yield kind, data[4:length]
        data = data[(max(length, 4) + 3) & ~3 :]
