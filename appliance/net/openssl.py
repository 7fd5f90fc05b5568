"""The one file that touches private names of pyOpenSSL and cffi.

The data path calls OpenSSL's own functions through cffi with fixed buffers: one 1.3 kB message costs 2-3 us one way
(write end and read end together) against 7-11 us through pyOpenSSL's methods. When a private name has gone (another
pyOpenSSL), the same surface works over the public methods, only slower; see `openssl_methods`.

How a stream uses it::

    ssl, into, out = openssl.handles(conn)
    room = bytearray(256 * 1024); frb = openssl.from_buffer(room); mrb = memoryview(room)      # one per event loop
    BIO_write(into, data, len(data))                       # ciphertext in (bytes only)
    while (n := SSL_read(ssl, frb, len(room))) > 0: buf += mrb[:n]
    if n == 0 or (why := SSL_get_error(ssl, n)) != ERROR_WANT_READ: reasons = take_errors(ssl)  # see tls_errors
    SSL_write(ssl, data, len(data))                        # bytes, or from_buffer(x) + offset
    while (n := BIO_read(out, fwb, size)) > 0: ...         # ciphertext out

Rules: a pending entry in OpenSSL's error queue (it is per thread, not per connection) turns the next WANT_READ of
*another* connection into an error, so every failure path ends in `take_errors` or `ERR_clear_error`. `SSL_read` may
leave output behind (key update, tickets, alerts): look at `out` after reads too. Memory BIOs never shrink: write in
slices of at most 64 kB and empty `out` between them. Nothing here may be called from a second thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from OpenSSL import SSL, _util, crypto
from OpenSSL import version as _version

from appliance.net import openssl_methods as _methods

lib: Any = _util.lib
ffi: Any = _util.ffi

# fmt: off
_FAST: Final = (
    "SSL_read", "SSL_write", "SSL_get_error", "SSL_shutdown", "SSL_do_handshake", "SSL_pending", "SSL_set_mode",
    "SSL_clear_mode", "BIO_read", "BIO_write", "BIO_get_mem_data", "BIO_set_mem_eof_return", "ERR_clear_error",
    "ERR_get_error", "ERR_reason_error_string", "SSL_version",
)
# Without these an upstream's name could not be checked, so there is no fallback: better not to start.
_NEEDED: Final = (
    "SSL_get0_param", "X509_VERIFY_PARAM_set1_host", "X509_VERIFY_PARAM_set1_ip", "X509_VERIFY_PARAM_set_hostflags",
    "X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS", "X509_CHECK_FLAG_NEVER_CHECK_SUBJECT", "SSL_get_verify_result",
    "SSL_session_reused", "SSL_use_certificate", "SSL_use_PrivateKey",
)
# fmt: on


def _missing(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if not hasattr(lib, name)]


def _private_slots() -> bool:
    probe = SSL.Connection(SSL.Context(SSL.TLS_METHOD))
    return all(getattr(probe, name, None) is not None for name in ("_ssl", "_into_ssl", "_from_ssl"))


if _gone := _missing(_NEEDED):
    raise ImportError(f"pyOpenSSL {_version.__version__} is not usable: it has no {', '.join(_gone)}")

available: Final[bool] = not _missing(_FAST) and _private_slots()
"""True when the data path goes straight to OpenSSL; False when it goes over pyOpenSSL's methods."""

ERROR_NONE: Final = 0
ERROR_SSL: Final = 1
ERROR_WANT_READ: Final = 2
ERROR_WANT_WRITE: Final = 3
ERROR_SYSCALL: Final = 5
ERROR_ZERO_RETURN: Final = 6
SENT_SHUTDOWN: Final = 1
RECEIVED_SHUTDOWN: Final = 2
MODE_ENABLE_PARTIAL_WRITE: Final = 0x01
MODE_RELEASE_BUFFERS: Final = 0x10
OP_LEGACY_SERVER_CONNECT: Final = 0x04
OP_NO_RENEGOTIATION: Final = 0x40000000
OP_PRIORITIZE_CHACHA: Final = 0x200000  # a client that puts it first has no AES in hardware

SSL_read: Callable[[Any, Any, int], int]
SSL_write: Callable[[Any, Any, int], int]
SSL_get_error: Callable[[Any, int], int]
SSL_shutdown: Callable[[Any], int]
SSL_do_handshake: Callable[[Any], int]
SSL_pending: Callable[[Any], int]
BIO_read: Callable[[Any, Any, int], int]
BIO_write: Callable[[Any, Any, int], int]
ERR_clear_error: Callable[[], None]
from_buffer: Callable[[Any], Any]
NULL: Final = ffi.NULL


def _bio_eof(bio: Any) -> None:
    lib.BIO_set_mem_eof_return(bio, 0)


def _take_errors(ssl: Any) -> tuple[str, ...]:
    reasons: list[str] = []
    while code := lib.ERR_get_error():
        text = lib.ERR_reason_error_string(code)
        reasons.append(ffi.string(text).decode("ascii", "replace") if text else f"error {code:#x}")
    return tuple(reasons)


def _raw_handles(conn: SSL.Connection) -> tuple[Any, Any, Any]:
    ssl, into, out = conn._ssl, conn._into_ssl, conn._from_ssl
    if into is None:
        raise ValueError(_methods.OVER_SOCKET)
    # A memory BIO takes any amount, so partial writes would only mean more calls; and an add-on's Connection may come
    # from a Context without RELEASE_BUFFERS, which doubles the memory of an idle connection.
    lib.SSL_clear_mode(ssl, MODE_ENABLE_PARTIAL_WRITE)
    lib.SSL_set_mode(ssl, MODE_RELEASE_BUFFERS)
    return ssl, into, out


if available:
    SSL_read = lib.SSL_read
    SSL_write = lib.SSL_write
    SSL_get_error = lib.SSL_get_error
    SSL_shutdown = lib.SSL_shutdown
    SSL_do_handshake = lib.SSL_do_handshake
    SSL_pending = lib.SSL_pending
    BIO_read = lib.BIO_read
    BIO_write = lib.BIO_write
    BIO_get_mem_data: Callable[[Any, Any], int] = lib.BIO_get_mem_data  # with NULL: how many bytes wait in it
    BIO_eof: Callable[[Any], None] = _bio_eof
    ERR_clear_error = lib.ERR_clear_error
    from_buffer = ffi.from_buffer
    take_errors: Callable[[Any], tuple[str, ...]] = _take_errors
    _make_handles: Callable[[SSL.Connection], tuple[Any, Any, Any]] = _raw_handles
else:
    SSL_read = _methods.SSL_read
    SSL_write = _methods.SSL_write
    SSL_get_error = _methods.SSL_get_error
    SSL_shutdown = _methods.SSL_shutdown
    SSL_do_handshake = _methods.SSL_do_handshake
    SSL_pending = _methods.SSL_pending
    BIO_read = _methods.BIO_read
    BIO_write = _methods.BIO_write
    BIO_get_mem_data = _methods.BIO_get_mem_data
    BIO_eof = _methods.BIO_eof
    ERR_clear_error = _methods.ERR_clear_error
    from_buffer = _methods.Pointer
    take_errors = _methods.take_errors
    _make_handles = _methods.handles


def handles(conn: SSL.Connection) -> tuple[Any, Any, Any]:
    """(ssl, into_bio, from_bio) of a Connection over memory BIOs; keep `conn` alive as long as they are used.

    :raises TypeError: `conn` is no pyOpenSSL Connection.
    :raises ValueError: it was made over a socket, so that its bytes would pass the gateway by.
    """
    if not isinstance(conn, SSL.Connection):
        raise TypeError(f"ssl_conn has to be an OpenSSL.SSL.Connection, not {type(conn).__name__}")
    return _make_handles(conn)


def is_tls13(ssl: Any) -> bool:
    """Whether the handshake on this handle led to TLS 1.3; False when that cannot be told."""
    return available and lib.SSL_version(ssl) == SSL.TLS1_3_VERSION


def session_reused(conn: SSL.Connection) -> bool:
    """Whether this handshake resumed an earlier session."""
    return bool(lib.SSL_session_reused(conn._ssl))


def verify_result(conn: SSL.Connection) -> int:
    """OpenSSL's X509_V_* verdict on the peer's certificate; 0 is fine (and also "there was none")."""
    return int(lib.SSL_get_verify_result(conn._ssl))


def expect_name(conn: SSL.Connection, name: bytes) -> None:
    """Have the peer's certificate checked for this DNS name (A-label, RFC 9525): SAN only, no partial wildcards.

    :raises ValueError: OpenSSL does not take the name.
    """
    param = lib.SSL_get0_param(conn._ssl)
    lib.X509_VERIFY_PARAM_set_hostflags(
        param, lib.X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | lib.X509_CHECK_FLAG_NEVER_CHECK_SUBJECT
    )
    if not name or lib.X509_VERIFY_PARAM_set1_host(param, name, len(name)) != 1:
        ERR_clear_error()
        raise ValueError(f"not a name that a certificate could be checked for: {name!r}")


def expect_ip(conn: SSL.Connection, packed: bytes) -> None:
    """Have the peer's certificate checked for this address (4 or 16 bytes, an IP SAN).

    :raises ValueError: wrong length.
    """
    if lib.X509_VERIFY_PARAM_set1_ip(lib.SSL_get0_param(conn._ssl), packed, len(packed)) != 1:
        ERR_clear_error()
        raise ValueError(f"not a packed IP address: {packed!r}")


def set_groups(context: SSL.Context, groups: str) -> None:
    """Key exchange groups in order of preference, `X25519:P-256`; without support for it OpenSSL's defaults stay.

    :raises ValueError: unknown group.
    """
    if not hasattr(lib, "SSL_CTX_set1_curves_list"):
        return
    if lib.SSL_CTX_set1_curves_list(context._context, groups.encode()) != 1:
        ERR_clear_error()
        raise ValueError(f"unknown key exchange group in {groups!r}")


def use_leaf(conn: SSL.Connection, certificate: crypto.X509, key: crypto.PKey) -> None:
    """What `use_certificate` and `use_privatekey` do, for objects that are kept and without their deprecation warnings.

    :raises ValueError: OpenSSL does not take them, or they do not belong together.
    """
    ssl: Any = conn._ssl
    x509, pkey = certificate._x509, key._pkey
    if lib.SSL_use_certificate(ssl, x509) != 1 or lib.SSL_use_PrivateKey(ssl, pkey) != 1:
        ERR_clear_error()
        raise ValueError("the leaf's certificate and key cannot be used")


def answer_late_requests(context: SSL.Context) -> None:
    """Towards servers: say that a certificate may also be asked for after the handshake (RFC 8446 section 4.6.2)."""
    if hasattr(lib, "SSL_CTX_set_post_handshake_auth"):
        lib.SSL_CTX_set_post_handshake_auth(context._context, 1)


def set_session_scope(context: SSL.Context, scope: bytes) -> None:
    """Connections made from now on resume only sessions of the same scope (at most 32 bytes).

    OpenSSL copies it into each Connection, so one Context can keep any number of scopes apart; the public
    `set_session_id` is refused once a Context is in use.
    """
    lib.SSL_CTX_set_session_id_context(context._context, scope, len(scope))


def dump_session(conn: SSL.Connection) -> bytes | None:
    """The connection's current session in ASN.1.

    A copy is needed: OpenSSL marks the session object itself as not resumable when its connection ends without
    close_notify, which most do.
    """
    session = lib.SSL_get1_session(conn._ssl)
    if session == ffi.NULL:
        return None
    size = lib.i2d_SSL_SESSION(session, ffi.NULL)
    data = bytearray(max(size, 0))
    if size > 0:
        start = ffi.from_buffer("unsigned char[]", data)
        lib.i2d_SSL_SESSION(session, ffi.new("unsigned char **", start))
    lib.SSL_SESSION_free(session)
    return bytes(data) or None


def offer_session(conn: SSL.Connection, data: bytes) -> bool:
    """Have the handshake offer a session from `dump_session`; False when it cannot be read."""
    start = ffi.from_buffer("unsigned char[]", data)
    session = lib.d2i_SSL_SESSION(ffi.NULL, ffi.new("const unsigned char **", start), len(data))
    if session == ffi.NULL:
        ERR_clear_error()
        return False
    taken: bool = lib.SSL_set_session(conn._ssl, session) == 1
    lib.SSL_SESSION_free(session)
    if not taken:
        ERR_clear_error()
    return taken


resumption: Final[bool] = not _missing(
    ("i2d_SSL_SESSION", "d2i_SSL_SESSION", "SSL_get1_session", "SSL_set_session", "SSL_SESSION_free")
)
"""Whether sessions with servers can be kept (`dump_session`, `offer_session`)."""
scopes: Final[bool] = not _missing(("SSL_CTX_set_session_id_context",))
"""Whether sessions of clients can be kept apart by name (`set_session_scope`)."""
