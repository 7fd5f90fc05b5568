"""`lockgate exec --join`: the traffic of a program goes to the gateway that runs, by its add-ons and policy."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.lab.gateway_proc import LOCKGATE, Gateway
from tests.lab.labkit import ECHO, HTTPS, Lab
from tests.lab.netns import wait_for
from tests.lab.rootless import unprivileged
from tests.lab.test_exec import Runner

ADDON = """
def response(flow):
    flow.response.headers["x-device"] = str(flow.client_conn.device)
    flow.response.headers["x-mode"] = flow.client_conn.proxy_mode.type_name
"""


@pytest.fixture(scope="module")
def run(lab: Lab, rootless: None) -> Runner:
    return Runner(lab)


@contextlib.contextmanager
def gateway(run: Runner, *words: str, root: bool = False) -> Iterator[Gateway]:
    """One that runs, the user's or root's, in the confdir of `run`, with its control socket there."""
    options = run.options(root)
    command = list(LOCKGATE) if root else unprivileged(LOCKGATE, run.home)
    made = run.lab.gateway_proc(
        "-m", "regular@10.61.1.1:8080", *words, confdir=options.pop("confdir"), options=options, trust=False,
        command=command, addon=ADDON,
    )  # fmt: skip
    with made:
        wait_for(lambda: any(run.home.glob("**/*.sock")), 10, "its control socket")
        yield made


def status(run: Runner, made: Gateway) -> dict[str, object]:
    words = [*LOCKGATE, "status", "--json", "--set", f"confdir={made.confdir}"]
    found: dict[str, object] = json.loads(run.lab.gateway.run(words, env=run.env()).stdout)
    return found


BOTH = f"""
import socket
for kind, host in ((socket.SOCK_STREAM, "10.61.2.2"), (socket.SOCK_DGRAM, "fd61:2::2")):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as sock:
        sock.settimeout(10)
        sock.connect((host, {ECHO}))
        sock.sendall(b"hello")
        print(sock.recv(99).decode())
"""


def test_its_flows_are_the_gateways(run: Runner) -> None:
    script = (
        f"dig +short alt.test; curl -sSi https://v4.origin.test:{HTTPS}/; {sys.executable} -c '{BOTH}'; kill -USR1 $$"
    )
    with gateway(run, "--set", "block_list=|~u /refused|403") as made:
        done = run(["sh", "-c", script], "--join")
        assert done.returncode == -10, done  # as the program has ended
        lines = done.stdout.splitlines()
        assert lines[0] == "10.61.2.3" and done.stdout.count("hello\n") == 2, done
        made.wait_output(r"sh-\d+ has joined over the control socket, by process \d+ of user 64242")
        assert any(line.startswith("x-device: sh-") for line in lines) and "x-mode: local" in lines
        made.wait_output(rf"GET https://10\.61\.2\.2:{HTTPS}/ 200")
        made.wait_output(r"192.0.0.2 dns A alt.test")
        assert "GET" not in done.stderr, done.stderr  # that is the gateway's to say
        # its policy
        done = run(["curl", "-sSi", f"https://v4.origin.test:{HTTPS}/refused"], "--join")
        assert " 403 " in done.stdout.splitlines()[0], done
        wait_for(lambda: len(status(run, made)["modes"]) == 1, 5, "who has left is forgotten")  # type: ignore[arg-type]


@pytest.mark.slow
def test_two_at_once_and_their_ends(run: Runner) -> None:
    lab = run.lab
    with gateway(run) as made:
        words = ["sh", "-c", "echo ready; read line; curl -sSi https://v4.origin.test:8001/"]
        both = [
            lab.gateway.popen(
                run.command(words, "--join", "-q"), output=subprocess.PIPE, stdin=subprocess.PIPE, env=run.env()
            )
            for _ in range(2)
        ]
        for process in both:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        modes = status(run, made)["modes"]
        assert [mode["type"] for mode in modes] == ["regular", "local", "local"]  # type: ignore[attr-defined]
        both[0].kill()
        both[0].communicate()
        wait_for(lambda: len(status(run, made)["modes"]) == 2, 5, "the killed one is forgotten")  # type: ignore[arg-type]
        said = both[1].communicate(b"\n", timeout=20)[0]
        assert f"x-device: sh-{both[1].pid}".encode() in said or b"x-device: sh-" in said
        assert b" 200 " in said.splitlines()[0]
        # what the gateway has of them
        files = made.open_files()
        for _ in range(3):
            assert run(["true"], "--join", "-q").returncode == 0
        wait_for(lambda: made.open_files() <= files, 5, "their descriptors are closed")


@pytest.mark.slow
def test_root_joins_a_users_gateway_and_a_user_roots(run: Runner) -> None:
    script = f"dig +short alt.test; curl -sS -o /dev/null -w '%{{http_code}}' https://v4.origin.test:{HTTPS}/"
    with gateway(run):
        words = run.command(["sh", "-c", script], "--join", root=True)
        words[words.index(f"confdir={run.confdir(root=True)}")] = f"confdir={run.confdir()}"
        done = run.lab.gateway.run(words, env=run.env())
        assert done.stdout.split() == ["10.61.2.3", "200"], done
    options = ("--set", "control_group=64242", "--set", f"control_socket={run.home / 'shared.sock'}")
    with gateway(run, *options, root=True):
        done = run(["sh", "-c", script], "--join", "--set", f"control_socket={run.home / 'shared.sock'}")
        assert done.stdout.split() == ["10.61.2.3", "200"], done


@pytest.mark.slow
def test_services_on_this_machines_loopback(run: Runner) -> None:
    with run.lab.gateway.inside():
        server = socket.create_server(("127.0.0.1", 5433))
    server.settimeout(20)

    def serve() -> None:
        with contextlib.suppress(OSError), server.accept()[0] as sock:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
            sock.recv(1000)

    with server, gateway(run):
        thread = threading.Thread(target=serve)
        thread.start()
        done = run(["curl", "-sS", "http://localhost:5433/"], "--join", "--set", "exec_host_ports=5433")
        thread.join()
        assert done.stdout == "hi", done.stderr


@pytest.mark.slow
def test_the_gateway_ends_first(run: Runner) -> None:
    with gateway(run) as made:
        words = run.command(["sh", "-c", "echo ready; read line; exit 3"], "--join")
        process = run.lab.gateway.popen(
            words, output=subprocess.PIPE, stdin=subprocess.PIPE, errors=subprocess.PIPE, env=run.env()
        )
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        made.stop()
    _, errors = process.communicate(b"\n", timeout=20)
    assert process.returncode == 3 and b"the gateway has ended" in errors, errors


def test_what_cannot_be(run: Runner) -> None:
    done = run(["true"], "--join")
    assert done.returncode == 1 and "no gateway runs with" in done.stderr, done
    for flags, text in (
        (("-s", "x.py"), "scripts: with --join the gateway that runs has its own options; `lockgate options set"),
        (("-w", "flows"), "lockgate flows export --format flows"),
        (("--pcap", "x"), "lockgate flows export --format pcapng"),
    ):
        done = run(["true"], "--join", *flags)
        assert done.returncode == 2 and text in done.stderr, done
    assert not os.path.exists(run.home / "x")
