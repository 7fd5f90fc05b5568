"""Plain TCP through the tunnel, beside wireguard-go as the server: the same client, the same wires, turn by turn.

    python tests/bench/wireguard_tcp.py [MEGABYTES] [REPETITIONS]

Root; in the lab's namespaces. Ours accepts and dials (raw TCP is relayed by splice); wireguard-go's packets are routed.
Prints MB/s and the server's CPU in ms a MB, down (from the server) and up; medians.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from modes.wireguard.book import Book  # noqa: E402
from tests.lab.gateway_proc import LOCKGATE  # noqa: E402
from tests.lab.labkit import Lab  # noqa: E402
from tests.lab.netns import clean_environment, end_process, wait_for  # noqa: E402

PORT = 9100
SERVER = f"""
import os, socket, threading
def one(sock):
    way, size = sock.recv(64).strip(b"\\0").split()
    left, block = int(size), bytes(1 << 18)
    if way == b"down":
        while left:
            left -= sock.send(block[:left])
    else:
        sock.sendall(b"go")
        while left:
            left -= len(sock.recv(min(left, 1 << 18)))
        sock.sendall(b"!")
    sock.recv(1)
    sock.close()
listener = socket.create_server(("0.0.0.0", {PORT}))
while True:
    threading.Thread(target=one, args=(listener.accept()[0],)).start()
"""
CLIENT = f"""
import socket, sys, time
way, size = sys.argv[1], int(sys.argv[2])
with socket.create_connection(("10.61.2.2", {PORT}), source_address=(sys.argv[3], 0), timeout=60) as sock:
    sock.sendall(f"\\0{{way}} {{size}}\\0".encode())  # which is no HTTP
    buffer, block = bytearray(1 << 18), bytes(1 << 18)
    if way == "up":
        sock.recv(2)
    start = time.monotonic()
    left = size
    while left:
        done = sock.recv_into(buffer) if way == "down" else sock.send(block[:left])
        assert done, "the end"
        left -= done
    if way == "up":
        sock.recv(1)
    print(time.monotonic() - start)
"""


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def interface(lab: Lab, host: str, name: str, text: str) -> Iterator[int]:
    """wireguard-go in one of the lab's hosts, by a file of `wg setconf`. The number of its process."""
    config = lab.scratch / f"{name}.conf"
    config.write_text(text)
    at = getattr(lab, host)
    process = at.popen(["wireguard-go", "-f", name], env={**clean_environment(), "LOG_LEVEL": "error"})
    try:
        wait_for(lambda: at.run(["wg", "setconf", name, config]).returncode == 0, 25, name)
        yield process.pid
    finally:
        end_process(process)


def ip(lab: Lab, host: str, *lines: str) -> None:
    command = ["ip", "-n", getattr(lab, host).name, "-batch", "-"]
    subprocess.run(command, input="\n".join(lines), text=True, check=True)


def measure(lab: Lab, pid: int, way: str, megabytes: int) -> tuple[float, float]:
    before = cpu(pid)
    words = [sys.executable, "-c", CLIENT, way, str(megabytes << 20), "10.87.0.2"]
    seconds = float(lab.client.run(words, check=True, timeout=300).stdout)
    return megabytes / seconds, (cpu(pid) - before) / megabytes * 1000


def main(megabytes: int = 200, repetitions: int = 3) -> int:
    lab = Lab()
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    try:
        book = Book(lab.scratch / "bench" / "wireguard.conf")
        book.init()
        text = book.add("client", endpoint="10.61.1.1")
        plain = re.sub(r"^(Address|DNS|MTU) = .*\n", "", text, flags=re.MULTILINE)
        server = re.sub(r"^(Address|#).*\n", "ListenPort = 51821\n", book.path.read_text(), count=1, flags=re.MULTILINE)
        lab.server.popen([sys.executable, "-c", SERVER])
        wait_for(lambda: PORT in lab.server.listening(), 10, "the server listens")
        options = {"wireguard_backend": "userspace"}
        gateway = lab.gateway_proc(
            "-q", "-m", "wireguard", confdir=book.path.parent, options=options, ports=(), command=LOCKGATE
        )
        wait_for(lambda: 51820 in lab.gateway.listening("udp"), 20, "ours listens")
        with gateway, lab.forwarding(), interface(lab, "gateway", "go0", server) as theirs:
            ip(lab, "gateway", "link set go0 up mtu 1420", "route add 10.87.0.2/32 dev go0")
            ip(lab, "server", "route replace 10.87.0.0/24 via 10.61.2.1")
            for _ in range(repetitions):
                for who, pid, port in (("ours", gateway.process.pid, 51820), ("wireguard-go", theirs, 51821)):
                    with interface(lab, "client", "goc", plain.replace(":51820", f":{port}")):
                        ip(lab, "client", "addr add 10.87.0.2/32 dev goc", "link set goc up mtu 1420",
                           "route add 10.61.2.2/32 dev goc")  # fmt: skip
                        measure(lab, pid, "down", 1)
                        for way in ("down", "up"):
                            figures = measure(lab, pid, way, megabytes)
                            found.setdefault((who, way), []).append(figures)
                            print(f"{who:13} {way:5} {figures[0]:6.1f} MB/s {figures[1]:6.2f} ms/MB", flush=True)
    finally:
        lab.close()
    for (who, way), figures in found.items():
        rate, cost = (median(column) for column in zip(*figures, strict=True))
        print(f"median  {who:13} {way:5} {rate:6.1f} MB/s {cost:6.2f} ms of CPU a MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:3])))
