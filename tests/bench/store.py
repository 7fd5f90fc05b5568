"""What the flow store costs, without a network: flows made in memory, through the real recorder.

python tests/bench/store.py cost                       CPU of one flow, part by part
python tests/bench/store.py fill --flows 1000000 DIR   size, memory, time; then the questions of `ask`
python tests/bench/store.py ask DIR                    how long lists and searches take
python tests/bench/store.py sustain --rate 5000 --seconds 600 DIR   flows a second for a while, memory watched
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from appliance.connection import Client, Server
from appliance.headers import Headers
from appliance.http import HTTPFlow, Request, Response
from appliance.store import records, rows, segment
from appliance.store.recorder import Recorder
from appliance.store.store import Store
from appliance.store.upkeep import Upkeep
from appliance.verdict import Verdict

sys.path.insert(0, str(Path(__file__).parents[2]))

HOSTS = [f"{kind}{number}.lab{number % 9}.example" for number in range(100) for kind in ("api", "cdn", "www", "iot")]
TYPES = ["application/json", "text/html; charset=utf-8", "image/png", "text/css", "application/octet-stream"]
WORDS = [
    "temperature",
    "humidity",
    "device",
    "status",
    "firmware",
    "update",
    "token",
    "session",
    "user",
    "config",
    "value",
    "time",
    "list",
    "error",
]


class Traffic:
    """Flows like those of a lab: 1 kB, 400 hosts, 40 devices, connections that carry 20 requests each."""

    def __init__(self) -> None:
        self._random = random.Random(1)
        self._count = 0
        self._ends: tuple[Client, Server, str] | None = None

    def _connect(self) -> tuple[Client, Server, str]:
        pick = self._random
        host = pick.choice(HOSTS)
        now = time.time()
        client = Client(
            peername=(f"10.0.0.{pick.randrange(2, 42)}", pick.randrange(30000, 60000)),
            sockname=("203.0.113.9", 443),
            timestamp_start=now,
        )
        client.verdict, client.tls, client.tls_version, client.sni = Verdict("decrypt", "TLS"), True, "TLSv1.3", host
        client.cipher, client.timestamp_tls_setup = "TLS_AES_128_GCM_SHA256", now
        server = Server(address=(host, 443), peername=("203.0.113.9", 443), timestamp_start=now)
        return client, server, host

    def flow(self) -> HTTPFlow:
        if self._ends is None or self._count % 20 == 0:
            self._ends = self._connect()
        self._count += 1
        client, server, host = self._ends
        pick, now = self._random, time.time()
        flow = HTTPFlow(client, server)
        flow.request = Request(
            host, 443, b"POST" if self._count % 10 == 0 else b"GET", b"https", b"",
            b"/v1/devices/%d/%s?seq=%d" % (self._count % 977, pick.choice(WORDS).encode(), self._count),
            b"HTTP/1.1",
            Headers.trusted(((b"Host", host.encode()), (b"User-Agent", b"thermostat/2.1 (linux; armv7)"),
                             (b"Accept", b"*/*"), (b"Accept-Encoding", b"gzip"),
                             (b"Cookie", b"sid=%032x" % self._count), (b"Connection", b"keep-alive"))),
            b"", None, now, now + 0.001,
        )  # fmt: skip
        body = " ".join(pick.choices(WORDS, k=140)).encode()
        status = 500 if self._count % 10007 == 0 else 404 if self._count % 97 == 0 else 200
        flow.response = Response(
            b"HTTP/1.1", status, b"OK",
            Headers.trusted(((b"Server", b"nginx/1.24"), (b"Date", b"Fri, 27 Nov 2026 19:00:00 GMT"),
                             (b"Content-Type", TYPES[self._count % 5].encode()), (b"Content-Length", b"%d" % len(body)),
                             (b"Connection", b"keep-alive"), (b"ETag", b'"%x"' % self._count),
                             (b"Cache-Control", b"no-store"), (b"X-Request-Id", b"%032x" % (self._count * 7919)))),
            body, None, now + 0.002, now + 0.003,
        )  # fmt: skip
        return flow


def rss() -> float:
    """MB of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def cost(args: argparse.Namespace) -> None:
    """Each part of one flow's way, CPU µs, the least of five."""
    traffic, count = Traffic(), 20_000
    flows = [traffic.flow() for _ in range(count)]
    names = rows.Names(1)
    facts = rows.client_facts(flows[0].client_conn, names)
    payloads = [records.encode(records.flow(flow, 1, 2, 1 << 23)) for flow in flows]

    def timed(name: str, work: Callable[[], object]) -> None:
        best = 1e9
        for _ in range(5):
            gc.collect()
            begun = time.process_time()
            work()
            best = min(best, time.process_time() - begun)
        print(f"{name:<34} {best / count * 1e6:6.2f} µs")

    timed("the record as a list", lambda: [records.flow(flow, 1, 2, 1 << 23) for flow in flows])
    timed("the record, encoded", lambda: [records.encode(records.flow(flow, 1, 2, 1 << 23)) for flow in flows])
    timed("its frame", lambda: [segment.framed(payload) for payload in payloads])
    timed("its row", lambda: [rows.row(flow, 0, 1, facts, 1, names) for flow in flows])
    number = iter(range(100))

    def whole() -> None:
        recorder = Recorder(args.folder / f"cost{next(number)}")
        recorder.start()
        for flow in flows:
            recorder.end(flow)
        recorder.close()

    timed("all of it, to disk and index", whole)


def fill(args: argparse.Namespace) -> None:
    traffic = Traffic()
    recorder = Recorder(args.folder)
    recorder.start()
    upkeep = Upkeep(args.folder, None, None, lambda: recorder.flows)
    upkeep.start()
    begun, cpu, first = time.monotonic(), time.process_time(), rss()
    made = 0.0
    for number in range(1, args.flows + 1):
        before = time.process_time()
        flow = traffic.flow()
        made += time.process_time() - before
        recorder.end(flow)
        if number % (args.flows // 10) == 0:
            print(f"{number:>9} flows  {time.monotonic() - begun:6.1f} s  {rss():6.1f} MB")
    recorder.close()
    used = time.process_time() - cpu - made
    size = sum(path.stat().st_size for path in args.folder.iterdir() if path.is_file())
    index = sum(path.stat().st_size for path in args.folder.glob("index.db*"))
    print(f"{args.flows} flows: {used / args.flows * 1e6:.1f} µs CPU a flow with all upkeep, {size / 1e6:.0f} MB "
          f"({size / args.flows:.0f} bytes a flow), of which index {index / 1e6:.0f} MB; "
          f"memory {first:.0f} -> {rss():.0f} MB, longest batch {recorder.longest * 1e3:.0f} ms, "
          f"dropped {recorder.dropped}")  # fmt: skip
    if args.compress:
        begun = time.monotonic()
        while any(args.folder.glob("*.seg")):
            time.sleep(0.2)
        size = sum(path.stat().st_size for path in args.folder.glob("*.zst"))
        took, each = time.monotonic() - begun, size / args.flows
        print(f"compressed in {took:.0f} s: {size / 1e6:.0f} MB ({each:.0f} bytes a flow)")
    upkeep.stop()
    ask(args)


QUESTIONS = [
    ("newest 100", None, 100),
    ("status 404", "~c 404", 100),
    ("status 500 (one in 10,007)", "~c 500", 100),
    ("one host of 400", "~d ^api7\\.", 100),
    ("no such host", "~d nowhere", 100),
    ("device and method", "~src 10.0.0.7: & ~m POST", 100),
    ("a word for the URL", "firmware", 100),
    ("a word that no URL has", "nonesuch", 100),
    ("a regular expression", "~u seq=\\d+77777$", 100),
    ("type and not status", "~t json & !~c 200", 100),
    ("header", "~h thermostat", 100),
    ("body text, first 10", "~b 'firmware firmware'", 10),
    ("failed", "~e", 100),
]


def ask(args: argparse.Namespace) -> None:
    with Store(args.folder) as store:
        for name, flt, limit in QUESTIONS:
            best, count, first = 1e9, 0, 0.0
            for _ in range(3):
                begun = time.perf_counter()
                count = 0
                for _ in store.rows(flt, limit=limit):
                    if not count:
                        first = time.perf_counter() - begun
                    count += 1
                best = min(best, time.perf_counter() - begun)
            print(f"{name:<28} {count:>4} found in {best * 1e3:8.1f} ms, the first after {first * 1e3:.1f} ms")


async def _sustain(args: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    recorder = Recorder(args.folder, loop=loop)
    recorder.start()
    upkeep = Upkeep(args.folder, 1 << 30, None, lambda: recorder.flows)
    upkeep.start()
    traffic, begun, count, tell = Traffic(), time.monotonic(), 0, 0.0
    while (now := time.monotonic() - begun) < args.seconds:
        while count < now * args.rate:
            recorder.end(traffic.flow())
            count += 1
        if now >= tell:
            size = sum(path.stat().st_size for path in args.folder.iterdir() if path.is_file())
            print(
                f"{now:6.0f} s  {count:>9} flows  {rss():6.1f} MB  on disk {size / 1e6:6.0f} MB  "
                f"dropped {recorder.dropped}  longest batch {recorder.longest * 1e3:.0f} ms  "
                f"cpu {time.process_time():.0f} s",
                flush=True,
            )
            tell += max(1.0, args.seconds / 20)
        await asyncio.sleep(0.005)
    recorder.close()
    upkeep.stop()
    print(f"{count / args.seconds:.0f} flows a second, dropped {recorder.dropped}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cost", "fill", "ask", "sustain"))
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--flows", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--compress", action="store_true", help="wait until all segments are compressed")
    args = parser.parse_args()
    os.makedirs(args.folder, exist_ok=True)
    if args.what == "sustain":
        asyncio.run(_sustain(args))
    else:
        {"cost": cost, "fill": fill, "ask": ask}[args.what](args)


if __name__ == "__main__":
    main()
