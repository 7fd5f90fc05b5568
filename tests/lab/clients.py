"""curl and headless Chromium in the client's namespace."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lab.netns import Host

Fields = list[tuple[str, str]]


@dataclass
class Head:
    """One response head as curl saw it: also those of 1xx and of CONNECT."""

    line: str
    fields: Fields = field(default_factory=list)


@dataclass
class Reply:
    """What curl got. `exit` 0 is success; `status` 0 means no response; `heads` are all heads, the last is final."""

    exit: int
    error: str
    status: int
    http: str
    body: bytes
    size: int
    seconds: float
    first_byte: float
    remote: str
    heads: list[Head]
    trailers: Fields

    @property
    def fields(self) -> Fields:
        return self.heads[-1].fields if self.heads else []

    def header(self, name: str) -> str | None:
        """The first value of that field in the final head."""
        return next((value for key, value in self.fields if key.lower() == name.lower()), None)

    def json(self) -> Any:
        return json.loads(self.body)


def curl(
    host: Host,
    url: str,
    *arguments: str,
    ca: Path | None = None,
    proxy: str | None = None,
    resolve: Sequence[str] = (),
    keep_body: bool = True,
    timeout: float = 15.0,
) -> Reply:
    """One request by curl. `arguments` are curl's own (-X, -H, -d, --http1.1, -k, -6 ...).

    `ca`: PEM file for origin and proxy alike; `resolve`: as curl's, "name:port:address"; `keep_body=False` for what
    is too big for memory. A failure is in `Reply.exit` and `.error`, never raised.
    """
    with tempfile.TemporaryDirectory(prefix="curl-") as scratch:
        body, heads = Path(scratch, "body"), Path(scratch, "heads")
        command: list[str | Path] = ["curl", "-q", "-sS", "--max-time", str(timeout), "-w", "%{json}", "-D", heads,
                   "-o", body if keep_body else "/dev/null", "--noproxy", "" if proxy else "*"]  # fmt: skip
        if proxy:
            command += ["--proxy", proxy]
        if ca:
            command += ["--cacert", ca, "--proxy-cacert", ca]
        for entry in resolve:
            command += ["--resolve", entry]
        done = host.run([*command, *arguments, url], timeout=timeout + 5)
        told = json.loads(done.stdout or "{}")
        all_heads, trailers = _heads(heads.read_text("latin-1") if heads.exists() else "")
        return Reply(
            exit=done.returncode,
            error=done.stderr.partition("\n")[0].removeprefix("curl: "),
            status=told.get("http_code", 0),
            http=told.get("http_version", ""),
            body=body.read_bytes() if body.exists() else b"",
            size=told.get("size_download", 0),
            seconds=told.get("time_total", 0.0),
            first_byte=told.get("time_starttransfer", 0.0),
            remote=told.get("remote_ip", ""),
            heads=all_heads,
            trailers=trailers,
        )


def _heads(text: str) -> tuple[list[Head], Fields]:
    heads: list[Head] = []
    trailers: Fields = []
    into: Fields = trailers
    for line in text.splitlines():
        if line.startswith("HTTP/"):
            heads.append(Head(line))
            into = heads[-1].fields
        elif ":" in line:
            name, _, value = line.partition(":")
            into.append((name, value.strip()))
        else:
            into = trailers  # after an empty line: a next head, or trailers
    return heads, trailers


@dataclass
class Page:
    """What Chromium made of a page: the DOM after loading, and what it wrote to the terminal (but for D-Bus)."""

    dom: str
    log: str
    exit: int


def chromium_path() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def chromium(
    host: Host,
    url: str,
    *,
    ca: Path | None = None,
    proxy: str | None = None,
    flags: Sequence[str] = (),
    timeout: float = 45.0,
) -> Page:
    """Load a page in headless Chromium and dump its DOM. Only `ca` is trusted besides the browser's own roots.

    Raises RuntimeError when it, or certutil (libnss3-tools), is not installed.
    """
    program, certutil = chromium_path(), shutil.which("certutil")
    if not program or (ca and not certutil):
        raise RuntimeError("needs chromium and certutil (libnss3-tools)")
    with _home(host) as home:
        if ca:
            store = home / ".pki/nssdb"
            store.mkdir(parents=True)
            for step in (["-N", "--empty-password"], ["-A", "-n", "lab", "-t", "C,,", "-i", str(ca)]):
                subprocess.run([str(certutil), "-d", f"sql:{store}", *step], check=True, capture_output=True)
        command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                   "--disable-background-networking", "--disable-component-update", "--disable-sync",
                   "--disable-default-apps", "--disable-extensions", "--disable-dev-shm-usage", "--no-pings",
                   f"--user-data-dir={home}/profile", "--virtual-time-budget=5000"]  # fmt: skip
        if proxy:
            command += [f"--proxy-server={proxy}", "--proxy-bypass-list=<-loopback>"]
        env = {"HOME": str(home), "PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"}
        done = host.run([*command, *flags, "--dump-dom", url], timeout=timeout, env=env)
        log = "".join(line for line in done.stderr.splitlines(keepends=True) if "/dbus/" not in line)
        return Page(done.stdout, log, done.returncode)


@contextlib.contextmanager
def _home(host: Host) -> Iterator[Path]:
    """A scratch HOME; what the browser leaves running is gone with the lab."""
    home = Path(tempfile.mkdtemp(prefix="chromium-"))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)
