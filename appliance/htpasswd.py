"""Files of names and hashed passwords, as `htpasswd` writes them.

Hashes: bcrypt, SHA-256 and SHA-512 crypt, yescrypt and MD5 crypt by the system's libcrypt; Apache's own `$apr1$` and
`{SHA}` here. Plain text and DES are refused.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import hmac
from base64 import b64encode
from functools import cache
from hashlib import md5, sha1
from pathlib import Path
from typing import Any, Final

MOST_BYTES: Final = 1 << 20
_LIBCRYPT: Final = (b"$2a$", b"$2b$", b"$2y$", b"$5$", b"$6$", b"$y$", b"$1$")
_APR1: Final = b"$apr1$"
_ALPHABET: Final = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_CRYPT_DATA: Final = 32768  # sizeof(struct crypt_data), a part of libxcrypt's ABI


class Htpasswd:
    """One file as it was when it was read."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError, which says what is wrong and in which line; OSError."""
        self.users: dict[bytes, bytes] = {}
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError(f"the file is over {MOST_BYTES >> 20} MB")
        for number, line in enumerate(data.splitlines(), 1):
            line = line.strip()
            if not line or line.startswith(b"#"):
                continue
            user, colon, stored = line.partition(b":")
            if not colon or not user:
                raise ValueError(f"line {number} is not NAME:HASH")
            if not known(stored):
                raise ValueError(f"line {number}: the password is not hashed as it should be: use `htpasswd -B`")
            self.users[user] = stored
        if not self.users:
            raise ValueError("there is nobody in it")

    def check(self, user: bytes, password: bytes) -> bool:
        """Whether that is the user's password. May take a quarter of a second (bcrypt): call it in a thread.

        An unknown user costs as much as a known one.
        """
        stored = self.users.get(user)
        same = verify(password, stored or next(iter(self.users.values())))
        return same and stored is not None


def known(stored: bytes) -> bool:
    """Whether `verify` can do something with this hash."""
    if stored.startswith(_LIBCRYPT):
        return _libcrypt() is not None
    return stored.startswith((_APR1, b"{SHA}"))


def verify(password: bytes, stored: bytes) -> bool:
    """Compares in constant time. False for a hash that is malformed."""
    if b"\0" in password:
        return False
    if stored.startswith(b"{SHA}"):
        made: bytes | None = b"{SHA}" + b64encode(sha1(password, usedforsecurity=False).digest())
    elif stored.startswith(_APR1):
        made = apr1(password, stored[len(_APR1) :].partition(b"$")[0])
    else:
        made = _crypt(password, stored)
    return made is not None and hmac.compare_digest(made, stored)


@cache
def _libcrypt() -> Any:
    """libxcrypt, which every Debian and Ubuntu has for its own passwords; None: it is not there."""
    try:
        function = ctypes.CDLL(ctypes.util.find_library("crypt") or "libcrypt.so.1").crypt_rn
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int]
    function.restype = ctypes.c_char_p
    return function


def _crypt(password: bytes, stored: bytes) -> bytes | None:
    function = _libcrypt()
    if function is None or not stored.startswith(_LIBCRYPT):
        return None
    made: bytes | None = function(password, stored, ctypes.create_string_buffer(_CRYPT_DATA), _CRYPT_DATA)
    return made


def apr1(password: bytes, salt: bytes) -> bytes:
    """Apache's MD5 crypt: that of FreeBSD under a name of its own, which is hashed too."""
    salt = salt[:8]
    inner = md5(password + salt + password, usedforsecurity=False).digest()
    start = password + _APR1 + salt + (inner * (len(password) // 16 + 1))[: len(password)]
    length = len(password)
    while length:
        start += b"\0" if length & 1 else password[:1]
        length >>= 1
    made = md5(start, usedforsecurity=False).digest()
    for turn in range(1000):
        said = (password if turn & 1 else made) + (salt if turn % 3 else b"") + (password if turn % 7 else b"")
        made = md5(said + (made if turn & 1 else password), usedforsecurity=False).digest()
    text = b""
    for a, b, c in ((0, 6, 12), (1, 7, 13), (2, 8, 14), (3, 9, 15), (4, 10, 5)):
        text += _base64(made[a] << 16 | made[b] << 8 | made[c], 4)
    return _APR1 + salt + b"$" + text + _base64(made[11], 2)


def _base64(number: int, digits: int) -> bytes:
    return bytes(_ALPHABET[number >> (6 * at) & 63] for at in range(digits))
