"""Captures by tcpdump with the gateway's TLS secrets inside, and flows as packets: opened by tshark."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from appliance.cli.main import main
from tests.lab import netns
from tests.lab.labkit import HTTPS, Lab
from tests.lab.netns import wait_for
from tests.lab.nginx import H2

needs = pytest.mark.skipif(
    shutil.which("tshark") is None or shutil.which("tcpdump") is None, reason="needs tshark and tcpdump"
)


def tshark(path: Path, *words: str) -> list[str]:
    done = subprocess.run(["tshark", "-r", str(path), *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@needs
@pytest.mark.parametrize("version", [pytest.param("1.2", marks=pytest.mark.slow), "1.3"])
def test_a_capture_with_its_secrets(lab: Lab, tmp_path: Path, version: str) -> None:
    """Of both sides of the gateway: what passed there in TLS can be read."""
    keys, raw, whole, flows = (tmp_path / name for name in ("keys.log", "lan.pcap", "lan.pcapng", "flows"))
    tcpdump = lab.gateway.popen(["tcpdump", "-i", "any", "-U", "--immediate-mode", "-w", str(raw), "-Z", "root", "tcp"])
    try:
        wait_for(lambda: raw.exists() and raw.stat().st_size >= 24, 10, "tcpdump listens")
        with lab.gateway_proc("-w", str(flows), options={"tls_keylog_file": keys}) as gateway:
            flag = ["--tls-max", version, f"--tlsv{version}"]
            assert lab.curl(f"https://origin.test:{HTTPS}/find/me", *flag, via=gateway).status == 200
            assert lab.curl(f"https://origin.test:{H2}/1k", "--http2", *flag, via=gateway).status == 200
        wait_for(lambda: raw.stat().st_size > 8_000, 10, "it has captured")
        time.sleep(0.3)  # the last packets
    finally:
        netns.end_process(tcpdump)
    sealed = tshark(
        raw, "-d", f"tcp.port=={HTTPS},tls", "-d", f"tcp.port=={H2},tls", "-Y", 'http.request.uri contains "find"'
    )
    assert sealed == []
    assert main(["convert", str(raw), str(whole), "--secrets", str(keys)]) == 0
    seen = tshark(whole, "-d", f"tcp.port=={HTTPS},tls", "-Y", "http.request.uri == \"/find/me\"", "-T", "fields",
                  "-e", "http.request.method")  # fmt: skip
    assert len(seen) >= 2 and set(seen) == {"GET"}, seen  # from the client, and to the server
    assert tshark(whole, "-d", f"tcp.port=={H2},tls", "-Y", 'http2.headers.path == "/1k"')
    clear = tmp_path / "flows.pcapng"
    assert main(["convert", str(flows), str(clear)]) == 0
    uris = tshark(clear, "-Y", "http.request", "-T", "fields", "-e", "http.request.uri")
    assert uris == ["/find/me", "/1k"]
    codes = tshark(clear, "-Y", "http.response", "-T", "fields", "-e", "http.response.code")
    assert codes == ["200", "200"]


@needs
def test_fed_live(lab: Lab, tmp_path: Path) -> None:
    """tshark reads what a client of `pcap_over_ip` gets."""
    got = tmp_path / "live.pcapng"
    with lab.gateway_proc(options={"pcap_over_ip": "57012"}) as gateway:
        gateway.wait_output("")
        script = (
            "import socket, sys\n"
            "with socket.create_connection(('127.0.0.1', 57012)) as link, open(sys.argv[1], 'wb') as out:\n"
            "    while data := link.recv(65536):\n"
            "        out.write(data)\n"
            "        out.flush()\n"
        )
        wait_for(lambda: 57012 in lab.gateway.listening(), 5, "pcap_over_ip listens")
        client = lab.gateway.popen([sys.executable, "-c", script, str(got)])
        try:
            wait_for(lambda: got.exists() and got.stat().st_size > 0, 10, "connected")
            assert lab.curl(f"https://origin.test:{HTTPS}/live", via=gateway).status == 200
            wait_for(lambda: b"GET /live" in got.read_bytes(), 5, "fed")
            # The gateway may not be sent to its own port.
            assert lab.curl("http://127.0.0.1:57012/", via=gateway).status == 502
        finally:
            netns.end_process(client)
    lines = tshark(got, "-Y", 'http.request.uri == "/live"')
    assert len(lines) == 1
