"""What recording costs a real request: one gateway, whose recorder is taken away and given back all the time.

    python tests/bench/recording.py [--pairs 60] [--seconds 0.2] [--fresh | --tls] [--variants off,on]

W1's load (64 connections, 1 kB, plain HTTP through a proxy; `--fresh`: a connection for each request) from wrk, on
loopback, nginx behind it. `--tls`: W2's, from the peer benchmark's lgload. The gateway has one core, the rest the
other. Prints microseconds of the gateway's CPU for each request: medians, and those of the differences to the first
variant. Neighbouring slices of time are compared, so that an uneven machine matters less than between two runs.
"undisturbed" are those slices before and after which a fixed piece of work took no more than 15% longer than at its
best: others on the host slow all down by half and more.

off: nothing is recorded. on: as it is, with its upkeep in a thread. alone: without. index: all but the index.
encode: records and rows are made, and forgotten. hold: flows are held as long as that takes, no more.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from appliance.cli.run import load, loop_factory, raise_file_limit
from appliance.gateway import Gateway
from appliance.layers.http.exchange import Exchange
from appliance.store import index
from appliance.store.recorder import Recorder
from appliance.store.upkeep import Upkeep

ORIGIN, PROXY, SECURE = 18080, 18081, 18443
LGLOAD = Path("/tmp/peers/lgload")
"""Where `bench.py setup` builds it."""
NGINX = """
daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log /dev/null;
events {{ worker_connections 2048; }}
http {{ access_log off; keepalive_requests 1000000000; types {{ text/html html; }}
  client_body_temp_path {dir}; proxy_temp_path {dir}; fastcgi_temp_path {dir}; uwsgi_temp_path {dir};
  scgi_temp_path {dir}; server {{ listen 127.0.0.1:{port} reuseport backlog=4096; root {dir};
  listen 127.0.0.1:{secure} ssl backlog=4096;
  ssl_certificate {dir}/origin.pem; ssl_certificate_key {dir}/origin.pem; }} }}
"""
WRK = """
wrk.path = "http://127.0.0.1:{port}/1k.html"
wrk.headers["User-Agent"] = "bench"
wrk.headers["Accept"] = "*/*"
{more}
"""


class Forgets(Recorder):
    """Makes records and rows, and forgets them."""

    def flush(self) -> None:
        self._encode()
        self._gathered = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._names.hand_over(index.Batch())
        self._written = self._end
        self._parts = []
        self._batch = index.Batch()
        self._held = 0


class Holds(Forgets):
    def _encode(self) -> None:
        self._ended = []


class Unindexed(Recorder):
    def _commit(self, sealed: bool = False) -> bool:
        self._batch = index.Batch()
        self._held = 0
        return True


KINDS: dict[str, Any] = {"on": Recorder, "alone": Recorder, "index": Unindexed, "encode": Forgets, "hold": Holds}


def pace() -> float:
    """Seconds of CPU that a fixed piece of work takes now."""
    begun, total = time.process_time(), 0
    for number in range(40_000):
        total += number
    return time.process_time() - begun


def certify(path: Path) -> None:
    """A certificate for localhost that signs itself, and its key."""
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*words, "-keyout", path, "-out", path.with_suffix(".crt")], check=True, stderr=subprocess.DEVNULL)
    path.write_text(path.read_text() + path.with_suffix(".crt").read_text())


async def measure(args: argparse.Namespace, folder: Path) -> None:
    options = load([
        f"mode=regular@127.0.0.1:{PROXY}", f"confdir={folder}", "store=false", "termlog_verbosity=warn",
        "flow_detail=0", f"ssl_verify_upstream_trusted_ca={folder / 'origin.pem'}",
    ])  # fmt: skip
    gateway = Gateway(options)
    task = asyncio.get_running_loop().create_task(gateway.run())
    while not hasattr(gateway, "worker") or not hasattr(gateway, "store"):
        await asyncio.sleep(0.1)
        if task.done():
            task.result()
    await asyncio.sleep(0.5)
    recorders: dict[str, Recorder | None] = {}
    upkeep: Upkeep | None = None
    for name in args.variants:
        if name != "off":
            recorder = recorders[name] = KINDS[name](folder / f"store-{name}", loop=asyncio.get_running_loop())
            recorder.start()
            if name == "on":
                upkeep = Upkeep(recorder.folder, None, None, lambda: recorders["on"].flows)  # type: ignore[union-attr]
                upkeep.start()
        else:
            recorders[name] = None
    count = 0
    record = Exchange._record

    def counted(self: Exchange) -> None:
        nonlocal count
        count += 1
        record(self)

    Exchange._record = counted  # type: ignore[method-assign]
    script = folder / "wrk.lua"
    script.write_text(WRK.format(port=ORIGIN, more='wrk.headers["Connection"] = "close"' if args.fresh else ""))
    seconds = int(args.pairs * len(args.variants) * args.seconds) + 6
    words: list[str | Path] = ["wrk", "-t1", "-c64", f"-d{seconds}s", "-s", script, f"http://127.0.0.1:{PROXY}/"]
    if args.tls:
        words = [
            LGLOAD, "--connect", f"127.0.0.1:{PROXY}", "--proxy", "connect", "--host", "localhost",
            "--hport", str(SECURE), "--path", "/1k.html", "--conns", "64", "--duration", str(seconds),
            "--expect", "1024", "--tls", "--cafile", folder / "lockgate-ca-cert.pem",
        ]  # fmt: skip
    load_process = await asyncio.create_subprocess_exec("taskset", "-c", "1", *words, stdout=subprocess.PIPE)
    await asyncio.sleep(2)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in args.variants}
    for _ in range(args.pairs):
        for name in args.variants:
            gateway.worker.recorder = recorders[name]
            await asyncio.sleep(0.02)
            before, slow = count, pace()
            cpu = time.process_time()
            await asyncio.sleep(args.seconds)
            cpu = time.process_time() - cpu
            done = max(1, count - before)
            found[name].append((cpu / done * 1e6, max(slow, pace())))
            if (recorder := recorders[name]) is not None:
                recorder.flush()
    gateway.worker.recorder = None
    if upkeep is not None:
        upkeep.stop()
    first = found[args.variants[0]]
    limit = 1.15 * min(slow for each in found.values() for _, slow in each)

    def quiet(each: list[tuple[float, float]]) -> float:
        return statistics.median([cpu for cpu, slow in each if slow <= limit] or [float("nan")])

    for name, each in found.items():
        differences = [a - b for (a, _), (b, _) in zip(each, first, strict=True)]
        calm = sum(slow <= limit for _, slow in each)
        print(f"{name:<8} {statistics.median(cpu for cpu, _ in each):6.1f} µs a request, "
              f"{statistics.median(differences):+6.1f}; undisturbed ({calm}) {quiet(each):6.1f}, "
              f"{quiet(each) - quiet(first):+6.1f}")  # fmt: skip
    with contextlib.suppress(ProcessLookupError):
        load_process.send_signal(signal.SIGINT)
    await load_process.communicate()
    gateway.shutdown()
    await task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--variants", default="off,on", type=lambda text: text.split(","))
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    (folder / "1k.html").write_bytes(b"x" * 1024)
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(dir=folder, port=ORIGIN, secure=SECURE))
    certify(folder / "origin.pem")
    folder.chmod(0o755)
    nginx = subprocess.Popen(["taskset", "-c", "1", "nginx", "-c", config], stderr=subprocess.DEVNULL)
    os.sched_setaffinity(0, {0})
    raise_file_limit()
    try:
        options = load([f"confdir={folder}"])
        with asyncio.Runner(loop_factory=loop_factory(options)) as runner:
            runner.run(measure(args, folder))
    finally:
        nginx.terminate()
        nginx.wait()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
