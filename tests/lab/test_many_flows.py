"""20,000 TCP flows at once, with the limit of open files raised (as root): memory, and that each still answers.

Where root may not raise it (a container without CAP_SYS_RESOURCE) as many as there are files for, in as much of the
memory.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import pytest

from tests.lab import netns
from tests.lab.labkit import Lab

FLOWS = 20_000
FILES = 100_000
PORTS = 4
"""Servers' ports: connect() is slow to find a free one towards a single place once half of them are taken."""
MOST_MB = 400

ORIGIN = """
import selectors, socket, sys
sel = selectors.EpollSelector()
for port in sys.argv[1:]:
    listener = socket.create_server(("0.0.0.0", int(port)), backlog=4096)
    listener.setblocking(False)
    sel.register(listener, 1, "listener")
print("ready", flush=True)
while True:
    for key, _ in sel.select():
        try:
            if key.data:
                for _ in range(64):
                    sock = key.fileobj.accept()[0]
                    sock.setblocking(False)
                    sel.register(sock, 1)
            else:
                data = key.fileobj.recv(1000)
                if data:
                    key.fileobj.send(data)
                else:
                    sel.unregister(key.fileobj)
                    key.fileobj.close()
        except BlockingIOError:
            pass
        except OSError:
            sel.unregister(key.fileobj)
            key.fileobj.close()
"""
CLIENT = """
import selectors, socket, sys
address, count, ports = sys.argv[1], int(sys.argv[2]), [int(port) for port in sys.argv[3:]]
socks = []

def exchange(batch, text):
    sel = selectors.EpollSelector()
    for sock in batch:
        sock.sendall(text)
        sel.register(sock, 1)
    left = set(batch)
    while left:
        ready = sel.select(30)
        assert ready, f"{len(left)} of {len(batch)} unanswered"
        for key, _ in ready:
            data = key.fileobj.recv(1000)
            assert data == text, data
            sel.unregister(key.fileobj)
            left.discard(key.fileobj)
    sel.close()

while len(socks) < count:
    at = len(socks)
    batch = [
        socket.create_connection((address, ports[i % len(ports)]), 30) for i in range(at, min(at + 200, count))
    ]
    print(at, file=sys.stderr, flush=True)
    exchange(batch, b"\\0first")
    socks += batch
print("up", flush=True)
sys.stdin.readline()
for at in range(0, count, 500):
    exchange(socks[at:at + 500], b"\\0again")
print("again", flush=True)
sys.stdin.readline()
"""


def _lines(process: subprocess.Popen[bytes], wanted: bytes) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == wanted + b"\n", line + (process.stderr.read() if process.stderr else b"")


def _files() -> int:
    """How many one process may have."""
    if not subprocess.run(["prlimit", f"--nofile={FILES}:{FILES}", "true"], capture_output=True).returncode:
        return FILES
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("addon", [None, "def tcp_message(flow): pass\n"], ids=["spliced", "hook"])
def test_twenty_thousand_flows(lab: Lab, addon: str | None) -> None:
    files = _files()
    flows = min(FLOWS, (files - 1000) // 2)
    ports = [str(7010 + i + (PORTS if addon else 0)) for i in range(PORTS)]  # the first test's wait for their time
    raised = ["prlimit", f"--nofile={files}:{files}"]
    origin = lab.server.popen([*raised, sys.executable, "-c", ORIGIN, *ports], output=subprocess.PIPE)
    try:
        _lines(origin, b"ready")
        options = {"max_connections": flows + 100}
        with (
            lab.gateway_proc("-q", "-m", "transparent@8081", addon=addon, options=options, nofile=files) as gateway,
            lab.redirect(8081),
        ):
            empty, began = gateway.rss_kb(), time.monotonic()
            client = lab.client.popen(
                [*raised, sys.executable, "-c", CLIENT, "10.61.2.2", str(flows), *ports],
                output=subprocess.PIPE, errors=subprocess.PIPE, stdin=subprocess.PIPE,
            )  # fmt: skip
            try:
                assert client.stdin is not None
                _lines(client, b"up")
                took, full, held = time.monotonic() - began, gateway.rss_kb(), gateway.open_files()
                assert held >= 2 * flows
                client.stdin.write(b"\n")
                client.stdin.flush()
                _lines(client, b"again")
                again = gateway.rss_kb()
            finally:
                netns.end_process(client)
            netns.wait_for(lambda: gateway.open_files() < 200, 60, "the files come back")
            after = gateway.rss_kb()
        report = (
            f"{flows} flows: {took:.0f} s, RSS {empty // 1024} -> {full // 1024} MiB, {again // 1024} after each spoke "
            f"again, {after // 1024} after their end; {held} files"
        )
        print(report)
        assert max(full, again) - empty < (MOST_MB * 1024 - empty) * flows / FLOWS, report
    finally:
        netns.end_process(origin)
