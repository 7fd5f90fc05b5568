"""A small DNS server for tests: `python -m tests.lab.origin_dns PORT [ADDRESS ...]`. UDP and TCP.

Standard library only.

It builds its answers by hand, so that nothing of the gateway's codec judges itself. Names of one zone, `lab.test`:

    www A 10.61.2.2, AAAA fd61:2::2, HTTPS with ALPN and ECH; alias CNAME www; big TXT of 3000 bytes (TC over UDP);
    late answers after 0.3 s; silent never; twice by a forged answer (wrong id), a wrong question, then two right ones;
    echo-N A 10.N's four bytes: each client gets its own; anything else NXDOMAIN; reverse of 10.61.2.9 PTR www.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.lab.labkit import Lab

WWW6 = socket.inet_pton(socket.AF_INET6, "fd61:2::2")
HTTPS = b"\0\1\0" + b"\0\1\0\6\2h3\2h2" + b"\0\5\0\3\1\2\3"


def wire(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label) + b"\0"


def record(kind: int, data: bytes) -> bytes:
    return b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 300, len(data)) + data


def question(query: bytes) -> tuple[str, int, int]:
    """Name in small letters, type, and where the question ends."""
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("latin-1").lower())
        at += query[at] + 1
    return ".".join(labels), int.from_bytes(query[at + 1 : at + 3], "big"), at + 5


def answer(query: bytes, udp: bool) -> list[bytes]:
    """What is sent, in order."""
    name, kind, end = question(query)
    opt = query[end:] if query[10:12] == b"\0\1" else b""
    records: list[bytes] = []
    code, flags = 0, 0x85  # QR, AA, RD
    label = name.removesuffix(".lab.test")
    if label == "www" and kind in (1, 28, 65):
        records = [record(kind, {1: bytes([10, 61, 2, 2]), 28: WWW6, 65: HTTPS}[kind])]
    elif label == "alias":
        records = [record(5, b"\3www\xc0" + bytes([12 + 6])), record(1, bytes([10, 61, 2, 2]))]
    elif label == "big" and udp:
        flags |= 2
    elif label == "big":
        records = [record(16, b"\xff" + b"x" * 255)] * 12
    elif label.startswith("echo-"):
        records = [record(1, bytes([10]) + int(label[5:]).to_bytes(3, "big"))]
    elif label in ("late", "twice"):
        records = [record(1, bytes([10, 0, 0, 1]))]
    elif name == "9.2.61.10.in-addr.arpa":
        records = [record(12, wire("www.lab.test"))]
    elif label != "www":
        code = 3
    head = struct.pack("!BBHHHH", flags, 0x80 | code, 1, len(records), 0, 1 if opt else 0)
    right = query[:2] + head + query[12:end] + b"".join(records) + opt
    if label == "silent":
        return []
    if label == "twice":
        forged = right[:-4] + bytes([6, 6, 6, 6]) if not opt else right.replace(b"\x0a\0\0\1", b"\6\6\6\6")
        other = bytes([right[0] ^ 0x55, right[1]]) + forged[2:]
        return [other, forged.replace(b"\5twice", b"\5evil!"), b"", b"\0", right, forged]
    return [right]


class Udp(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.DatagramTransport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
        print("udp", peer[1], data[:2].hex(), question(data)[0], flush=True)
        for message in answer(data, True):
            asyncio.get_running_loop().call_later(
                0.3 if question(data)[0].startswith("late") else 0, self.transport.sendto, message, peer
            )


async def tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            data = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            print("tcp", writer.get_extra_info("peername")[1], data[:2].hex(), question(data)[0], flush=True)
            for message in answer(data, False)[:1]:
                writer.write(len(message).to_bytes(2, "big") + message)
    except (asyncio.IncompleteReadError, OSError):
        writer.close()


async def main(port: int, addresses: list[str]) -> None:
    loop = asyncio.get_running_loop()
    for address in addresses:
        await loop.create_datagram_endpoint(Udp, local_addr=(address, port))
        await asyncio.start_server(tcp, address, port)
    print("ready", flush=True)
    await asyncio.Event().wait()


@contextlib.contextmanager
def nameserver(lab: Lab) -> Iterator[Path]:
    """It runs in the server's namespace, on 10.61.2.2 alone; its log, a line a query: udp or tcp, port, id, name."""
    from tests.lab.gateway_proc import ROOT
    from tests.lab.netns import end_process, wait_for

    log = lab.scratch / "dns-origin.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "tests.lab.origin_dns", "53", "10.61.2.2", "fd61:2::2"]
        process = lab.server.popen(command, output=output, cwd=ROOT)
    try:
        wait_for(lambda: "ready" in log.read_text(), 10, "the DNS server listens")
        yield log
    finally:
        end_process(process)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2:]))
