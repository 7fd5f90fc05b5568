"""Small helpers for tests that speak raw bytes."""

from __future__ import annotations

import contextlib
import socket

from tests.lab.labkit import HTTP, Lab


def read_all(sock: socket.socket) -> bytes:
    """What still comes until the peer ends or resets the connection."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while more := sock.recv(65536):
            data += more
    return data


def ask(lab: Lab, request: bytes, port: int = HTTP) -> bytes:
    """Send these bytes to the origin, and all that comes back until it closes."""
    with lab.connect(port=port) as sock:
        sock.sendall(request)
        return read_all(sock)


def get(path: str, *fields: str, method: str = "GET") -> bytes:
    """A request head with Host: origin.test and these field lines."""
    lines = [f"{method} {path} HTTP/1.1", "Host: origin.test", *fields, "", ""]
    return "\r\n".join(lines).encode()
