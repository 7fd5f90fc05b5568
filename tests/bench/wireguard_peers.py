"""What many idle peers cost: a gateway in user space, and as many clients that send a keepalive every 25 s.

    python tests/bench/wireguard_peers.py [PEERS] [SECONDS]

Root; in a network namespace of its own. Prints the gateway's share of a core between the handshakes and the end.
"""

from __future__ import annotations

import base64
import ctypes
import os
import re
import select
import socket
import subprocess
import sys
import tempfile
import time
from ipaddress import ip_network
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from modes.wireguard.book import Book  # noqa: E402
from modes.wireguard.device import Device  # noqa: E402
from modes.wireguard.noise import PrivateKey  # noqa: E402
from modes.wireguard.peer import PeerConfig  # noqa: E402

PORT = 51820
_CLONE_NEWNET = 0x40000000


class Client:
    """One peer: a device and its socket."""

    def __init__(self, text: str) -> None:
        values = {name: base64.b64decode(value) for name, value in re.findall(r"^(\w*Key) = (.*)$", text, re.MULTILINE)}
        self.device = Device(PrivateKey(values["PrivateKey"]))
        everything = (ip_network("0.0.0.0/0"),)
        self.device.add(
            PeerConfig(
                values["PublicKey"], everything, values["PresharedKey"], endpoint=("127.0.0.1", PORT), keepalive=25
            )
        )
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def tick(self) -> None:
        self.device.tick(time.monotonic())
        self._send()

    def readable(self) -> None:
        data, source = self.sock.recvfrom(2000)
        self.device.receive(data, source, time.monotonic())
        self._send()

    def _send(self) -> None:
        for data, to in self.device.out:
            self.sock.sendto(data, to)
        self.device.out.clear()

    @property
    def connected(self) -> bool:
        return all(peer.current is not None for peer in self.device.peers.values())


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def play(clients: list[Client], seconds: float, until_connected: bool = False) -> None:
    by_fd = {client.sock.fileno(): client for client in clients}
    poll = select.poll()
    for fd in by_fd:
        poll.register(fd, select.POLLIN)
    end, due = time.monotonic() + seconds, 0.0
    while (now := time.monotonic()) < end:
        if now >= due:
            due = now + 0.25
            for client in clients:
                client.tick()
            if until_connected and all(client.connected for client in clients):
                return
        for fd, _ in poll.poll(max(1, (due - now) * 1000)):
            by_fd[fd].readable()


def main(count: int = 200, seconds: float = 120.0) -> int:
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        sys.exit("a network namespace cannot be made; run this as root")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        book = Book(Path(folder) / "wireguard.conf")
        book.init("127.0.0.1")
        clients = [Client(book.add(f"peer{number}")) for number in range(count)]
        command = [sys.executable, "-m", "appliance.cli", "run", "-q", "-m", f"wireguard@{PORT}"]
        command += ["--set", f"confdir={folder}", "--set", "wireguard_backend=userspace"]
        gateway = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
        try:
            while f":{PORT:04X} ".encode() not in Path("/proc/net/udp").read_bytes():
                time.sleep(0.1)
            play(clients, 60, until_connected=True)
            if not all(client.connected for client in clients):
                sys.exit("not all peers have come")
            before, began = cpu(gateway.pid), time.monotonic()
            play(clients, seconds)
            share = (cpu(gateway.pid) - before) / (time.monotonic() - began)
        finally:
            gateway.terminate()
            gateway.wait(20)
    print(f"{count} peers with a keepalive every 25 s, {seconds:g} s: {share:.2%} of a core")
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:3])))
