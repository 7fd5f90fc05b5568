"""Certificates of clients: ours towards servers that ask (`client_certs`), and those that we ask clients for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from appliance.exceptions import CertificateError, OptionsError
from appliance.net.client_certs import ClientCerts
from appliance.net.tls_context import TlsContexts
from appliance.options import Options
from tests.harness import ORIGIN, Events, Make, Peer, TestPki
from tests.net.test_tls_context import Pair, issue

ROOT = issue("a root of clients", ca=True)
MIDDLE = issue("between", ROOT, ca=True)
GET = b"GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n"


def write(path: Path, name: str, *chain: Pair, key: bool = True) -> Pair:
    pair = issue(name, chain[0] if chain else ROOT)
    path.write_bytes(b"".join(one.pem for one in (pair, *chain)) + (pair.key_pem if key else b""))
    path.chmod(0o600)
    return pair


def asking(pki: TestPki, required: bool = True) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.good.cert, pki.good.key)
    context.load_verify_locations(cadata=ROOT.pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    return context


async def tell(peer: Peer) -> None:
    """Answer each request with the name in the client's certificate, and whether the session was resumed."""
    tls = peer.writer.get_extra_info("ssl_object")
    shown = tls.getpeercert() or {}
    name = dict(part[0] for part in shown.get("subject", ())).get("commonName", "nobody")
    body = f"{name} {tls.session_reused}".encode()
    while True:
        await peer.head()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


async def ask(rig: Any, proxy: Any, port: int, host: str = ORIGIN) -> bytes:
    client = await rig.tunnel(proxy, f"{host}:{port}")
    await client.start_tls(host)
    await client.say(GET)
    head = await client.head()
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    body: bytes = await client.exactly(length)
    await client.close()
    return head.split()[1] + b" " + body


async def test_one_for_all_with_its_chain_and_resumed(rigs: Make, pki: TestPki, tmp_path: Path) -> None:
    write(tmp_path / "me.pem", "the gateway", MIDDLE)
    rig = await rigs(client_certs=str(tmp_path / "me.pem"))
    proxy, origin = await rig.regular(), await rig.origin(tell, tls=asking(pki))
    assert await ask(rig, proxy, origin[1]) == b"200 the gateway False"
    assert await ask(rig, proxy, origin[1]) == b"200 the gateway True"
    assert len(rig.worker.tls._servers) == 2  # the one without a certificate is made at the start
    write(tmp_path / "me.pem", "renewed", MIDDLE)
    assert await ask(rig, proxy, origin[1]) == b"200 renewed False"
    (tmp_path / "me.pem").unlink()
    assert b"There is no" in await ask(rig, proxy, origin[1])


async def test_one_a_host(rigs: Make, pki: TestPki, tmp_path: Path) -> None:
    write(tmp_path / "origin.test.pem", "known to origin")
    write(tmp_path / "127.0.0.1.pem", "known by address")
    rig = await rigs(client_certs=str(tmp_path))
    proxy, origin = await rig.regular(), await rig.origin(tell, tls=asking(pki, required=False))
    assert await ask(rig, proxy, origin[1]) == b"200 known to origin False"
    assert await ask(rig, proxy, origin[1], "127.0.0.1") == b"200 known by address False"
    assert await ask(rig, proxy, origin[1], "other.test") == b"200 nobody False"
    write(tmp_path / "origin.test.pem", "changed meanwhile")
    assert await ask(rig, proxy, origin[1]) == b"200 changed meanwhile False"  # no session of the other's
    (tmp_path / "origin.test.pem").unlink()
    assert await ask(rig, proxy, origin[1]) == b"200 nobody False"


async def test_a_file_that_cannot_be_used_is_named(rigs: Make, pki: TestPki, tmp_path: Path) -> None:
    path = tmp_path / "origin.test.pem"
    write(path, "no key", key=False)
    events = Events("tls_failed_server")
    rig = await rigs(events, client_certs=str(tmp_path))
    proxy, origin = await rig.regular(), await rig.origin(tell, tls=asking(pki, required=False))
    answer = await ask(rig, proxy, origin[1])
    assert answer.startswith(b"502")
    assert str(path).encode() in answer
    assert f"There is no private key in {path}" in events.of("tls_failed_server")[0].conn.error
    assert rig.served == 0


async def test_servers_that_demand_one_we_have_not(rigs: Make, pki: TestPki) -> None:
    rig = await rigs()
    context = asking(pki)
    context.set_alpn_protocols(["http/1.1"])
    origin = await rig.origin(tell, tls=context)
    client = await rig.tunnel(await rig.regular(), f"{ORIGIN}:{origin[1]}")
    await client.start_tls(alpn=("http/1.1",))
    await client.say(GET)
    assert b" 502 " in await client.head()


@pytest.mark.parametrize("pause", [0.0, 0.2])
async def test_so_is_the_first_request_told(rigs: Make, pki: TestPki, pause: float) -> None:
    """Without ALPN: the server is gone before anybody knows what the client will speak."""

    def serve() -> None:
        for _ in range(2):  # a request on its way when the first one fails is tried again
            with contextlib.suppress(OSError):
                sock, _ = listener.accept()
                with asking(pki).wrap_socket(sock, server_side=True) as tls:
                    tls.recv(1000)

    events = Events()
    rig = await rigs(events)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        client = await rig.tunnel(await rig.regular(), f"{ORIGIN}:{listener.getsockname()[1]}")
        await client.start_tls()
        await asyncio.sleep(pause)
        await client.say(GET)
        assert b" 502 " in await client.head()
        assert b"the peer wants a client certificate" in await client.some()
        listener.shutdown(socket.SHUT_RDWR)
        await asyncio.to_thread(thread.join, 5)
    assert events.of("error")[0].error.msg == "the peer wants a client certificate"
    assert "tcp_start" not in events.names


async def test_asked_for_after_the_handshake(rigs: Make, pki: TestPki, tmp_path: Path) -> None:
    def serve() -> None:
        sock, _ = listener.accept()
        with context.wrap_socket(sock, server_side=True) as tls:
            tls.recv(1000)
            tls.verify_client_post_handshake()
            tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")  # asks with it, and is answered
            tls.settimeout(5)
            with contextlib.suppress(OSError):
                tls.recv(1000)
            found.append(tls.getpeercert())
            tls.sendall(b"end")

    write(tmp_path / "me.pem", "the gateway")
    rig = await rigs(client_certs=str(tmp_path / "me.pem"))
    context = asking(pki)
    context.post_handshake_auth = True
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    found: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        client = await rig.tunnel(await rig.regular(), f"{ORIGIN}:{listener.getsockname()[1]}")
        await client.start_tls()
        await client.say(GET)
        await client.head()
        await client.say(GET)
        assert await client.exactly(3) == b"end"
        await asyncio.to_thread(thread.join, 5)
    assert found[0]["subject"] == ((("commonName", "the gateway"),),)


def test_the_folder_is_never_left(tmp_path: Path) -> None:
    write(tmp_path / "secret.pem", "not to be had")
    (tmp_path / "certs").mkdir()
    table = ClientCerts(tmp_path / "certs")
    for host in ("../secret", "..", "", "a/../../secret", "secret\0", "." * 300):
        assert table.find(host) is None


def test_files_are_read_once_and_few_are_kept(tmp_path: Path) -> None:
    write(tmp_path / "origin.test.pem", "one")
    table = ClientCerts(tmp_path)
    leaf = table.find("origin.test")
    assert leaf is not None
    assert table.find("ORIGIN.test") is leaf
    data = (tmp_path / "origin.test.pem").read_bytes()
    for number in range(70):
        (tmp_path / f"h{number}.test.pem").write_bytes(data)
        assert table.find(f"h{number}.test") is not None
    assert len(table._kept) <= 64


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    write(tmp_path / "origin.test.pem", "one")
    (tmp_path / "origin.test.pem").chmod(0)
    with pytest.raises(CertificateError, match=r"Cannot read .*origin\.test\.pem: Permission denied"):
        ClientCerts(tmp_path).find("origin.test")


def test_options_that_cannot_work(tmp_path: Path) -> None:
    write(tmp_path / "bad.pem", "no key", key=False)
    for path, told in ((tmp_path / "nosuch", "There is no "), (tmp_path / "bad.pem", "There is no private key in")):
        with pytest.raises(OptionsError, match=rf"client_certs: .*{told}"):
            TlsContexts(Options(client_certs=str(path)))
    with pytest.raises(OptionsError, match="needs upstream_cert"):
        TlsContexts(Options(add_upstream_certs_to_client_chain=True, upstream_cert=False))


# -- what clients show, and are shown


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("shows", [True, False])
async def test_clients_are_asked(rigs: Make, tmp_path: Path, shows: bool, version: ssl.TLSVersion) -> None:
    write(tmp_path / "client.pem", "a client", MIDDLE)
    events = Events("tls_established_client", "request")
    rig = await rigs(events, request_client_cert=True)
    origin = await rig.origin(tell, tls=True)
    for _ in range(2):  # the second time resumed
        context = ssl.create_default_context(cadata=rig.worker.ca.pem.decode())
        context.minimum_version = context.maximum_version = version
        if shows:
            context.load_cert_chain(tmp_path / "client.pem")
        client = await rig.tunnel(await rig.regular(), f"{ORIGIN}:{origin[1]}")
        await client.writer.start_tls(context, server_hostname=ORIGIN)
        await client.say(GET)
        assert b" 200 " in await client.head()
        await client.close()
    for flow in events.of("request"):
        chain = flow.client_conn.certificate_list
        assert [one.cn for one in chain] == (["a client", "between"] if shows else [])


async def test_nobody_is_asked_without_it(rigs: Make, tmp_path: Path) -> None:
    write(tmp_path / "client.pem", "a client")
    events = Events("request")
    rig = await rigs(events)
    context = ssl.create_default_context(cadata=rig.worker.ca.pem.decode())
    context.load_cert_chain(tmp_path / "client.pem")
    origin = await rig.origin(tell, tls=True)
    client = await rig.tunnel(await rig.regular(), f"{ORIGIN}:{origin[1]}")
    await client.writer.start_tls(context, server_hostname=ORIGIN)
    await client.say(GET)
    await client.head()
    assert list(events.of("request")[0].client_conn.certificate_list) == []


@pytest.mark.parametrize("on", [True, False])
async def test_the_servers_certificates_are_sent_along(rigs: Make, pki: TestPki, on: bool) -> None:
    rig = await rigs(add_upstream_certs_to_client_chain=on)
    origin = await rig.origin(tell, tls=pki.chained)
    proxy = await rig.regular()
    for _ in range(3):
        client = await rig.tunnel(proxy, f"{ORIGIN}:{origin[1]}")
        tls = await client.start_tls()
        raw: Any = tls
        sent = [
            x509.load_pem_x509_certificate(one.public_bytes().encode()) for one in raw._sslobj.get_unverified_chain()
        ]
        issuers = [one.issuer.rfc4514_string() for one in sent[1:]]
        assert ("CN=lab intermediate" in issuers, "CN=lab root" in issuers) == (on, on)
        await client.close()
    assert len(rig.worker.tls._clients) == (2 if on else 1)
