"""The small surface of `appliance.net.openssl` over pyOpenSSL's public methods.

Used only when a private name that the fast path needs is missing. Same names, same arguments, same return values, so
that a stream is written once; a message costs about four times as much.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL

OVER_SOCKET = "ssl_conn was made over a socket; make it with SSL.Connection(context, None)"
_NONE, _SSL, _WANT_READ, _WANT_WRITE, _SYSCALL, _ZERO_RETURN = 0, 1, 2, 3, 5, 6


class Pointer:
    """Stands in for a cffi buffer: the memory behind `data`, and `+ n` moves on."""

    __slots__ = ("view",)

    def __init__(self, data: Any) -> None:
        self.view = memoryview(data)

    def __add__(self, n: int) -> Pointer:
        return Pointer(self.view[n:])


def _view(data: bytes | Pointer) -> memoryview:
    return data.view if isinstance(data, Pointer) else memoryview(data)


class Handle:
    """Stands in for `SSL *` and both `BIO *`: the Connection, and what its last call ended with."""

    __slots__ = ("conn", "error", "reasons")

    def __init__(self, conn: SSL.Connection) -> None:
        self.conn = conn
        self.error = _NONE
        self.reasons: tuple[str, ...] = ()

    def failed(self, e: SSL.Error) -> int:
        """Keep what `e` says; the value OpenSSL's function would have returned."""
        if isinstance(e, SSL.WantReadError):
            self.error = _WANT_READ
        elif isinstance(e, SSL.WantWriteError):
            self.error = _WANT_WRITE
        elif isinstance(e, SSL.ZeroReturnError):
            self.error = _ZERO_RETURN
            return 0
        elif isinstance(e, SSL.SysCallError):
            # pyOpenSSL turns OpenSSL's "unexpected eof" into a system call error without a number.
            self.error = _SSL
            self.reasons = ("unexpected eof while reading",)
        else:
            self.error = _SSL
            entries = e.args[0] if e.args and isinstance(e.args[0], list) else []
            self.reasons = tuple(entry[2] for entry in entries)
        return -1


def handles(conn: SSL.Connection) -> tuple[Handle, Handle, Handle]:
    try:
        conn.bio_write(b"")
    except TypeError:  # what the class says when there is no BIO, whatever it is given
        raise ValueError(OVER_SOCKET) from None
    except (SSL.Error, ValueError):
        pass  # nothing was written, which it takes for a failure
    handle = Handle(conn)
    return handle, handle, handle


def SSL_read(handle: Handle, buffer: Pointer, n: int) -> int:
    try:
        n = handle.conn.recv_into(buffer.view, n)
    except SSL.Error as e:
        return handle.failed(e)
    handle.error = _NONE
    return n


def SSL_write(handle: Handle, data: bytes | Pointer, n: int) -> int:
    try:
        n = handle.conn.send(_view(data)[:n])
    except SSL.Error as e:
        return handle.failed(e)
    handle.error = _NONE
    return n


def SSL_do_handshake(handle: Handle) -> int:
    try:
        handle.conn.do_handshake()
    except SSL.Error as e:
        return handle.failed(e)
    handle.error = _NONE
    return 1


def SSL_shutdown(handle: Handle) -> int:
    try:
        return int(handle.conn.shutdown())
    except SSL.Error as e:
        return handle.failed(e)


def SSL_pending(handle: Handle) -> int:
    return handle.conn.pending()


def SSL_get_error(handle: Handle, result: int) -> int:
    return _NONE if result > 0 else handle.error


def BIO_read(handle: Handle, buffer: Pointer, n: int) -> int:
    try:
        data = handle.conn.bio_read(n)
    except SSL.Error:
        return -1
    buffer.view[: len(data)] = data
    return len(data)


def BIO_write(handle: Handle, data: bytes | Pointer, n: int) -> int:
    return handle.conn.bio_write(bytes(_view(data)[:n])) if n else 0


def BIO_get_mem_data(handle: Handle, _: Any) -> int:
    """1 or more when something may be there: the public surface cannot say how much."""
    return 1


def BIO_eof(handle: Handle) -> None:
    handle.conn.bio_shutdown()


def ERR_clear_error() -> None:
    """Nothing to do: pyOpenSSL empties the queue when it raises."""


def take_errors(handle: Handle) -> tuple[str, ...]:
    reasons, handle.reasons = handle.reasons, ()
    return reasons
