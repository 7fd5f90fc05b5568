"""A stand-in for `lockgate run` with which the lab tests itself: it relays and says where each client wanted to go.

python -m tests.lab.standin run -m regular@10.61.1.1:8080
python -m tests.lab.standin run -m transparent@8080
"""

from __future__ import annotations

import argparse
import signal
import socket
import struct
import sys
import threading

IP_TRANSPARENT, IPV6_TRANSPARENT, SO_ORIGINAL_DST = 19, 75, 80


def wanted(client: socket.socket) -> tuple[str, int]:
    """Where a captured client wanted to go: SO_ORIGINAL_DST, or (TPROXY) the socket's own address."""
    six = client.family == socket.AF_INET6
    try:
        raw = client.getsockopt(socket.IPPROTO_IPV6 if six else socket.SOL_IP, SO_ORIGINAL_DST, 28)
    except OSError:
        address, port, *_ = client.getsockname()
        return address, port
    port = struct.unpack_from("!H", raw, 2)[0]
    return (socket.inet_ntop(client.family, raw[8:24] if six else raw[4:8])), port


def connect_request(client: socket.socket) -> tuple[str, int]:
    head = b""
    while b"\r\n\r\n" not in head:
        head += client.recv(1)
    host, _, port = head.split()[1].decode().rpartition(":")
    return host.strip("[]"), int(port)


def serve(client: socket.socket, mode: str) -> None:
    with client:
        target = connect_request(client) if mode == "regular" else wanted(client)
        print(f"{client.getpeername()[0]} wants {target[0]} {target[1]}", flush=True)
        with socket.create_connection(target, 5) as upstream:
            upstream.settimeout(None)
            if mode == "regular":
                client.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            back = threading.Thread(target=pump, args=(upstream, client))
            back.start()
            pump(client, upstream)
            back.join()


def pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, sink):
            end.close()


def listen(family: int, host: str, port: int) -> socket.socket:
    six = family == socket.AF_INET6
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(*((socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1) if six else (socket.SOL_IP, IP_TRANSPARENT, 1)))
    if six:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((host, port))
    sock.listen(128)
    return sock


def accept(listener: socket.socket, mode: str) -> None:
    while True:
        client, _ = listener.accept()
        threading.Thread(target=serve, args=(client, mode), daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["run"])
    parser.add_argument("-m", "--mode", required=True)
    parser.add_argument("--exit", type=int, default=0, help="exit code after SIGTERM; -1: ignore SIGTERM")
    given, _ = parser.parse_known_args()
    mode, _, where = given.mode.partition("@")
    host, _, port = where.rpartition(":")
    if mode == "broken":
        sys.exit("this mode does not start")
    action = signal.SIG_IGN if given.exit < 0 else lambda *_: sys.exit(given.exit)
    signal.signal(signal.SIGTERM, action)
    print("arguments", *sys.argv[1:], flush=True)  # before it listens, which is what the lab takes for ready
    families = [(socket.AF_INET, host or "0.0.0.0")] + ([(socket.AF_INET6, "::")] if not host else [])
    for family, address in families:
        listener = listen(family, address, int(port))
        threading.Thread(target=accept, args=(listener, mode), daemon=True).start()
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
