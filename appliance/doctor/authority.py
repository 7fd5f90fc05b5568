"""The CA in the configuration folder: pair, validity, permissions. None there is no fault: the first start makes it."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator
from datetime import UTC, datetime

from appliance.doctor.finding import Finding, Subject, fault, note, ok, warning
from appliance.exceptions import CertificateError

SOON_DAYS = 60


def authority(subject: Subject) -> Iterator[Finding]:
    """Reads both files as the gateway would, and makes none."""
    from appliance.net import ca_store, pem

    certificate, key = subject.confdir / ca_store.CERTIFICATE_FILE, subject.confdir / ca_store.KEY_FILE
    if not os.path.lexists(certificate) and not os.path.lexists(key):
        yield note("ca", f"no CA in {subject.confdir} yet", "the first `lockgate run` makes one", "lockgate run")
        return
    try:
        mode = stat.S_IMODE(key.stat().st_mode)
        if mode & 0o077:
            yield fault(
                "ca.key",
                f"{key} has mode {mode:o}",
                "whoever reads it can forge any site for every device that trusts this CA",
                f"chmod 600 {shlex.quote(str(key))}",
            )
            return
        pair = pem.pair(
            pem.private_key(pem.read(key, guarded=True), key),
            pem.certificates(pem.read(certificate, guarded=True), certificate),
            str(certificate),
        )
        ca_store.check_ca(pair)
    except (CertificateError, OSError) as error:
        yield fault("ca", f"the CA cannot be used: {error}", "nothing can be decrypted", "lockgate ca show")
        return
    left = (pair.certificate.not_valid_after_utc - datetime.now(UTC)).days
    if left < SOON_DAYS:
        yield warning(
            "ca", f"the CA expires in {left} days", "devices then refuse all of its certificates",
            f"make a new one (move {certificate} and {key} away) and let devices trust it",
        )  # fmt: skip
    else:
        yield ok("ca", f"{certificate}: usable, {left} days left")
