"""What `lockgate run` says first and last."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Listening:
    """One bound listener: `mode` as given (`regular`), the address it is really bound to."""

    mode: str
    host: str
    port: int


class Counts(Protocol):
    """What a run came to."""

    connections: int
    flows: int
    errors: int
    passed: int
    blocked: int


def first_screen(
    listening: Sequence[Listening],
    ca_path: Path,
    fingerprint: str,
    *,
    portal: str | None = "lockgate.internal",
    own_address: str = "",
) -> str:
    """The text shown once all listeners are bound.

    fingerprint: SHA-256 as colon-separated hex. portal: name of the onboarding page, None if it is off. own_address: an
    address of this machine in
    its network, shown to devices when a listener is bound to all ("" = none known).
    """
    from appliance import __version__

    lines = [
        f"lockgate {__version__} is listening: " + ", ".join(f"{_name(at.mode)} on {_at(at)}" for at in listening),
        "",
    ]
    proxy = next((at for at in listening if _name(at.mode) == "regular"), None)
    if proxy is not None:
        lines += [
            "  Try it      "
            + f"curl -x http://{_reach(proxy, '127.0.0.1')} --cacert {shlex.quote(str(ca_path))} https://example.com/",
        ]
    elif any(_name(at.mode) == "transparent" for at in listening):
        port = next(at.port for at in listening if _name(at.mode) == "transparent")
        if any(at.mode.partition("@")[0].partition(":")[2] for at in listening):
            lines += ["  Redirect    laid, and removed at the end: `lockgate firewall show`"]
        else:
            lines += [f"  Redirect    nft add rule ip nat prerouting tcp dport '{{80, 443}}' redirect to :{port}"]
    if any(_name(at.mode) == "wireguard" for at in listening):
        lines += ["  WireGuard   `lockgate wireguard add NAME` makes a client's file, and its QR code"]
    if (server := next((at for at in listening if _name(at.mode) == "dns"), None)) is not None:
        host = server.host if server.host not in ("", "0.0.0.0", "::") else own_address or "127.0.0.1"
        lines += [f"  DNS         dig @{host} -p {server.port} example.com"]
    lines += [f"  CA          {ca_path}", f"  SHA-256     {fingerprint}"]
    page = f"open http://{portal} there for the CA" if portal else "install the CA file there"
    if proxy is not None:
        lines += [f"  A browser   HTTP proxy {_reach(proxy, '127.0.0.1')}, then {page}"]
        if _loopback(proxy.host):
            lines += ["  A phone     needs a listener in its network: lockgate run -m regular@8080"]
        else:
            lines += [
                f"  A phone     Wi-Fi settings, HTTP proxy {_reach(proxy, own_address or 'THIS-MACHINE')}, then {page}"
            ]
    elif portal:
        lines += [f"  A device    whose traffic comes through here: {page}"]
    lines += ["", "Ctrl-C ends. `lockgate ca show` has more on the CA.", ""]
    return "\n".join(lines)


def own_address() -> str:
    """This machine's IPv4 address towards its default route, "" if it has none. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def totals_line(counts: Counts, seconds: float) -> str:
    """The last line of a run; verdicts and errors that did not occur are left out."""
    verdicts = [f"{n:,} {what}" for n, what in ((counts.passed, "passed"), (counts.blocked, "blocked")) if n]
    parts = [_count(counts.connections, "connection") + (f" ({', '.join(verdicts)})" if verdicts else "")]
    parts.append(_count(counts.flows, "flow"))
    if counts.errors:
        parts.append(_count(counts.errors, "error"))
    return f"In {_duration(seconds)}: {', '.join(parts)}."


def _name(mode: str) -> str:
    return mode.partition("@")[0].partition(":")[0].lower()


def _at(at: Listening) -> str:
    return f"{_host(at.host) if at.host else '*'}:{at.port}"


def _reach(at: Listening, own: str) -> str:
    return f"{_host(own if at.host in ('', '0.0.0.0', '::') else at.host)}:{at.port}"


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _loopback(host: str) -> bool:
    return host == "::1" or host.startswith("127.") or host == "localhost"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.0f} s"
