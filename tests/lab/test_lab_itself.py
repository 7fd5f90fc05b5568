"""The lab tested by itself: its network, the capture with a stand-in relay, the gateway's process, the clients."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.lab import clients, netns, standin
from tests.lab.bytes_on_wire import read_all
from tests.lab.gateway_proc import ROOT, Gateway, ports_of
from tests.lab.labkit import ECHO, HTTP, HTTPS, SILENT, Lab
from tests.lab.origins import pattern

STANDIN = (sys.executable, "-m", "tests.lab.standin")


# -- the network


@pytest.mark.parametrize("family", [4, 6])
def test_nothing_passes_the_gateway_unless_it_forwards(lab: Lab, family: int) -> None:
    with pytest.raises(OSError):
        lab.connect(family=family, timeout=0.3)
    with lab.forwarding():
        lab.connect(family=family).close()
    with pytest.raises(OSError):
        lab.connect(family=family, timeout=0.3)


def test_hosts_have_their_own_names_and_sockets(lab: Lab) -> None:
    assert lab.client.run(["getent", "ahostsv4", "alt.test"], check=True).stdout.startswith("10.61.2.3 ")
    assert "fd61:2::2" in lab.client.python("import socket; print(socket.getaddrinfo('v6.origin.test', 80))").stdout
    start = time.monotonic()
    assert lab.client.run(["getent", "hosts", "not-in-the-table.test"]).returncode == 2
    assert time.monotonic() - start < 1
    assert HTTP in lab.server.listening() and HTTP not in lab.gateway.listening()
    assert ECHO in lab.server.listening("udp")
    with lab.server.connect("127.0.0.1", HTTP) as sock:
        assert sock.getpeername()[1] == HTTP
    with pytest.raises(KeyError):
        netns.resolve("v4.origin.test", 6)


def test_commands_see_no_settings_of_the_tester(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "http_proxy", "SSL_CERT_FILE", "SSLKEYLOGFILE", "LOCKGATE_CONFDIR"):
        monkeypatch.setenv(name, "from-outside")
    monkeypatch.setenv("LAB_KEPT", "kept")
    seen = lab.client.run(["env"]).stdout
    assert "from-outside" not in seen and "LAB_KEPT=kept" in seen
    with lab.gateway_proc(command=STANDIN, env={"SSLKEYLOGFILE": "wanted"}) as gateway:
        told = Path(f"/proc/{gateway.process.pid}/environ").read_text()
    assert "from-outside" not in told and "SSLKEYLOGFILE=wanted" in told


def test_run_kills_what_takes_too_long(lab: Lab) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        lab.client.run(["sh", "-c", "sleep 77 & sleep 77"], timeout=0.2)
    pids = subprocess.run(["ip", "netns", "pids", lab.client.name], capture_output=True, text=True, check=True)
    assert pids.stdout.split() == []
    assert lab.client.run(["cat"], input="hé").stdout == "hé"
    with pytest.raises(subprocess.CalledProcessError):
        lab.client.run(["false"], check=True)


def test_ports_that_refuse_drop_and_stay_silent(routed: Lab) -> None:
    with pytest.raises(ConnectionRefusedError):
        routed.connect(port=1)
    with pytest.raises(TimeoutError):
        routed.connect(port=netns.BLACKHOLE_PORT, timeout=0.3)
    with routed.connect(port=SILENT, timeout=0.3) as sock, pytest.raises(TimeoutError):
        sock.sendall(b"hello?")
        sock.recv(1)


def remains(tag: str) -> list[Path]:
    places = (netns.RUN, netns.ETC, Path(tempfile.gettempdir()))
    return [path for place in places if place.is_dir() for path in place.glob(f"{tag}*")]


def test_what_a_killed_run_left_is_swept_and_the_living_stay(lab: Lab) -> None:
    code = """if True:
        import time
        from tests.lab.netns import Network
        net = Network()
        print(net.tag, net.server.popen(["sleep", "600"]).pid, flush=True)
        time.sleep(600)"""
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert run.stdout
    with run.stdout:
        tag, pid = run.stdout.readline().split()
    try:
        netns.sweep()
        assert len(remains(tag)) == 7
    finally:
        run.kill()
        run.wait()
    netns.sweep()
    assert remains(tag) == []
    netns.wait_for(lambda: not Path("/proc", pid).exists() or "Z" in Path("/proc", pid, "stat").read_text(), 2, "gone")
    assert len(remains(lab.net.tag)) == 7


def test_a_failure_half_way_leaves_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netns, "PREFIX", "lglabx")
    monkeypatch.setattr(netns.Network, "_nft", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        netns.Network()
    assert remains("lglabx") == []


def test_reasons_for_skipping() -> None:
    assert netns.missing(["sh", "no-such-tool"]) == (
        "the lab needs root (network namespaces)" if os.geteuid() else "not installed: no-such-tool"
    )


# -- capture


@pytest.mark.parametrize("capture", ["redirect", "tproxy"])
@pytest.mark.parametrize(("flag", "address"), [("-4", "10.61.2.2"), ("-6", "fd61:2::2")])
def test_redirect_tells_the_wanted_address(lab: Lab, capture: str, flag: str, address: str) -> None:
    with lab.gateway_proc("-m", "transparent@8081", command=STANDIN) as gateway, lab.redirect(8081, capture):
        reply = lab.curl("https://origin.test/100k", flag)
        assert (reply.status, reply.body, reply.remote) == (200, pattern(102400), address)
        gateway.wait_output(f"wants {address} 443$")
        family = 6 if flag == "-6" else 4
        with lab.connect(port=ECHO, family=family) as sock:
            sock.sendall(b"half")
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock) == b"half"
    with pytest.raises(OSError):
        lab.connect(family=family, timeout=0.3)


@pytest.mark.parametrize("capture", ["redirect", "tproxy"])
@pytest.mark.parametrize("family", [4, 6])
def test_redirect_leaves_the_gateways_own_addresses_alone(lab: Lab, capture: str, family: int) -> None:
    with lab.gateway.inside():
        own = socket.create_server(("::", 8085), family=socket.AF_INET6, dualstack_ipv6=True)
    with own, lab.redirect(8081, capture), lab.connect("gateway.test", 8085, family=family) as sock:
        own.settimeout(2)
        accepted, _ = own.accept()
        with accepted:
            accepted.sendall(b"me")
            assert sock.recv(10) == b"me"


@pytest.mark.parametrize("capture", ["redirect", "tproxy"])
def test_redirect_of_some_ports_and_no_trace_after(lab: Lab, capture: str) -> None:
    def state() -> str:
        commands = ("nft list ruleset", "ip -4 rule", "ip -6 rule", "ip -4 route show table all",
                    "ip -6 route show table all")  # fmt: skip
        return "".join(lab.gateway.run(command.split(), check=True).stdout for command in commands)

    before = state()
    with lab.gateway_proc("-m", "transparent@8081", command=STANDIN) as gateway:
        with lab.redirect(8081, capture, only=[HTTP, ECHO]):
            assert lab.curl(f"http://origin.test:{HTTP}/", "-4").status == 200
            with pytest.raises(OSError):
                lab.connect(port=80, timeout=0.3)
        assert gateway.output.count(" wants ") == 1
    assert state() == before
    with pytest.raises(ValueError), lab.redirect(1, "nonsense"):
        pass


@pytest.mark.parametrize("family", [4, 6])
def test_tproxy_takes_datagrams(lab: Lab, family: int) -> None:
    """The listener learns the wanted address from IP_RECVORIGDSTADDR and answers from it."""
    kind, level = (socket.AF_INET, socket.SOL_IP) if family == 4 else (socket.AF_INET6, socket.IPPROTO_IPV6)
    transparent, original = (standin.IP_TRANSPARENT, 20) if family == 4 else (standin.IPV6_TRANSPARENT, 74)

    def open_socket(address: str, port: int) -> socket.socket:
        with lab.gateway.inside():
            sock = socket.socket(kind, socket.SOCK_DGRAM)
        sock.setsockopt(level, transparent, 1)
        sock.setsockopt(level, original, 1)
        sock.settimeout(2)
        sock.bind((address, port))
        return sock

    udp = lab.client.udp("origin.test", 5353, family=family)
    with open_socket("", 8081) as listener, lab.redirect(8081, "tproxy", udp=True), udp:
        udp.send(b"question")
        data, [(_, _, where)], _, peer = listener.recvmsg(100, 100)
        address = socket.inet_ntop(kind, where[4:8] if family == 4 else where[8:24])
        port = struct.unpack_from("!H", where, 2)[0]
        assert (data, address, port) == (b"question", netns.resolve("origin.test", family), 5353)
        with open_socket(address, port) as answering:
            answering.sendto(b"answer", peer)
            assert udp.recv(100) == b"answer"


# -- the gateway's process


def test_gateway_arguments_output_and_figures(lab: Lab) -> None:
    with lab.gateway_proc(command=STANDIN, addon="x = 1", options={"flow_detail": 2, "rawtcp": False}) as gateway:
        said = gateway.wait_output("^arguments (.*)$")[1].split()
        assert said[:3] == ["run", "-m", "regular@10.61.1.1:8080"]
        settings = dict(setting.split("=", 1) for flag, setting in itertools.pairwise(said) if flag == "--set")
        assert settings == {"confdir": str(gateway.confdir), "flow_detail": "2", "rawtcp": "false",
                            "ssl_verify_upstream_trusted_ca": str(lab.root)}  # fmt: skip
        assert Path(said[said.index("-s") + 1]).read_text() == "x = 1"
        assert lab.curl(f"https://origin.test:{HTTPS}/", via=gateway, ca=lab.root).json()["target"] == "/"
        assert gateway.cpu_seconds() < 5 and 1000 < gateway.rss_kb() < 10**6 and gateway.open_files() >= 4
        with pytest.raises(RuntimeError, match="somebody listens"):
            lab.gateway_proc(command=STANDIN)
        with pytest.raises(AssertionError, match="nothing of this"):
            gateway.wait_output("nothing of this", timeout=0.05)
    assert gateway.process.returncode == 0 and " wants " in gateway.output


def test_gateway_that_does_not_start_or_stop(lab: Lab) -> None:
    def standin_(*arguments: str, **more: Any) -> Gateway:
        return lab.gateway_proc("-m", "regular@8082", *arguments, command=STANDIN, **more)

    with pytest.raises(RuntimeError, match=r"ended with 1 before(.|\n)*this mode does not start"):
        lab.gateway_proc("-m", "broken@8082", command=STANDIN)
    with pytest.raises(RuntimeError, match="not within"):
        standin_(ports=[8082, 8083], timeout=0.5)
    with pytest.raises(AssertionError, match="exit code 3, not 0"), standin_("--exit", "3"):
        pass
    with standin_("--exit", "-1") as deaf, pytest.raises(AssertionError, match="did not end"):
        deaf.stop(timeout=0.2)
    with pytest.raises(AssertionError, match="died with"), standin_("--exit", "4") as gateway:
        gateway.signal(signal.SIGTERM)
        gateway.process.wait(3)
    with pytest.raises(ZeroDivisionError) as caught, standin_():
        _ = 1 / 0
    assert "The gateway wrote:\narguments run" in caught.value.__notes__[0]
    assert 8082 not in lab.gateway.listening()


def test_gateway_with_few_files(lab: Lab) -> None:
    with lab.gateway_proc("-m", "regular@8082", command=STANDIN, nofile=50) as gateway:
        limits = Path(f"/proc/{gateway.process.pid}/limits").read_text()
        assert [line.split()[3:5] for line in limits.splitlines() if "open files" in line] == [["50", "50"]]


@pytest.mark.parametrize(
    ("arguments", "ports"),
    [
        ("", [8080]),
        ("-p 99", [99]),
        ("--listen-port=99 -q", [99]),
        ("-m transparent@1 --mode regular@[::1]:2", [1, 2]),
        ("--mode=transparent:lan0@7 -p 5", [7]),
        ("-m regular -m transparent@3 -p 4", [3, 4]),
    ],
)
def test_ports_in_arguments(arguments: str, ports: list[int]) -> None:
    assert ports_of(arguments.split()) == ports


def test_gateway_addresses(lab: Lab) -> None:
    with lab.gateway_proc("-m", "regular@10.61.1.1:8082", command=STANDIN) as gateway:
        assert gateway.proxy == "http://10.61.1.1:8082"
        assert gateway.proxy6 == "http://[fd61:1::1]:8082" and gateway.ca.name == "lockgate-ca-cert.pem"


# -- clients


@pytest.mark.skipif(not clients.chromium_path(), reason="chromium is not installed")
def test_chromium_trusts_what_it_is_given(routed: Lab) -> None:
    with routed.gateway_proc(command=STANDIN) as gateway:
        page = routed.chromium("https://origin.test/", via=gateway, ca=routed.root)
        assert "over HTTP/1.1" in page.dom, page.log
        assert "origin.test 443" in gateway.output or "10.61.2.2 443" in gateway.output
    refused = routed.chromium("https://origin.test:8443/", ca=routed.pki.bad["self-signed"].cert)
    assert "over HTTP" not in refused.dom


def test_curl_details(routed: Lab) -> None:
    reply = routed.curl("http://nowhere.test:8000/early/hints", resolve=["nowhere.test:8000:10.61.2.2"])
    assert [head.line.split()[1] for head in reply.heads] == ["103", "200"]
    assert reply.header("content-type") == "application/json" and reply.remote == "10.61.2.2"
    assert routed.curl(f"http://origin.test:{HTTP}/trailers").trailers[0] == ("X-Checksum", "abc123")
    failed = routed.curl("https://bad.test/")
    assert (failed.exit, failed.status) == (60, 0) and "no alternative certificate" in failed.error


def test_requests_in_the_client(routed: Lab) -> None:
    code = "import requests, sys; print(requests.get(sys.argv[1], verify=sys.argv[2]).status_code)"
    assert routed.client.python(code, "https://origin.test/1k", str(routed.root)).stdout == "200\n"
