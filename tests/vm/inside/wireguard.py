"""Run inside the VM: the mode wireguard, with the kernel's WireGuard as its clients. A line for each thing that holds.

Argument: `kernel`, the kernel's at both ends; `rootless`, against an unprivileged gateway, for two and a half minutes.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from modes.wireguard.book import Book
from tests.lab.gateway_proc import LOCKGATE, ROOT, Gateway
from tests.lab.labkit import ECHO, HTTPS, Lab
from tests.lab.netns import clean_environment, wait_for
from tests.lab.rootless import UID, unprivileged

ADDON = """
def response(flow):
    flow.response.headers["x-device"] = str(flow.client_conn.device)
"""
PORT = 51820
URL = f"https://origin.test:{HTTPS}/"
NETWORKS = ("10.61.2.0/24", "fd61:2::/64", "10.87.0.1/32")
PATIENCE = ("-m", "60")


def holds(what: str, truth: object = True) -> None:
    assert truth, what
    print(what, flush=True)


class Ground:
    """The lab, a configuration, and clients of it."""

    def __init__(self) -> None:
        self.lab = Lab()
        self.home = self.lab.scratch / "home"
        self.home.mkdir()
        os.chmod(self.lab.scratch, 0o755)
        self.book = Book(self.home / "conf" / "wireguard.conf")
        self.book.init()
        self.roots = self.home / "root.pem"
        self.roots.write_bytes(self.lab.root.read_bytes())
        self.roots.chmod(0o644)
        self._names = (f"wgc{number}" for number in itertools.count())

    def own(self) -> None:
        """Give the configuration to the ordinary user."""
        for path in (self.home, *self.home.rglob("*")):
            os.chown(path, UID, UID)

    def add(self, name: str, endpoint: str = "10.61.1.1", **more: object) -> str:
        return self.book.add(name, endpoint=endpoint, **more)  # type: ignore[arg-type]

    def start(self, *words: str, command: Sequence[str] = LOCKGATE, mode: str = "wireguard") -> Gateway:
        options = {"ca_key": "ec", "ssl_verify_upstream_trusted_ca": self.roots}
        gateway = self.lab.gateway_proc(
            "-m", mode, *words, confdir=self.home / "conf", options=options, trust=False, ports=(), command=command,
            addon=ADDON, timeout=30,
        )  # fmt: skip
        gateway.wait_output(r"CA  +/", timeout=30)
        return gateway

    def connect(self, text: str, address: str = "") -> str:
        """An interface of the kernel's in the client's namespace, as a client's file says. Returns its name."""
        client, name = self.lab.client, next(self._names)
        values = dict(re.findall(r"^(\w+) = (.*)$", text, re.MULTILINE))
        config = self.home / f"{name}.conf"
        config.write_text(re.sub(r"^(Address|DNS|MTU) = .*\n", "", text, flags=re.MULTILINE))
        lines = [f"link add {name} type wireguard"]
        lines += [f"addr add {one} dev {name}" for one in (address or values["Address"]).split(", ")]
        lines += [f"link set {name} up mtu {values['MTU']}"]
        lines += [f"route add {one} dev {name} metric {10 + int(name[3:])}" for one in NETWORKS]
        subprocess.run(["ip", "-n", client.name, "-batch", "-"], input="\n".join(lines), text=True, check=True)
        client.run(["wg", "setconf", name, config], check=True)
        return name

    def disconnect(self, name: str) -> None:
        self.lab.client.run(["ip", "link", "del", name], check=True)

    def get(self, gateway: Gateway, interface: str, *words: str) -> str:
        """The device that a decrypted request came from; "" if there was no answer."""
        reply = self.lab.curl(URL, "--interface", interface, *(words or PATIENCE), ca=gateway.ca, timeout=70)
        return reply.header("x-device") or "" if reply.status == 200 else ""


def talk(ground: Ground, gateway: Gateway, interface: str) -> None:
    """All but HTTPS; the interface is the client's first."""
    lab = ground.lab
    for family in (4, 6):
        with lab.connect(port=ECHO, family=family, timeout=60) as tcp:
            tcp.sendall(b"hello")
            holds(f"raw TCP, IPv{family}", tcp.recv(100) == b"hello")
        with lab.client.udp("origin.test", ECHO, family=family, timeout=60) as udp:
            udp.sendall(b"hello")
            holds(f"raw UDP, IPv{family}", udp.recv(100) == b"hello")
    dig = lab.client.run(["dig", "+short", "+time=30", "+tries=1", "@10.87.0.1", "alt.test"], timeout=60)
    holds("DNS", dig.stdout.split() == ["10.61.2.3"])
    words = "https://origin.test/10m", "--interface", interface
    holds("ten megabytes", lab.curl(*words, ca=gateway.ca, keep_body=False, timeout=200).size == 10 << 20)


def kernel(ground: Ground) -> None:
    lab = ground.lab
    phone, laptop = ground.add("phone", label="Anna's"), ground.add("laptop", "fd61:1::1", psk=False)
    gateway = ground.start()
    holds("the kernel is chosen", gateway.wait_output(r"wireguard: 2 peers of \S+; in the kernel"))
    holds("UDP is in the host's network, alone", lab.gateway.listening("udp") == {PORT})
    holds("no TCP listener, and no interface there", not lab.gateway.listening() and "wg0" not in links(lab))
    one, other = ground.connect(phone), ground.connect(laptop)
    for interface, device in ((one, "phone"), (other, "laptop")):
        for family in ("-4", "-6"):
            holds(f"{device} {family}", ground.get(gateway, interface, family, *PATIENCE) == device)
    talk(ground, gateway, one)

    late = ground.connect(ground.add("late"))
    gateway.wait_output("read again, 3 peers", timeout=10)
    holds("a peer is added while it runs", ground.get(gateway, late) == "late")
    ground.book.remove("late")
    gateway.wait_output("peer late is removed", timeout=10)
    holds("a removed one is cut", not ground.get(gateway, late, "-m", "10"))
    holds("the others go on", ground.get(gateway, one) == "phone")
    ground.disconnect(late)
    brief = ground.connect(ground.add("brief", expires=time.time() + 60))
    holds("a peer with an expiry", ground.get(gateway, brief) == "brief")
    gateway.wait_output("peer brief has expired and is cut", timeout=70)
    holds("an expired one is cut", not ground.get(gateway, brief, "-m", "10"))
    ground.disconnect(brief)

    wrong = ground.connect(ground.add("wrong"), address="10.87.0.99/32, fd99::1/128")
    holds("an address of nobody's is not served", not ground.get(gateway, wrong, "-4", "-m", "10"))
    gateway.wait_output(r"\d+ packets dropped, their inner source is not among their peer's AllowedIPs", timeout=10)
    holds("and it is said")
    ground.disconnect(wrong)

    time.sleep(12)  # until the state is written
    table = peers(ground)
    row = r"phone +Anna's +10\.87\.0\.2, fd\S+::2 +\d+ (s|min) ago +\d+k +1\dm +-$"
    holds("peers are listed with handshake and bytes", re.search(row, table, re.MULTILINE) or print(table))
    received = lab.client.run(["wg", "show", one, "transfer"]).stdout.split()
    holds("both ends count the same", within(ground.book.recall(), "phone", int(received[1]), int(received[2])))

    gateway.kill()
    wait_for(lambda: not lab.gateway.listening("udp"), 10, "the interface is gone")
    holds("nothing is left after kill -9", not left())
    gateway = ground.start()
    holds("its port is free at once, and clients come back", ground.get(gateway, one) == "phone")
    gateway.stop()
    holds("stop leaves nothing", not lab.gateway.listening("udp") and not left())


def faults(ground: Ground) -> None:
    """Which backend is taken, and what is said where it cannot be."""
    conf = ground.book.path
    conf.write_text(conf.read_text().replace("[Interface]\n", "[Interface]\nMTU = 1280\n"))
    phone = ground.add("phone")
    holds("MTU is in the client's file", "MTU = 1280" in phone)
    interface = ground.connect(phone)
    ground.own()
    capable = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--inh-caps=+net_admin",
               "--ambient-caps=+net_admin", "--bounding-set=-sys_admin", "env", f"HOME={ground.home}"]  # fmt: skip
    with ground.start(command=[*capable, *LOCKGATE]) as gateway:
        gateway.wait_output(r"wireguard: 1 peers of \S+; in the kernel")
        holds("CAP_NET_ADMIN alone is enough", ground.get(gateway, interface) == "phone")
        talk(ground, gateway, interface)
        text = said(ground, "-m", "wireguard", command=[*capable, *LOCKGATE])
        holds("a port that is taken is named", "UDP 0.0.0.0:51820 is in use" in text or print(text))
    words = "-m", "wireguard@10.61.1.1:51821", "--set", "wireguard_backend=kernel"
    text = said(ground, *words, command=[*capable, *LOCKGATE])
    holds("the kernel's has no address of its own", "listens on every address, not on 10.61.1.1 alone" in text)
    with ground.start(mode="wireguard@10.61.1.1:51820", command=[*capable, *LOCKGATE]) as gateway:
        gateway.wait_output(r"; in this process \(userspace\): the kernel's WireGuard listens on every address")
        holds("userspace where the kernel's cannot be", ground.get(gateway, interface) == "phone")
    with ground.start("--set", "wireguard_backend=userspace", command=[*capable, *LOCKGATE]) as gateway:
        gateway.wait_output(r"; in this process \(userspace\)$")
        holds("userspace by option", ground.get(gateway, interface) == "phone")
    holds("nothing is left", not left())


def rootless(ground: Ground) -> None:
    interface = ground.connect(ground.add("phone"))
    ground.own()
    command = unprivileged(LOCKGATE, ground.home)
    with ground.start(command=command) as gateway:
        gateway.wait_output(r"; in this process \(userspace\): the kernel's WireGuard needs root \(CAP_NET_ADMIN\)")
        for family in ("-4", "-6"):
            holds(f"phone {family}", ground.get(gateway, interface, family, *PATIENCE) == "phone")
        talk(ground, gateway, interface)
        end, count, handshakes = time.monotonic() + 150, 0, set()
        while time.monotonic() < end:
            start = time.monotonic()
            assert ground.get(gateway, interface) == "phone", count
            handshakes.add(ground.lab.client.run(["wg", "show", interface, "latest-handshakes"]).stdout.split()[1])
            count += 1
            time.sleep(max(0.0, 1 - (time.monotonic() - start)))
        print(count, "requests", len(handshakes), "handshakes")
        holds("no request was lost in two and a half minutes with a rekey", count > 40 and len(handshakes) >= 2)


def links(lab: Lab) -> str:
    return lab.gateway.run(["ip", "-o", "link"]).stdout


def left() -> list[str]:
    """Processes of a helper that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"netns/helper.py" in (words := path.read_bytes()):
                found.append(words.decode())
        except OSError:
            continue
    return found


def peers(ground: Ground) -> str:
    command = [*LOCKGATE, "wireguard", "peers", "--set", f"confdir={ground.home / 'conf'}"]
    env = {**clean_environment(), "PYTHONPATH": str(ROOT)}
    return ground.lab.gateway.run(command, env=env, timeout=30, check=True).stdout


def said(ground: Ground, *words: str, command: Sequence[str]) -> str:
    """What `lockgate run` says that cannot start."""
    whole = [*command, "run", *words, "--set", f"confdir={ground.home / 'conf'}", "--set", "ca_key=ec"]
    whole += ["--set", "control_socket=none"]  # which a gateway of the same folder has, and would be refused for
    done = ground.lab.gateway.run(whole, env={**clean_environment(), "PYTHONPATH": str(ROOT)}, timeout=30)
    assert done.returncode, done.stdout
    return done.stdout + done.stderr


def within(state: dict[str, dict[str, object]], name: str, received: int, sent: int) -> bool:
    """Whether what the gateway has counted is what the client has, but for what went on in between."""
    one = next(value for value in state.values() if value["name"] == name)
    ours = one["sent"], one["received"]
    print("counted", ours, "by the client", (received, sent))
    return all(isinstance(a, int) and 0.9 * b <= a <= b * 1.1 for a, b in zip(ours, (received, sent), strict=True))


def main() -> None:
    ground = Ground()
    try:
        {"kernel": kernel, "faults": faults, "rootless": rootless}[sys.argv[1]](ground)
    except BaseException:
        for log in sorted(ground.lab.scratch.glob("gateway-*.log")):
            print(log.read_text(), flush=True)
        raise
    finally:
        ground.lab.close()


if __name__ == "__main__":
    main()
