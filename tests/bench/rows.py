"""The peer benchmark (../shared/bench/bench.py) with rows that it does not have.

The same command line; root, and one run at a time.

    python tests/bench/rows.py run -w W7b -p mitmdump+stream,ours

W7b: one 1 GiB download over HTTP/2, decrypted. nginx sends it, h2load takes it, and counts its bytes.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("BENCH") or ROOT.parent / "shared" / "bench" / "bench.py").resolve()


def shared() -> ModuleType:
    """The benchmark as a module. Exits with a line when it is not there."""
    if not SHARED.exists():
        sys.exit("the peer benchmark is not beside this checkout; BENCH=path/to/bench.py names another place")
    spec = importlib.util.spec_from_file_location("bench", SHARED)
    assert spec is not None and spec.loader is not None
    module = sys.modules["bench"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def add_h2_bulk(bench: Any) -> None:
    """Row W7b: like W5, over HTTP/2."""
    megabytes = 1024
    bench.WORKLOADS.append(
        bench.Work(
            "W7b", "transparent, HTTP/2 intercepted, one 1 GiB download", "transparent", "MB",
            tool="h2load", tls=True, path="/1g", conns=1, bulk=megabytes,
        )
    )  # fmt: skip
    peers, once = bench.peers, bench.once

    def peers_with_row() -> Any:
        table = peers()
        for peer in table:
            if peer.name == "mitmdump+stream":
                peer.only = (*peer.only, "W7b")
        return table

    def once_with_row(w: Any, r: Any, rig: Any, secs: float) -> Any:
        if w.id != "W7b":
            return once(w, r, rig, secs)
        subprocess.run(["cat", str(bench.WORK / "www" / w.path[1:])], stdout=subprocess.DEVNULL, check=True)
        res: dict[str, Any] = {}
        if r.proc:
            res["rss_before_mb"] = round(bench.rss_of(r.proc.pid)[0], 1)
            bench.peak_rss(r.proc.pid, reset=True)
        url = f"https://{bench.HOST}{w.path}"
        command = ["h2load", "-n1", "-c1", "-m1", f"--connect-to={bench.ORIGIN}:443", url]
        before, start = (bench.cpu_of(r.proc.pid) if r.proc else 0.0), time.monotonic()
        cores = bench.busy()
        done = subprocess.run(
            bench.nsx("c", *bench.Cores.wrap("rest", command)), capture_output=True, text=True, timeout=180
        )
        took = time.monotonic() - start
        res["core_busy"] = [round((y - x) / took, 2) for x, y in zip(cores, bench.busy(), strict=True)]
        res.update(ops=megabytes, seconds=took, wall_s=took, rate=megabytes / took)
        res["proxy_cpu_s"] = round((bench.cpu_of(r.proc.pid) if r.proc else 0.0) - before, 3)
        if r.proc:
            res["rss_peak_mb"] = round(bench.peak_rss(r.proc.pid), 1)
        body = re.search(r"\((\d+)\) data", done.stdout)
        if "1 succeeded" not in done.stdout or not body or int(body[1]) != megabytes << 20:
            res["error"] = (done.stdout + done.stderr)[-300:]
        elif "Application protocol: h2" not in done.stdout:
            res["error"] = "h2 was not negotiated"
        return bench.finish(res)

    bench.peers, bench.once = peers_with_row, once_with_row


if __name__ == "__main__":
    module = shared()
    add_h2_bulk(module)
    sys.exit(module.main())
