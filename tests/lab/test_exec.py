"""`lockgate exec`: whole programs, with nothing configured, as an unprivileged user."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from modes.firewall.plan import BEAT_TIMEOUT
from tests.lab.gateway_proc import LOCKGATE, ROOT
from tests.lab.labkit import ECHO, HTTP, HTTPS, Lab
from tests.lab.netns import clean_environment, end_process, wait_for
from tests.lab.recorder import Origins
from tests.lab.rootless import UID, unprivileged


class Runner:
    """Runs `lockgate exec` on the lab's gateway."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.home = lab.scratch / "exec-home"
        os.chmod(lab.scratch, 0o755)

    def options(self, root: bool = False) -> dict[str, Path | str]:
        roots = self.home / "root.pem"
        self.home.mkdir(exist_ok=True)
        shutil.copy(self.lab.root, roots)
        roots.chmod(0o644)
        return {"confdir": self.confdir(root), "ca_key": "ec", "ssl_verify_upstream_trusted_ca": roots}

    def confdir(self, root: bool = False) -> Path:
        return self.home / ("conf-root" if root else "conf")

    def command(self, words: Sequence[str | Path], *flags: str, root: bool = False) -> list[str]:
        settings = {"confdir": self.confdir(root)} if "--join" in flags else self.options(root)
        options = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        whole = [*LOCKGATE, "exec", *options, *flags, "--", *words]
        return [str(word) for word in (whole if root else unprivileged(whole, self.home))]

    def env(self) -> dict[str, str]:
        return {**clean_environment(), "HOME": str(self.home), "PYTHONPATH": str(ROOT)}

    def __call__(
        self, words: Sequence[str | Path], *flags: str, root: bool = False, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        return self.lab.gateway.run(self.command(words, *flags, root=root), env=self.env(), timeout=40, input=input)


@pytest.fixture(scope="module")
def run(lab: Lab, rootless: None) -> Runner:
    return Runner(lab)


SCRIPT = f"""
curl -sS --max-time 10 -o /dev/null -w '%{{http_code}} curl\\n' https://origin.test:{HTTPS}/c
curl -sS --max-time 10 -6 -o /dev/null -w '%{{http_code}} curl6\\n' https://v6.origin.test:{HTTPS}/c
{sys.executable} -c 'import requests; print(requests.get("https://origin.test:{HTTPS}/r").status_code, "requests")'
{sys.executable} -c 'import urllib.request as u; print(u.urlopen("https://origin.test:{HTTPS}/u").status, "urllib")'
node -e 'require("https").get("https://origin.test:{HTTPS}/n", r => (console.log(r.statusCode, "node"), r.resume()))'
env -u CURL_CA_BUNDLE -u SSL_CERT_FILE curl -sS -o /dev/null -w '%{{http_code}} store\\n' https://origin.test:{HTTPS}/s
env -u SSL_CERT_FILE openssl s_client -connect origin.test:{HTTPS} -verify_return_error </dev/null | grep 'return code'
dig +short origin.test
dig +short +tcp AAAA origin.test
curl -sS http://lockgate.internal/ | grep -c SHA-256
id -u
pwd
"""


def test_programs_with_nothing_configured(run: Runner, origins: Origins) -> None:
    done = run(["sh", "-c", SCRIPT])
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for line in ("curl", "curl6", "requests", "urllib", "node", "store"):
        assert f"200 {line}" in lines, (line, done)
    assert {"10.61.2.2", "fd61:2::2", "Verify return code: 0 (ok)", "1"} <= set(lines)
    assert str(UID) in lines and str(run.home) in lines
    assert len(re.findall(r"GET https://\S*:8001/\S* 200", done.stderr)) == 6
    assert len(origins.requests(HTTPS)) == 6
    assert re.search(r"192.0.0.2 dns A origin.test NOERROR 10.61.2.2", done.stderr)


def test_another_user_in_it_reads_what_it_is_shown_whatever_the_umask(run: Runner, origins: Origins) -> None:
    fetch = f"curl -sS -o /dev/null -w '%{{http_code}}' https://origin.test:{HTTPS}/u"
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c"]
    words.append(f"{fetch}; env -u CURL_CA_BUNDLE -u SSL_CERT_FILE {fetch}")
    command = run.command(words, root=True)
    done = run.lab.gateway.run(["sh", "-c", 'umask 077; exec "$@"', "sh", *command], env=run.env(), timeout=40)
    assert (done.returncode, done.stdout) == (0, "200200"), done


def test_what_it_is_shown_cannot_be_written(run: Runner) -> None:
    command = run.command(["true"], "--no-store")
    done = run.lab.gateway.run(["sh", "-c", 'ulimit -f 100; exec "$@"', "sh", *command], env=run.env(), timeout=40)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done
    assert re.search(r"lockgate: /\S*/lockgate-exec-\S*: cannot be written: File too large\n", done.stderr), done


JAVA = """
import java.net.URL;
import javax.net.ssl.HttpsURLConnection;
public class Get {
    public static void main(String[] args) throws Exception {
        HttpsURLConnection connection = (HttpsURLConnection) new URL(args[0]).openConnection();
        System.out.println(connection.getResponseCode() + " java");
    }
}
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("javac") is None, reason="needs a JDK (apt install default-jdk-headless)")
def test_java(run: Runner, tmp_path: Path) -> None:
    source = tmp_path / "Get.java"
    source.write_text(JAVA)
    subprocess.run(["javac", "-d", run.lab.scratch, source], check=True)
    done = run(["java", "-cp", run.lab.scratch, "Get", f"https://origin.test:{HTTPS}/j"])
    assert "200 java" in done.stdout, done
    assert "GET https://" in done.stderr and "/j 200" in done.stderr


STATIC = r"""
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
static void echo(int kind, const char *host, int port) {
    char got[16] = "";
    int six = strchr(host, ':') != 0, s = socket(six ? AF_INET6 : AF_INET, kind, 0);
    struct sockaddr_in to4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 to6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    inet_pton(AF_INET, host, &to4.sin_addr);
    inet_pton(AF_INET6, host, &to6.sin6_addr);
    if (connect(s, six ? (void *)&to6 : (void *)&to4, six ? sizeof to6 : sizeof to4)) perror(host);
    write(s, "hello", 5);
    read(s, got, 5);
    printf("%s %s %s\n", kind == SOCK_STREAM ? "tcp" : "udp", host, got);
    close(s);
}
int main(void) {
    alarm(10);
    echo(SOCK_STREAM, "10.61.2.2", PORT); echo(SOCK_STREAM, "fd61:2::2", PORT);
    echo(SOCK_DGRAM, "10.61.2.2", PORT); echo(SOCK_DGRAM, "fd61:2::2", PORT);
}
"""


def test_a_static_program_that_knows_no_proxy(run: Runner, tmp_path: Path) -> None:
    source, program = tmp_path / "static.c", run.lab.scratch / "static"
    source.write_text(STATIC)
    subprocess.run(["cc", "-static", f"-DPORT={ECHO}", "-o", program, source], check=True)
    done = run([program])
    expected = [f"{kind} {host} hello" for kind in ("tcp", "udp") for host in ("10.61.2.2", "fd61:2::2")]
    assert done.stdout.splitlines() == expected, done.stderr
    for kind in ("tcp", "udp"):
        assert len(re.findall(rf"{kind} \S*:{ECHO} \S+ up \S+ down", done.stderr)) == 2, done.stderr


GIT = """
import functools, http.server, ssl, sys
folder, port, cert, key = sys.argv[1:]
server = http.server.ThreadingHTTPServer(
    ("10.61.2.2", int(port)), functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder))
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


def test_git_clone(run: Runner, tmp_path: Path) -> None:
    lab = run.lab
    script = "git init -q w && cd w && echo hi >f && git add f && git -c user.name=a -c user.email=a@b commit -qm m && "
    script += "cd .. && git clone -q --bare w one.git && git -C one.git update-server-info"
    subprocess.run(["sh", "-c", script], cwd=tmp_path, check=True, env={**os.environ, "HOME": str(tmp_path)})
    server = lab.server.popen([sys.executable, "-c", GIT, tmp_path, "9443", lab.pki.good.cert, lab.pki.good.key])
    try:
        wait_for(lambda: 9443 in lab.server.listening(), 10, "the git server listens")
        done = run(["sh", "-c", "git clone -q https://v4.origin.test:9443/one.git cloned && cat cloned/f"])
    finally:
        end_process(server)
    assert (done.stdout, done.returncode) == ("hi\n", 0), done.stderr
    assert "/one.git/info/refs" in done.stderr


def test_exit_code_input_and_descriptors(run: Runner) -> None:
    done = run(["sh", "-c", "cat; cat /dev/fd/9 2>&1; echo two >&2; exit 3"], "-q", input="one\n")
    assert done.returncode == 3
    assert done.stdout.startswith("one\n") and "two\n" in done.stderr
    shell = " ".join(map(shlex.quote, run.command(["sh", "-c", "cat <&9"], "-q"))) + " 9<<END\nnine\nEND"
    assert run.lab.gateway.run(["sh", "-c", shell], env=run.env()).stdout == "nine\n"
    for words, code, text in (
        (["no-such-program"], 127, "no-such-program: No such file"),
        (["/etc"], 126, "/etc: Perm"),
    ):
        done = run(words)
        assert (done.returncode, text in done.stderr) == (code, True), done.stderr


def test_as_many_arguments_as_a_program_may_have(run: Runner) -> None:
    """`-- rm *.png`, in a large folder: more than a datagram may hold."""
    words = [f"{number:030}" for number in range(25000)]
    done = run(["sh", "-c", 'echo $# "$1"', "sh", *words], root=True)
    assert (done.returncode, done.stdout) == (0, f"25000 {words[0]}\n"), done.stderr


def test_a_proxy_in_the_environment_is_told_and_goes_on_working(run: Runner, origins: Origins) -> None:
    words = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://elsewhere.test/proxied"]
    command = ["env", f"http_proxy=http://10.61.2.2:{HTTP}", *run.command(words, root=True)]
    done = run.lab.gateway.run(command, env=run.env(), timeout=40)
    assert done.returncode == 0 and done.stdout.isdecimal(), done.stderr
    assert "http_proxy is set" in done.stderr and "https_proxy" not in done.stderr
    assert origins.received(HTTP).startswith(b"GET http://elsewhere.test/proxied HTTP/1.1\r\n")


def test_the_trust_store_holds_all_that_it_held(run: Runner) -> None:
    """Folders in it, too: the store of Debian's JDKs is in one. And our CA, by the name that OpenSSL looks for."""
    setup = (
        "set -e; aside=$(mktemp -d); cp -a /etc/ssl/certs/. $aside; mkdir -p $aside/mine/below; "
        "echo deep >$aside/mine/below/file; head -c 2000000 /dev/zero >$aside/large; chmod -R a+rX $aside; "
        'mount --bind $aside /etc/ssl/certs; ls /etc/ssl/certs; echo =; "$@" || true; rm -rf $aside'
    )
    words = ["sh", "-c", "ls /etc/ssl/certs; cat /etc/ssl/certs/mine/below/file >&2; wc -c </etc/ssl/certs/large >&2"]
    for root in (True, False):
        command = ["unshare", "--mount", "sh", "-c", setup, "sh", *run.command(words, "-q", root=root)]
        done = run.lab.gateway.run(command, env=run.env(), timeout=40)
        outside, _, inside = done.stdout.partition("=\n")
        assert done.stderr == "deep\n2000000\n"
        assert [name[-2:] for name in set(inside.split()) ^ set(outside.split())] == [".0"], done


def test_addon_and_flow_file(run: Runner) -> None:
    run.home.mkdir(exist_ok=True)
    addon = run.home / "addon.py"
    addon.write_text("def response(flow):\n    flow.response.headers['x-lab'] = 'seen'\n")
    done = run(["curl", "-sSi", f"https://v4.origin.test:{HTTPS}/"], "-q", "-s", str(addon), "-w", "flows")
    assert "x-lab: seen" in done.stdout and not done.stderr
    shown = run.lab.gateway.run([*LOCKGATE, "run", "-n", "-r", run.home / "flows"], env=run.env())
    assert "GET https://10.61.2.2:8001/ 200" in shown.stdout, shown


def test_it_is_intercepted_for_as_long_as_it_runs(run: Runner) -> None:
    """Longer than a gateway may be silent before a redirect of the host's is off."""
    script = f"sleep {BEAT_TIMEOUT + 1}; curl -sS -o /dev/null https://v4.origin.test:{HTTPS}/; dig +short alt.test"
    done = run(["sh", "-c", script])
    assert done.stdout.split() == ["10.61.2.3"] and "GET https://10.61.2.2:8001/" in done.stderr, done


@pytest.mark.slow
def test_ipv6_inside_and_none_upstream(run: Runner) -> None:
    """A connection by IPv6 would be accepted here, and IPv4 not be tried: so names have no such address."""
    six = ["ip", "-6", "route", "show", "fd61:2::/64"]
    words = run.lab.gateway.run(six, check=True).stdout.split()
    run.lab.gateway.run(["ip", "-6", "route", "del", *words], check=True)
    try:
        done = run(["sh", "-c", f"dig +short AAAA origin.test; curl -sS https://origin.test:{HTTPS}/ -o /dev/null"])
        assert (done.returncode, done.stdout) == (0, ""), done
        assert "origin.test is answered without fd61:2::2 and the like: no route for IPv6" in done.stderr
        done = run(["curl", "-sS", "-m", "9", "http://[fd61:2::2]:8000/"])
        assert "Network is unreachable" in done.stderr, done
    finally:
        run.lab.gateway.run(["ip", "-6", "route", "add", *words], check=True)


def test_packets_and_what_opens_them(run: Runner) -> None:
    done = run(
        ["sh", "-c", f"dig +short alt.test; curl -sS --http1.1 -o /dev/null https://v4.origin.test:{HTTPS}/"],
        "-q", "--pcap", "out.pcapng",
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done
    capture = run.home / "out.pcapng"
    assert capture.stat().st_mode & 0o777 == 0o600
    fields = ["-T", "fields", "-e", "ip.src", "-e", "ip.dst", "-e", "dns.qry.name", "-e", "http.host"]
    command = ["tshark", "-r", capture, "-d", f"tcp.port=={HTTPS},tls", *fields]
    shown = subprocess.run([*command, "-Y", "http.request"], capture_output=True, text=True)
    assert shown.stdout.split() == ["192.0.0.2", "10.61.2.2", f"v4.origin.test:{HTTPS}"], shown
    asked = subprocess.run([*command, "-Y", "dns.a == 10.61.2.3"], capture_output=True, text=True).stdout
    assert asked.split() == ["192.0.0.5", "192.0.0.2", "alt.test"]
    for version in ("1.2", "1.3"):  # the session's keys are known before what they open
        ends = run(
            ["curl", "-sS", "--http1.1", "-o", "/dev/null", f"--tlsv{version}", "--tls-max", version, f"https://v4.origin.test:{HTTPS}/"],
            "-q", "--pcap", "out.pcapng",
        )  # fmt: skip
        assert ends.returncode == 0
        shown = subprocess.run([*command, "-Y", "http.response.code == 200"], capture_output=True, text=True)
        assert "10.61.2.2" in shown.stdout, (version, shown)
    assert run(["true"], "--pcap", "/no/such/folder").returncode == 2


def test_services_on_this_machines_loopback(run: Runner) -> None:
    with run.lab.gateway.inside():
        server = socket.create_server(("127.0.0.1", 5432))
    server.settimeout(20)

    def serve() -> None:
        with contextlib.suppress(OSError), server.accept()[0] as sock:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
            sock.recv(1000)

    with server:
        thread = threading.Thread(target=serve)
        thread.start()
        done = run(["curl", "-sS", "http://localhost:5432/"], "--set", "exec_host_ports=5432")
        thread.join()
        assert done.stdout == "hi", done.stderr
        assert run(["curl", "-sS", "http://127.0.0.1:5432/"]).returncode == 7  # its own loopback, where nobody listens


def test_signals_and_terminal(run: Runner) -> None:
    trap = "trap 'echo got; exit 7' TERM; echo ready; while :; do sleep 0.02; done"
    process = run.lab.gateway.popen(run.command(["sh", "-c", trap]), output=subprocess.PIPE, env=run.env())
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == b"got\n" and process.returncode == 7
    process = run.lab.gateway.popen(run.command(["sh", "-c", "kill -USR1 $$"]), env=run.env())
    assert process.wait(20) == -signal.SIGUSR1  # as the program has ended
    # On a terminal Ctrl-C reaches the program, once, and nobody else minds.
    program = run.command([sys.executable, "-c", _COUNTS])
    words = ["script", "-qefc", "exec " + shlex.join(program), "/dev/null"]  # no shell between, which Ctrl-C ends
    env = {**run.env(), "SHELL": "/bin/sh"}
    process = run.lab.gateway.popen(words, output=subprocess.PIPE, stdin=subprocess.PIPE, env=env)
    assert process.stdout is not None and process.stdin is not None
    said = b""
    while b"ready" not in said:
        said += process.stdout.readline()
    process.stdin.write(b"\x03")
    process.stdin.flush()
    said += process.communicate(timeout=20)[0]
    assert b"True ready" in said and b"interrupted 1\r\n" in said, said
    assert process.returncode == 4, said


_COUNTS = """if True:  # not a shell: dash is ended by one that comes while it forks
    import os, signal, sys, time
    got = []
    signal.signal(signal.SIGINT, lambda *_: got.append(1))
    print(os.getppid(), os.isatty(0), "ready", flush=True)
    end = time.monotonic() + 2
    while time.monotonic() < end:
        time.sleep(0.05)
    print("interrupted", len(got))
    sys.exit(4)
"""


def test_a_signal_to_the_group_comes_once_to_the_program_though_the_gateway_is_late(run: Runner) -> None:
    process = run.lab.gateway.popen(
        run.command([sys.executable, "-c", _COUNTS]), output=subprocess.PIPE, env=run.env()
    )  # fmt: skip
    assert process.stdout is not None
    helper = int(process.stdout.readline().split()[0])
    gateway = int(Path(f"/proc/{helper}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(gateway, signal.SIGSTOP)
    try:
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(1)
    finally:
        os.kill(gateway, signal.SIGCONT)
    assert process.communicate(timeout=20)[0] == b"interrupted 1\n" and process.returncode == 4


@pytest.mark.parametrize(
    "victim",
    ["gateway", pytest.param("helper", marks=pytest.mark.slow), pytest.param("program ends", marks=pytest.mark.slow)],
)
def test_nothing_is_left(run: Runner, victim: str) -> None:
    before = set(Path("/tmp").glob("lockgate-exec-*"))
    mark = f"{time.time():.6f}"
    shell = f"(sleep {mark}; true) & " + ("sleep 2" if victim == "program ends" else f"sleep {mark}; true")
    process = run.lab.gateway.popen(run.command(["sh", "-c", shell], "--set", "flow_detail=0"), env=run.env())
    wait_for(lambda: any(name(pid) == "sleep" for pid in marked(mark)), 20, "the program runs")
    helpers = [pid for pid in marked("helper.py") if parent(pid) == process.pid]
    assert len(helpers) == 1
    if victim == "gateway":
        process.kill()
    elif victim == "helper":
        os.kill(helpers[0], signal.SIGKILL)
    code = process.wait(20)
    assert code == {"gateway": -9, "helper": 1, "program ends": 0}[victim]
    wait_for(lambda: not [pid for pid in marked(mark) if "sleep" in name(pid)], 10, "the program's processes are gone")
    wait_for(lambda: not Path(f"/proc/{helpers[0]}").exists(), 10, "the helper is gone")
    wait_for(lambda: set(Path("/tmp").glob("lockgate-exec-*")) <= before, 10, "its files are gone")


@pytest.mark.slow
def test_as_root_there_is_no_user_namespace(run: Runner) -> None:
    shell = f"cat /proc/self/uid_map; curl -sS -o /dev/null -w '%{{http_code}}' https://v4.origin.test:{HTTPS}/"
    done = run(["sh", "-c", shell], root=True)
    assert done.stdout.split() == ["0", "0", "4294967295", "200"], done.stderr


def test_user_namespaces_not_permitted(run: Runner, tmp_path: Path) -> None:
    shell = 'echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all --inh-caps=-all "$@"'
    words = [
        "unshare",
        "--user",
        "--map-root-user",
        "sh",
        "-c",
        shell,
        "sh",
        *run.command(["true"], "--set", f"confdir={tmp_path / 'c'}", root=True),
    ]
    done = run.lab.gateway.run(words, env=run.env())
    assert done.returncode == 1
    assert "sudo sysctl user.max_user_namespaces=" in done.stderr, done.stderr


def marked(text: str) -> list[int]:
    """Processes with this text in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if text.encode() in (folder / "cmdline").read_bytes() and folder.name != str(os.getpid()):
                found.append(int(folder.name))
    return found


def name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0
