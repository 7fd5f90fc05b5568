"""What is decided about a connection before anything is said in it."""

import tempfile
from pathlib import Path

from mitmproxy import certs, connection, http, tls
from mitmproxy.proxy import server_hooks
from OpenSSL import SSL, crypto


class Destinations:
    """Names that only this add-on knows."""

    def server_connect(self, data: server_hooks.ServerConnectionHookData) -> None:
        host, port = data.server.address
        if host == "nowhere.invalid":
            data.server.address = ("origin.test", port)
        elif host == "refused.invalid":
            data.server.error = "refused by the add-on"

    def server_connect_error(self, data: server_hooks.ServerConnectionHookData) -> None:
        self.last = data.server.error


class Tunnels:
    def http_connect(self, flow: http.HTTPFlow) -> None:
        if flow.request.host == "forbidden.test":
            flow.response = http.Response.make(403, b"no tunnel there", {"x-why": "add-on"})
        elif flow.request.host == "moved.test":
            flow.request.host = "origin.test"

    def http_connected(self, flow: http.HTTPFlow) -> None:
        flow.response.headers["x-tunnel"] = flow.request.host


class Passed:
    """Not decrypted."""

    def tls_clienthello(self, data: tls.ClientHelloData) -> None:
        if data.client_hello.sni == "www.origin.test":
            data.ignore_connection = True


class Fingerprint:
    def tls_clienthello(self, data: tls.ClientHelloData) -> None:
        data.context.client.fingerprinted = (data.client_hello.ja4, len(data.client_hello.cipher_suites))

    def response(self, flow: http.HTTPFlow) -> None:
        if flow.client_conn.tls_established:
            ja4, count = flow.client_conn.fingerprinted
            same = flow.client_conn.ja4 == ja4 and isinstance(flow.client_conn, connection.Client)
            flow.response.headers["x-ja4"] = f"{ja4} {same} {count > 3}"


class Authorities:
    """What the server is told that we want."""

    def tls_start_server(self, data: tls.TlsData) -> None:
        if data.conn.sni == "v4.origin.test":
            data.conn.sni = "v6.origin.test"


class OwnTls:
    """A certificate of the add-on's own CA."""

    store: certs.CertStore | None = None

    def tls_start_client(self, data: tls.TlsData) -> None:
        if data.conn.sni != "alt.test":
            return
        if self.store is None:
            with tempfile.TemporaryDirectory() as folder:
                self.store = certs.CertStore.from_store(Path(folder), "own", 2048)
        entry = self.store.get_cert(data.conn.sni, [data.conn.sni])
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.use_certificate(entry.cert.to_pyopenssl())
        context.use_privatekey(crypto.PKey.from_cryptography_key(entry.privatekey))
        data.ssl_conn = SSL.Connection(context, None)
        data.ssl_conn.set_accept_state()
