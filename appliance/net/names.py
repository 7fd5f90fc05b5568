"""The names a certificate may carry: from what a ClientHello, an upstream certificate or a person wrote, to A-labels
and addresses.

Input is hostile (an SNI is whatever the client sent), so nothing here raises: a name that cannot be put into a
certificate is `None`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

import idna
from cryptography import x509

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_MAX_NAME = 253  # RFC 1035 §2.3.4: 255 octets on the wire are 253 characters of text
# Wider than RFC 1123: underscores and outer hyphens exist in the wild and every TLS client takes them.
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")


def dns_name(text: str) -> str | None:
    """The DNS name in lower case with A-labels and without a final dot, `None` if it is none.

    A first label of `*` is kept. Non-ASCII labels go through the mapping of UTS #46 as browsers do it, without the
    stricter rules of IDNA 2008: people do have emoji domains.
    """
    if not text or len(text) > _MAX_NAME + 1:
        return None
    if text.isascii():
        mapped = text.lower()
    else:
        try:
            mapped = idna.uts46_remap(text, std3_rules=False)
        except ValueError:  # idna.IDNAError is one, and lone surrogates end here too
            return None
    labels = mapped.removesuffix(".").split(".")
    wild = labels[0] == "*" and len(labels) > 1
    ascii_labels = [_a_label(label) for label in labels[wild:]]
    if None in ascii_labels:
        return None
    name = ".".join([*["*"] * wild, *filter(None, ascii_labels)])
    return name if len(name) <= _MAX_NAME else None


def _a_label(label: str) -> str | None:
    if not label.isascii():
        try:
            label = "xn--" + label.encode("punycode").decode("ascii")
        except ValueError:
            return None
    return label if _LABEL.fullmatch(label) else None


def ip_address(text: str) -> IPAddress | None:
    """The address in `text`, `None` if it is none. Brackets and a zone, which no certificate can hold, are dropped."""
    if len(text) > 100 or not (
        ":" in text or text[-1:].isdigit()
    ):  # the common name is told apart without an exception
        return None
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def canonical(text: str) -> str | None:
    """The one spelling under which a name or address is compared, `None` if it is neither."""
    address = ip_address(text)
    return str(address) if address else dns_name(text)


def general_names(names: Iterable[str], limit: int) -> list[x509.GeneralName]:
    """The first `limit` usable, different names in their order, as a subjectAltName wants them (RFC 5280 §4.2.1.6)."""
    found: dict[x509.GeneralName, None] = {}
    for text in names:
        if len(found) >= limit:
            break
        if address := ip_address(text):
            found[x509.IPAddress(address)] = None
        elif name := dns_name(text):
            found[x509.DNSName(name)] = None
    return list(found)
