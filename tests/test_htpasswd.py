"""Hashes as other programs write them, and files that are not as they should be."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import htpasswd
from appliance.htpasswd import Htpasswd, apr1, verify

BCRYPT = b"$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"
"""crypt_blowfish's own test vector, of "U*U"."""


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize("flag", ["-apr1", "-1", "-5", "-6"])
@pytest.mark.parametrize("password", ["x", "secret", "grüße", "a password of more than sixteen bytes", "p:a$s s"])
def test_what_openssl_writes(flag: str, password: str) -> None:
    made = subprocess.run(["openssl", "passwd", flag, "-salt", "sAlt.1", "-stdin"], input=password + "\n",
                          capture_output=True, text=True, check=True, timeout=20).stdout.strip().encode()  # fmt: skip
    assert htpasswd.known(made) and verify(password.encode(), made)
    assert not verify(password.encode() + b"x", made) and verify(b"", made) is not bool(password)
    if flag == "-apr1":
        assert apr1(password.encode(), b"sAlt.1") == made


def test_bcrypt_and_sha() -> None:
    assert verify(b"U*U", BCRYPT) and not verify(b"U*V", BCRYPT)
    assert verify(b"U*U", BCRYPT.replace(b"$2a$", b"$2y$"))  # what `htpasswd -B` calls it
    assert verify(b"password", b"{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=")
    assert not verify(b"passwore", b"{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=")


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=40),
    st.sampled_from([b"$2y$05$", b"$6$x$", b"$apr1$", b"{SHA}", b"$y$", b"", b"*0"]),
    st.binary(),
)
def test_any_hash_and_password_is_just_wrong(password: bytes, kind: bytes, rest: bytes) -> None:
    assert verify(password, kind + rest) is False or kind in (b"$apr1$",)


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_bytes(b"# people\n\r\nann:%b\r\n b\xc3\xb6b:%b\n" % (BCRYPT, apr1(b"x:y", b"salt")))
    file = Htpasswd(path)
    assert file.check(b"ann", b"U*U") and file.check("böb".encode(), b"x:y")
    assert not file.check(b"ann", b"x:y") and not file.check(b"eve", b"U*U") and not file.check(b"", b"")
    assert not file.check(b"ann", b"U*U\0x")


@pytest.mark.parametrize(("text", "why"), [
    (b"", "nobody"), (b"# nobody\n", "nobody"), (b"ann\n", "line 1 is not NAME:HASH"), (b"\n:x", "line 2 is not"),
    (b"ann:plain\n", "line 1: the password is not hashed"), (b"ann:rqXexS6ZhobKA\n", "not hashed"),
    (b"a:\n", "not hashed"),
    (b"a" * (1 << 20) + b":x", "over 1 MB"),
])  # fmt: skip
def test_files_that_are_refused(text: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=why) as caught:
        Htpasswd(path)
    assert "plain" not in str(caught.value).replace("the password", "")
    with pytest.raises(OSError):
        Htpasswd(tmp_path / "none")


def test_without_libcrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(htpasswd, "_libcrypt", lambda: None)
    assert not htpasswd.known(BCRYPT) and not verify(b"U*U", BCRYPT) and htpasswd.known(b"{SHA}x")
