"""The rules that send the scratch client's traffic to the listener, by each tool and method."""

from __future__ import annotations

from typing import Literal

from appliance.doctor import system
from appliance.doctor.scratch.wire import LAN, MARK

Tool = Literal["nftables", "iptables-nft", "iptables-legacy"]
Method = Literal["tproxy", "redirect"]
TOOLS: tuple[Tool, ...] = ("nftables", "iptables-nft", "iptables-legacy")
METHODS: tuple[Method, ...] = ("tproxy", "redirect")
TABLE = "lockgate_doctor"


def lay(tool: Tool, method: Method, protocol: str, family: int, port: int) -> str:
    """Rules for one protocol and family. "" or the tool's or the kernel's own error."""
    if tool == "nftables":
        return nft(nft_text(method, protocol, family, port))
    code, output = system.run(*iptables(tool, method, protocol, family, port))
    return system.first_line(output) if code else ""


def take_away(tool: Tool, method: Method, family: int) -> None:
    """What `lay` has laid."""
    if tool == "nftables":
        nft(f"delete table {_nft_family(family)} {TABLE}")
    else:
        system.run(_program(tool, family), "-w", "2", "-t", _TABLES[method], "-F")


def nft_text(method: Method, protocol: str, family: int, port: int) -> str:
    kind, verdict = {
        "redirect": ("nat hook prerouting priority dstnat", f"redirect to :{port}"),
        "tproxy": ("filter hook prerouting priority mangle", f"tproxy to :{port} meta mark set {MARK} accept"),
    }[method]
    match = f'iifname "{LAN}" fib daddr type != {{ local, broadcast, multicast }} meta l4proto {protocol}'
    return (
        f"table {_nft_family(family)} {TABLE} {{\nchain prerouting {{\ntype {kind}; policy accept;\n"
        f"{match} {verdict}\n}}\n}}\n"
    )


def iptables(tool: Tool, method: Method, protocol: str, family: int, port: int) -> list[str]:
    target = ["REDIRECT", "--to-ports", str(port)]
    if method == "tproxy":
        target = ["TPROXY", "--on-port", str(port), "--tproxy-mark", str(MARK)]
    return [_program(tool, family), "-w", "2", "-t", _TABLES[method], "-A", "PREROUTING", "-i", LAN, "-p", protocol,
            "-m", "addrtype", "!", "--dst-type", "LOCAL", "-j", *target]  # fmt: skip


_TABLES = {"redirect": "nat", "tproxy": "mangle"}


def _nft_family(family: int) -> str:
    return "ip6" if family == 6 else "ip"


def _program(tool: Tool, family: int) -> str:
    return tool.replace("iptables", "ip6tables") if family == 6 else tool


def nft(text: str) -> str:
    """Run nft commands through the library, as the gateway does, or by the program. "" or what went wrong."""
    try:
        import nftables

        code, _, output = nftables.Nftables().cmd(text)
    except (ImportError, OSError, AttributeError):
        code, output = system.run("nft", "-f", "-", input=text)
    return system.first_line(output) if code else ""
