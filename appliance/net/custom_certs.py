"""Certificates that people lay beside the CA for some of their hosts (option `certs`), found by name."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID
from OpenSSL import crypto

from appliance.exceptions import CertificateError
from appliance.home import expanded
from appliance.net import names, pem
from appliance.net.leaf import Leaf

log = logging.getLogger(__name__)


class CustomCerts:
    """A table from names, wildcards and `*` to the leaves registered for them; the latest registration wins."""

    __slots__ = ("_table",)

    def __init__(self) -> None:
        self._table: dict[str, Leaf] = {}

    def __len__(self) -> int:
        return len(self._table)

    def add(self, spec: str, passphrase: str | None = None) -> None:
        """Reads `[domain=]path`: a PEM file of leaf, chain and key; the key may also be beside it, as NAME.key.

        The certificate is registered under the domain (`*`, every name, if none is given) and its own CN and SANs.
        Raises CertificateError if the file cannot be used or key and certificate are not a pair.
        """
        domain, equals, path_text = spec.partition("=")
        if not equals:
            domain, path_text = "*", spec
        key_name = "*" if domain == "*" else names.canonical(domain)
        if key_name is None:
            raise CertificateError(f"{domain!r} in certs {spec!r} is not a domain: write [domain=]path.")
        path = expanded(path_text, "certs")
        leaf = load(path, passphrase)
        if _is_ca(leaf.certificate.to_cryptography()):
            log.warning("%s is a CA's certificate; as the certificate of a server most clients refuse it.", path)
        self._table.update(dict.fromkeys([*_own_names(leaf.certificate.to_cryptography()), key_name], leaf))

    def find(self, wanted: Iterable[str]) -> Leaf | None:
        """For each name in turn: itself, `*.b.c`, `*.c`; in the end `*`."""
        for text in wanted:
            name = names.canonical(text)
            if name is None:
                continue
            if leaf := self._table.get(name):
                return leaf
            if names.ip_address(name):
                continue
            parent = name
            while parent:
                parent = parent.partition(".")[2]
                if leaf := self._table.get(f"*.{parent}"):
                    return leaf
        return self._table.get("*")


def load(path: Path, passphrase: str | None = None) -> Leaf:
    """A PEM file of leaf, chain and key; the key may also be beside it, as NAME.key. Raises CertificateError."""
    data = pem.read(path, guarded=False)
    key_path = path if pem.has_key(data) else path.with_suffix(".key")
    if key_path != path and not key_path.exists():
        raise CertificateError(f"There is no private key in {path}: append it, or put it beside as {key_path.name}.")
    key = pem.private_key(data if key_path == path else pem.read(key_path, guarded=False), key_path, passphrase)
    bundle = pem.pair(key, pem.certificates(data, path), path)
    if key_path.stat().st_mode & 0o004:
        log.warning("Everybody on this machine can read the private key in %s: chmod o-r %s", key_path, key_path)
    return Leaf(
        crypto.X509.from_cryptography(bundle.certificate),
        pem.pkey(bundle.key),
        tuple(map(crypto.X509.from_cryptography, bundle.others)),
        bundle.certificate.not_valid_after_utc,
    )


def _own_names(certificate: x509.Certificate) -> list[str]:
    found: list[str] = []
    try:
        found += [str(cn.value) for cn in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found += [str(name.value) for name in san if isinstance(name, x509.DNSName | x509.IPAddress)]
    except (ValueError, x509.ExtensionNotFound):
        pass
    return [name for name in map(names.canonical, found) if name]


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.ExtensionNotFound):
        return False
