"""TLS contexts and connections for both legs.

Contexts are dear (the trust store takes 7 ms to load) and pyOpenSSL freezes them with their first Connection. So there
is one for clients per certificate chain (chains can only be set on a Context; leaves go on the Connection) and one for
servers per verification policy and client certificate. All Connections are over memory BIOs.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import certifi
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL, crypto

from appliance.exceptions import OptionsError
from appliance.home import expanded
from appliance.net import openssl
from appliance.net.client_certs import ClientCerts
from appliance.net.keylog import KeyLog, path_from
from appliance.net.names import dns_name, ip_address
from appliance.net.sessions import Kept, SessionCache, resumable
from appliance.net.tls_errors import Fault, fault

if TYPE_CHECKING:
    from appliance.connection import Connection, Server
    from appliance.net.leaf import Leaf
    from appliance.options import Options
    from appliance.tls import ClientHello

SUITES = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
"""TLS 1.3 on both legs, in the order of the browsers; OpenSSL's own order starts with the dearest."""
DEFAULT_GROUPS = "X25519:P-256"
"""Towards servers: OpenSSL's own default starts with X25519MLKEM768, which costs 175 us a handshake more."""
Secrets = Callable[[SSL.Connection, bytes], None]
"""Called by OpenSSL in the middle of a handshake with a line for a key log."""
_VERSIONS = {
    "UNBOUNDED": 0,
    "SSL3": SSL.SSL3_VERSION,
    "TLS1": SSL.TLS1_VERSION,
    "TLS1_1": SSL.TLS1_1_VERSION,
    "TLS1_2": SSL.TLS1_2_VERSION,
    "TLS1_3": SSL.TLS1_3_VERSION,
}
_CHAINS = 64  # Contexts kept: the CA's own chain, and those of certificates given by hand


class CertificateList(Sequence[x509.Certificate]):
    """A peer's certificates, leaf first; each parsed when first looked at, for most never are."""

    __slots__ = ("_items",)

    def __init__(self, given: Iterable[crypto.X509 | x509.Certificate]) -> None:
        self._items = list(given)

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> x509.Certificate: ...
    @overload
    def __getitem__(self, index: slice) -> CertificateList: ...
    def __getitem__(self, index: int | slice) -> x509.Certificate | CertificateList:
        if isinstance(index, slice):
            return CertificateList(self._items[index])
        item = self._items[index]
        if isinstance(item, crypto.X509):
            item = self._items[index] = item.to_cryptography()
        return item

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


class _Upstream:
    """Hung on a Connection that `connect` made: where its session belongs."""

    __slots__ = ("key", "offered", "stored")

    def __init__(self, key: Hashable, offered: Kept | None) -> None:
        self.key = key
        self.offered = offered
        self.stored = False


class _Side(NamedTuple):
    """The options of one leg."""

    least: str
    most: str
    ciphers: str | None
    groups: str | None


class TlsContexts:
    """Makes the Connections of both legs; holds the contexts and the servers' sessions.

    :raises OptionsError: from the constructor and `reload`, when a TLS option cannot work.
    """

    def __init__(self, options: Options, sessions: SessionCache | None = None) -> None:
        self._options = options
        self.sessions = SessionCache() if sessions is None else sessions
        self._keylog: KeyLog | None = None
        self._tap: Secrets | None = None
        self._servers: OrderedDict[tuple[bool, Leaf | None], SSL.Context] = OrderedDict()
        self._clients: OrderedDict[Hashable, SSL.Context] = OrderedDict()
        self._identities: ClientCerts | None = None
        self._seen: tuple[object, ...] = ()
        self.reload()

    def reload(self) -> None:
        """Take over changed options. Nothing happens when no TLS option changed; nothing changes when it raises."""
        o = self._options
        if o.add_upstream_certs_to_client_chain and not o.upstream_cert:
            raise OptionsError("add_upstream_certs_to_client_chain needs upstream_cert")
        to_clients = _Side(
            o.tls_version_client_min, o.tls_version_client_max, o.ciphers_client, o.tls_ecdh_curve_client
        )
        to_servers = _Side(
            o.tls_version_server_min,
            o.tls_version_server_max,
            o.ciphers_server,
            o.tls_ecdh_curve_server or DEFAULT_GROUPS,
        )
        trust = (o.ssl_verify_upstream_trusted_ca, o.ssl_verify_upstream_trusted_confdir)
        log = path_from(o.tls_keylog_file, os.environ)
        seen = (to_clients, to_servers, trust, log, self._tap, o.client_certs, o.request_client_cert)
        if seen == self._seen:
            return
        before = self._keylog
        keylog = (before if before and before.path == log else KeyLog(log)) if log else None
        identities = ClientCerts(expanded(o.client_certs, "client_certs")) if o.client_certs else None
        client = _accepting(to_clients, (), _both(keylog, self._tap), o.request_client_cert)
        server = _connecting(to_servers, trust, keylog, insecure=False)
        if before and before is not keylog:
            before.close()
        self._seen, self._keylog, self._identities = seen, keylog, identities
        self._ask = o.request_client_cert
        self._to_clients, self._to_servers, self._trust = to_clients, to_servers, trust
        self._clients = OrderedDict({(): client})
        self._servers = OrderedDict({(False, None): server})
        self.sessions.clear()

    def tap(self, told: Secrets | None) -> None:
        """Have `told` called with each key log line of connections with clients; it must not raise."""
        self._tap = told
        self.reload()

    def accept(
        self,
        leaf: Leaf,
        hello: ClientHello | None = None,
        alpn: bytes | None = None,
        more: Sequence[x509.Certificate] = (),
    ) -> SSL.Connection:
        """A Connection in accept state that shows `leaf`, its chain, and `more` certificates.

        alpn: the protocol to choose. When the client did not offer it, or for None and b"", none is chosen and the
        handshake goes on. A session is resumed only under the server name it was made with: OpenSSL alone would not
        look at the name (RFC 6066 section 3 asks for it).
        """
        key: Hashable = leaf.chain
        if more:
            key = leaf.chain, tuple([certificate.public_bytes(Encoding.DER) for certificate in more])
        context = self._clients.get(key)
        if context is None:
            chain = [*(certificate.to_cryptography() for certificate in leaf.chain), *more]
            context = self._clients[key] = _accepting(
                self._to_clients, chain, _both(self._keylog, self._tap), self._ask
            )
            if len(self._clients) > _CHAINS:
                self._clients.popitem(last=False)
        name = hello.sni if hello is not None else None
        if openssl.scopes:
            openssl.set_session_scope(context, sha256((name or "").lower().encode()).digest())
        conn = SSL.Connection(context)
        openssl.use_leaf(conn, leaf.certificate, leaf.key)
        conn.set_app_data(alpn)
        conn.set_accept_state()
        return conn

    def connect(
        self, server: Server, *, sni: str | None, alpn_offers: Sequence[bytes] = (), insecure: bool | None = None
    ) -> SSL.Connection:
        """A Connection in connect state whose handshake fails unless the certificate is good for the server.

        sni: the name to ask and check for; None = ask for none and check for `server.address`. An address in either is
        never sent, only checked. insecure: complete the handshake all the same (default: the option `ssl_insecure`);
        `verify_fault` tells what was wrong either way.

        :raises ValueError: neither a name nor an address to check for.
        :raises CertificateError: the client certificate for it cannot be used.
        """
        if insecure is None:
            insecure = self._options.ssl_insecure
        address = server.address
        wanted = sni or (address[0] if address else "")
        identity = self._identities.find(wanted) if self._identities is not None else None
        kind = insecure, identity
        context = self._servers.get(kind)
        if context is None:
            context = _connecting(self._to_servers, self._trust, self._keylog, insecure=insecure, identity=identity)
            self._servers[kind] = context
            if len(self._servers) > _CHAINS:
                self._servers.popitem(last=False)
        conn = SSL.Connection(context)
        if identity is not None:
            openssl.use_leaf(conn, identity.certificate, identity.key)
        if ip := ip_address(wanted):
            openssl.expect_ip(conn, ip.packed)
        else:
            name = dns_name(wanted)
            if name is None:
                raise ValueError(f"not a name that a certificate could be checked for: {wanted!r}")
            openssl.expect_name(conn, name.encode())
            if sni:
                conn.set_tlsext_host_name(name.encode())
        if alpn_offers:
            conn.set_alpn_protos(list(alpn_offers))
        conn.set_connect_state()
        # server.via: behind an upstream proxy the same address may be another machine.
        key = (address, server.via, sni, wanted, tuple(alpn_offers), kind)
        kept = self.sessions.take(key)
        if kept is not None and not openssl.offer_session(conn, kept.session):
            kept = None
        conn.set_app_data(_Upstream(key, kept))
        return conn

    def remember(self, conn: SSL.Connection) -> None:
        """Keep the session of a connection with a server. Call it after the first data was read: TLS 1.3 tickets come
        behind the handshake. Does nothing the second time, and for Connections that `connect` did not make."""
        mark = conn.get_app_data()
        if not isinstance(mark, _Upstream) or mark.stored or not openssl.resumption:
            return
        mark.stored = True
        if self.sessions.barren(mark.key):
            return
        if conn.get_context() is not self._servers.get(mark.key[-1]):  # type: ignore[index]
            return  # made before the options changed
        session = openssl.dump_session(conn)
        if session is None or not resumable(session):
            self.sessions.none_given(mark.key)
        else:
            resumed = mark.offered if openssl.session_reused(conn) else None
            self.sessions.put(
                mark.key,
                session,
                certificates(conn),
                once=conn.get_protocol_version() >= SSL.TLS1_3_VERSION,
                verified=resumed.verified if resumed else None,
            )

    def close(self) -> None:
        """Drop sessions and close the key log."""
        self.sessions.clear()
        if self._keylog is not None:
            self._keylog.close()


def verify_fault(conn: SSL.Connection) -> Fault | None:
    """What is wrong with the server's certificate; None when nothing is, or when it was not seen yet."""
    return fault(openssl.verify_result(conn))


def verify_result(conn: SSL.Connection) -> str | None:
    """`verify_fault` as text, such as "has expired"."""
    found = verify_fault(conn)
    return found.text if found else None


def certificates(conn: SSL.Connection) -> Sequence[x509.Certificate]:
    """What the peer showed, leaf first; also after a failed verification. After a resumption: what it showed then."""
    mark = conn.get_app_data()
    if isinstance(mark, _Upstream) and mark.offered is not None and openssl.session_reused(conn):
        return mark.offered.certificates
    chain = conn.get_peer_cert_chain() or []
    if not isinstance(mark, _Upstream) and (leaf := conn.get_peer_certificate()) is not None:
        chain = [leaf, *(one for one in chain if one != leaf)]  # of a client the chain comes without its leaf
    return CertificateList(chain)


def describe(conn: SSL.Connection, connection: Connection) -> None:
    """Fill a model's TLS attributes after the handshake."""
    connection.tls = True
    connection.tls_version = conn.get_protocol_version_name()
    connection.cipher = conn.get_cipher_name()
    connection.alpn = conn.get_alpn_proto_negotiated()
    connection.chain = certificates(conn)
    connection.timestamp_tls_setup = time.time()


def _both(keylog: KeyLog | None, tap: Secrets | None) -> Secrets | None:
    if keylog is None or tap is None:
        return keylog or tap
    first, second = keylog, tap

    def told(conn: SSL.Connection, line: bytes) -> None:
        first(conn, line)
        second(conn, line)

    return told


def _context(method: int, side: _Side, keylog: Secrets | None, leg: str) -> SSL.Context:
    context = SSL.Context(method)
    context.set_mode(openssl.MODE_RELEASE_BUFFERS)
    context.set_options(SSL.OP_NO_COMPRESSION | openssl.OP_NO_RENEGOTIATION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)  # OpenSSL's own: 20,480 sessions; tickets need none
    try:
        context.set_min_proto_version(_VERSIONS[side.least])
        context.set_max_proto_version(_VERSIONS[side.most])
    except (SSL.Error, KeyError):
        raise OptionsError(f"tls_version_{leg}_min/max: {side.least} to {side.most} is not possible here") from None
    old = _VERSIONS[side.least] < SSL.TLS1_2_VERSION
    ciphers = side.ciphers or ("DEFAULT" if old else None)
    if ciphers:
        if old and "@SECLEVEL" not in ciphers:
            ciphers += ":@SECLEVEL=0"  # OpenSSL refuses TLS 1.0 and 1.1 above that level
        try:
            context.set_cipher_list(ciphers.encode())
        except SSL.Error:
            raise OptionsError(f"ciphers_{leg}: OpenSSL knows no cipher in {side.ciphers!r}") from None
    if side.groups:
        try:
            openssl.set_groups(context, side.groups)
        except ValueError:
            raise OptionsError(f"tls_ecdh_curve_{leg}: unknown group in {side.groups!r}") from None
    if keylog is not None:
        context.set_keylog_callback(keylog)
    return context


def _accepting(
    side: _Side, chain: Sequence[x509.Certificate], keylog: Secrets | None, ask: bool = False
) -> SSL.Context:
    context = _context(SSL.TLS_SERVER_METHOD, side, keylog, "client")
    context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE | openssl.OP_PRIORITIZE_CHACHA)
    context.set_tls13_ciphersuites(SUITES)
    if not openssl.scopes:
        context.set_options(SSL.OP_NO_TICKET)
    context.set_alpn_select_callback(_choose)
    if ask:
        context.set_verify(SSL.VERIFY_PEER, _any)
    _send_along(context, chain)
    return context


def _any(conn: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
    """Whatever a client shows: it is for add-ons to look at."""
    return True


def _send_along(context: SSL.Context, chain: Iterable[x509.Certificate]) -> None:
    add: Any = context.add_extra_chain_cert  # its type stubs lag behind: X509 objects are deprecated here
    for certificate in chain:
        add(certificate)


def _choose(conn: SSL.Connection, offered: list[bytes]) -> Any:
    alpn = conn.get_app_data()
    return alpn if alpn and alpn in offered else SSL.NO_OVERLAPPING_PROTOCOLS


def _connecting(
    side: _Side,
    trust: tuple[str | None, str | None],
    keylog: KeyLog | None,
    *,
    insecure: bool,
    identity: Leaf | None = None,
) -> SSL.Context:
    context = _context(SSL.TLS_CLIENT_METHOD, side, keylog, "server")
    if identity is not None:
        _send_along(context, (certificate.to_cryptography() for certificate in identity.chain))
        openssl.answer_late_requests(context)
    # Without a callback OpenSSL keeps its first finding as the verify result, and with VERIFY_NONE goes on after it.
    context.set_verify(SSL.VERIFY_NONE if insecure else SSL.VERIFY_PEER)
    context.set_tls13_ciphersuites(SUITES)
    if insecure:
        context.set_options(openssl.OP_LEGACY_SERVER_CONNECT)
    file, folder = (str(expanded(path, "ssl_verify_upstream_trusted_ca")) if path else None for path in trust)
    try:
        context.load_verify_locations(file if file or folder else certifi.where(), folder)
    except SSL.Error:
        raise OptionsError(f"ssl_verify_upstream_trusted_ca: cannot load certificates from {file or folder}") from None
    store = context.get_cert_store()
    if store is not None:
        # Whatever is in the file is trusted, be it an intermediate or a server's own certificate.
        store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    return context
