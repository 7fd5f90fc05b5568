"""Starting, stopping, reloading: signals, ports, flags, files."""

from __future__ import annotations

import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.lab.bytes_on_wire import get, read_all
from tests.lab.gateway_proc import LOCKGATE, ROOT
from tests.lab.labkit import ECHO, HTTP, HTTPS, Lab
from tests.lab.netns import clean_environment, wait_for
from tests.lab.witness import connect, issuer_of, read_head, read_response, status, subject_of, tunnel


def test_sigterm_with_open_connections(lab: Lab) -> None:
    """Idle, in the middle of a request, of a response, of a tunnel, of TLS: all end, soon and with 0."""
    addon = "def done():\n    print('said goodbye', flush=True)\n"
    gateway = lab.gateway_proc("-m", "regular@8090", "-m", "transparent@8091", addon=addon)
    with gateway, lab.redirect(8091, only=[ECHO]):
        idle = connect(lab, port=8090)
        begun = connect(lab, port=8090)
        begun.sendall(b"GET http://origin.te")
        waiting = connect(lab, port=8090)
        waiting.sendall(get("http://origin.test:8000/slow?head=-1").replace(b"test\r", b"test:8000\r"))
        streaming = tunnel(lab, "origin.test", HTTP, proxy=8090)
        streaming.sendall(get("/sse?n=1000&ms=50"))
        assert status(read_head(streaming)) == 200
        raw = lab.connect(port=ECHO)
        raw.sendall(b"\0hello")
        assert raw.recv(10) == b"\0hello"
        tls = lab.connect_tls(ca=gateway.ca, over=tunnel(lab, "origin.test", HTTPS, proxy=8090))
        begun_at = time.monotonic()
        output = gateway.stop()
        assert time.monotonic() - begun_at < 5
        for sock in (idle, begun, waiting, streaming, raw, tls):
            sock.settimeout(2)
            try:
                read_all(sock)
            finally:
                sock.close()
    assert "said goodbye" in output
    assert "Traceback" not in output
    assert re.search(r"^In \d+ s: 6 connections", output, re.MULTILINE), output


def test_sigterm_while_an_addon_never_returns(lab: Lab) -> None:
    addon = "import asyncio\nasync def request(flow):\n    await asyncio.sleep(3600)\n"
    with lab.gateway_proc("-p", "8090", addon=addon) as gateway, connect(lab, port=8090) as sock:
        sock.sendall(get(f"http://origin.test:{HTTP}/x").replace(b"test\r", b"test:8000\r"))
        time.sleep(0.2)
        began = time.monotonic()
        gateway.stop()
        assert time.monotonic() - began < 5
    assert "Traceback" not in gateway.output


def test_sigint_prints_totals(lab: Lab) -> None:
    with lab.gateway_proc("-p", "8090") as gateway:
        lab.curl(f"http://origin.test:{HTTP}/x", via=gateway)
        lab.curl(f"http://origin.test:{HTTP}/y", via=gateway)
        gateway.signal(signal.SIGINT)
        assert gateway.process.wait(5) == 0
    assert re.search(r"^In \d+ s: 2 connections, 2 flows\.$", gateway.output, re.MULTILINE), gateway.output


def test_second_signal_forces(lab: Lab) -> None:
    addon = "import time\ndef request(flow):\n    time.sleep(30)\n"
    gateway = lab.gateway_proc("-p", "8090", addon=addon)
    try:
        with connect(lab, port=8090) as sock:
            sock.sendall(get(f"http://origin.test:{HTTP}/x").replace(b"test\r", b"test:8000\r"))
            time.sleep(0.3)
            gateway.signal(signal.SIGINT)
            time.sleep(0.1)
            gateway.signal(signal.SIGINT)
            assert gateway.process.wait(5) == 130
    finally:
        gateway.kill()


def configured(lab: Lab, name: str, text: str) -> Path:
    """A configuration directory with this config.yaml (and an EC key: it is quicker to make)."""
    confdir = lab.scratch / name
    confdir.mkdir()
    (confdir / "config.yaml").write_text("ca_key: ec\n" + text)
    return confdir


def test_reload_applies_and_drops_nothing(lab: Lab) -> None:
    confdir = configured(lab, "reload", "")
    with lab.gateway_proc("-p", "8090", confdir=confdir) as gateway:

        def signer() -> str:
            with lab.connect_tls(ca=False, over=tunnel(lab, "origin.test", HTTPS, proxy=8090)) as tls:
                return issuer_of(tls.getpeercert(binary_form=True) or b"")

        assert signer() == subject_of(gateway.ca)
        with lab.connect_tls(ca=gateway.ca, over=tunnel(lab, "origin.test", HTTPS, proxy=8090)) as tls:
            tls.sendall(get("/x"))
            assert status(read_response(tls)[0]) == 200
            (confdir / "config.yaml").write_text("ca_key: ec\nignore_hosts:\n  - '^origin\\.test:'\n")
            gateway.signal(signal.SIGHUP)
            gateway.wait_output("configuration reloaded")
            assert signer() == subject_of(lab.root)
            tls.sendall(get("/y"))  # what was open stays as it was decided
            assert status(read_response(tls)[0]) == 200


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ignore_hosts: ['(']\n", "regular expression"),
        ("ignor_hosts: []\n", "ignore_hosts"),
        (": : [\n", "config.yaml"),
    ],
)
def test_bad_reload_changes_nothing(lab: Lab, text: str, says: str) -> None:
    confdir = configured(lab, f"bad-reload-{says.split()[0]}", "ignore_hosts: ['nobody']\n")
    with lab.gateway_proc("-p", "8090", confdir=confdir) as gateway:
        (confdir / "config.yaml").write_text("ca_key: ec\n" + text)
        gateway.signal(signal.SIGHUP)
        line = gateway.wait_output(r"^.*reload refused.*(\n.*)?")[0]
        assert says in line
        assert lab.curl(f"https://origin.test:{HTTPS}/x", via=gateway).status == 200


def test_script_is_reloaded_when_it_changes(lab: Lab) -> None:
    script = lab.scratch / "changing.py"
    script.write_text("def response(flow): flow.response.headers['x'] = 'one'\n")
    with lab.gateway_proc("-p", "8090", addon=script) as gateway:
        url = f"http://origin.test:{HTTP}/x"
        assert lab.curl(url, via=gateway).header("x") == "one"
        script.write_text("def response(flow): flow.response.headers['x'] = 'number two'\n")
        wait_for(lambda: lab.curl(url, via=gateway).header("x") == "number two", 5, "the new script")
        script.write_text("def response(flow):\n  oh no\n")
        gateway.wait_output("SyntaxError|invalid syntax")
        assert lab.curl(url, via=gateway).header("x") == "number two"


def test_a_folder_of_addons_changes_while_traffic_goes_on(lab: Lab) -> None:
    folder = lab.scratch / "folder"
    (folder / "pack").mkdir(parents=True)
    one = "def response(flow): flow.response.headers.add('x', '{}')\ndef done(): print('{} is done', flush=True)\n"
    (folder / "b.py").write_text(one.format("b", "b"))
    (folder / "pack" / "__init__.py").write_text("from .inner import response\n")
    (folder / "pack" / "inner.py").write_text(one.format("p1", "p1"))
    url = f"http://origin.test:{HTTP}/x"

    def said() -> list[str]:
        reply = lab.curl(url, via=gateway)
        assert reply.status == 200, reply.error
        return [value for name, value in reply.fields if name == "x"]

    with lab.gateway_proc("-p", "8090", "-s", str(folder)) as gateway:
        assert said() == ["b", "p1"]
        (folder / "a.py").write_text(one.format("a", "a"))
        (folder / "pack" / "inner.py").write_text(one.format("p 2", "p 2"))
        wait_for(lambda: said() == ["a", "b", "p 2"], 10, "a new file, and a package read again")
        (folder / "pack" / "inner.py").write_text("1 / 0\n")
        (folder / "b.py").unlink()
        gateway.wait_output("script not reloaded; the old one goes on", timeout=10)
        gateway.wait_output("b is done", timeout=10)
        wait_for(lambda: said() == ["a", "p 2"], 10, "what has gone is unloaded")
        assert "ZeroDivisionError" in gateway.output and "pack/inner.py" in gateway.output


def run(lab: Lab, *arguments: str) -> tuple[int, str]:
    """`lockgate run` with these arguments, to its end: code and output."""
    env = {**clean_environment(), "HOME": str(lab.scratch), "PYTHONPATH": str(ROOT)}
    done = lab.gateway.run([*LOCKGATE, "run", "--set", f"confdir={lab.scratch / 'confdir'}", *arguments], env=env)
    return done.returncode, done.stdout + done.stderr


def test_port_in_use_names_its_holder(lab: Lab) -> None:
    with lab.gateway_proc("-m", "regular@8090") as gateway:
        code, output = run(lab, "-m", "regular@8090", "--set", "control_socket=none")
    assert code != 0
    assert re.search(rf"8090 is in use by .*{gateway.process.pid}", output), output
    assert "Traceback" not in output


REFUSED: list[tuple[list[str], str]] = [
    (["--mode", "reverse:https://example.com"], "not yet"),
    (["--mode", "socks5"], "not yet"),
    (["--mode", "regularr"], "did you mean regular"),
    (["--web-port", "1"], "not yet"),
    (["--set", "keep_host_header"], "not yet"),
    (["-w", "/"], "save_stream_file: /: Is a directory"),
    (["--modify-headers", "/x"], "should be [/FILTER]/WHAT/REPLACEMENT"),
    (["--set", "stickyauth=~zz"], "there is no operator ~zz"),
    (["~q &"], "an expression is missing at character 5"),
    (["--set", "ignor_hosts=x"], "ignore_hosts"),
    (["--set", "tcp_timeout=soon"], "tcp_timeout"),
    (["--set", "body_size_limit=5x"], "not a size"),
    (["--ignore-hosts", "("], "not a regular expression"),
    (["-s", "/nowhere/script.py"], "/nowhere/script.py"),
    (["--certs", "/nowhere/cert.pem"], "/nowhere/cert.pem"),
    (["-m", "regular@8090", "-m", "transparent@8090"], "8090"),
    (["-m", "regular@192.0.2.7:8090"], "192.0.2.7"),
    (["-m", "regular@70000"], "regular@"),
]


@pytest.fixture(scope="module")
def refused(lab: Lab) -> list[tuple[int, str]]:
    """How each of these starts ended; some at a time, since starting Python takes a while."""
    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(lambda case: run(lab, *case[0]), REFUSED))


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=[" ".join(words) for words, _ in REFUSED])
def test_refused_with_a_reason(refused: list[tuple[int, str]], number: int) -> None:
    code, output = refused[number]
    assert code != 0
    assert REFUSED[number][1] in output
    assert "Traceback" not in output
    assert len(output.splitlines()) <= 6, output


def test_key_log(lab: Lab) -> None:
    """Both legs; by option and by environment. The lines are of the format Wireshark reads."""
    for number, how in enumerate(("option", "SSLKEYLOGFILE", "LOCKGATE_SSLKEYLOGFILE")):
        log = lab.scratch / f"keys{number}.log"
        options = {"tls_keylog_file": log} if how == "option" else {}
        env = {} if how == "option" else {how: str(log)}
        with lab.gateway_proc("-p", "8090", options=options, env=env) as gateway:
            assert lab.curl(f"https://origin.test:{HTTPS}/x", via=gateway).status == 200
            assert lab.curl(f"https://origin.test:{HTTPS}/x", "--tls-max", "1.2", via=gateway).status == 200
        lines = log.read_text().splitlines()
        for line in lines:
            assert re.fullmatch(r"[A-Z0-9_]+ [0-9a-f]{64} ([0-9a-f]{64}|[0-9a-f]{96})", line), line
        clients = {line.split()[1] for line in lines}
        assert len(clients) == 4  # two connections, two legs each
        assert {"CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0", "CLIENT_RANDOM"} <= {x.split()[0] for x in lines}
        assert log.stat().st_mode & 0o077 == 0


def test_quiet(lab: Lab) -> None:
    with lab.gateway_proc("-p", "8090", "-q") as gateway:
        assert lab.curl(f"http://origin.test:{HTTP}/x", via=gateway).status == 200
    assert gateway.output == ""


def test_ca_is_made_once(lab: Lab) -> None:
    confdir = configured(lab, "first-ca", "")
    with lab.gateway_proc("-p", "8090", confdir=confdir) as gateway:
        first = gateway.ca.read_bytes()
    with lab.gateway_proc("-p", "8090", confdir=confdir) as gateway:
        assert gateway.ca.read_bytes() == first
        assert lab.curl(f"https://origin.test:{HTTPS}/x", via=gateway).status == 200


def test_readable_ca_key_is_refused(lab: Lab) -> None:
    confdir = configured(lab, "open-key", "")
    with lab.gateway_proc("-p", "8090", confdir=confdir):
        pass
    for path in confdir.iterdir():
        if path.is_file() and b"PRIVATE KEY" in path.read_bytes():
            path.chmod(0o644)
    code, output = run(lab, "--set", f"confdir={confdir}", "-m", "regular@8090")
    assert code != 0
    assert "chmod" in output


def test_without_root(lab: Lab) -> None:
    """The regular mode needs no privilege at all."""
    confdir = lab.scratch / "unprivileged"
    confdir.mkdir()
    os.chown(confdir, 65534, 65534)
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    command = (*nobody, *LOCKGATE)
    if lab.gateway.run([*command, "--version"], env={**clean_environment(), "PYTHONPATH": str(ROOT)}).returncode:
        pytest.skip("nobody may not read this checkout")
    with lab.gateway_proc("-p", "8090", confdir=confdir, options={"ca_key": "ec"}, command=command) as gateway:
        assert lab.curl(f"https://origin.test:{HTTPS}/x", via=gateway).status == 200
