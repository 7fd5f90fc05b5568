"""Run inside the VM: the kernel's WireGuard as client, and each of our backends as server. Prints a line for each."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.lab.gateway_proc import LOCKGATE
from tests.lab.labkit import ECHO, HTTPS, Lab
from tests.lab.netns import wait_for

ADDON = """
def response(flow):
    flow.response.headers["x-device"] = str(flow.client_conn.device)
"""


def connect(lab: Lab, name: str, text: str) -> None:
    """A kernel interface in the client's namespace, as a client's file says."""
    from pyroute2 import WireGuard

    values = dict(re.findall(r"^(\w+) = (.*)$", text, re.MULTILINE))
    lines = [
        f"link add {name} type wireguard",
        *(f"addr add {one} dev {name}" for one in values["Address"].split(", ")),
    ]
    subprocess.run(["ip", "-n", lab.client.name, "-batch", "-"], input="\n".join(lines), text=True, check=True)
    host, _, port = values["Endpoint"].rpartition(":")
    with lab.client.inside():
        wg = WireGuard()
    peer = {"public_key": values["PublicKey"], "allowed_ips": values["AllowedIPs"].split(", "),
            "preshared_key": values["PresharedKey"], "endpoint_addr": host, "endpoint_port": int(port)}  # fmt: skip
    wg.set(name, private_key=values["PrivateKey"], peer=peer)
    wg.close()
    lines = [f"link set {name} up mtu {values['MTU']}"]
    for network in ("10.61.2.0/24", "fd61:2::/64", *values["DNS"].split(", ")):
        lines += [f"route add {network} dev {name} metric 10"]
    subprocess.run(["ip", "-n", lab.client.name, "-batch", "-"], input="\n".join(lines), text=True, check=True)


def book(lab: Lab, confdir: Path, *words: str) -> str:
    done = lab.gateway.run([*LOCKGATE, "wireguard", *words, "--set", f"confdir={confdir}"], timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def talk(lab: Lab, backend: str) -> None:
    confdir = lab.scratch / f"conf-{backend}"
    text = book(lab, confdir, "add", "phone", "--endpoint", "10.61.1.1")
    started = lab.gateway_proc(
        "-m", "wireguard", "-m", "regular@8080", confdir=confdir, addon=ADDON, timeout=60,
        options={"wireguard_backend": backend, "ca_key": "ec"}, ports=[8080],
    )  # fmt: skip
    with started as gateway:
        print(backend, "told", re.search(r"; in (this process|the kernel)", gateway.output) is not None)
        name = f"wg{backend[:3]}"
        connect(lab, name, text)
        for family in (4, 6):
            reply = lab.curl(f"https://origin.test:{HTTPS}/", f"-{family}", ca=gateway.ca, timeout=60)
            print(backend, f"https IPv{family}", reply.status, reply.header("x-device") or repr(reply), flush=True)
            with lab.connect(port=ECHO, family=family, timeout=30) as tcp:
                tcp.sendall(b"tcp")
                print(backend, f"tcp IPv{family}", tcp.recv(10).decode())
            with lab.client.udp("origin.test", ECHO, family=family, timeout=30) as udp:
                udp.send(b"udp")
                print(backend, f"udp IPv{family}", udp.recv(10).decode())
        size = lab.curl("https://origin.test/10m", ca=gateway.ca, keep_body=False, timeout=120).size
        print(backend, "download", size, flush=True)
        dig = lab.client.run(["dig", "+short", "+time=20", "+tries=1", "@10.87.0.1", "alt.test"], timeout=60)
        print(backend, "dns", dig.stdout.strip())
        print(backend, "host sees wg0", "wg0" in lab.gateway.run(["ip", "-br", "link"]).stdout)
        wait_for(lambda: " ago" in book(lab, confdir, "peers"), 30, "the handshake is in the list")
        print(
            backend,
            "peers",
            re.search(r"phone .* 10.87.0.2, .* ago +[\d.]+[km]", book(lab, confdir, "peers")) is not None,
        )
        book(lab, confdir, "remove", "phone")
        gateway.wait_output("peer phone is removed", timeout=20)
        cut = lab.curl(f"https://v4.origin.test:{HTTPS}/", "-m", "3", ca=gateway.ca, timeout=60)
        print(backend, "removed", cut.exit)
        subprocess.run(["ip", "-n", lab.client.name, "link", "del", name], check=True)


def main() -> int:
    lab = Lab()
    try:
        for backend in ("userspace", "kernel"):
            try:
                talk(lab, backend)
            except Exception as error:
                print(backend, "failed", repr(error), *getattr(error, "__notes__", ()), flush=True)
    finally:
        lab.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
