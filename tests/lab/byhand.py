"""`make lab`: client, gateway and server for a person. A shell in the client, the gateway's lines beside it.

With tmux and a terminal: two panes of a tmux server of its own. Else: a plain shell, and the gateway writes to a file.
The end of the shell, Ctrl-C, SIGTERM and SIGHUP take everything down again.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from tests.lab import netns
from tests.lab.gateway_proc import Gateway
from tests.lab.labkit import TOOLS, Lab

TRANSPARENT, REGULAR = 8081, 8080
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

TRY = """\
You are the client, {v4} {v6}; all your TCP and UDP goes through the gateway, which {capture}.
  curl https://origin.test/1k              decrypted: the gateway's CA is trusted in this shell
  curl -6 https://alt.test/100k            over IPv6, another address of the server
  curl https://origin.test:8443/           HTTP/2
  curl https://origin.test:8011/           a certificate that has expired: the page says so
  curl -x {proxy} http://origin.test:8000/echo -d hello     as an explicit proxy
  curl -x {proxy} http://lockgate.internal/     what a device sees that is to trust the CA
  exec 3<>/dev/tcp/origin.test/7000; echo hello >&3; head -n 1 <&3     raw TCP
{more}
All hosts and ports: tests/lab/README.md. `exit` takes everything down.
"""
UDP = """\
  exec 4<>/dev/udp/origin.test/7000; echo hello >&4; head -n 1 <&4     UDP
"""
CHROMIUM = """\
  {chromium} --headless --no-sandbox --disable-gpu --dump-dom https://origin.test:8001/
"""


class Leave(Exception):
    """A signal asks for the end."""


def main(arguments: Sequence[str]) -> int:
    """`arguments` go to `lockgate run`; what is a file here is named by its whole path."""
    if why := netns.missing(TOOLS):
        print(f"make lab: {why}", file=sys.stderr)
        return 1

    def leave(number: int, frame: FrameType | None) -> None:
        raise Leave

    for number in _SIGNALS:
        signal.signal(number, leave)
    code = 0
    lab: Lab | None = None
    try:
        print("Building client, gateway and server …", flush=True)
        lab = Lab()
        words = [str(Path(word).resolve()) if Path(word).is_file() else word for word in arguments]
        with running(lab, words) as (gateway, capture):
            shell(lab, gateway, capture)
    except Leave:
        code = 130
    except RuntimeError as error:
        print(f"make lab: {error}", file=sys.stderr)
        code = 1
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if lab is not None:
            lab.close()
    print("Everything is taken down.", flush=True)
    return code


@contextlib.contextmanager
def running(lab: Lab, arguments: Sequence[str]) -> Iterator[tuple[Gateway, str]]:
    """The gateway with both modes, and the redirect: TPROXY, or what this kernel has."""
    modes = ["-m", f"transparent@{TRANSPARENT}", "-m", f"regular@{lab.gateway.v4}:{REGULAR}"]
    gateway = lab.gateway_proc(*modes, *arguments, ports=[REGULAR, TRANSPARENT])
    try:
        with contextlib.ExitStack() as laid:
            try:
                laid.enter_context(lab.redirect(TRANSPARENT, "tproxy", udp=True))
                capture = "has it redirected by TPROXY"
            except RuntimeError:
                laid.enter_context(lab.redirect(TRANSPARENT, "redirect"))
                capture = "has TCP redirected by NAT (this kernel has no TPROXY, so UDP ends here)"
            yield gateway, capture
    finally:
        netns.end_process(gateway.process)


def shell(lab: Lab, gateway: Gateway, capture: str) -> None:
    """Until the person leaves."""
    home = lab.scratch / "home"
    home.mkdir()
    chromium = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
    )
    more = (UDP if "TPROXY" in capture.partition("(")[0] else "") + (
        CHROMIUM if chromium and trust(home, gateway) else ""
    )
    text = TRY.format(
        v4=lab.client.v4, v6=lab.client.v6, capture=capture, proxy=gateway.proxy,
        more=more.format(chromium=chromium).rstrip(),
    )  # fmt: skip
    (home / "try").write_text(text)
    (home / ".bashrc").write_text("cat ~/try\nPS1='client$ '\n")
    command = ["ip", "netns", "exec", lab.client.name, "bash", "--rcfile", str(home / ".bashrc"), "-i"]
    environment = client_environment(lab, gateway, home)
    if sys.stdin.isatty() and sys.stdout.isatty() and shutil.which("tmux") and not os.environ.get("LAB_PLAIN"):
        panes(lab, gateway, command, environment)
    else:
        print(f"The gateway writes to {gateway.log}", flush=True)
        subprocess.run(command, env=environment, cwd=home)


def client_environment(lab: Lab, gateway: Gateway, home: Path) -> dict[str, str]:
    """The tester's, with a home of its own and trust in the gateway's CA, and in the lab's for what is passed."""
    trusted = lab.scratch / "trusted.pem"
    trusted.write_text(gateway.ca.read_text() + lab.root.read_text())
    names = (
        "CURL_CA_BUNDLE",
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "NODE_EXTRA_CA_CERTS",
        "GIT_SSL_CAINFO",
        "AWS_CA_BUNDLE",
    )
    keep = {name: value for name, value in netns.clean_environment().items() if not name.startswith("TMUX")}
    return {**keep, **dict.fromkeys(names, str(trusted)), "HOME": str(home), "HISTFILE": ""}


def trust(home: Path, gateway: Gateway) -> bool:
    """The CA into the database that Chromium reads."""
    database = home / ".pki" / "nssdb"
    database.mkdir(parents=True)
    for words in (["-N", "--empty-password"], ["-A", "-t", "C,,", "-n", "lockgate", "-i", str(gateway.ca)]):
        try:
            subprocess.run(["certutil", "-d", f"sql:{database}", *words], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return False
    return True


def panes(lab: Lab, gateway: Gateway, command: Sequence[str], environment: dict[str, str]) -> None:
    """tmux with the client's shell on the left, in which the person is, and the gateway's lines on the right."""
    tmux = ["tmux", "-S", str(lab.scratch / "tmux"), "-f", os.devnull]
    # The end of the shell is the end of the server; so is detaching, since nobody could come back to it.
    left = f"{shlex.join(command)}; {shlex.join([*tmux, 'kill-server'])}"
    right = shlex.join(["ip", "netns", "exec", lab.gateway.name, "tail", "-n", "+1", "-f", str(gateway.log)])
    script = [*tmux, "new-session", "-d", "-s", "lab", "-c", environment["HOME"], left, ";",
              "set-option", "-g", "mouse", "on", ";", "set-option", "-g", "status-left", "lockgate lab  ", ";",
              "split-window", "-h", "-d", "-l", "45%", right]  # fmt: skip
    size = os.get_terminal_size()
    script[script.index("-s") : script.index("-s")] = ["-x", str(size.columns), "-y", str(size.lines)]
    try:
        subprocess.run(script, env=environment, check=True, stdin=subprocess.DEVNULL)
        subprocess.run([*tmux, "attach-session"], env=environment)
    finally:
        subprocess.run([*tmux, "kill-server"], env=environment, capture_output=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
