"""`lockgate wireguard`."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from appliance.cli.main import main
from modes.wireguard.book import Book
from modes.wireguard.config import encode_key
from modes.wireguard.noise import PrivateKey


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    def call(*words: str) -> tuple[int, str, str]:
        code = main(["wireguard", *words, "--set", f"confdir={tmp_path}"])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_the_life_of_a_peer(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, err = run("add", "phone", "--label", "Anna's", "--expires", "2d", "--endpoint", "lab.example")
    assert code == 0 and "wireguard.conf: made" in err and "Endpoint = lab.example:51820" in out
    peer = Book(tmp_path / "wireguard.conf").load().peers[0]
    assert abs(peer.expires - time.time() - 2 * 86400) < 60
    code, out, _ = run("peers")
    assert code == 0 and "phone  Anna's  10.87.0.2, fd" in out and "never" in out
    assert run("show", "phone")[1].startswith("[Interface]")
    assert "█" in run("qr", "phone")[1]
    for name in ("phone.png", "phone.svg"):
        assert run("qr", "phone", "-o", str(tmp_path / name))[0] == 0
        made = (tmp_path / name).stat()
        assert made.st_size > 1000 and made.st_mode & 0o777 == 0o600
    assert run("remove", "phone")[0] == 0
    assert "has no peers" in run("peers")[2]


def test_init_and_split_tunnel(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert "public key" in run("init", "--endpoint", "gw", "--port", "5")[1]
    out = run("add", "a", "--route", "192.168.7.0/24", "--route", "fd07::/64", "--no-psk",
              "--public-key", encode_key(PrivateKey().public))[1]  # fmt: skip
    assert "AllowedIPs = 192.168.7.0/24, fd07::/64, 10.87.0.1/32" in out and "Endpoint = gw:5" in out
    assert not (tmp_path / "wireguard.conf.d").exists()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["add", "a b"], 1, "no name for a peer"),
        (["add", "a", "--expires", "soon"], 2, "neither a time"),
        (["add", "a", "--expires", "2001-01-01"], 2, "is past"),
        (["add", "a", "--public-key", "x"], 2, "--public-key: this is no key"),
        (["remove", "nobody"], 1, "there are: kept"),
        (["show", "nobody"], 1, "no peer named nobody; there are: kept"),
        (["show", "own"], 1, "whoever made its key has it"),
        (["init", "--port", "99999"], 2, "99999 is no port"),
        *(
            (["add", "a", "--endpoint", text], 1, "is no endpoint: write HOST")
            for text in ("host name", "h:99999", "h:", "a:b:c", "h\nX = y", "[h]:5", "[::g]:5", ":5")
        ),
        (["qr", "kept", "-o", "x.gif"], 2, ".png or .svg"),
        (["qr", "kept", "-o", "/no/such/x.png"], 1, "cannot be written"),
    ],
)
def test_faults(run, words: list[str], code: int, says: str) -> None:  # type: ignore[no-untyped-def]
    run("add", "kept")
    run("add", "own", "--public-key", encode_key(PrivateKey().public))
    found, _, err = run(*words)
    assert found == code and says in err, err
