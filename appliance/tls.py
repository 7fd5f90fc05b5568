"""What add-ons get in the TLS hooks: the client's hello, and the objects of `tls_*` events. No I/O."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from OpenSSL import SSL

    from appliance.connection import Connection

_MAX_FRAGMENT = 1 << 14
_SERVER_NAME, _GROUPS, _SIGNATURES, _ALPN, _VERSIONS = 0, 10, 13, 16, 43
_P256, _ECDSA_P256_SHA256, _TLS13 = 0x0017, 0x0403, 0x0304
# DNS labels as clients really send them: underscores occur, a trailing dot is forbidden (RFC 6066 section 3).
_HOST = re.compile(rb"(?:[a-zA-Z0-9_-]{1,63}+\.)*+[a-zA-Z0-9_-]{1,63}+")
# TLS 1.2 suites whose server authenticates with ECDSA (ECDHE_ECDSA_*).
# fmt: off
_ECDSA_SUITES = frozenset((
    *range(0xC006, 0xC00B), 0xC023, 0xC024, 0xC02B, 0xC02C, 0xC048, 0xC049, 0xC05C, 0xC05D,
    0xC072, 0xC073, 0xC086, 0xC087, *range(0xC0AC, 0xC0B0), 0xCCA9,
))
# fmt: on


class ClientHello:
    """A ClientHello (RFC 8446 section 4.1.2, RFC 5246 section 7.4.1.2), read from its handshake body.

    `raw` is the message without record and handshake headers. The frame of the message is checked at once, the inside
    of extensions when asked for: one that cannot be read counts as not sent (and `sni_fault` tells, for the name).
    GREASE values stay in the lists.

    :raises ValueError: the message is malformed; the text says where.
    """

    def __init__(self, raw: bytes, dtls: bool = False) -> None:
        self._raw = raw
        self.dtls = dtls
        size = len(raw)
        if size < 35:
            raise ValueError("shorter than its fixed part")
        at = 35 + raw[34]
        if raw[34] > 32:
            raise ValueError("session id longer than 32 bytes")
        if dtls:
            if at >= size:
                raise ValueError("cut off in the session id")
            at += 1 + raw[at]
        if at + 2 > size:
            raise ValueError("cut off before the cipher suites")
        length = raw[at] << 8 | raw[at + 1]
        at += 2
        if length & 1 or not length:
            raise ValueError("cipher suites of an odd or zero length")
        self._suites = at, length
        at += length
        if at >= size:
            raise ValueError("cut off in the cipher suites")
        if not raw[at]:
            raise ValueError("no compression method")
        at += 1 + raw[at]
        if at > size:
            raise ValueError("cut off in the compression methods")
        self.extensions: list[tuple[int, bytes]] = _extensions(raw, at) if at < size else []
        """(type, content) in the order sent."""
        self._by_type = dict(self.extensions)
        if len(self._by_type) != len(self.extensions):
            raise ValueError("an extension occurs twice")

    def raw_bytes(self, wrap_in_record: bool = True) -> bytes:
        """The hello's bytes: in plain records of its own (not necessarily cut as they came), or the body alone.

        :raises NotImplementedError: a DTLS hello in records.
        """
        if not wrap_in_record:
            return self._raw
        if self.dtls:
            raise NotImplementedError("a DTLS hello has no stream of records")
        message = b"\x01" + len(self._raw).to_bytes(3) + self._raw
        parts = (message[i : i + _MAX_FRAGMENT] for i in range(0, len(message), _MAX_FRAGMENT))
        return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2) + part for part in parts)

    @property
    def version(self) -> int:
        """`legacy_version`, 0x0303 for all that matter; see `supported_versions`."""
        return self._raw[0] << 8 | self._raw[1]

    @property
    def random(self) -> bytes:
        return self._raw[2:34]

    @property
    def session_id(self) -> bytes:
        return self._raw[35 : 35 + self._raw[34]]

    @cached_property
    def cipher_suites(self) -> list[int]:
        at, length = self._suites
        return list(struct.unpack_from(f">{length // 2}H", self._raw, at))

    @cached_property
    def _name(self) -> tuple[str | None, str | None]:
        """(sni, fault): RFC 6066 section 3, a list that holds exactly one host_name."""
        data = self._by_type.get(_SERVER_NAME)
        if data is None:
            return None, None
        if len(data) < 5 or data[0] << 8 | data[1] != len(data) - 2:
            return None, "server_name is malformed"
        if data[2] != 0 or data[3] << 8 | data[4] != len(data) - 5:
            return None, "server_name holds something else than one host name"
        name = data[5:]
        if len(name) > 253 or not _HOST.fullmatch(name):
            return None, f"server_name is no host name: {name[:64]!r}"
        return name.decode("ascii"), None

    @property
    def sni(self) -> str | None:
        """The host name as sent; None when there is none, or none that can be one (`sni_fault`)."""
        return self._name[0]

    @property
    def sni_fault(self) -> str | None:
        """Why a server_name that was sent is not in `sni`."""
        return self._name[1]

    @cached_property
    def alpn_protocols(self) -> list[bytes]:
        """RFC 7301, in the client's order."""
        data = self._by_type.get(_ALPN, b"")
        if len(data) < 2 or data[0] << 8 | data[1] != len(data) - 2:
            return []
        names: list[bytes] = []
        at = 2
        while at < len(data):
            end = at + 1 + data[at]
            if end == at + 1 or end > len(data):
                return []
            names.append(data[at + 1 : end])
            at = end
        return names

    @cached_property
    def signature_algorithms(self) -> list[int]:
        return self._numbers(_SIGNATURES, 2)

    @cached_property
    def supported_groups(self) -> list[int]:
        return self._numbers(_GROUPS, 2)

    @cached_property
    def supported_versions(self) -> list[int]:
        """Empty when the extension is missing: then `version` is the highest the client speaks."""
        return self._numbers(_VERSIONS, 1)

    def _numbers(self, extension: int, prefix: int) -> list[int]:
        """16-bit numbers behind a length of `prefix` bytes."""
        data = self._by_type.get(extension, b"")
        length = int.from_bytes(data[:prefix])
        if length != len(data) - prefix or length & 1:
            return []
        return list(struct.unpack_from(f">{length // 2}H", data, prefix))

    @cached_property
    def wants_rsa(self) -> bool:
        """True when the client could not verify a P-256 leaf's signature, so that it must be given an RSA one.

        TLS 1.3 takes the signature algorithm alone; 1.2 also needs an ECDSA suite and the curve (RFC 8422). A client
        that names no signature algorithms is old enough to be given RSA.
        """
        signatures = self.signature_algorithms
        if _TLS13 in self.supported_versions:
            return _ECDSA_P256_SHA256 not in signatures
        groups = self.supported_groups
        return not (
            any(s & 0xFF == 3 for s in signatures)
            and (not groups or _P256 in groups)
            and not _ECDSA_SUITES.isdisjoint(self.cipher_suites)
        )

    @cached_property
    def ja4(self) -> str:
        """The client's fingerprint, such as `t13d1516h2_8daaf6152771_e5627efa2ab1`."""
        from appliance.ja4 import fingerprint

        return fingerprint(self)

    def __repr__(self) -> str:
        return f"ClientHello(sni={self.sni!r}, alpn_protocols={self.alpn_protocols!r})"


def starts_like_tls_record(d: bytes | bytearray) -> bool:
    """A TLS record of type handshake, version 3.0 to 3.3 (RFC 8446 §5.1)."""
    return len(d) > 2 and d[0] == 0x16 and d[1] == 0x03 and d[2] <= 0x03


def starts_like_dtls_record(d: bytes | bytearray) -> bool:
    """The same of DTLS 1.2 and 1.0 (RFC 6347 §4.1, RFC 9147 §5.4)."""
    return len(d) > 2 and d[0] == 0x16 and d[1] == 0xFE and d[2] in (0xFD, 0xFE, 0xFF)


def _extensions(raw: bytes, at: int) -> list[tuple[int, bytes]]:
    size = len(raw)
    if at + 2 > size or at + 2 + (raw[at] << 8 | raw[at + 1]) != size:
        raise ValueError("the length of the extensions is wrong")
    at += 2
    found: list[tuple[int, bytes]] = []
    while at < size:
        if at + 4 > size:
            raise ValueError("cut off in the extensions")
        end = at + 4 + (raw[at + 2] << 8 | raw[at + 3])
        if end > size:
            raise ValueError("an extension is longer than the message")
        found.append((raw[at] << 8 | raw[at + 1], raw[at + 4 : end]))
        at = end
    return found


@dataclass
class ClientHelloData:
    """Argument of `tls_clienthello`."""

    context: Any
    """The connection's context: `client`, `server`, `options`, `layers`."""
    client_hello: ClientHello
    ignore_connection: bool = False
    """Set to have the connection passed through untouched."""
    establish_server_tls_first: bool = False
    """Set to have the server's handshake done before the client's, so that its certificate and ALPN can be mirrored."""


@dataclass
class TlsData:
    """Argument of `tls_start_*`, `tls_established_*` and `tls_failed_*`."""

    conn: Connection
    """The connection this is about: the client, the server, or an upstream proxy."""
    context: Any
    ssl_conn: SSL.Connection | None = None
    """In `tls_start_*` an add-on may put its own here, made over memory BIOs: `SSL.Connection(context, None)`."""
    is_dtls: bool = False
