"""Explicit rules: which connections are decrypted (`ignore_hosts`, `allow_hosts`), and in which no protocol is looked
for (`tcp_hosts`, `udp_hosts`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from appliance.verdict import Verdict, When

Candidate = tuple[str, When]
"""`host:port` under which a connection may be matched, and where it was read."""


class HostPolicy:
    """Regular expressions searched, ignoring case, in every `host:port` known of a connection."""

    def __init__(
        self, ignore: Sequence[str], allow: Sequence[str], tcp: Sequence[str] = (), udp: Sequence[str] = ()
    ) -> None:
        self._ignore = _compiled(ignore)
        self._allow = _compiled(allow)
        self._raw = {"tcp_hosts": _compiled(tcp), "udp_hosts": _compiled(udp)}
        self.active = bool(ignore or allow)

    def raw(self, option: Literal["tcp_hosts", "udp_hosts"], *hosts: str | None) -> Verdict | None:
        """The verdict when one of the hosts (names or addresses, no ports) matches a rule of this option."""
        for rule, expression in self._raw[option]:
            for host in hosts:
                if host and expression.search(host):
                    return Verdict("decrypt", f"{host} matches {option}", f"{option} {rule}")
        return None

    def decide(self, candidates: Sequence[Candidate], complete: bool) -> Verdict | None:
        """The verdict of the rules, None when they say nothing (yet).

        complete: no further candidate will come. Ignoring wins; not being allowed is known only once all is known.
        """
        if not candidates:
            return None
        for rule, expression in self._ignore:
            for host, at in candidates:
                if expression.search(host):
                    return Verdict("pass", f"{host} matches ignore_hosts", f"ignore_hosts {rule}", at)
        if not self._allow:
            return None
        if any(expression.search(host) for _, expression in self._allow for host, _ in candidates):
            return None
        if not complete:
            return None
        host, at = candidates[-1]
        return Verdict("pass", f"{host} is not in allow_hosts", "allow_hosts", at)


def _compiled(rules: Iterable[str]) -> list[tuple[str, re.Pattern[str]]]:
    return [(rule, re.compile(rule, re.IGNORECASE)) for rule in rules]
