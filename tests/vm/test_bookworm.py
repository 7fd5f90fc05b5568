"""On Debian 12's own kernel (6.1): the gateway intercepts, and the doctor finds what there is."""

from __future__ import annotations

import json
import re

from tests.vm.machine import Machine

SETUP = "export LOCKGATE_PATIENCE=8\n"


def test_the_gateway_intercepts_on_linux_6_1(vm: Machine) -> None:
    """TPROXY and redirect, IPv4 and IPv6, HTTPS decrypted, UDP relayed, in namespaces inside."""
    done = vm.run(SETUP + "exec python3 -m tests.vm.inside.intercepts\n", timeout=420)
    assert done.code == 0, done.output + done.console
    assert re.search(r"^kernel 6\.1\.", done.output, re.MULTILINE)
    for line in ("tproxy https IPv4", "tproxy https IPv6", "redirect https IPv4", "redirect https IPv6"):
        assert f"{line} intercepted\n" in done.output
    assert done.output.count(" PING\n") == 2


def test_the_doctor_on_linux_6_1(vm: Machine) -> None:
    """All features and every combination are found working by trying, by root, and by an ordinary user too."""
    ordinary = "setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all"
    done = vm.run(
        "python3 -m appliance.cli doctor --json lo\necho @@then\n"
        f"{ordinary} env HOME=/tmp python3 -m appliance.cli doctor --json\ntrue\n",
        timeout=420,
    )
    assert done.code == 0, done.output + done.console
    root, user = (json.loads(part) for part in done.output.split("@@then"))
    levels = {finding["check"]: finding["level"] for finding in root["findings"]}
    for name in ("nf_tables", "nft_tproxy", "nft_redir", "nft_fib", "nf_conntrack_netlink", "flags owner", "wireguard"):
        assert levels[f"kernel.{name}"] == "ok", root
    for tool in ("nftables", "iptables-nft", "iptables-legacy"):
        for method in ("tproxy", "redirect"):
            assert levels[f"redirect.{tool}.{method}"] == "ok", root
    assert root["ok"] is True
    by_user = {finding["check"]: finding for finding in user["findings"]}
    assert by_user["process.net_admin"]["level"] == "fault"
    assert by_user["redirect.nftables.tproxy"]["level"] == "ok", user
    assert "sudo" in by_user["firewall"]["remedy"]


def test_what_heartbeat_and_owned_table_rest_on(vm: Machine) -> None:
    """Before 6.12 an element that is there is not refreshed by adding it: it has to be taken out in between."""
    done = vm.run("exec python3 -m tests.vm.inside.kernel_facts\n", timeout=420)
    assert done.code == 0, done.output + done.console
    facts = dict(line.rsplit(": ", 1) for line in done.output.splitlines() if ": " in line)
    assert facts == {
        "adding an element that is there refreshes it": "False",
        "add, delete, add in one transaction refreshes it": "True",
        "an owned table outlives `nft flush ruleset`": "True",
        "an owned table is gone after kill -9": "True",
    }


def test_a_gateway_that_hangs_on_linux_6_1(vm: Machine) -> None:
    """The heartbeat, in the kernel that has to be told it anew: by nftables, and by iptables' xt_recent."""
    done = vm.run(SETUP + "exec python3 -m tests.vm.inside.heartbeat\n", timeout=900)
    assert done.code == 0, done.output + done.console
    assert done.output.splitlines()[1:] == [
        "nftables open process: intercepted, flows by",
        "nftables closed process: intercepted, stopped",
        "nftables open unit: intercepted, flows by",
        "iptables-nft open process: intercepted, flows by",
        "iptables-legacy closed process: intercepted, stopped",
        "redirect, one port, IPv4: intercepted, intercepted",
        "redirect, one port, IPv6: intercepted, intercepted",
    ]


def test_twenty_thousand_flows_on_linux_6_1(vm: Machine) -> None:
    """As the test of that name in the lab, whose machine may not have as many files."""
    done = vm.run(SETUP + "exec python3 -m tests.vm.inside.many_flows\n", timeout=1400, memory=2500)
    assert done.code == 0, done.output + done.console
    assert done.output.count("20000 flows:") == 2, done.output
    print(done.output)
