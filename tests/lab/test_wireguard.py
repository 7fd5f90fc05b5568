"""The mode `wireguard`, rootless, with wireguard-go as its clients."""

from __future__ import annotations

import base64
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lab.gateway_proc import LOCKGATE, ROOT, Gateway
from tests.lab.labkit import ECHO, HTTPS, Lab
from tests.lab.netns import clean_environment, end_process, wait_for
from tests.lab.rootless import unprivileged

ADDON = """
def response(flow):
    flow.response.headers["x-device"] = str(flow.client_conn.device)
    flow.response.headers["x-mode"] = flow.client_conn.proxy_mode.type_name
"""


class Tunnels:
    """Clients of one gateway, and its configuration, in the user's home."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.home = lab.scratch / f"wg-home-{time.monotonic_ns()}"
        os.chmod(lab.scratch, 0o755)
        self.conf = self.home / "conf"
        self.files: dict[str, Path] = {}
        self._numbers = iter("abcdef")
        roots = self.home / "root.pem"
        self.home.mkdir()
        roots.write_bytes(lab.root.read_bytes())
        roots.chmod(0o644)
        self.options = {"ca_key": "ec", "ssl_verify_upstream_trusted_ca": roots}

    def command(self, *words: str) -> str:
        """`lockgate wireguard WORDS` as the user; its standard output."""
        whole = [*LOCKGATE, "wireguard", *words, "--set", f"confdir={self.conf}"]
        env = {**clean_environment(), "HOME": str(self.home), "PYTHONPATH": str(ROOT)}
        done = self.lab.gateway.run(unprivileged(whole, self.home), env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, *words: str, tun: bool = True, root: bool = False, addon: str = ADDON) -> Gateway:
        command = LOCKGATE if root else unprivileged(LOCKGATE, self.home, tun=tun)
        gateway = self.lab.gateway_proc(
            "-m", "wireguard", *words, confdir=self.conf, options=self.options, trust=False, ports=(), command=command,
            addon=addon,
        )  # fmt: skip
        gateway.wait_output(r"CA  +/", timeout=20)
        return gateway

    def connect(self, text: str, *, gateway: str = "10.61.1.1") -> str:
        """An interface of wireguard-go in the client's namespace, as a client's file says. Returns its name."""
        client, name = self.lab.client, f"lg{os.getpid() % 10**7}{next(self._numbers)}"
        values = dict(re.findall(r"^(\w+) = (.*)$", text, re.MULTILINE))
        config = self.home / f"{name}.conf"
        config.write_text(re.sub(r"^(Address|DNS|MTU) = .*\n", "", text, flags=re.MULTILINE))
        client.popen(["wireguard-go", "-f", name], env={**clean_environment(), "LOG_LEVEL": "error"})
        wait_for(lambda: client.run(["wg", "setconf", name, config]).returncode == 0, 25, f"{name} takes its file")
        lines = [f"addr add {address} dev {name}" for address in values["Address"].split(", ")]
        lines += [f"link set {name} up mtu {values['MTU']}"]
        metric = 10 + ord(name[-1])
        for network in ("10.61.2.0/24", "fd61:2::/64", "192.0.2.0/24", *values["DNS"].split(", ")):
            lines += [f"route add {network} dev {name} metric {metric}"]
        subprocess.run(["ip", "-n", client.name, "-batch", "-"], input="\n".join(lines), text=True, check=True)
        return name


@pytest.fixture
def tunnels(lab: Lab, rootless: None) -> Iterator[Tunnels]:
    before = list(lab.client.processes)
    yield Tunnels(lab)
    for process in [process for process in lab.client.processes if process not in before]:
        end_process(process)


def test_two_peers_rootless(tunnels: Tunnels, lab: Lab) -> None:
    phone = tunnels.command("add", "phone", "--label", "Anna's", "--endpoint", "10.61.1.1")
    assert "PresharedKey" in phone
    laptop = tunnels.command("add", "laptop", "--endpoint", "fd61:1::1", "--no-psk")
    with tunnels.start() as gateway:
        gateway.wait_output(
            r"wireguard: 2 peers of .*; in this process \(userspace\): the kernel.s WireGuard needs root"
        )
        one, other = tunnels.connect(phone), tunnels.connect(laptop)
        for interface, device in ((one, "phone"), (other, "laptop")):
            for family in ("-4", "-6"):
                reply = lab.curl(f"https://origin.test:{HTTPS}/", family, "--interface", interface, ca=gateway.ca)
                assert (reply.status, reply.header("x-device"), reply.header("x-mode")) == (200, device, "wireguard")
        size = lab.curl("https://origin.test/10m", "--interface", one, ca=gateway.ca, keep_body=False).size
        assert size == 10 << 20
        for family in (4, 6):
            with (
                lab.connect(port=ECHO, family=family) as tcp,
                lab.client.udp("origin.test", ECHO, family=family) as udp,
            ):
                for sock in (tcp, udp):
                    sock.sendall(b"hello")
                    assert sock.recv(100) == b"hello"
        dig = lab.client.run(["dig", "+short", "+time=3", "+tries=1", "@10.87.0.1", "alt.test", "lockgate.internal"])
        assert dig.stdout.split() == ["10.61.2.3", "10.87.0.1"], dig
        page = lab.curl("http://lockgate.internal/", "--resolve", "lockgate.internal:80:10.87.0.1")
        assert b"SHA-256" in page.body
        gateway.wait_output(r"10\.87\.0\.2 dns A alt\.test")
        assert not gateway.host.listening() and 51820 in gateway.host.listening("udp")
    table = tunnels.command("peers")
    assert re.search(r"phone +Anna's +10.87.0.2, fd\S+::2 +\d+ s ago +[\d.]+[km] +1\d", table), table


def test_the_gateways_own_services(tunnels: Tunnels, lab: Lab) -> None:
    """Not for peers, but for what wireguard_host_ports says."""
    text = tunnels.command("add", "phone", "--endpoint", "10.61.1.1")
    open_, shut = 8001, 8002
    with ExitStack() as stack:
        services = []
        with lab.gateway.inside():
            for port in (open_, shut):
                tcp = stack.enter_context(
                    socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
                )
                udp = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
                udp.bind(("::", port))
                services.append((tcp, udp))
        gateway = stack.enter_context(tunnels.start("--set", f"wireguard_host_ports={open_}", addon=""))
        tunnels.connect(text)
        for host in ("10.61.2.1", "fd61:2::1"):
            with lab.client.udp(host, open_, timeout=5) as sock:
                sock.send(b"hello")
                services[0][1].settimeout(5)
                assert services[0][1].recv(100) == b"hello"
            with lab.client.connect(host, open_) as sock:
                services[0][0].settimeout(5)
                with services[0][0].accept()[0] as accepted:
                    sock.sendall(b"hello")
                    accepted.settimeout(5)
                    assert accepted.recv(100) == b"hello"
            with lab.client.udp(host, shut, timeout=5) as sock:
                sock.send(b"hello")
                with pytest.raises(ConnectionRefusedError):
                    sock.recv(100)
            with lab.client.connect(host, shut) as sock:
                assert sock.recv(100) == b""
            gateway.wait_output(rf"{re.escape(host)} port {shut} is of this machine itself.*wireguard_host_ports")
        for service in services[1]:
            service.setblocking(False)
            with pytest.raises(BlockingIOError):
                print(service.accept() if service.type == socket.SOCK_STREAM else service.recvfrom(100))


@pytest.mark.slow
def test_peers_come_and_go_while_it_runs(tunnels: Tunnels, lab: Lab) -> None:
    with tunnels.start() as gateway:
        gateway.wait_output("wireguard.conf is new, with a peer named phone")
        gateway.wait_output("PersistentKeepalive")
        shown = gateway.output
        assert "█" in shown and "Endpoint = 10.61.1.1:51820" not in shown  # no default route here, so no own address
        late = tunnels.command("add", "late", "--endpoint", "10.61.1.1")
        gateway.wait_output("read again, 2 peers")
        interface = tunnels.connect(late)
        assert lab.curl(f"https://origin.test:{HTTPS}/", "--interface", interface, ca=gateway.ca).status == 200
        tunnels.command("remove", "late")
        gateway.wait_output("peer late is removed")
        assert lab.curl(f"https://origin.test:{HTTPS}/", "--interface", interface, "-m", "2", ca=gateway.ca).exit == 28


def test_tun_not_permitted_and_port_taken(tunnels: Tunnels, lab: Lab) -> None:
    words = [*LOCKGATE, "run", "-m", "wireguard", "--set", f"confdir={tunnels.conf}", "--set", "ca_key=ec"]
    env = {**clean_environment(), "HOME": str(tunnels.home), "PYTHONPATH": str(ROOT)}
    done = lab.gateway.run(unprivileged(words, tunnels.home, tun=False), env=env)
    assert done.returncode == 1 and "sudo chmod 0666 /dev/net/tun" in done.stderr, done
    with lab.gateway.inside():
        taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        taken.bind(("0.0.0.0", 51820))
    with taken:
        done = lab.gateway.run(unprivileged(words, tunnels.home), env=env)
    assert done.returncode == 1 and "UDP 0.0.0.0:51820 is in use" in done.stderr, done


def test_nothing_is_left_after_a_kill(tunnels: Tunnels, lab: Lab) -> None:
    tunnels.command("init", "--endpoint", "10.61.1.1")
    conf = tunnels.conf / "wireguard.conf"
    conf.write_text(conf.read_text() + "MTU = 1280\n")
    text = tunnels.command("add", "phone")
    assert "MTU = 1280" in text
    gateway = tunnels.start(addon="")
    interface = tunnels.connect(text)
    for family in ("-4", "-6"):
        upload = ["--data-binary", f"@{lab.root.parent.parent / 'blob'}", "-H", "Expect:"]
        (lab.root.parent.parent / "blob").write_bytes(bytes(100_000))
        reply = lab.curl(f"https://origin.test:{HTTPS}/echo", family, "--interface", interface, *upload, ca=gateway.ca)
        assert (reply.status, reply.size) == (200, 100_000)
    helpers = [pid for pid in Path("/proc").glob("[0-9]*") if _parent(pid) == gateway.process.pid]
    assert len(helpers) == 1
    time.sleep(1.5)  # it has written down where the peer is
    gateway.kill()
    wait_for(lambda: not helpers[0].exists(), 10, "the helper is gone")
    with tunnels.start(addon="") as again:  # the same client, without doing anything
        reply = lab.curl(f"https://origin.test:{HTTPS}/", "--interface", interface, "-m", "4", ca=again.ca)
        assert reply.status == 200


def _parent(folder: Path) -> int:
    try:
        return int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_rekey_loses_no_request(tunnels: Tunnels, lab: Lab) -> None:
    text = tunnels.command("add", "phone", "--endpoint", "10.61.1.1")
    with tunnels.start() as gateway:
        interface = tunnels.connect(text)
        end = time.monotonic() + 132
        count = 0
        while time.monotonic() < end:
            assert lab.curl(f"https://origin.test:{HTTPS}/", "--interface", interface, ca=gateway.ca).status == 200
            count += 1
            time.sleep(0.2)
        dump = lab.client.run(["wg", "show", interface, "latest-handshakes"]).stdout.split()
        assert time.time() - int(dump[1]) < 60 and count > 50


@pytest.mark.slow
def test_as_root_with_mitmproxys_file(tunnels: Tunnels, lab: Lab) -> None:
    keys = [lab.client.run(["wg", "genkey"]).stdout.strip() for _ in range(2)]
    tunnels.conf.mkdir()
    (tunnels.conf / "wireguard.conf").write_text(f'{{"server_key": "{keys[0]}", "client_key": "{keys[1]}"}}')
    public = lab.client.run(["wg", "pubkey"], input=keys[0]).stdout.strip()
    text = f"""[Interface]
PrivateKey = {keys[1]}
Address = 10.0.0.1/32
DNS = 10.0.0.53
MTU = 1420

[Peer]
PublicKey = {public}
AllowedIPs = 0.0.0.0/0, ::/0
Endpoint = 10.61.1.1:51820
"""
    with tunnels.start(root=True) as gateway:
        interface = tunnels.connect(text)
        reply = lab.curl(f"https://v4.origin.test:{HTTPS}/", "--interface", interface, ca=gateway.ca)
        assert (reply.status, reply.header("x-device")) == (200, "mitmproxy")
        dig = lab.client.run(["dig", "+short", "+time=3", "+tries=1", "@10.0.0.53", "alt.test"])
        assert dig.stdout.strip() == "10.61.2.3"


FLOOD = """
import socket, sys, time
from modes.wireguard import noise
from modes.wireguard.cookie import Generator
server, port, mark = bytes.fromhex(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
stranger, generator = noise.PrivateKey(), Generator(server)
shared = stranger.exchange(server)
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
message, _ = noise.initiate(stranger, server, shared, b"FFFF", noise.tai64n(time.time_ns()))
message = generator.add(message, 0.0)
print("floods", flush=True)
while True:
    for _ in range(20):
        sock.sendto(message, ("10.61.1.1", port))
        sock.sendto(message[:-40] + bytes(40), ("10.61.1.1", port))
    time.sleep(0.01)
"""


@pytest.mark.slow
def test_peers_get_through_a_flood_of_unknown_keys(tunnels: Tunnels, lab: Lab) -> None:
    text = tunnels.command("add", "phone", "--endpoint", "10.61.1.1")
    public = re.search(r"PublicKey = (.*)", text)
    assert public is not None
    env = {**clean_environment(), "PYTHONPATH": str(ROOT)}
    with tunnels.start() as gateway:
        words = [sys.executable, "-c", FLOOD, base64.b64decode(public[1]).hex(), "51820", "mark"]
        flood = lab.client.popen(words, output=subprocess.PIPE, env=env)
        assert flood.stdout is not None and flood.stdout.readline() == b"floods\n"
        interface = tunnels.connect(text)
        for _ in range(5):
            reply = lab.curl(f"https://origin.test:{HTTPS}/", "--interface", interface, "-m", "14", ca=gateway.ca)
            assert reply.status == 200
        end_process(flood)
