"""TLS as a transport over another transport: over a socket, or over TLS itself (a secure web proxy).

No queues: ciphertext that arrives is decrypted into a shared buffer and pushed up in the same call; plaintext written
is encrypted into another and pushed down. What it costs and why it is made so: docs/decisions/streams.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from OpenSSL import SSL

from appliance.net import openssl, tls_errors
from appliance.net.openssl import (
    NULL,
    BIO_get_mem_data,
    BIO_read,
    BIO_write,
    ERR_clear_error,
    SSL_do_handshake,
    SSL_get_error,
    SSL_read,
    SSL_shutdown,
    SSL_write,
    from_buffer,
)
from appliance.net.reasons import CLOSED, Reason
from appliance.net.transport import Above, Buffer, Transport

SLICE = 64 * 1024
"""Ciphertext and plaintext are fed through OpenSSL's memory BIOs in slices of this size, because these never shrink."""

UNHEARD_MOST = 64 * 1024
"""Bytes that TLS itself answers to a peer that reads nothing: it may ask for key updates (RFC 8446 §4.6.3) for ever."""


class TlsScratch:
    """The fixed plaintext and ciphertext buffers of one event loop."""

    PLAIN = 256 * 1024
    CIPHER = SLICE + 16 * 1024  # a slice and its record overheads

    def __init__(self) -> None:
        self.plain = bytearray(self.PLAIN)
        self.plain_view = memoryview(self.plain)
        self.plain_ptr = from_buffer(self.plain)
        self.cipher = bytearray(self.CIPHER)
        self.cipher_view = memoryview(self.cipher)
        self.cipher_ptr = from_buffer(self.cipher)


class TlsTransport:
    """One TLS connection; `conn` is what add-ons see as `data.ssl_conn`.

    :raises ValueError, TypeError: from the constructor, when `conn` is no memory-BIO Connection.
    """

    __slots__ = (
        "_accepting",
        "_below",
        "_closed",
        "_done",
        "_from",
        "_held",
        "_into",
        "_scratch",
        "_ssl",
        "_unheard",
        "above",
        "arrived",
        "clean_eof",
        "conn",
        "depth",
        "silent",
    )

    def __init__(self, conn: SSL.Connection, scratch: TlsScratch, below: Transport, above: Above) -> None:
        self._ssl, self._into, self._from = openssl.handles(conn)
        self.conn = conn
        self.above = above
        self.clean_eof = False
        """Whether the peer said close_notify (RFC 8446 §6.1); without it the data may have been cut short."""
        self.depth: int = below.depth + 1 if isinstance(below, TlsTransport) else 1
        """Layers of TLS up to this one."""
        self.silent = False
        """End without close_notify: the peer is not to believe that it has had everything."""
        self._scratch = scratch
        self._below = below
        self._done: asyncio.Future[None] | None = None
        self._closed = False
        self._accepting = False
        self._held = False
        self._unheard = 0  # bytes of answers that were queued since there was room for them
        self.arrived: Callable[[], None] | None = None
        """Called once, when the first data has been read: TLS 1.3 tickets have come before it."""
        below.above = self

    # -- handshake

    def begin(
        self, loop: asyncio.AbstractEventLoop, unread: memoryview, accepting: bool = False
    ) -> asyncio.Future[None]:
        """Start the handshake. unread: ciphertext that had already arrived. accepting: we are the server.

        The future raises TlsFailed when it fails; every other `Gone` is what happened to the connection below.
        """
        self._done = done = loop.create_future()
        self._accepting = accepting
        if unread:
            self.received(unread)
        else:
            self._step()
        if not done.done():
            self._below.resume()
        return done

    def _step(self) -> bool:
        """One step of the handshake; True when it is complete."""
        done = self._done
        if done is None or done.done():
            return False
        n = SSL_do_handshake(self._ssl)
        if n == 1:
            self._done = None  # first: in memory the peer's answer comes within the flush
            # All that a server has left to say in TLS 1.3 is session tickets: they go out with its first bytes.
            self._held = self._accepting and openssl.is_tls13(self._ssl)
            if not self._held:
                self._flush()
            done.set_result(None)
            return True
        error = SSL_get_error(self._ssl, n)
        self._flush()  # our flight, or the alert that says what we did not like
        if error != openssl.ERROR_WANT_READ:
            self._fail(tls_errors.explain(openssl.take_errors(self._ssl), handshake=True).reason())
        return False

    # -- from below

    def received(self, data: memoryview) -> None:
        pointer = from_buffer(data)
        left = len(data)
        if left <= SLICE and self._done is None and not self._closed:  # as usual
            BIO_write(self._into, pointer, left)
            self._read()
            return
        while left > 0 and not self._closed:
            n = BIO_write(self._into, pointer, SLICE if left > SLICE else left)
            left -= n
            if left:
                pointer = pointer + n
            if self._done is not None and not self._step():
                continue
            self._read()

    def _read(self) -> None:
        ssl, scratch, into = self._ssl, self._scratch, self._into
        have, error = 0, openssl.ERROR_WANT_READ
        while (n := SSL_read(ssl, scratch.plain_ptr + have if have else scratch.plain_ptr, scratch.PLAIN - have)) > 0:
            have += n
            if not BIO_get_mem_data(into, NULL):  # records are read one by one: to ask again would find nothing
                break
            if scratch.PLAIN - have < 16384:
                self.above.received(scratch.plain_view[:have])
                have = 0
        else:
            error = SSL_get_error(ssl, n)
        if not self._held and (answer := BIO_get_mem_data(self._from, NULL)):  # of a key update, or an alert
            self._unheard = 0 if self._flush() else self._unheard + answer
            if self._unheard > UNHEARD_MOST:
                reason = Reason("protocol", "the peer does not read what it asks for")
                self._below.abort(reason)
                self.lost(reason)
                return
        if have:
            if self.arrived is not None:
                arrived, self.arrived = self.arrived, None
                arrived()
            self.above.received(scratch.plain_view[:have])
        if error == openssl.ERROR_WANT_READ:
            return
        if error == openssl.ERROR_ZERO_RETURN:
            if not self.clean_eof:
                self.clean_eof = True
                self._below.pause()
                self.above.ended()
            return
        self._fail(tls_errors.explain(openssl.take_errors(ssl), handshake=False).reason())

    def ended(self) -> None:
        if self._done is not None:
            self._fail(Reason("tls", "the peer closed the connection during the TLS handshake"))
        elif not self.clean_eof:
            self.above.ended()

    def lost(self, reason: Reason) -> None:
        done, self._done = self._done, None
        self._closed = True
        if done is not None and not done.done():
            done.set_exception(reason.error())
        self.above.lost(reason)

    def drained(self) -> None:
        self.above.drained()

    def _fail(self, reason: Reason) -> None:
        if self._closed:
            return
        self._below.close(linger=True)  # so that our alert reaches the peer
        self.lost(reason)

    # -- to below

    def write(self, data: Buffer) -> bool:
        if self._closed or not data:
            return True
        size = len(data)
        if size <= SLICE:
            n = SSL_write(self._ssl, data if type(data) is bytes else from_buffer(data), size)
            return self._flush() if n > 0 else self._write_failed(n)
        pointer = from_buffer(data)
        left, room = size, True
        while left > 0:
            n = SSL_write(self._ssl, pointer, SLICE if left > SLICE else left)
            if n <= 0:
                return self._write_failed(n)
            room = self._flush()
            left -= n
            if left:
                pointer = pointer + n
        return room

    def _write_failed(self, n: int) -> bool:
        SSL_get_error(self._ssl, n)
        self._fail(tls_errors.explain(openssl.take_errors(self._ssl), handshake=False).reason())
        return True

    def _flush(self) -> bool:
        scratch, room, most = self._scratch, True, TlsScratch.CIPHER
        self._held = False
        while (n := BIO_read(self._from, scratch.cipher_ptr, most)) > 0:
            room = self._below.write(scratch.cipher_view[:n])
            if n < most:
                break
        return room

    def room(self) -> bool:
        return self._below.room()

    @property
    def free(self) -> bool:
        return self._below.free

    def write_eof(self) -> None:
        self._notify()
        self._below.write_eof()

    def _notify(self) -> None:
        if not self._closed and self._done is None and not self.silent:
            if SSL_shutdown(self._ssl) < 0:
                ERR_clear_error()
            self._flush()

    def pause(self) -> None:
        self._below.pause()

    def resume(self) -> None:
        if not self.clean_eof:
            self._below.resume()

    def look(self) -> None:
        self._below.look()

    def close(self, linger: bool = False) -> None:
        if not self._closed:
            self._notify()
            self._closed = True
            self._below.close(linger)

    def abort(self, why: Reason = CLOSED) -> None:
        if not self._closed:
            self._closed = True
            done, self._done = self._done, None
            if done is not None and not done.done():
                done.set_exception(why.error())
            self._below.abort(why)
