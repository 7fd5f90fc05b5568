"""JA4, the fingerprint of a TLS client (FoxIO's published specification, TLS client part). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.tls import ClientHello

_SERVER_NAME, _ALPN = 0x0000, 0x0010
_NOTHING = "0" * 12
_VERSIONS = {
    0x0304: "13", 0x0303: "12", 0x0302: "11", 0x0301: "10", 0x0300: "s3", 0x0002: "s2",
    0xFEFF: "d1", 0xFEFD: "d2", 0xFEFC: "d3",
}  # fmt: skip


def fingerprint(hello: ClientHello, *, quic: bool = False) -> str:
    """Such as `t13d1516h2_8daaf6152771_e5627efa2ab1`; what is GREASE (RFC 8701) counts nowhere."""
    suites = _proper(hello.cipher_suites)
    extensions = _proper(kind for kind, _ in hello.extensions)
    versions = _proper(hello.supported_versions) or [hello.version]
    # Of DTLS the newest version has the lowest number.
    version = _VERSIONS.get(min(versions) if hello.dtls else max(versions), "00")
    head = (
        f"{'q' if quic else 'd' if hello.dtls else 't'}{version}{'d' if _SERVER_NAME in extensions else 'i'}"
        f"{min(len(suites), 99):02}{min(len(extensions), 99):02}{_alpn(hello.alpn_protocols)}"
    )
    others = _hex(sorted(kind for kind in extensions if kind not in (_SERVER_NAME, _ALPN)))
    signatures = _hex(_proper(hello.signature_algorithms))
    if others and signatures:
        others += "_" + signatures
    return f"{head}_{_digest(_hex(sorted(suites)))}_{_digest(others)}"


def _proper(numbers: Iterable[int]) -> list[int]:
    return [n for n in numbers if n & 0x0F0F != 0x0A0A or n >> 8 != n & 0xFF]


def _hex(numbers: Sequence[int]) -> str:
    return ",".join(f"{n:04x}" for n in numbers)


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:12] if text else _NOTHING


def _alpn(protocols: Sequence[bytes]) -> str:
    """The first protocol's first and last character; of its hexadecimal form where these are no letters or digits."""
    if not protocols or not protocols[0]:
        return "00"
    first, last = protocols[0][:1], protocols[0][-1:]
    if first.isalnum() and last.isalnum():  # of bytes: ASCII only
        return (first + last).decode()
    return protocols[0].hex()[0] + protocols[0].hex()[-1]
