"""An add-on that notes which hooks fired, and small ways of speaking through the gateway."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.lab.gateway_proc import Gateway
from tests.lab.labkit import Lab
from tests.lab.netns import wait_for

REGULAR, TRANSPARENT = 8080, 8081
MODES = ("-m", f"regular@{REGULAR}", "-m", f"transparent@{TRANSPARENT}")
"""One gateway with both modes: `with lab.redirect(TRANSPARENT)` the client's own connections arrive as well."""

_SOURCE = """
import json

OUT = open({path!r}, "a", buffering=1)

def _note(event, **more):
    OUT.write(json.dumps(dict(event=event, **more)) + "\\n")

def _http(event, flow):
    _note(event, path=flow.request.path, method=flow.request.method, error=str(flow.error or ""),
          status=flow.response.status_code if flow.response else 0)

def requestheaders(flow): _http("requestheaders", flow)
def request(flow): _http("request", flow)
def responseheaders(flow): _http("responseheaders", flow)
def response(flow): _http("response", flow)
def error(flow): _http("error", flow)
def http_connect(flow): _http("http_connect", flow)
def http_connected(flow): _http("http_connected", flow)
def http_connect_error(flow): _http("http_connect_error", flow)
def tcp_start(flow): _note("tcp_start")
def tcp_end(flow): _note("tcp_end")
def tcp_error(flow): _note("tcp_error", error=str(flow.error))
def client_connected(client): _note("client_connected")
def client_disconnected(client): _note("client_disconnected", verdict=str(client.verdict))
def server_connect(data): _note("server_connect", path=str(data.server.address))
def server_connected(data): _note("server_connected", path=str(data.server.address))
def server_connect_error(data): _note("server_connect_error", error=str(data.server.error))
def server_disconnected(data): _note("server_disconnected", path=str(data.server.address))
def tls_failed_client(data): _note("tls_failed_client", error=str(data.conn.error))
def tls_failed_server(data): _note("tls_failed_server", error=str(data.conn.error))
def tls_established_client(data): _note("tls_established_client", error="")
"""


@dataclass
class Event:
    """One hook's call. `status` 0: no response; `error` "": none."""

    event: str
    path: str = ""
    method: str = ""
    error: str = ""
    status: int = 0
    verdict: str = ""


class Witness:
    """What the add-on noted. `addon` is the script for `gateway_proc`; a test sees only what came after `forget()`."""

    def __init__(self, lab: Lab) -> None:
        name = f"witness{len(list(lab.scratch.glob('witness*.py')))}"
        self._log = lab.scratch / f"{name}.jsonl"
        self._log.touch()
        self.addon = lab.scratch / f"{name}.py"
        self.addon.write_text(_SOURCE.format(path=str(self._log)))
        self._from = 0

    def forget(self) -> None:
        self._from = self._log.stat().st_size

    def events(self, *names: str) -> list[Event]:
        """Those of these names (or all), in order."""
        with self._log.open("rb") as log:
            log.seek(self._from)
            whole = log.read().rpartition(b"\n")[0]
        noted = [Event(**json.loads(line)) for line in whole.splitlines()]
        return [event for event in noted if not names or event.event in names]

    def wait(self, *names: str, count: int = 1, timeout: float = 5.0) -> list[Event]:
        """As `events`, once there are `count` of them. Raises AssertionError showing all there were."""
        with contextlib.suppress(TimeoutError):
            wait_for(lambda: len(self.events(*names)) >= count, timeout, str(names))
        found = self.events(*names)
        assert len(found) >= count, f"{len(found)} of {count} {names} in {self.events()}"
        return found

    def endings(self, count: int = 1) -> list[str]:
        """Which of `response` and `error` fired, once all client connections are over."""

        def over() -> bool:
            began, ended = self.events("client_connected"), self.events("client_disconnected")
            return len(began) == len(ended) >= count

        wait_for(over, 5, f"all client connections end, in {self.events()}")
        return [event.event for event in self.events("response", "error")]


@contextlib.contextmanager
def both_modes(
    lab: Lab, *arguments: str, capture: str = "redirect", **more: object
) -> Iterator[tuple[Gateway, Witness]]:
    """A gateway in both modes with a witness, the client redirected to it. No traceback may be in its output."""
    witness = Witness(lab)
    gateway = lab.gateway_proc(*MODES, *arguments, addon=witness.addon, **more)  # type: ignore[arg-type]
    with gateway, lab.redirect(TRANSPARENT, capture):
        yield gateway, witness
    assert "Traceback" not in gateway.output, gateway.output
    assert "unexpected fault" not in gateway.output, gateway.output


# -- raw bytes


def connect(lab: Lab, *, family: int | None = 4, port: int = REGULAR) -> socket.socket:
    """To the proxy."""
    return lab.connect("gateway.test", port, family=family)


def tunnel(lab: Lab, to: str, port: int, *, proxy: int = REGULAR) -> socket.socket:
    """A socket behind a granted CONNECT. Raises AssertionError with the answer when it is not granted."""
    sock = connect(lab, port=proxy)
    where = f"[{to}]:{port}" if ":" in to else f"{to}:{port}"
    sock.sendall(f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode())
    head = read_head(sock)
    assert status(head) == 200, head
    return sock


def read_head(sock: socket.socket) -> bytes:
    """Up to and including the empty line; not a byte more is taken."""
    data = b""
    while not data.endswith(b"\r\n\r\n") and (more := sock.recv(1)):
        data += more
    return data


def read_response(sock: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of one response that has a Content-Length (or no body)."""
    head = read_head(sock)
    length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
    body, left = b"", int(length[1]) if length else 0
    while left > len(body) and (more := sock.recv(left - len(body))):
        body += more
    return head, body


def status(answer: bytes) -> int:
    """Of the response these bytes begin with, 0 if they are none."""
    match = re.match(rb"HTTP/1\.1 ([0-9]{3}) ", answer)
    return int(match[1]) if match else 0


def issuer_of(pem_or_der: bytes) -> str:
    """The issuer's common name."""
    from cryptography import x509

    load = x509.load_pem_x509_certificate if pem_or_der.startswith(b"-----") else x509.load_der_x509_certificate
    return str(load(pem_or_der).issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)


def subject_of(path: Path) -> str:
    """The subject's common name of a PEM file."""
    from cryptography import x509

    names = x509.load_pem_x509_certificate(path.read_bytes()).subject
    return str(names.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)


@contextlib.contextmanager
def server(lab: Lab, port: int, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """An origin on `port` for this test alone: `serve(connection)` in a thread each; socket errors are ignored."""
    with lab.server.inside():
        listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)

    def one(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            sock.settimeout(10)
            serve(sock)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=one, args=[listener.accept()[0]], daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
