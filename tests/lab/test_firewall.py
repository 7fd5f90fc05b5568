"""`transparent:lan0` lays its own redirect: each firewall and method, an unconfigured client, IPv4 and IPv6."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import pytest

from tests.lab import origin_dns
from tests.lab.gateway_proc import LOCKGATE, ROOT, Gateway
from tests.lab.labkit import ECHO, HTTPS, Lab
from tests.lab.netns import end_process, wait_for
from tests.lab.recorder import Origins

ADDON = """
def request(flow):
    flow.request.headers["x-lab"] = "1"

def tcp_message(flow):
    flow.messages[-1].content = flow.messages[-1].content.replace(b"client", b"gateway")

udp_message = tcp_message

def dns_response(flow):
    for record in flow.response.answers:
        if flow.request.question.name == "www.lab.test":
            record.ipv4_address = "192.0.2.99"
"""
BACKENDS = ("nftables", "iptables-nft", "iptables-legacy")
METHODS = ("tproxy", "redirect")
ENDINGS = ("SIGTERM", "SIGINT", "SIGKILL", "group")
PORT = 8085
pytestmark = pytest.mark.usefixtures("primed")


def state(lab: Lab) -> str:
    """Everything that a redirect may change in the gateway's namespace."""
    commands = ["nft list ruleset", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all"]
    commands += [f"ip{six}tables-legacy-save" for six in ("", "6")]
    texts = [lab.gateway.run(command.split(), check=True).stdout for command in commands]
    # Comments carry the time, counters count.
    texts.append(lab.gateway.run(["cat", "/proc/sys/net/ipv4/tcp_early_demux"], check=True).stdout)
    texts = [re.sub(r"expires \S+|packets \d+ bytes \d+", "", text) for text in texts]
    lines = [line.partition(" [")[0] for text in texts for line in text.splitlines() if not line.startswith("#")]
    return "\n".join(lines)


@contextlib.contextmanager
def gateway(
    lab: Lab,
    backend: str,
    method: str,
    *more: str,
    port: int = PORT,
    addon: str = ADDON,
    command: Sequence[str] = LOCKGATE,
    **options: object,
) -> Iterator[Gateway]:
    settings = {"firewall": backend, "firewall_method": method, **options}
    mode = ("-m", f"transparent:lan0@{port}")
    with lab.gateway_proc(*mode, *more, addon=addon, options=settings, command=command) as running:
        running.wait_output("SHA-256")  # the first screen, printed when all is laid
        yield running


def udp(lab: Lab, family: int, data: bytes = b"client") -> bytes:
    with lab.client.udp("origin.test", ECHO, family=family, timeout=3) as sock:
        sock.send(data)
        return sock.recv(65535)


def ping(lab: Lab) -> bool:
    """Whether the server answers an ICMP echo request of the client's within a second."""
    with lab.client.inside():
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with sock, contextlib.suppress(OSError):
        sock.settimeout(1)
        sock.sendto(bytes.fromhex("0800f7fd00010001"), (lab.server.v4, 0))
        while True:
            packet, peer = sock.recvfrom(200)
            if peer[0] == lab.server.v4 and packet[20] == 0:
                return True
    return False


@pytest.fixture(scope="module")
def nameserver(lab: Lab) -> Iterator[None]:
    with origin_dns.nameserver(lab):
        yield


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_unconfigured_client(lab: Lab, origins: Origins, nameserver: None, backend: str, method: str) -> None:
    """HTTPS, raw TCP and UDP, a datagram in fragments, dig: decrypted and changed."""
    before = state(lab)
    with gateway(lab, backend, method) as running:
        for family in (4, 6):
            reply = lab.curl(f"https://origin.test:{HTTPS}/", f"-{family}", ca=running.ca)
            assert reply.status == 200, reply.error
            with lab.connect("origin.test", ECHO, family=family) as sock:
                sock.sendall(b"client")
                assert sock.recv(100) == b"gateway"
            assert udp(lab, family) == b"gateway"
            assert udp(lab, family, b"client" * 1000) == b"gateway" * 1000  # in fragments
            at = f"@{lab.server.v6 if family == 6 else lab.server.v4}"
            for more in ("+notcp", "+tcp"):
                asked = lab.client.run(["dig", "+tries=1", "+time=8", "+short", more, at, "www.lab.test"])
                assert asked.stdout == "192.0.2.99\n"
        assert [request.values("x-lab") for request in origins.requests()] == [["1"], ["1"]]
        assert state(lab) != before
        assert "not intercepted" not in running.output
    assert state(lab) == before


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("backend", "method"), [("nftables", "tproxy"), ("iptables-nft", "tproxy"),
                                                 ("iptables-legacy", "redirect")])  # fmt: skip
def test_nothing_is_left_at_any_ending(lab: Lab, backend: str, method: str, ending: str) -> None:
    before = state(lab)
    with gateway(lab, backend, method) as running:
        assert state(lab) != before
        if ending == "group":
            running.kill()
        else:
            running.signal(signal.Signals[ending])
            running.process.wait(10)
        wait_for(lambda: state(lab) == before, 5, f"nothing is left after {ending}")


def test_nothing_is_left_when_the_start_fails(lab: Lab) -> None:
    """The second mode's redirect cannot be laid, when the first one's lies already."""
    before = state(lab)
    modes = ("-m", f"transparent:lan0@{PORT}", "-m", f"transparent:wan0@{lab.gateway.v4}:{PORT + 1}")
    with pytest.raises(RuntimeError, match="leave HOST out"):
        lab.gateway_proc(*modes, options={"firewall_method": "redirect"}, ports=[PORT + 9])
    assert state(lab) == before


@pytest.mark.parametrize("backend", ["nftables", "iptables-nft"])
def test_killed_under_traffic_no_private_source_leaves(lab: Lab, backend: str) -> None:
    """A UDP client on a fixed source port, before and after the kill; judged on the server's side of the wire."""
    before = state(lab)
    wan = lab.server.popen(
        ["tcpdump", "-l", "-n", "-i", "eth0", "ip and udp port 7000"], output=subprocess.PIPE, errors=subprocess.DEVNULL
    )
    assert wan.stdout is not None
    try:
        with gateway(lab, backend, "tproxy", masquerade="wan0") as running, lab.client.inside():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with sock:
                sock.bind((lab.client.v4, 40000))
                sock.connect((lab.server.v4, ECHO))
                sock.settimeout(3)
                sock.send(b"client")
                assert sock.recv(100) == b"gateway"
                running.process.kill()
                sock.settimeout(0.01)
                answers: list[bytes] = []

                def flows_by() -> bool:
                    sock.send(b"client")
                    with contextlib.suppress(OSError):
                        answers.append(sock.recv(100))
                    return answers[-1:] == [b"client"]

                wait_for(flows_by, 5, "the client's datagrams flow by, unchanged")
                running.process.wait(5)
        wait_for(lambda: "fwmark" not in state(lab), 5, "interception ends")
        assert "masquerade" in state(lab).lower(), "routing survives a kill"
        shown = lab.gateway.run([*LOCKGATE, "firewall", "show"], cwd=ROOT).stdout
        assert "no longer runs" in shown
    finally:
        end_process(wan)
        cleaned = lab.gateway.run([*LOCKGATE, "firewall", "clean"], cwd=ROOT)
    assert "removed" in cleaned.stdout, cleaned.stderr
    lines = wan.stdout.read().decode().splitlines()
    assert sum(f"> {lab.server.v4}.{ECHO}" in line for line in lines) >= 2, lines
    assert not [line for line in lines if lab.client.v4 in line]
    assert state(lab) == before
    assert lab.gateway.run(["cat", "/proc/sys/net/ipv4/ip_forward"]).stdout.strip() == "0"


@pytest.mark.parametrize(
    ("backend", "ending"),
    [
        ("nftables", "SIGKILL"),
        pytest.param("nftables", "SIGTERM", marks=pytest.mark.slow),
        ("nftables", "SIGSTOP"),
        pytest.param("iptables-nft", "SIGKILL", marks=pytest.mark.slow),
    ],
)
def test_closed(lab: Lab, backend: str, ending: str) -> None:
    """The box routes, and yet nothing passes once the gateway is down or hangs: TCP, UDP, ping; until `clean`."""
    before = state(lab)

    def passes() -> list[str]:
        found = []
        with contextlib.suppress(OSError), lab.connect("origin.test", ECHO, family=4, timeout=1) as sock:
            sock.sendall(b"client")
            found += ["tcp"] if sock.recv(100) else []
        with contextlib.suppress(OSError), lab.client.udp("origin.test", ECHO, family=4, timeout=1) as sock:
            sock.send(b"client")
            found += ["udp"] if sock.recv(100) else []
        return [*found, *(["ping"] if ping(lab) else [])]

    with lab.forwarding():
        assert passes() == ["tcp", "udp", "ping"]
        with gateway(lab, backend, "tproxy", firewall_fail="closed") as running:
            whole = ["tcp", "udp", "ping"]
            assert passes() == whole
            running.signal(signal.Signals[ending])
            if ending == "SIGSTOP":
                time.sleep(3)
                assert passes() == []
                running.signal(signal.SIGCONT)
                wait_for(lambda: passes() == whole, 10, "it goes on")
                running.signal(signal.SIGTERM)
            running.process.wait(10)
            wait_for(lambda: "fwmark" not in state(lab), 5, "interception ends")
            if ending == "SIGKILL":
                time.sleep(2.5)
            assert passes() == []
        with gateway(lab, backend, "tproxy", firewall_fail="closed"):
            assert passes() == whole
        assert passes() == []
        cleaned = lab.gateway.run([*LOCKGATE, "firewall", "clean"], cwd=ROOT)
        assert "removed" in cleaned.stdout, cleaned.stderr
        assert passes() == ["tcp", "udp", "ping"]
    assert state(lab) == before


def test_flush_ruleset_does_not_touch_the_owned_table(lab: Lab) -> None:
    with gateway(lab, "nftables", "tproxy") as running:
        lab.gateway.run(["nft", "flush", "ruleset"])
        assert lab.curl(f"https://origin.test:{HTTPS}/", ca=running.ca).status == 200


def test_two_gateways_have_their_own(lab: Lab) -> None:
    before = state(lab)
    with gateway(lab, "nftables", "tproxy"):
        one = state(lab)
        with gateway(lab, "nftables", "tproxy", port=PORT + 1):
            assert state(lab).count("table inet lockgate_") == 2
        assert state(lab) == one
    assert state(lab) == before


def test_an_interface_that_goes_and_returns(lab: Lab) -> None:
    """The rules match by name: it is theirs again when it is back."""
    away = "link set lan0 down", "link set lan0 name gone0"
    back = "link set gone0 name lan0", "link set lan0 up", f"addr add {lab.gateway.v6}/64 dev lan0 nodad"
    with gateway(lab, "nftables", "tproxy") as running:
        try:
            for words in away:
                lab.gateway.run(["ip", *words.split()], check=True)
        finally:
            for words in back:
                lab.gateway.run(["ip", *words.split()], check=True)
        for family in (4, 6):
            reply = lab.curl(f"https://origin.test:{HTTPS}/", f"-{family}", ca=running.ca)
            assert reply.status == 200, reply.error


def test_an_interface_that_is_not_there_is_told(lab: Lab) -> None:
    """It may come later; a name that was mistyped never does."""
    mode = ("-m", f"transparent:lan0,lna0@{PORT}")
    with lab.gateway_proc(*mode, options={"masquerade": "wan7"}) as running:
        running.wait_output("SHA-256")
        for name, near in (("lna0", "lan0"), ("wan7", "wan0")):
            text = f"firewall: there is no interface {name} (did you mean {near}?); the rules for it wait until"
            assert text in running.output, running.output
        assert "no interface lan0" not in running.output


def test_dhcp_and_mdns_still_reach_the_box(lab: Lab) -> None:
    server = """
import socket, sys
socks = []
for port in (67, 5353):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("", port))
    s.settimeout(5)
    socks.append(s)
group = socket.inet_aton("224.0.0.251") + socket.inet_aton(sys.argv[1])
socks[1].setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
print("ready", flush=True)
print(*(s.recv(100) for s in socks), flush=True)
"""
    with gateway(lab, "nftables", "tproxy"):
        process = lab.gateway.popen([sys.executable, "-c", server, lab.gateway.v4], output=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        client = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("{lab.client.v4}"))
s.sendto(b"dhcp", ("255.255.255.255", 67))
s.sendto(b"mdns", ("224.0.0.251", 5353))
"""
        assert lab.client.python(client).returncode == 0
        assert process.stdout.readline() == b"b'dhcp' b'mdns'\n"
        process.wait(5)


def test_without_the_right_the_error_names_it(lab: Lab) -> None:
    command = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", *LOCKGATE)
    with pytest.raises(RuntimeError, match="CAP_NET_ADMIN"):
        lab.gateway_proc("-m", f"transparent:lan0@{PORT}", ports=[PORT + 9], command=command)


def echoed(lab: Lab) -> bytes:
    with contextlib.suppress(OSError), lab.connect("origin.test", ECHO, family=4, timeout=0.4) as sock:
        sock.sendall(b"client")
        return sock.recv(100)
    return b""


def answered(sock: socket.socket) -> bytes:
    with contextlib.suppress(OSError):
        sock.send(b"client")
        return sock.recv(100)
    return b""
