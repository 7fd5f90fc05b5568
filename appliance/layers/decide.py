"""Which layer comes next, decided on the first bytes. Pure: facts in, a proposal out; the table test specifies it.

The order is mitmproxy's (next_layer), with its known gaps closed: a partial method or hello waits and is not misjudged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from appliance.net import clienthello
from appliance.net.clienthello import NotTls
from appliance.net.dns import wire as dns_wire
from appliance.policy import Candidate, HostPolicy
from appliance.tls import ClientHello
from appliance.tls import starts_like_tls_record as is_tls
from appliance.verdict import NeedMore, Verdict

Kind = Literal["tls", "http", "tcp", "dns", "pass", "block"]

MAX_HEAD = 64 * 1024
HTTP_ALPNS = frozenset({b"http/1.1", b"http/1.0", b"http/0.9", b"h2", b"h3"})
SERVER_FIRST = frozenset(
    {21, 22, 23, 25, 110, 119, 143, 587, 3306, 4190, 6667, *range(5900, 5910)}
    # FTP, SSH, telnet, SMTP, POP3, NNTP, IMAP, submission, MySQL, ManageSieve, IRC, VNC
)
"""Ports where the server greets and the client waits for it: nothing is gained by waiting for the client first."""
_REQUEST_START = re.compile(rb"[A-Za-z]{3}[!#$%&'*+.^_`|~0-9A-Za-z-]{0,29} [^\r\n]*+")
_METHOD_SO_FAR = re.compile(rb"[A-Za-z]{1,32}")
_HTTP_HEAD = re.compile(rb"[A-Za-z]{3,32} [^\r\n ]++ HTTP/")
_HOST_LINE = re.compile(rb"\r?\nHost:[ \t]*([^\r\n]*)\r?\n", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known when a layer is asked for.

    data: unread bytes from the client. final: no more will come before a decision is needed (end, silence, or a full
    buffer). proxy: nothing but an explicit-proxy mode lies below. addresses: `host:port` of the server, as dialled and
    as asked for. host: as asked for, without the port.
    """

    data: bytes | bytearray
    final: bool
    proxy: bool
    addresses: Sequence[str]
    sni: str | None
    port: int
    alpn: bytes | None
    server_spoke: bool
    rawtcp: bool
    host: str | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """The layer's kind and the verdict that goes with it. sni: the client's, where the decision had to look for it."""

    kind: Kind
    verdict: Verdict
    sni: str | None = None


def decide(facts: Facts, policy: HostPolicy) -> Proposal | NeedMore:
    """One step of the decision; NeedMore = ask again with more bytes (never when `facts.final`)."""
    data = facts.data
    if policy.active and not facts.proxy:
        ruled = _by_rules(facts, policy)
        if ruled is not None:
            return ruled

    if not facts.server_spoke and data[:1] == b"\x16" and len(data) < 3 and not facts.final:
        return NeedMore(3)
    if is_tls(data):
        return Proposal("tls", Verdict("decrypt", "TLS"))
    if facts.proxy:
        if not data and not facts.final:
            return NeedMore()
        return Proposal("http", Verdict("decrypt", "HTTP proxy request"))
    if raw := policy.raw("tcp_hosts", facts.host, facts.sni):
        # TLS, which is taken off, must have had its chance.
        undecided = not (data or facts.server_spoke or facts.final)
        return NeedMore() if undecided else Proposal("tcp", raw)
    if facts.alpn in HTTP_ALPNS:
        return Proposal("http", Verdict("decrypt", f"ALPN {facts.alpn.decode()}", at="hello"))
    if facts.server_spoke:
        return _raw(facts, "the server spoke first")
    if facts.port == dns_wire.PORT and (query := dns_wire.looks_like_framed_query(data)) is not False:
        if query:
            return Proposal("dns", Verdict("decrypt", "DNS"))
        if not facts.final:
            return NeedMore(len(data) + 1)
    if not facts.final and (not data or _METHOD_SO_FAR.fullmatch(data)):
        return NeedMore(len(data) + 1)
    if data.startswith(b"SSH"):
        return _raw(facts, "SSH")
    if data.startswith(b"CONNECT "):
        return _raw(facts, "CONNECT, said to another proxy than this one")
    if _REQUEST_START.match(data):
        return Proposal("http", Verdict("decrypt", "HTTP"))
    return _raw(facts, "neither TLS nor HTTP" if data else "the client is silent")


def looks_like_http(data: bytes | bytearray) -> bool:
    """The start of a request line: what is missing of the head will come."""
    return _REQUEST_START.match(data) is not None


def _raw(facts: Facts, why: str) -> Proposal:
    if facts.rawtcp:
        return Proposal("tcp", Verdict("decrypt", f"raw TCP: {why}"))
    return Proposal("block", Verdict("block", f"{why}, and rawtcp is off", "rawtcp"))


def _by_rules(facts: Facts, policy: HostPolicy) -> Proposal | NeedMore | None:
    """ignore_hosts and allow_hosts over every name this connection is known by; waits while one may still come."""
    candidates: list[Candidate] = [(address, "accept") for address in facts.addresses]
    if not candidates:
        return None
    if verdict := policy.decide(candidates, complete=False):
        return Proposal("pass", verdict)
    waiting, sni = False, None
    if facts.sni:
        candidates.append((f"{facts.sni}:{facts.port}", "hello"))
    if is_tls(facts.data) or (facts.data[:1] == b"\x16" and len(facts.data) < 3):
        hello = clienthello.scan(facts.data)
        if isinstance(hello, ClientHello):
            if sni := hello.sni:
                candidates.append((f"{sni}:{facts.port}", "hello"))
        elif not isinstance(hello, NotTls):
            waiting = True
    elif not facts.server_spoke:
        host = host_header(facts.data)
        if host:
            candidates.append((host if _has_port(host) else f"{host}:{facts.port}", "bytes"))
        elif host is None and len(facts.data) < MAX_HEAD:
            waiting = True
    waiting = waiting and not facts.final
    verdict = policy.decide(candidates, complete=not waiting)
    if verdict is None:
        return NeedMore(len(facts.data) + 1) if waiting else None
    return Proposal("pass", verdict, sni)


def host_header(data: bytes | bytearray) -> str | None:
    """The Host field of a request head, "" when it has none or this is no HTTP, None while that is open."""
    if not data or _METHOD_SO_FAR.fullmatch(data):
        return None
    if not _HTTP_HEAD.match(data):
        line = data.find(b"\n")
        return None if line < 0 and _REQUEST_START.fullmatch(data) else ""
    end = data.find(b"\r\n\r\n")
    head = bytes(data[: end + 4]) if end >= 0 else bytes(data)
    if found := _HOST_LINE.search(head):
        return found[1].decode("latin-1").strip()
    return "" if end >= 0 else None


def _has_port(host: str) -> bool:
    return bool(re.search(r":\d+$", host))
