"""The wire between the scratch client and the scratch gateway, laid by netlink."""

from __future__ import annotations

from pathlib import Path

from pyroute2 import IPRoute

LAN, CLIENT = "lan0", "eth0"
GATEWAY4, GATEWAY6, CLIENT4, CLIENT6 = "10.255.61.1", "fd61::1", "10.255.61.2", "fd61::2"
PORT = 8080
"""Of the gateway's listener."""
_SETTINGS = ("ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter", "ipv6/conf/default/accept_dad",
             "ipv6/conf/default/disable_ipv6", "ipv6/conf/all/disable_ipv6")  # fmt: skip


def settle() -> None:
    """Settings of a namespace before it gets interfaces: what the host may have changed is set back."""
    for name in _SETTINGS:
        path = Path("/proc/sys/net", name)
        if path.exists():
            path.write_text("0")


def gateway_end(client_pid: int) -> None:
    """A veth pair from here to the namespace of `client_pid`; our addresses."""
    settle()
    with IPRoute() as netlink:
        netlink.link("add", ifname=LAN, kind="veth", peer={"ifname": CLIENT, "net_ns_pid": client_pid})
        _up(netlink, LAN, (GATEWAY4, 24), (GATEWAY6, 64))


def client_end() -> None:
    """Once the gateway has made the pair: our addresses, and everything goes to the gateway."""
    with IPRoute() as netlink:
        _up(netlink, CLIENT, (CLIENT4, 24), (CLIENT6, 64))
        netlink.route("add", dst="0.0.0.0/0", gateway=GATEWAY4)
        netlink.route("add", family=10, dst="::/0", gateway=GATEWAY6)


def _up(netlink: IPRoute, interface: str, *addresses: tuple[str, int]) -> None:
    netlink.link("set", index=netlink.link_lookup(ifname="lo")[0], state="up")
    index = netlink.link_lookup(ifname=interface)[0]
    netlink.link("set", index=index, state="up")
    for address, length in addresses:
        netlink.addr("add", index=index, address=address, prefixlen=length)
