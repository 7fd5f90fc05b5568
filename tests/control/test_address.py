"""Who may use the socket, whose it is, and what is left of it."""

from __future__ import annotations

import fcntl
import grp
import os
import signal
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from appliance.control.address import Claimed, connect, peer, permitted, socket_path
from appliance.control.protocol import ControlError
from appliance.exceptions import OptionsError
from appliance.options import Options

ROOT = Path(__file__).parents[2]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def wide_open() -> object:
    before = os.umask(0)
    yield
    os.umask(before)


def test_where_it_is(tmp_path: Path) -> None:
    assert socket_path(Options(confdir=str(tmp_path))) == tmp_path / "control.sock"
    assert socket_path(Options(confdir=str(tmp_path), control_socket="none")) is None
    assert socket_path(Options(control_socket="/run/x/y.sock")) == Path("/run/x/y.sock")


def test_nobody_else_may_use_it_whatever_the_umask(tmp_path: Path, wide_open: object) -> None:
    path = tmp_path / "new" / "control.sock"
    claimed = Claimed(path)
    assert mode(path) == 0o600 and mode(path.parent) == 0o700
    claimed.close()
    assert not path.exists()


def test_a_group_may_use_it(tmp_path: Path, wide_open: object) -> None:
    group = grp.getgrgid(os.getgid()).gr_name
    claimed = Claimed(tmp_path / "control.sock", group)
    assert mode(claimed.path) == 0o660 and claimed.path.stat().st_gid == os.getgid()
    claimed.close()
    claimed = Claimed(tmp_path / "control.sock", str(os.getgid()))
    assert claimed.closed_to(54321) is not None  # pytest's folder is private
    claimed.close()


def test_a_group_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="groupadd --system no-such-group"):
        Claimed(tmp_path / "control.sock", "no-such-group")
    assert not list(tmp_path.iterdir())


def test_a_live_one_is_refused_and_not_hurt(tmp_path: Path) -> None:
    claimed = Claimed(tmp_path / "control.sock")
    with pytest.raises(OptionsError, match=r"another gateway uses .*lockgate stop.*confdir=DIR"):
        Claimed(tmp_path / "control.sock")
    with connect(claimed.path, 5):
        pass
    claimed.close()


def test_a_live_one_that_does_not_answer_is_live(tmp_path: Path) -> None:
    """Its queue is full: connect() gives EAGAIN."""
    claimed = Claimed(tmp_path / "control.sock")
    waiting = []
    for _ in range(40):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        waiting.append(sock)
        if sock.connect_ex(str(claimed.path)):
            break
    else:
        pytest.fail("the queue was not full")
    with pytest.raises(OptionsError, match="another gateway"):
        Claimed(tmp_path / "control.sock")
    for sock in waiting:
        sock.close()
    claimed.close()


def test_what_kill_9_leaves_is_replaced(tmp_path: Path) -> None:
    source = (
        "import sys, time\nfrom appliance.control.address import *\n"
        "c = Claimed(Path(sys.argv[1]))\nprint(1, flush=True)\ntime.sleep(60)"
    )
    path = tmp_path / "control.sock"
    process = subprocess.Popen([sys.executable, "-c", source, path], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None and process.stdout.readline() == b"1\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    assert path.exists()
    with pytest.raises(ControlError, match=r"no gateway runs with .*lockgate run"):
        connect(path, 5)
    claimed = Claimed(path)
    connect(path, 5).close()
    claimed.close()


def test_one_of_many_that_start_at_once_wins(tmp_path: Path) -> None:
    Claimed(tmp_path / "control.sock").sock.close()  # stale

    def claim(_: int) -> Claimed | None:
        try:
            return Claimed(tmp_path / "control.sock")
        except OptionsError:
            return None

    with ThreadPoolExecutor(8) as pool:
        found = [claimed for claimed in pool.map(claim, range(8)) if claimed is not None]
    assert len(found) == 1
    connect(found[0].path, 5).close()
    found[0].close()


def test_somebody_who_locks_the_folder_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may read it can."""
    monkeypatch.setattr("appliance.control.address.LOCK_SECONDS", 0.05)
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    claimed = Claimed(tmp_path / "control.sock")
    with pytest.raises(OptionsError, match="another gateway"):
        Claimed(claimed.path)
    claimed.close()
    assert not claimed.path.exists()
    os.close(folder)


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "control.sock").write_text("mine")
    with pytest.raises(OptionsError, match="is no socket; move it away"):
        Claimed(tmp_path / "control.sock")
    assert (tmp_path / "control.sock").read_text() == "mine"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "control.sock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OptionsError, match="is no socket"):
        Claimed(tmp_path / "control.sock")
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_deeper_than_a_socket_name_may_be_long(tmp_path: Path) -> None:
    path = tmp_path.joinpath(*["a-folder-with-a-long-name"] * 6) / "control.sock"
    assert len(str(path)) > 108
    claimed = Claimed(path)
    connect(path, 5).close()
    claimed.close()
    assert not path.exists()


def test_closing_leaves_anothers_socket(tmp_path: Path) -> None:
    first = Claimed(tmp_path / "control.sock")
    os.unlink(first.path)
    second = Claimed(tmp_path / "control.sock")
    first.close()
    first.close()
    connect(second.path, 5).close()
    second.close()


def test_where_none_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OptionsError, match=r"cannot be made: .*control_socket=PATH"):
        Claimed(tmp_path / "file" / "control.sock")


def test_peers_are_known(tmp_path: Path) -> None:
    near, far = socket.socketpair(socket.AF_UNIX)
    assert peer(far) == (os.getpid(), os.getuid(), os.getgid())
    assert permitted(far, None)
    near.close()
    far.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_strangers_are_refused_even_where_the_file_is_open_to_them(tmp_path: Path) -> None:
    claimed = Claimed(tmp_path / "control.sock")
    os.chmod(claimed.path, 0o666)
    tmp_path.chmod(0o755)
    claimed.sock.setblocking(True)
    claimed.sock.settimeout(10)
    far = []
    for groups in ([], [4242]):
        # It goes to pytest's private folder before it becomes somebody else.
        become = f"os.chdir({str(tmp_path)!r}); os.setgroups({groups}); os.setgid(65534); os.setuid(65534)"
        source = f"import os, socket; {become}; s = socket.socket(1); s.connect('control.sock'); s.recv(1)"
        process = subprocess.Popen([sys.executable, "-S", "-c", source])
        far.append((claimed.sock.accept()[0], process))
    assert [permitted(sock, None) for sock, _ in far] == [False, False]
    assert [permitted(sock, 4242) for sock, _ in far] == [False, True]
    assert permitted(far[0][0], 65534)
    for sock, process in far:
        sock.close()
        process.wait(10)
    claimed.close()
