"""What the QUIC hooks will be given; this release decrypts no QUIC, and does not fire them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from ssl import VerifyMode
from typing import Any

from cryptography import x509

from appliance.tls import TlsData

__all__ = ["QuicTlsData", "QuicTlsSettings"]


@dataclass
class QuicTlsSettings:
    """How to speak TLS in QUIC with one peer."""

    alpn_protocols: list[str] | None = None
    certificate: x509.Certificate | None = None
    certificate_chain: list[x509.Certificate] = field(default_factory=list)
    certificate_private_key: Any = None
    cipher_suites: list[Any] | None = None
    ca_path: Path | None = None
    ca_file: Path | None = None
    verify_mode: VerifyMode | None = None


@dataclass
class QuicTlsData(TlsData):
    """Argument of `quic_start_client` and `quic_start_server`: set `settings`."""

    settings: QuicTlsSettings | None = None
