"""Run inside the VM: what the firewall's heartbeat and its owned table rest on, asked of this kernel. A fact a line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import nftables

SET = """
add table inet t
add set inet t s { type ipv4_addr; flags timeout; }
add element inet t s { 10.0.0.1 timeout 60s }
"""
OWN = """
import nftables, time
library = nftables.Nftables()
print(library.cmd("add table inet own { flags owner; }")[0], flush=True)
time.sleep(600)
"""


def nft(text: str) -> str:
    library = nftables.Nftables()
    code, output, error = library.cmd(text)
    assert not code, error
    return str(output)


def left() -> int:
    """Seconds until the element of the set expires."""
    library = nftables.Nftables()
    library.set_json_output(True)
    _, output, _ = library.cmd("list set inet t s")
    found = next(entry["set"] for entry in json.loads(output)["nftables"] if "set" in entry)
    return int(found["elem"][0]["elem"]["expires"])


def main() -> None:
    nft(SET)
    time.sleep(4)
    nft("add element inet t s { 10.0.0.1 timeout 60s }")
    print("adding an element that is there refreshes it:", left() > 57, flush=True)
    element = "element inet t s { 10.0.0.1 timeout 60s }"
    nft(f"add {element}\ndelete element inet t s {{ 10.0.0.1 }}\nadd {element}\n")
    print("add, delete, add in one transaction refreshes it:", left() > 57, flush=True)

    owner = subprocess.Popen([sys.executable, "-c", OWN], stdout=subprocess.PIPE)
    assert owner.stdout and owner.stdout.readline() == b"0\n"
    subprocess.run(["nft", "flush", "ruleset"], check=False)
    print("an owned table outlives `nft flush ruleset`:", "inet own" in nft("list tables"), flush=True)
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    end = time.monotonic() + 20
    while "inet own" in nft("list tables") and time.monotonic() < end:
        time.sleep(0.05)
    print("an owned table is gone after kill -9:", "inet own" not in nft("list tables"), flush=True)


if __name__ == "__main__":
    main()
