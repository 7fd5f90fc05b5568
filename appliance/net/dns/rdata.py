"""The data of records: names in it made whole, and its presentation form.

A layout describes a type's data, one letter a field: b h i numbers of 1, 2, 4 bytes, n a name, s a character-string,
S all that are left of these, q the rest quoted as one string, 4 6 addresses, x the rest in hex, B the rest in base64,
t a record type, T a time, m a bitmap of types, l a length and hex, z a length and base32.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import re
import struct

from appliance.net.dns import DNSError, names, svcb, types

LAYOUTS: dict[int, str] = {
    types.A: "4",
    types.AAAA: "6",
    **dict.fromkeys((types.NS, types.CNAME, types.PTR, types.DNAME, types.MD, types.MF), "n"),
    **dict.fromkeys((types.MB, types.MG, types.MR), "n"),
    types.SOA: "nniiiii",
    **dict.fromkeys((types.MINFO, types.RP), "nn"),
    **dict.fromkeys((types.MX, types.AFSDB, types.RT, types.KX), "hn"),
    types.PX: "hnn",
    types.HINFO: "ss",
    types.TXT: "S",
    types.SPF: "S",
    types.X25: "s",
    types.ISDN: "S",
    types.SRV: "hhhn",
    types.NAPTR: "hhsssn",
    types.CAA: "bsq",
    types.URI: "hhq",
    types.DS: "hbbx",
    types.CDS: "hbbx",
    types.DNSKEY: "hbbB",
    types.CDNSKEY: "hbbB",
    types.KEY: "hbbB",
    types.RRSIG: "tbbiTThnB",
    types.SIG: "tbbiTThnB",
    types.NSEC: "nm",
    types.NSEC3: "bbhlzm",
    types.NSEC3PARAM: "bbhl",
    types.SSHFP: "bbx",
    types.TLSA: "bbbx",
    types.SMIMEA: "bbbx",
    types.CERT: "hhbB",
    types.OPENPGPKEY: "B",
    types.DHCID: "B",
    types.CSYNC: "ihm",
    types.ZONEMD: "ibbx",
}
WITH_NAMES: dict[int, str] = {
    kind: LAYOUTS[kind]
    for kind in (types.NS, types.MD, types.MF, types.CNAME, types.SOA, types.MB, types.MG, types.MR, types.PTR,
                 types.MINFO, types.MX, types.RP, types.AFSDB, types.RT, types.SIG, types.PX, types.SRV, types.NAPTR,
                 types.KX, types.DNAME)
}  # fmt: skip
"""Types whose names may come compressed: RFC 1035, and those a receiver must take so (RFC 3597 §4)."""
COMPRESSIBLE = frozenset(
    (
        types.NS,
        types.MD,
        types.MF,
        types.CNAME,
        types.SOA,
        types.MB,
        types.MG,
        types.MR,
        types.PTR,
        types.MINFO,
        types.MX,
    )
)
"""Types whose names we may send compressed (RFC 3597 §4: those of RFC 1035)."""
_GENERIC = re.compile(r"\\# (\d{1,5})((?: [0-9a-fA-F]*)?)", re.ASCII)
_STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\(?:[01]\d\d|2[0-4]\d|25[0-5])|\\[^\d])*+)"', re.ASCII)
_STRINGS = re.compile(rf"(?:{_STRING.pattern} ?)*+", re.ASCII)
_ESCAPE = re.compile(rb"\\([01]\d\d|2[0-4]\d|25[0-5]|[^\d])", re.DOTALL)
_FIXED = {"b": 1, "h": 2, "i": 4, "t": 2, "T": 4, "4": 4, "6": 16}


def whole(kind: int, buf: bytes, at: int, end: int) -> bytes:
    """The data of a record that lies at `at` to `end` in a message, its names decompressed.

    :raises DNSError: it is too short or too long for its type.
    """
    layout = WITH_NAMES.get(kind)
    if layout is None or at == end:  # no data: as in an UPDATE
        return buf[at:end]
    parts = []
    for letter in layout:
        if letter == "n":
            name, after = names.unpack(buf, at)
            parts.append(names.pack(name))
        elif letter == "B":
            after = end
            parts.append(buf[at:end])
        else:
            after = at + (_FIXED.get(letter) or 1 + buf[at] if at < end else 1)
            parts.append(buf[at:after])
        if after > end:
            raise DNSError(f"the data of a {types.to_str(kind)} record is cut short")
        at = after
    if at != end:
        raise DNSError(f"the data of a {types.to_str(kind)} record is too long")
    return b"".join(parts)


def pack_into(out: bytearray, kind: int, data: bytes, known: dict[tuple[bytes, ...], int]) -> None:
    """Append `data`, names in it compressed where that is allowed."""
    if kind not in COMPRESSIBLE or not data:
        out += data
        return
    at = 0
    try:
        for letter in LAYOUTS[kind]:
            if letter == "n":
                name, at = names.unpack(data, at)
                names.pack_into(out, name, known)
            else:
                out += data[at : at + _FIXED[letter]]
                at += _FIXED[letter]
    except DNSError as e:
        raise DNSError(f"the data of a {types.to_str(kind)} record: {e}") from None
    if at != len(data):
        raise DNSError(f"the data of a {types.to_str(kind)} record has {len(data)} bytes, {at} are of it")


def to_text(kind: int, data: bytes) -> str:
    """As a zone file has it; what is not of its type's form as `\\# LENGTH HEX` (RFC 3597 §5). Never raises."""
    try:
        if kind in (types.SVCB, types.HTTPS):
            return str(svcb.unpack(data))
        if kind == types.OPT:
            return options_text(data)
        if kind in (types.EUI48, types.EUI64) and len(data) in (6, 8):
            return data.hex("-")
        layout = LAYOUTS.get(kind)
        if layout is not None and data:
            return _by_layout(layout, data)
    except (DNSError, IndexError, struct.error, ValueError, OverflowError):
        pass
    return f"\\# {len(data)} {data.hex()}".rstrip()


def from_text(kind: int, text: str) -> bytes:
    """The inverse of `to_text` for the layouts "4", "6", "n" and "S", and for `\\# LENGTH HEX`.

    :raises ValueError: another type's text, or none of this type's.
    """
    if found := _GENERIC.fullmatch(text):
        data = bytes.fromhex(found[2])
        if len(data) != int(found[1]):
            raise ValueError(f"{len(data)} bytes of data, but the length says {found[1]}")
        return data
    match LAYOUTS.get(kind):
        case "4":
            return ipaddress.IPv4Address(text).packed
        case "6":
            return ipaddress.IPv6Address(text).packed
        case "n":
            return names.pack(text.removesuffix("."))
        case "S" if _STRINGS.fullmatch(text):
            parts = [_unquoted(part) for part in _STRING.findall(text)]
            if all(len(part) < 256 for part in parts):
                return b"".join(bytes((len(part),)) + part for part in parts)
    raise ValueError(f"{text!r} cannot be read as the data of a {types.to_str(kind)} record")


def _unquoted(text: str) -> bytes:
    return _ESCAPE.sub(lambda m: bytes((int(m[1]),)) if len(m[1]) == 3 else m[1], text.encode("ascii"))


def _by_layout(layout: str, data: bytes) -> str:
    words: list[str] = []
    at = 0
    for letter in layout:
        if letter == "n":
            name, at = names.unpack(data, at)
            words.append(name + ".")
        elif letter in _FIXED:
            after = at + _FIXED[letter]
            if after > len(data):
                raise DNSError("cut short")
            words.append(_number(letter, data[at:after]))
            at = after
        elif letter in "slz":
            after = at + 1 + data[at]
            if after > len(data):
                raise DNSError("cut short")
            words.append(_counted(letter, data[at + 1 : after]))
            at = after
        elif letter == "S":
            words += [f'"{svcb.quoted(part)}"' for part in strings(data[at:])]
            at = len(data)
        else:
            words.append(_rest(letter, data[at:]))
            at = len(data)
    if at != len(data):
        raise DNSError("too long")
    return " ".join(word for word in words if word)


def _number(letter: str, data: bytes) -> str:
    if letter in "46":
        return str(ipaddress.ip_address(data))
    number = int.from_bytes(data, "big")
    if letter == "t":
        return types.to_str(number)
    if letter == "T":
        return datetime.datetime.fromtimestamp(number, datetime.UTC).strftime("%Y%m%d%H%M%S")
    return str(number)


def _counted(letter: str, data: bytes) -> str:
    if letter == "s":
        return f'"{svcb.quoted(data)}"'
    if letter == "l":
        return data.hex() or "-"
    return base64.b32hexencode(data).decode().rstrip("=")


def _rest(letter: str, data: bytes) -> str:
    if letter == "x":
        return data.hex().upper()
    if letter == "B":
        return base64.b64encode(data).decode()
    if letter == "q":
        return f'"{svcb.quoted(data)}"'
    found, at = [], 0  # m: windows of types (RFC 4034 §4.1.2)
    while at < len(data):
        window, size = data[at], data[at + 1]
        if not 0 < size <= 32 or at + 2 + size > len(data):
            raise DNSError("a bitmap is cut short")
        for i, byte in enumerate(data[at + 2 : at + 2 + size]):
            found += [types.to_str(window << 8 | i * 8 + bit) for bit in range(8) if byte & 0x80 >> bit]
        at += 2 + size
    return " ".join(found)


def strings(data: bytes) -> list[bytes]:
    """The character-strings that `data` is made of. :raises DNSError: it is not."""
    found, at = [], 0
    while at < len(data):
        after = at + 1 + data[at]
        if after > len(data):
            raise DNSError("a character-string is cut short")
        found.append(data[at + 1 : after])
        at = after
    return found


def options_text(data: bytes) -> str:
    """EDNS options as `CODE:HEX` (RFC 6891 §6.1.2). :raises DNSError: they are cut short."""
    words, at = [], 0
    while at < len(data):
        if at + 4 > len(data):
            raise DNSError("an EDNS option is cut short")
        code, size = struct.unpack_from("!HH", data, at)
        if at + 4 + size > len(data):
            raise DNSError("an EDNS option is cut short")
        words.append(f"{code}:{data[at + 4 : at + 4 + size].hex()}")
        at += 4 + size
    return " ".join(words)
