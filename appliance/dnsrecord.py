"""What DNS messages are made of: questions and records. `appliance.dns` has them for add-ons."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self

from .connection import State
from .net.dns import DNSError, classes, names, rdata, svcb, types
from .net.dns.svcb import HTTPSRecord
from .serializable import Serializable

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

DEFAULT_TTL = 60


class Question(Serializable):
    """What is asked for. name: text without a last dot."""

    __slots__ = ("class_", "name", "type")

    def __init__(self, name: str, type: int = types.A, class_: int = classes.IN) -> None:
        self.name = name
        self.type = type
        self.class_ = class_

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"Question({self.name!r}, {types.to_str(self.type)}, {classes.to_str(self.class_)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Question) and self._key() == other._key()

    __hash__ = None  # type: ignore[assignment]

    def _key(self) -> tuple[str, int, int]:
        return self.name, self.type, self.class_

    def to_json(self) -> dict[str, str]:
        return {"name": self.name, "type": types.to_str(self.type), "class": classes.to_str(self.class_)}

    @classmethod
    def from_json(cls, data: Mapping[str, str]) -> Self:
        """Raises KeyError, ValueError."""
        return cls(data["name"], types.from_str(data["type"]), classes.from_str(data["class"]))

    def get_state(self) -> State:
        return {"name": self.name, "type": self.type, "class_": self.class_}

    @classmethod
    def from_state(cls, state: State) -> Self:
        return cls(**state)


class ResourceRecord(Serializable):
    """One record. data: as on the wire, names in it uncompressed. ttl: seconds (EDNS puts flags there: type OPT).

    The properties read and write `data` as what its type says it is; reading raises ValueError where it is not.
    """

    __slots__ = ("class_", "data", "name", "ttl", "type")

    def __init__(self, name: str, type: int, class_: int = classes.IN, ttl: int = DEFAULT_TTL, data: bytes = b""):
        self.name = name
        self.type = type
        self.class_ = class_
        self.ttl = ttl
        self.data = data

    def __str__(self) -> str:
        """The data as a zone file has it."""
        return rdata.to_text(self.type, self.data)

    def __repr__(self) -> str:
        return f"<{self.name or '.'} {self.ttl} {classes.to_str(self.class_)} {types.to_str(self.type)} {self}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ResourceRecord) and self._key() == other._key()

    __hash__ = None  # type: ignore[assignment]

    def _key(self) -> tuple[str, int, int, int, bytes]:
        return self.name, self.type, self.class_, self.ttl, self.data

    # What the data means

    @property
    def text(self) -> str:
        """TXT: its strings joined."""
        return b"".join(rdata.strings(self.data)).decode("utf-8", "surrogateescape")

    @text.setter
    def text(self, text: str) -> None:
        data = text.encode("utf-8", "surrogateescape")
        parts = [data[i : i + 255] for i in range(0, len(data), 255)] or [b""]
        self.data = b"".join([bytes((len(part),)) + part for part in parts])

    @property
    def ipv4_address(self) -> IPv4Address:
        """A."""
        return ipaddress.IPv4Address(self.data)

    @ipv4_address.setter
    def ipv4_address(self, address: IPv4Address | str) -> None:
        self.data = ipaddress.IPv4Address(address).packed

    @property
    def ipv6_address(self) -> IPv6Address:
        """AAAA."""
        return ipaddress.IPv6Address(self.data)

    @ipv6_address.setter
    def ipv6_address(self, address: IPv6Address | str) -> None:
        self.data = ipaddress.IPv6Address(address).packed

    @property
    def domain_name(self) -> str:
        """CNAME, NS, PTR, DNAME."""
        name, end = names.unpack(self.data, 0)
        if end != len(self.data):
            raise DNSError(f"the data of this {types.to_str(self.type)} record is no name alone")
        return name

    @domain_name.setter
    def domain_name(self, name: str) -> None:
        self.data = names.pack(name)

    @property
    def https_record(self) -> HTTPSRecord:
        """HTTPS, SVCB: all of it. Assign it again after a change."""
        return svcb.unpack(self.data)

    @https_record.setter
    def https_record(self, record: HTTPSRecord) -> None:
        self.data = svcb.pack(record)

    @property
    def https_alpn(self) -> tuple[bytes, ...] | None:
        """HTTPS, SVCB: the protocols, None when they are not said. Set to None to take the parameter out."""
        data = svcb.unpack(self.data).params.get(svcb.ALPN)
        return None if data is None else svcb.unpack_alpn(data)

    @https_alpn.setter
    def https_alpn(self, protocols: Iterable[bytes] | None) -> None:
        self._set_parameter(svcb.ALPN, None if protocols is None else svcb.pack_alpn(tuple(protocols)))

    @property
    def https_ech(self) -> str | None:
        """HTTPS, SVCB: the ECH configuration in base64, None when there is none. Set to None to take it out."""
        data = svcb.unpack(self.data).params.get(svcb.ECH)
        return None if data is None else base64.b64encode(data).decode()

    @https_ech.setter
    def https_ech(self, ech: str | None) -> None:
        self._set_parameter(svcb.ECH, None if ech is None else base64.b64decode(ech, validate=True))

    def _set_parameter(self, key: int, value: bytes | None) -> None:
        record = svcb.unpack(self.data)
        if value is None:
            record.params.pop(key, None)
        else:
            record.params[key] = value
        self.data = svcb.pack(record)

    # Constructors

    @classmethod
    def A(cls, name: str, ip: IPv4Address | str, *, ttl: int = DEFAULT_TTL) -> Self:
        return cls(name, types.A, classes.IN, ttl, ipaddress.IPv4Address(ip).packed)

    @classmethod
    def AAAA(cls, name: str, ip: IPv6Address | str, *, ttl: int = DEFAULT_TTL) -> Self:
        return cls(name, types.AAAA, classes.IN, ttl, ipaddress.IPv6Address(ip).packed)

    @classmethod
    def CNAME(cls, alias: str, canonical: str, *, ttl: int = DEFAULT_TTL) -> Self:
        return cls(alias, types.CNAME, classes.IN, ttl, names.pack(canonical))

    @classmethod
    def PTR(cls, inaddr: str, ptr: str, *, ttl: int = DEFAULT_TTL) -> Self:
        return cls(inaddr, types.PTR, classes.IN, ttl, names.pack(ptr))

    @classmethod
    def TXT(cls, name: str, text: str, *, ttl: int = DEFAULT_TTL) -> Self:
        made = cls(name, types.TXT, classes.IN, ttl)
        made.text = text
        return made

    @classmethod
    def HTTPS(cls, name: str, record: HTTPSRecord, *, ttl: int = DEFAULT_TTL) -> Self:
        return cls(name, types.HTTPS, classes.IN, ttl, svcb.pack(record))

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "type": types.to_str(self.type),
            "class": classes.to_str(self.class_),
            "ttl": self.ttl,
            "data": str(self),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Of records whose data are an address, a name, texts, or in the form of RFC 3597.

        Raises KeyError; ValueError for what else a zone file may have: keep these by `get_state`.
        """
        kind = types.from_str(data["type"])
        return cls(
            data["name"], kind, classes.from_str(data["class"]), int(data["ttl"]), rdata.from_text(kind, data["data"])
        )

    def get_state(self) -> State:
        return {"name": self.name, "type": self.type, "class_": self.class_, "ttl": self.ttl, "data": self.data}

    @classmethod
    def from_state(cls, state: State) -> Self:
        return cls(**state)


HTTPS_TYPES = frozenset({types.HTTPS, types.SVCB})


def strip_https(records: list[ResourceRecord]) -> None:
    """Take ECH and HTTP/3 out of the HTTPS and SVCB records among these; one that cannot be read goes as a whole."""
    for record in [one for one in records if one.type in HTTPS_TYPES]:
        try:
            content = record.https_record
            if svcb.strip(content):
                record.https_record = content
        except DNSError:
            records[:] = [one for one in records if one is not record]
