"""Three network namespaces in a row, client - gateway - server, and what may be laid in the gateway's.

Everything carries the name of the process that made it, so that runs side by side do not meet and what a killed run
left behind is recognised, and removed, by the next one.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

PREFIX = "lglab"
ETC, RUN = Path("/etc/netns"), Path("/run/netns")
LAN4, LAN6, WAN4, WAN6 = "10.61.1", "fd61:1::", "10.61.2", "fd61:2::"
BLACKHOLE_PORT = 9
"""The server drops what arrives here: a connection attempt hears nothing until it times out."""

SERVER = (f"{WAN4}.2", f"{WAN6}2")
NAMES: dict[str, tuple[str, ...]] = {
    "localhost": ("127.0.0.1", "::1"),
    "origin.test": SERVER,
    "www.origin.test": SERVER,
    "v4.origin.test": SERVER[:1],
    "v6.origin.test": SERVER[1:],
    "alt.test": (f"{WAN4}.3", f"{WAN6}3"),
    "xn--mnchen-3ya.test": SERVER,
    "bad.test": SERVER,
    "gateway.test": (f"{LAN4}.1", f"{LAN6}1"),
}
"""/etc/hosts of all three. `alt.test` is the server's second address; `bad.test` is in no good certificate."""

PATIENCE = float(os.environ.get("LOCKGATE_PATIENCE", "1"))
"""Times as long is waited for everything: for machines that are slow throughout, such as an emulated one."""

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000


def wait_for(condition: Callable[[], bool], timeout: float, what: str) -> None:
    """Poll until the condition holds. Raises TimeoutError naming `what`."""
    timeout *= PATIENCE
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(0.01)


def end_process(process: subprocess.Popen[bytes], grace: float = 3.0) -> None:
    """End a process started by `Host.popen`, with what it started in its session. No error if it is gone."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Host:
    """One of the three machines: a network namespace with its own hosts and resolv.conf."""

    def __init__(self, role: str, name: str, v4: str, v6: str) -> None:
        self.role, self.name, self.v4, self.v6 = role, name, v4, v6
        self.processes: list[subprocess.Popen[bytes]] = []

    def __repr__(self) -> str:
        return f"<{self.role} {self.v4} {self.v6}>"

    # -- commands
    def popen(
        self,
        command: Sequence[str | Path],
        *,
        output: IO[bytes] | int = subprocess.DEVNULL,
        errors: IO[bytes] | int = subprocess.STDOUT,
        stdin: int = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command here, in a session of its own. What still runs when the lab ends is ended then.

        `.pid` is that of the command itself (`ip netns exec` replaces itself by it).
        """
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.name, *map(str, command)],
            stdin=stdin, stdout=output, stderr=errors, env=clean_environment() if env is None else env, cwd=cwd,
            start_new_session=True,
        )  # fmt: skip
        self.processes = [p for p in self.processes if p.poll() is None] + [process]
        return process

    def run(
        self,
        command: Sequence[str | Path],
        *,
        timeout: float = 20.0,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command here to its end; texts are decoded leniently.

        Raises subprocess.TimeoutExpired (the command and its children are killed first) and, with `check`,
        subprocess.CalledProcessError.
        """
        stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
        process = self.popen(command, output=subprocess.PIPE, errors=subprocess.PIPE, stdin=stdin, env=env, cwd=cwd)
        try:
            out, err = process.communicate(None if input is None else input.encode(), timeout * PATIENCE)
        except subprocess.TimeoutExpired as late:
            end_process(process, grace=0)
            late.stdout, late.stderr = process.communicate()
            raise
        done = subprocess.CompletedProcess(
            list(map(str, command)), process.returncode, out.decode(errors="replace"), err.decode(errors="replace")
        )
        if check:
            done.check_returncode()
        return done

    def python(self, code: str, *arguments: str, timeout: float = 20.0) -> subprocess.CompletedProcess[str]:
        """Run Python source here with the interpreter of the tests (so with `requests`, `h2`, ...)."""
        return self.run([sys.executable, "-c", code, *arguments], timeout=timeout)

    # -- the calling thread as a part of this host
    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread works in this network: a socket made meanwhile belongs to it for good.

        Never hold it over an `await`. Names are resolved by the real /etc/hosts here: use addresses (see `resolve`).
        """
        with open("/proc/thread-self/ns/net", "rb") as home, open(RUN / self.name, "rb") as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def connect(
        self, to: str, port: int, *, family: int | None = None, source_port: int = 0, timeout: float = 5.0
    ) -> socket.socket:
        """A TCP connection from here, as a blocking socket of the test process; `family` is 4, 6 or None."""
        address = resolve(to, family)
        with self.inside():
            return socket.create_connection((address, port), timeout, ("", source_port) if source_port else None)

    def udp(self, to: str, port: int, *, family: int | None = None, timeout: float = 5.0) -> socket.socket:
        """A connected UDP socket from here."""
        address = resolve(to, family)
        with self.inside():
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(timeout)
        sock.connect((address, port))
        return sock

    def listening(self, protocol: str = "tcp") -> set[int]:
        """Ports on which something listens here (or, for "udp", is bound), IPv4 and IPv6."""
        with self.inside():
            tables = [Path(f"/proc/thread-self/net/{protocol}{six}").read_text() for six in ("", "6")]
        rows = [line.split() for table in tables for line in table.splitlines()[1:]]
        return {int(row[1].rsplit(":", 1)[1], 16) for row in rows if protocol == "udp" or row[3] == "0A"}

    def sysctl(self, name: str, value: int) -> None:
        with self.inside():
            Path("/proc/sys", name.replace(".", "/")).write_text(str(value))


class Network:
    """The three hosts and the two wires. `close()` removes all of it; nothing is forwarded unless `forwarding()`."""

    def __init__(self) -> None:
        sweep()
        self.tag = f"{PREFIX}-{os.getpid()}-{_birth(os.getpid())}"
        self.scratch = Path(tempfile.gettempdir(), self.tag)
        self.client = Host("client", f"{self.tag}-client", f"{LAN4}.2", f"{LAN6}2")
        self.gateway = Host("gateway", f"{self.tag}-gateway", f"{LAN4}.1", f"{LAN6}1")
        self.server = Host("server", f"{self.tag}-server", *SERVER)
        self.hosts = (self.client, self.gateway, self.server)
        self._tables = itertools.count(1)
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        self.scratch.mkdir(mode=0o755)
        hosts = "".join(f"{address} {name}\n" for name, addresses in NAMES.items() for address in addresses)
        for host in self.hosts:
            with _signals_later():  # one while it is started could leave behind what nobody knows of
                _ip(["netns", "add", host.name])
            etc = ETC / host.name
            etc.mkdir(parents=True)
            (etc / "hosts").write_text(hosts)
            # Nobody listens there: a name that is not in the table fails at once instead of after a timeout.
            (etc / "resolv.conf").write_text("nameserver 127.0.0.1\n")
            for key in ("ipv4.conf.all.rp_filter", "ipv4.conf.default.rp_filter", "ipv4.ip_forward",
                        "ipv6.conf.all.forwarding", "ipv6.conf.default.accept_dad",
                        "ipv6.conf.default.accept_ra"):  # fmt: skip
                host.sysctl(f"net.{key}", 0)
        c, g, s = (host.name for host in self.hosts)
        _ip(["link", "add", "eth0", "netns", c, "type", "veth", "peer", "name", "lan0", "netns", g])
        _ip(["link", "add", "eth0", "netns", s, "type", "veth", "peer", "name", "wan0", "netns", g])
        ends = {
            c: [("eth0", f"{LAN4}.2/24", f"{LAN6}2/64")],
            g: [("lan0", f"{LAN4}.1/24", f"{LAN6}1/64"), ("wan0", f"{WAN4}.1/24", f"{WAN6}1/64")],
            s: [("eth0", f"{WAN4}.{i}/24", f"{WAN6}{i}/64") for i in (2, 3)],
        }
        for name, addresses in ends.items():
            lines = ["link set lo up", *(f"link set {device} up" for device in {a[0] for a in addresses})]
            lines += [f"addr add {four} dev {device}" for device, four, _ in addresses]
            lines += [f"addr add {six} dev {device} nodad" for device, _, six in addresses]
            if name != g:
                four, six = (LAN4, LAN6) if name == c else (WAN4, WAN6)
                lines += [f"route add default via {four}.1", f"route add default via {six}1"]
            _ip(["-n", name, "-batch", "-"], "\n".join(lines))
        self._nft(
            self.server,
            f"""table inet {PREFIX} {{
            chain input {{
                type filter hook input priority filter
                tcp dport {BLACKHOLE_PORT} drop
            }}
        }}""",
        )

    def close(self) -> None:
        """End every process of the lab and remove namespaces, their /etc files and the scratch directory."""
        for host in reversed(self.hosts):
            for process in host.processes:
                end_process(process, grace=1)
        for host in self.hosts:
            _remove(host.name)
        shutil.rmtree(self.scratch, ignore_errors=True)

    # -- what the gateway does with the client's packets
    @contextlib.contextmanager
    def forwarding(self) -> Iterator[None]:
        """The gateway routes between its wires, IPv4 and IPv6, while the block runs."""
        keys = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")
        try:
            for key in keys:
                self.gateway.sysctl(key, 1)
            yield
        finally:
            for key in keys:
                self.gateway.sysctl(key, 0)

    @contextlib.contextmanager
    def redirect(
        self, port: int, capture: str = "redirect", *, only: Sequence[int] = (), udp: bool = False
    ) -> Iterator[None]:
        """The client's TCP (IPv4 and IPv6, to anywhere but the gateway itself) reaches the gateway's `port`.

        capture="redirect": NAT; the wanted address is SO_ORIGINAL_DST. capture="tproxy": mark 1 and table 100; it is
        the accepted socket's own address. `only` limits it to these destination ports; `udp` takes UDP as well.
        """
        if capture not in ("redirect", "tproxy"):
            raise ValueError(f"capture is redirect or tproxy, not {capture!r}")
        table = f"{PREFIX}{next(self._tables)}"
        kind, verdict = "nat hook prerouting priority dstnat", f"redirect to :{port}"
        if capture == "tproxy":
            kind, verdict = "filter hook prerouting priority mangle", f"tproxy to :{port} meta mark set 1 accept"
        protocols = "{ tcp, udp }" if udp else "tcp"
        ports = f"th dport {{ {', '.join(map(str, only))} }}" if only else ""
        match = f'iifname "lan0" fib daddr type != {{ local, broadcast, multicast }} meta l4proto {protocols} {ports}'
        with contextlib.ExitStack() as undo:
            for family in ("-4", "-6") if capture == "tproxy" else ():
                for what in ("rule {} fwmark 1 lookup 100", "route {} local default dev lo table 100"):
                    ip = ["-n", self.gateway.name, family]
                    _ip([*ip, *what.format("add").split()])
                    undo.callback(_ip, [*ip, *what.format("del").split()])
            self._nft(
                self.gateway,
                f"""table inet {table} {{
                chain prerouting {{
                    type {kind}
                    {match} {verdict}
                }}
            }}""",
            )
            undo.callback(self._nft, self.gateway, f"delete table inet {table}")
            yield

    def _nft(self, host: Host, rules: str) -> None:
        done = host.run(["nft", "-f", "-"], input=rules)
        if done.returncode:
            raise RuntimeError(f"nft: {done.stderr}\n{rules}")


def resolve(name: str, family: int | None = None) -> str:
    """An address of the lab's table, or the address itself. Raises KeyError for a name that has none such."""
    for address in NAMES.get(name, (name,)):
        if family is None or (":" in address) == (family == 6):
            return address
    raise KeyError(f"{name} has no IPv{family} address")


def clean_environment() -> dict[str, str]:
    """The tester's environment without what would steer network programs: proxies, roots, key logs, our own."""
    steering = re.compile(".*_proxy|ssl.*|curl_.*|requests_ca_bundle|lockgate_.*", re.IGNORECASE)
    return {name: value for name, value in os.environ.items() if not steering.fullmatch(name)}


def missing(tools: Sequence[str]) -> str:
    """Why the lab cannot be built on this machine, "" if it can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces need Linux"
    if os.geteuid():
        return "the lab needs root (network namespaces)"
    absent = [tool for tool in tools if not shutil.which(tool)]
    if absent:
        return f"not installed: {', '.join(absent)}"
    probe = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True)
    return f"no network namespaces here: {probe.stderr.strip()}" if probe.returncode else ""


def sweep() -> None:
    """Remove what runs that no longer live have left: processes in their namespaces, namespaces, files."""
    temporary = Path(tempfile.gettempdir())
    found = {path.name for place in (RUN, ETC, temporary) if place.is_dir() for path in place.glob(f"{PREFIX}-*-*")}
    for name in found:
        _, pid, birth, *_ = name.split("-")
        if not pid.isdigit() or _birth(int(pid)) == birth:
            continue
        _remove(name)
        shutil.rmtree(temporary / name, ignore_errors=True)


def _remove(namespace: str) -> None:
    if (RUN / namespace).exists():
        pids = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True).stdout.split()
        for pid in map(int, pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", namespace], capture_output=True)
    shutil.rmtree(ETC / namespace, ignore_errors=True)
    with contextlib.suppress(OSError):
        ETC.rmdir()  # only when nobody else has anything in it


def _birth(pid: int) -> str:
    """When a process began, in ticks after boot ("" if there is none): with the pid, unique on this machine."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


@contextlib.contextmanager
def _signals_later() -> Iterator[None]:
    """Those that are to end this process come behind the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ip(arguments: Sequence[str], batch: str = "") -> None:
    done = subprocess.run(["ip", *arguments], input=batch, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}\n{batch}")
