"""Leaves for TLS with clients: minted under the gateway's CA and kept while they are good, or laid by a person."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from OpenSSL import crypto

from appliance.net.ca import CertificateAuthority
from appliance.net.ca_store import import_ca
from appliance.net.custom_certs import CustomCerts
from appliance.net.leaf import MAX_NAMES, RSA_BITS, Leaf, LeafKey, LeafSpec

__all__ = ["MAX_NAMES", "CertificateAuthority", "Leaf", "LeafSpec", "Minter", "import_ca"]

_DAY = 86400.0


class Minter:
    """The holder of the CA: gives a leaf for a spec, from memory where it can.

    No more than `cache_size` leaves are kept, the least recently used goes first. `custom` are `[domain=]path`
    specifications of certificates that a caller looks for (`custom()`) before it has one minted. `rsa_bits`: of the
    key for clients that cannot do ECDSA. `clock` gives POSIX seconds.
    """

    def __init__(
        self,
        ca: CertificateAuthority,
        cache_size: int = 1000,
        custom: Iterable[str] = (),
        *,
        passphrase: str | None = None,
        rsa_bits: int = RSA_BITS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.ca = ca
        self.cache_size = cache_size
        self._clock = clock
        self._cache: OrderedDict[LeafSpec, tuple[Leaf, float]] = OrderedDict()  # with the time to renew it
        self._chain = tuple(map(crypto.X509.from_cryptography, ca.chain))
        self._ec = LeafKey("ec")
        self._rsa_bits = rsa_bits
        self._rsa: asyncio.Task[LeafKey] | None = None
        self._untrusted: CertificateAuthority | None = None
        self._custom = CustomCerts()
        self.use_custom(custom, passphrase)

    def use_custom(self, specs: Iterable[str], passphrase: str | None = None) -> None:
        """Replaces all custom certificates. Raises CertificateError, and changes nothing, if one cannot be used."""
        table = CustomCerts()
        for spec in specs:
            table.add(spec, passphrase)
        self._custom = table

    def add_custom(self, spec: str, passphrase: str | None = None) -> None:
        """Adds the custom certificate `[domain=]path`. Raises CertificateError if it cannot be used."""
        self._custom.add(spec, passphrase)

    def custom(self, asked: Iterable[str]) -> Leaf | None:
        """The custom certificate for the names a client asked for, the most wanted first."""
        return self._custom.find(asked) if self._custom else None

    def cached(self, spec: LeafSpec) -> Leaf | None:
        """The leaf for this spec if it is ready."""
        entry = self._cache.get(spec)
        if entry is None:
            return None
        leaf, renew_at = entry
        if self._clock() >= renew_at:
            del self._cache[spec]
            return None
        self._cache.move_to_end(spec)
        return leaf

    async def leaf(self, spec: LeafSpec) -> Leaf:
        """The leaf for this spec, minted if need be (about 1 ms of CPU under an RSA-3072 CA).

        Raises CertificateError if no name of the spec can be put into a certificate, or the CA has expired.
        """
        if leaf := self.cached(spec):
            return leaf
        key = await self._rsa_key() if spec.key == "rsa" else self._ec
        # Others may have waited for the same key; from here on nothing is awaited, so each spec is minted once.
        return self.cached(spec) or self._mint(spec, key)

    def _mint(self, spec: LeafSpec, key: LeafKey) -> Leaf:
        now = self._clock()
        ca, chain = self.ca, self._chain
        if spec.fault == "untrusted":
            if self._untrusted is None:
                self._untrusted = CertificateAuthority.nobodys()
            ca, chain = self._untrusted, ()
        certificate = ca.issue(spec, key, datetime.fromtimestamp(now, UTC))
        not_after = certificate.not_valid_after_utc
        leaf = Leaf(crypto.X509.from_cryptography(certificate), key.pkey, chain, not_after)
        if spec.fault:
            return self._keep(spec, leaf, now + _DAY)
        left = not_after.timestamp() - now
        # A day before its end; under a CA that is about to end itself, half-way, or each connection would mint.
        return self._keep(spec, leaf, now + max(left - _DAY, left / 2))

    def _keep(self, spec: LeafSpec, leaf: Leaf, renew_at: float) -> Leaf:
        self._cache[spec] = leaf, renew_at
        while len(self._cache) > max(1, self.cache_size):
            self._cache.popitem(last=False)
        return leaf

    async def _rsa_key(self) -> LeafKey:
        # Made on first need, and off the loop: it takes tens of milliseconds, and few clients want it.
        if self._rsa is None or self._rsa.cancelled():
            self._rsa = asyncio.create_task(asyncio.to_thread(LeafKey, "rsa", self._rsa_bits))
        return await asyncio.shield(self._rsa)
