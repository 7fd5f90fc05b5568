"""What this user's gateway process may do: capabilities, files, ports."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator

from appliance.doctor import system
from appliance.doctor.finding import Finding, Subject, fault, note, ok, warning
from appliance.net.portholder import who_holds

FEW_FILES = 65536
"""A connection takes two, a spliced one more: below this, some ten thousand clients' connections are too many."""
_SYSTEMD = "in a unit: AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE; by hand: sudo lockgate run"


def capabilities(subject: Subject) -> Iterator[Finding]:
    """Of this process; a unit may give others."""
    if system.capable(system.CAP_NET_ADMIN):
        yield ok("process.net_admin", "CAP_NET_ADMIN is there")
    else:
        yield fault(
            "process.net_admin",
            "no CAP_NET_ADMIN (this is not root)",
            "the redirect cannot be laid, and no socket can be transparent (TPROXY, UDP)",
            _SYSTEMD,
        )
    if not system.capable(system.CAP_NET_RAW):
        yield note(
            "process.net_raw", "no CAP_NET_RAW", "clients are not told by ICMP that a UDP port refuses", _SYSTEMD
        )
    low = [port for _, port in subject.ports if 0 < port < (system.sysctl("net/ipv4/ip_unprivileged_port_start") or 0)]
    if low and not system.capable(system.CAP_NET_BIND_SERVICE):
        yield fault(
            "process.net_bind_service",
            f"no CAP_NET_BIND_SERVICE for port {low[0]}",
            "ports below net.ipv4.ip_unprivileged_port_start are for root",
            f"{_SYSTEMD}; or a port from 1024 on",
        )


def files(subject: Subject) -> Iterator[Finding]:
    """The hard limit counts: `lockgate run` raises the soft one to it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < FEW_FILES:
        yield warning(
            "process.files",
            f"at most {hard} open files",
            f"a connection takes two: some {hard // 2 - 50} at once are all",
            "in a unit: LimitNOFILE=1048576; by hand, as root: ulimit -Hn 1048576",
        )
    else:
        yield ok("process.files", f"limit of open files: {'none' if hard == resource.RLIM_INFINITY else hard}")


def ports(subject: Subject) -> Iterator[Finding]:
    """Is a port that the gateway will listen on free, TCP and UDP, IPv4 and IPv6?"""
    for host, port in subject.ports:
        taken = [problem for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM) if (problem := _bind(host, port, kind))]
        check, where = f"process.port.{port}", f"{host or 'port'}{':' if host else ' '}{port}"
        if taken:
            holder = who_holds(host, port)
            yield fault(
                check,
                f"{where}: {taken[0]}" + (f": {holder}" if holder else ""),
                "the gateway could not listen (a gateway that runs already is no fault)",
                f"stop that program (ss -lntup 'sport = :{port}'), or take another port: --port {port + 1}",
            )
        else:
            yield ok(check, f"{where} is free")


def _bind(host: str, port: int, kind: socket.SocketKind) -> str:
    """Why it cannot be bound, "" if it can. A family that this machine has not got is no reason."""
    hosts = [host] if host else ["0.0.0.0", "::"]
    for address in hosts:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            with socket.socket(family, kind) as sock:
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if kind == socket.SOCK_STREAM:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((address, port))
                if kind == socket.SOCK_STREAM:
                    sock.listen(1)
        except PermissionError:
            return ""  # said by `capabilities`
        except OSError as error:
            if error.errno in (97, 99) and not host:  # EAFNOSUPPORT, EADDRNOTAVAIL: a machine without IPv6
                continue
            protocol = "TCP" if kind == socket.SOCK_STREAM else "UDP"
            return f"{protocol}: {error.strerror}"
    return ""
