"""`lockgate doctor` in a gateway's namespace, with real interfaces, sysctls and other firewalls."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.lab.gateway_proc import LOCKGATE, ROOT
from tests.lab.labkit import Lab
from tests.lab.netns import clean_environment, wait_for


def doctor(lab: Lab, *arguments: str, tries: bool = False) -> tuple[int, dict[str, dict[str, Any]]]:
    """Its exit code, and the findings by check (the last of each)."""
    words = [*LOCKGATE, "doctor", "--json", *arguments, *([] if tries else ["--no-self-test"])]
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT), "HOME": str(lab.scratch)}
    done = lab.gateway.run(words, env=environment, timeout=60)
    assert done.stdout, done.stderr
    return done.returncode, {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}


def test_a_sound_gateway_has_no_fault(lab: Lab) -> None:
    with lab.forwarding():
        code, found = doctor(lab, "lan0", "--wan", "wan0", tries=True)
    assert code == 0, [finding for finding in found.values() if finding["level"] == "fault"]
    assert found["interface.lan0"]["level"] == "ok"
    assert found["interface.mtu"]["seen"] == "MTU: lan0 1500, wan0 1500"
    assert found["sysctl.net.ipv4.ip_forward"]["level"] == "ok"
    assert found["firewall"]["level"] == "ok"


def test_every_combination_is_tried_for_real(lab: Lab) -> None:
    """This kernel has them all (feasibility); what a combination does not do would be named here."""
    _, found = doctor(lab, tries=True)
    for tool in ("nftables", "iptables-nft", "iptables-legacy"):
        for method in ("tproxy", "redirect"):
            told = found[f"redirect.{tool}.{method}"]
            assert told["level"] == "ok", told
            assert "TCP and UDP, IPv4 and IPv6" in told["seen"] or "not installed" in told["seen"]


def test_settings_in_the_way(lab: Lab) -> None:
    changed = {
        "net.ipv4.conf.lan0.rp_filter": (1, "sysctl.rp_filter.lan0", "note"),
        "net.ipv4.conf.all.src_valid_mark": (1, "sysctl.src_valid_mark", "fault"),
        "net.ipv4.conf.lan0.route_localnet": (1, "sysctl.route_localnet.lan0", "warning"),
        "net.ipv6.conf.lan0.disable_ipv6": (0, "sysctl.disable_ipv6.lan0", ""),
    }
    try:
        for name, (value, _, _) in changed.items():
            lab.gateway.sysctl(name, value)
        code, found = doctor(lab, "lan0", "--wan", "wan0")
    finally:
        for name in changed:
            lab.gateway.sysctl(name, 0)
    assert code == 1
    for name, (_, check, level) in changed.items():
        assert (found[check]["level"] if check in found else "") == level, (name, found.get(check))
    assert found["sysctl.src_valid_mark"]["remedy"].startswith("sysctl -w net.ipv4.conf.all.src_valid_mark=0")
    assert found["sysctl.net.ipv4.ip_forward"]["level"] == "warning"


def test_src_valid_mark_really_stops_tproxy(lab: Lab) -> None:
    """Why it is a fault: with the same rules and listener nothing arrives over IPv4."""
    with lab.gateway_proc("-m", "transparent@8081") as gateway, lab.redirect(8081, "tproxy"):
        assert lab.curl("https://origin.test/1k", "-4", ca=gateway.ca).status == 200
        lab.gateway.sysctl("net.ipv4.conf.all.src_valid_mark", 1)
        try:
            assert lab.curl("https://origin.test/1k", "-4", ca=gateway.ca, timeout=2).status == 0
            assert lab.curl("https://origin.test/1k", "-6", ca=gateway.ca).status == 200
        finally:
            lab.gateway.sysctl("net.ipv4.conf.all.src_valid_mark", 0)


def test_router_advertisements_lost_by_forwarding(lab: Lab) -> None:
    with lab.forwarding():
        lab.gateway.sysctl("net.ipv6.conf.wan0.accept_ra", 1)
        try:
            _, found = doctor(lab, "lan0", "--wan", "wan0")
        finally:
            lab.gateway.sysctl("net.ipv6.conf.wan0.accept_ra", 0)
    assert found["sysctl.accept_ra.wan0"]["remedy"] == "sysctl -w net.ipv6.conf.wan0.accept_ra=2"


RULES = """
table inet home {
    chain input { type filter hook input priority filter; policy drop; ct state established accept; }
    chain output { type filter hook output priority filter; policy drop; ct state established,new accept; }
    chain forward { type filter hook forward priority filter; counter reject; }
}
"""


def test_another_firewall_is_named_and_its_remedy_is_accepted(lab: Lab) -> None:
    lab.gateway.run(
        ["nft", "-f", "-"],
        input=RULES.replace("{ type", "{\ntype").replace("; }", ";\n}").replace("policy drop; ct", "policy drop;\nct"),
        check=True,
    )
    try:
        _, found = doctor(lab, "lan0")
        for hook in ("input", "forward", "output"):
            assert ("not tracked" in found[f"firewall.{hook}"]["why"]) == (hook != "forward")
            assert f"inet home {hook}" in found[f"firewall.{hook}"]["seen"]
            remedy = found[f"firewall.{hook}"]["remedy"]
            assert remedy == f"nft insert rule inet home {hook} {'o' if hook == 'output' else 'i'}ifname lan0 accept"
            lab.gateway.run(remedy.split(), check=True)
    finally:
        lab.gateway.run(["nft", "delete", "table", "inet", "home"], check=True)


def test_iptables_legacy_is_looked_at_too(lab: Lab) -> None:
    if lab.gateway.run(["iptables-legacy", "-P", "FORWARD", "DROP"]).returncode:
        pytest.skip("no iptables-legacy in this kernel, or not installed")
    try:
        _, found = doctor(lab, "lan0")
    finally:
        lab.gateway.run(["iptables-legacy", "-P", "FORWARD", "ACCEPT"], check=True)
    assert found["firewall.forward"]["seen"].startswith("iptables-legacy filter FORWARD")


def test_interfaces_that_will_not_do(lab: Lab) -> None:
    ip = ["ip", "-batch", "-"]
    made = "link add br9 type bridge\nlink add port9 mtu 1200 type veth peer name far9\nlink set port9 master br9\n"
    lab.gateway.run(ip, input=made, check=True)
    try:
        code, found = doctor(lab, "port9", "lan00")
    finally:
        lab.gateway.run(ip, input="link del port9\nlink del br9\n", check=True)
    assert code == 1
    assert found["interface.port9"]["remedy"] == "ip link set port9 up"
    assert found["interface.bridge.port9"]["remedy"] == "name br9 instead of port9"
    assert found["interface.mtu.port9"]["remedy"] == "ip link set port9 mtu 1280"
    assert "did you mean lan0?" in found["interface.lan00"]["remedy"]


def test_a_port_that_is_taken_names_its_holder(lab: Lab) -> None:
    with lab.gateway_proc("-m", "transparent@8081") as gateway:
        code, found = doctor(lab, "--port", "8081")
        assert code == 1
        assert f"(pid {gateway.process.pid})" in found["process.port.8081"]["seen"]


def test_the_ca_is_looked_at_and_none_is_made(lab: Lab, tmp_path: Path) -> None:
    place = tmp_path / "conf"
    _, found = doctor(lab, "--set", f"confdir={place}")
    assert found["ca"]["level"] == "note"
    assert not place.exists()
    with lab.gateway_proc(confdir=place):
        pass
    code, found = doctor(lab, "--set", f"confdir={place}")
    assert (code, found["ca"]["level"]) == (0, "ok")
    (key,) = place.glob("*key.pem")
    key.chmod(0o644)
    code, found = doctor(lab, "--set", f"confdir={place}")
    assert (code, found["ca.key"]["remedy"]) == (1, f"chmod 600 {key}")


def test_without_capabilities_it_says_what_it_could_not_look_at(lab: Lab) -> None:
    bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT), "HOME": str(lab.scratch)}
    done = lab.gateway.run([*bare, *LOCKGATE, "doctor", "--json", "lan0"], env=environment, timeout=60)
    found = {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1
    assert found["process.net_admin"]["level"] == "fault"
    assert found["firewall"]["seen"].startswith("not looked at")


def namespaces() -> set[str]:
    """Network namespaces in which something lives."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(os.readlink(entry))
        except OSError:
            continue
    return found


def test_scratch_namespaces_end_with_a_killed_doctor(lab: Lab) -> None:
    """They have no names; SIGKILL takes the processes along, and with them the namespaces."""
    code = "import sys, time\nsys.argv[0] = 'x'\nfrom appliance.doctor.scratch import __main__ as m, isolation\n"
    code += "from appliance.cli.doctor import plans\n"
    code += "isolation.die_with(int(sys.argv[1]))\nisolation.leave()\nm.features.all_tried()\n"
    code += "one = m.one\nm.one = lambda *a: (print('there', flush=True), time.sleep(60))\nm.end_to_end(plans())\n"
    outer = "import os, subprocess, sys\n"
    outer += "subprocess.run([sys.executable, '-c', sys.argv[1], str(os.getpid())])\n"
    before = namespaces()
    process = subprocess.Popen(
        [sys.executable, "-c", outer, code], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert process.stdout
    assert process.stdout.readline() == b"there\n"
    made = namespaces() - before
    assert len(made) >= 2
    started = time.monotonic()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    wait_for(lambda: not namespaces() & made, 5, "the namespaces are gone")
    assert time.monotonic() - started < 60  # not by their own end


BROKEN = """
import json
from pathlib import Path
from appliance.cli.doctor import plans
from appliance.doctor.scratch import __main__ as gateway, isolation, wire

settle = wire.settle

def spoilt():
    settle()
    Path("/proc/sys/net/ipv4/conf/all/src_valid_mark").write_text("1")

wire.settle = spoilt
tried = plans(("nftables", "iptables-nosuch"))
isolation.leave()
print(json.dumps(gateway.end_to_end({tool: {"tproxy": methods["tproxy"]} for tool, methods in tried.items()})))
"""


def test_the_self_test_can_fail(lab: Lab) -> None:
    """Where the kernel drops what TPROXY marks, and where a tool is missing."""
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT)}
    done = lab.gateway.run([sys.executable, "-c", BROKEN], env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    errors = {(cell["tool"], cell["protocol"], cell["family"]): cell["error"] for cell in json.loads(done.stdout)}
    assert errors["nftables", "tcp", 4] == errors["nftables", "udp", 4] == "nothing arrived at the listener"
    assert errors["nftables", "tcp", 6] == errors["nftables", "udp", 6] == ""
    assert errors["iptables-nosuch", "tcp", 4] == "iptables-nosuch-restore is not installed"
