"""appliance/net/portholder.py."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.net.portholder import in_use, who_holds


@contextmanager
def listening(host: str) -> Iterator[int]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as held:
        held.bind((host, 0))
        held.listen()
        yield held.getsockname()[1]


@pytest.mark.parametrize(
    ("held", "wanted"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", ""),
        ("127.0.0.1", "0.0.0.0"),
        ("127.0.0.1", "::"),
        ("0.0.0.0", "127.0.0.1"),
        ("::1", "::1"),
        ("::", "127.0.0.1"),
        ("::", "0.0.0.0"),
        ("::1", "::"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
    ],
)
def test_holder_is_named(held: str, wanted: str) -> None:
    with listening(held) as port:
        text = who_holds(wanted, port)
    assert text is not None and text.endswith(f"(pid {os.getpid()})")


@pytest.mark.parametrize(
    ("held", "wanted"), [("127.0.0.1", "127.0.0.2"), ("127.0.0.1", "::1"), ("::1", "127.0.0.1"), ("0.0.0.0", "::1")]
)
def test_others_do_not_stand_in_the_way(held: str, wanted: str) -> None:
    with listening(held) as port:
        assert who_holds(wanted, port) is None


def test_nobody() -> None:
    with listening("127.0.0.1") as port:
        pass
    assert who_holds("127.0.0.1", port) is None
    assert "is in use; listen elsewhere" in in_use("127.0.0.1", port)


def test_connections_are_no_listeners() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    with server, socket.create_connection(server.getsockname()) as client:
        assert who_holds("127.0.0.1", client.getsockname()[1]) is None


def test_another_program_with_its_arguments() -> None:
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "a\nb"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        text = in_use("", port)
        other.kill()
    assert text.startswith(f"*:{port} is in use by python")
    assert f"(pid {other.pid})" in text and "\n" not in text
    assert f"listen elsewhere with -p {port + 1}, " in text or "listen elsewhere with -p " in text


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_of_another_user() -> None:
    # Once before, because the other user may not be able to read the interpreter's own files.
    code = "import os, sys; from appliance.net.portholder import who_holds; who_holds('', 1); "
    code += "os.setgid(65534); os.setuid(65534); print(who_holds('', int(sys.argv[1])))"
    with listening("127.0.0.1") as port:
        command = [sys.executable, "-c", code, str(port)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout == "a process of another user (run with sudo to see it)\n"
