"""From OpenSSL's words to one line for a person and a kind for code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from appliance.net.reasons import Reason

Kind = Literal[
    "unknown_ca",  # the peer said so in an alert, as the next two
    "bad_certificate",
    "certificate_unknown",
    "unrecognized_name",
    "no_application_protocol",
    "client_certificate",  # the peer wants one
    "handshake_failure",
    "verify",  # we do not take the peer's certificate; see Fault
    "not_tls",
    "version",
    "no_shared_cipher",
    "eof",
    "protocol",  # everything else
]
FaultKind = Literal[
    "expired",
    "not_yet_valid",
    "name_mismatch",
    "self_signed",
    "unknown_issuer",
    "revoked",
    "not_for_servers",
    "weak",
    "bad",
]


class Fault(NamedTuple):
    """What is wrong with a peer's certificate. text ends the sentence "the certificate of X ..."."""

    kind: FaultKind
    text: str


class TlsError(NamedTuple):
    """How TLS failed. text is one line, written about "the peer"."""

    kind: Kind
    text: str

    @property
    def distrust(self) -> bool:
        """Seen on the client's side: it does not trust our CA (or pins another)."""
        return self.kind in ("unknown_ca", "bad_certificate", "certificate_unknown")

    def reason(self) -> Reason:
        return Reason("tls", self.text, self.kind)


# X509_V_ERR_*, openssl/x509_vfy.h. The numbers are part of OpenSSL's ABI.
_FAULTS: Final[dict[int, Fault]] = {
    9: Fault("not_yet_valid", "is not valid yet"),
    10: Fault("expired", "has expired"),
    62: Fault("name_mismatch", "is for another name"),
    64: Fault("name_mismatch", "is for another address"),
    18: Fault("self_signed", "is self-signed"),
    19: Fault("unknown_issuer", "comes from an unknown root"),
    20: Fault("unknown_issuer", "comes from an unknown issuer (or the server left out an intermediate certificate)"),
    2: Fault("unknown_issuer", "comes from an unknown issuer (or the server left out an intermediate certificate)"),
    21: Fault("unknown_issuer", "comes from an unknown issuer (or the server left out an intermediate certificate)"),
    7: Fault("bad", "has a wrong signature"),
    22: Fault("bad", "has too long a chain"),
    23: Fault("revoked", "has been revoked"),
    24: Fault("bad", "was issued by a certificate that is no CA"),
    79: Fault("bad", "was issued by a certificate that is no CA"),
    25: Fault("bad", "has too long a chain for its CA"),
    26: Fault("not_for_servers", "is not meant for servers"),
    47: Fault("bad", "is outside the names its CA may issue for"),
    48: Fault("bad", "is outside the names its CA may issue for"),
    66: Fault("weak", "has too short a key"),
    67: Fault("weak", "was issued by a CA with too short a key"),
    68: Fault("weak", "has a signature with too weak a digest"),
}


def fault(code: int) -> Fault | None:
    """What OpenSSL's verify result means; None for 0, which is no fault."""
    return _FAULTS.get(code, Fault("bad", f"does not verify (OpenSSL's error {code})")) if code else None


_ALERT = re.compile(r"alert (.+)$")
_REFUSED: Final = "the peer does not accept the certificate it was given"
_ALERTS: Final[dict[str, TlsError]] = {
    "unknown ca": TlsError("unknown_ca", f"{_REFUSED}: it does not know the CA"),
    "bad certificate": TlsError("bad_certificate", f"{_REFUSED} (alert bad_certificate)"),
    "certificate unknown": TlsError("certificate_unknown", f"{_REFUSED} (alert certificate_unknown)"),
    "unsupported certificate": TlsError("bad_certificate", f"{_REFUSED} (alert unsupported_certificate)"),
    "certificate revoked": TlsError("bad_certificate", f"{_REFUSED} (alert certificate_revoked)"),
    "certificate expired": TlsError("bad_certificate", f"{_REFUSED} (alert certificate_expired)"),
    "protocol version": TlsError("version", "the peer speaks none of the TLS versions offered"),
    "handshake failure": TlsError("handshake_failure", "the peer found nothing in common (alert handshake_failure)"),
    "insufficient security": TlsError("no_shared_cipher", "the peer wants stronger ciphers than offered"),
    "no application protocol": TlsError("no_application_protocol", "the peer speaks no offered protocol (ALPN)"),
    "certificate required": TlsError("client_certificate", "the peer wants a client certificate"),
}
_NAME: Final = TlsError("unrecognized_name", "the peer does not know the name it was asked for (SNI)")
_EOF: Final = TlsError("eof", "the peer closed the connection during the TLS handshake")
_CUT: Final = TlsError("eof", "the peer closed the connection without ending TLS")
_HTTP: Final = TlsError("not_tls", "plain HTTP came where TLS was expected")
_NOT_TLS: Final = TlsError("not_tls", "what the peer sent is not TLS")
_VERSION: Final = TlsError("version", "the peer offers no TLS version that is allowed here")
_CIPHER: Final = TlsError("no_shared_cipher", "no cipher in common with the peer")
_OWN: Final[dict[str, TlsError]] = {
    "http request": _HTTP,
    "https proxy request": _HTTP,
    "wrong version number": _NOT_TLS,
    "packet length too long": _NOT_TLS,
    "unknown protocol": _NOT_TLS,
    "bad record type": _NOT_TLS,
    "unsupported protocol": _VERSION,
    "version too low": _VERSION,
    "no protocols available": TlsError("version", "the options leave no TLS version to offer"),
    "no shared cipher": _CIPHER,
    "no suitable signature algorithm": _CIPHER,
    "no suitable key share": TlsError("no_shared_cipher", "no key exchange group in common with the peer"),
    "no suitable groups": TlsError("no_shared_cipher", "no key exchange group in common with the peer"),
    "wrong signature type": _CIPHER,
    "dh key too small": TlsError("no_shared_cipher", "the peer's Diffie-Hellman key is too short to be safe"),
    "unsafe legacy renegotiation disabled": TlsError(
        "protocol", "the peer knows only the old, unsafe renegotiation; ssl_insecure accepts it"
    ),
    "tlsv1 unrecognized name": _NAME,
    "unrecognized name": _NAME,
}


def explain(reasons: Sequence[str], *, handshake: bool, fault: Fault | None = None) -> TlsError:
    """The error behind OpenSSL's reason texts (`openssl.take_errors`), the first of them being the cause.

    handshake: whether it had not been completed. fault: of the peer's certificate, where there may be one.
    """
    for text in reasons:
        if (known := _OWN.get(text)) is not None:
            # A wrong version number after the handshake is a broken stream, not another protocol.
            return known if handshake or known is not _NOT_TLS else TlsError("protocol", f"broken TLS record: {text}")
        if text == "certificate verify failed":
            return TlsError("verify", "the peer's certificate " + (fault.text if fault else "does not verify"))
        if text == "unexpected eof while reading":
            return _EOF if handshake else _CUT
        if match := _ALERT.search(text):
            name = match[1]
            if name == "unrecognized name":
                return _NAME
            return _ALERTS.get(name) or TlsError("protocol", f"the peer ended TLS with alert {name.replace(' ', '_')}")
    if not reasons:
        return _EOF if handshake else _CUT
    return TlsError("protocol", f"{'TLS handshake failed' if handshake else 'TLS failed'}: {reasons[0]}")
