"""The lab as tests see it: the `Lab` object behind the `lab` fixture. README.md shows how it is used."""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tests.lab import clients, netns, nginx
from tests.lab.clients import Page, Reply
from tests.lab.gateway_proc import LOCKGATE, ROOT, Gateway, ports_of
from tests.lab.netns import NAMES
from tests.lab.pki import Pair, Pki

TOOLS = ("ip", "nft", "nginx", "curl", "prlimit", "unshare")
ECHO, ECHO_TLS, GREETER, SILENT = 7000, 7001, 2525, 7002
HTTP, HTTPS, CHAINED = 8000, 8001, 8002
BAD = {"expired": 8011, "future": 8012, "wrong-name": 8013, "self-signed": 8014, "unknown-root": 8015,
       "incomplete": 8016}  # fmt: skip
"""Ports of `http` origins with a certificate that must not be accepted."""


class Lab:
    """Network, certificates and origins of one pytest process. Made once, by the `lab` fixture."""

    def __init__(self) -> None:
        self.net = netns.Network()
        self._sharing: list[Gateway] = []  # with the shared confdir, as long as they run
        try:
            self._fill()
        except BaseException:
            self.close()
            raise

    def _fill(self) -> None:
        self.client, self.gateway, self.server = self.net.hosts
        self.scratch = self.net.scratch
        names = [name for name in NAMES if name not in ("localhost", "gateway.test", "bad.test")]
        addresses = dict.fromkeys(a for name in ("origin.test", "alt.test") for a in NAMES[name])
        self.pki = Pki(self.scratch / "pki", ["origin.test", *names[1:], *addresses])
        self.root = self.pki.root
        self.control = self.scratch / "origins.sock"
        pairs = {HTTPS: self.pki.good, CHAINED: self.pki.chained}
        pairs |= {port: self.pki.bad[name] for name, port in BAD.items()}
        listeners = [f"echo:{ECHO}", f"udp-echo:{ECHO}", f"greeter:{GREETER}", f"silent:{SILENT}", f"http:{HTTP}",
                     f"echo:{ECHO_TLS}:{self.pki.good.cert}:{self.pki.good.key}",
                     *(f"http:{port}:{pair.cert}:{pair.key}" for port, pair in pairs.items())]  # fmt: skip
        arguments = [word for listener in listeners for word in ("--serve", listener)]
        ready = self._start_origins("origins", [*arguments, "--control", str(self.control)])
        nginx.start(self.server, self.scratch / "nginx", self.pki.good)
        ready()

    def close(self) -> None:
        self.net.close()

    # -- the way of the client's packets
    def forwarding(self) -> AbstractContextManager[None]:
        """The gateway routes (off otherwise, so that nothing gets past it unseen)."""
        return self.net.forwarding()

    def redirect(
        self, port: int = 8080, capture: str = "redirect", *, only: Sequence[int] = (), udp: bool = False
    ) -> AbstractContextManager[None]:
        """The client's connections reach the gateway's port: see `Network.redirect`."""
        return self.net.redirect(port, capture, only=only, udp=udp)

    # -- the gateway
    def gateway_proc(
        self,
        *arguments: str,
        addon: str | Path | None = None,
        options: Mapping[str, object] | None = None,
        confdir: Path | None = None,
        trust: Path | bool = True,
        ports: Sequence[int] | None = None,
        env: Mapping[str, str] | None = None,
        nofile: int | None = None,
        command: Sequence[str] = LOCKGATE,
        timeout: float = 15.0,
    ) -> Gateway:
        """Start `lockgate run ARGUMENTS` in the gateway's namespace and wait until it listens.

        Without a mode it is a regular proxy on port 8080 of the LAN address. `addon`: a script's path, or its source.
        `options`: each becomes `--set name=value`. `confdir`: one for the session by default, so that its CA is made
        once. `trust`: roots for upstream certificates; True is the lab's, False leaves the default. `ports`: to wait
        for, if the arguments do not tell. `nofile`: limit of open files.
        """
        words = list(arguments)
        if not any(word in ("-m", "--mode") or word.startswith("--mode=") for word in words):
            words += ["-m", f"regular@{self.gateway.v4}:{ports_of(words)[0]}"]
        shared = self.scratch / "confdir"
        confdir = confdir or shared
        settings: dict[str, object] = {"confdir": confdir, **(options or {})}
        self._sharing = [one for one in self._sharing if one.process.poll() is None]
        if confdir == shared and self._sharing:
            settings.setdefault("control_socket", "none")  # the first of two that share it has it
        if trust:
            settings.setdefault("ssl_verify_upstream_trusted_ca", self.root if trust is True else trust)
        for name, value in settings.items():
            words += ["--set", f"{name}={str(value).lower() if isinstance(value, bool) else value}"]
        if isinstance(addon, str):
            source, number = addon, len(list(self.scratch.glob("addon*.py")))
            addon = self.scratch / f"addon{number}.py"
            addon.write_text(source)
        if addon:
            words += ["-s", str(addon)]
        made = Gateway(
            self.gateway, [*command, "run", *words], ports=ports_of(words) if ports is None else ports,
            confdir=confdir, scratch=self.scratch, env=env, nofile=nofile, timeout=timeout,
        )  # fmt: skip
        if confdir == shared:
            self._sharing.append(made)
        return made

    # -- clients
    def curl(self, url: str, *arguments: str, via: Gateway | None = None, ca: Path | None = None, **more: Any) -> Reply:
        """curl in the client's namespace. `via`: through this regular proxy, trusting its CA; else the lab's root."""
        if via:
            more.setdefault("proxy", via.proxy)
        return clients.curl(self.client, url, *arguments, ca=ca or (via.ca if via else self.root), **more)

    def chromium(self, url: str, *, via: Gateway | None = None, ca: Path | None = None, **more: Any) -> Page:
        """Headless Chromium in the client's namespace; `via` and `ca` as with `curl`."""
        if via:
            more.setdefault("proxy", via.proxy)
        return clients.chromium(self.client, url, ca=ca or (via.ca if via else self.root), **more)

    def connect(self, to: str = "origin.test", port: int = HTTP, **more: Any) -> socket.socket:
        """A TCP connection from the client, as a socket of the test process (see `Host.connect`)."""
        return self.client.connect(to, port, **more)

    def connect_tls(
        self,
        to: str = "origin.test",
        port: int = HTTPS,
        *,
        ca: Path | bool = True,
        sni: str | None = None,
        alpn: Sequence[str] = (),
        over: socket.socket | None = None,
        **more: Any,
    ) -> ssl.SSLSocket:
        """TLS from the client. `ca`: True is the lab's root, False verifies nothing; `sni`: `to` by default;
        `over`: an open connection (after CONNECT). Raises ssl.SSLCertVerificationError and the like."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if ca is False:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        else:
            context.load_verify_locations(self.root if ca is True else ca)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        plain = over or self.client.connect(to, port, **more)
        try:
            return context.wrap_socket(plain, server_hostname=to if sni is None else sni)
        except BaseException:
            plain.close()
            raise

    # -- origins
    @contextlib.contextmanager
    def origin(self, kind: str, port: int, tls: Pair | None = None) -> Iterator[None]:
        """One more Python origin in the server's namespace, in a process of its own (it is not in `seen`)."""
        arguments = ["--kind", kind, "--port", str(port), *(["--tls", str(tls.cert), str(tls.key)] if tls else [])]
        ready = self._start_origins(f"origin-{kind}-{port}", arguments)
        process = self.server.processes[-1]
        try:
            ready()
            yield
        finally:
            netns.end_process(process)

    def _start_origins(self, name: str, arguments: Sequence[str]) -> Callable[[], None]:
        log = self.scratch / f"{name}.log"
        with log.open("wb") as output:
            command = [sys.executable, "-m", "tests.lab.origins", *arguments]
            process = self.server.popen(command, output=output, cwd=ROOT)

        def listens() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"{name}: {log.read_text()}")
            return "ready\n" in log.read_text()

        return lambda: netns.wait_for(listens, 10, f"{name} listens")
