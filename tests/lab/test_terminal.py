"""What the terminal of a running gateway tells: a line a flow with its verdict, connections that were not decrypted."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from tests.lab.labkit import Lab
from tests.lab.netns import wait_for
from tests.lab.recorder import Origins

CLIENT = r"10\.61\.1\.2"


def flow_lines(output: str) -> list[str]:
    """Without the first screen, the log and the closing line."""
    return [line for line in output.splitlines() if re.match(CLIENT, line)]


def test_a_line_a_flow(lab: Lab, origins: Origins) -> None:
    with lab.gateway_proc() as gw:
        lab.curl("https://origin.test/100k", via=gw)
        lab.curl("http://origin.test:8000/bytes/5000?chunked=100", via=gw)
        lab.curl("http://origin.test:8000/status/404", via=gw)
        lab.curl("https://origin.test:8011/secret", via=gw)  # expired
        lab.curl("http://origin.test:8000/truncate/length", via=gw)
        output = gw.stop()
    decrypted, plain, missing, expired, cut = flow_lines(output)
    assert re.fullmatch(rf"{CLIENT} GET https://origin\.test/100k 200 100k \d+ms  decrypt \(TLS\)", decrypted)
    assert re.fullmatch(
        rf"{CLIENT} GET http://origin\.test:8000/bytes/5000\?chunked=100 200 4\.9k \d+ms  decrypt \(.*\)", plain
    )
    assert " 404 " in missing
    assert re.match(
        rf"{CLIENT} GET https://origin\.test:8011/secret 502 error: the certificate of origin\.test has expired",
        expired,
    )
    assert re.match(rf"{CLIENT} GET http://origin\.test:8000/truncate/length 200 error: ", cut)
    assert re.search(r"^In \d+ s: 5 connections, 5 flows, 2 errors\.$", output, re.MULTILINE)
    assert not origins.requests(8011)


def test_passed_connections_have_a_line_with_their_bytes(lab: Lab, origins: Origins) -> None:
    with lab.gateway_proc("--ignore-hosts", r"origin\.test:443") as gw:
        reply = lab.curl("https://origin.test/100k", via=gw, ca=lab.root)
        assert reply.status == 200
        (line,) = flow_lines(gw.stop())
    found = re.fullmatch(
        rf"{CLIENT} pass origin\.test:443 \(origin\.test:443 matches ignore_hosts, origin\\\.test:443\) "
        r"([\d.]+[bk]) up (\d+)k down [\d.]+m?s",
        line,
    )
    assert found, line
    assert 100 < int(found[2]) < 110  # the body, and what TLS adds


def test_raw_tcp_has_a_line_with_its_bytes(lab: Lab) -> None:
    modes = ("-m", "transparent@8081")
    with lab.gateway_proc(*modes) as gw, lab.redirect(8081, only=[7000]), lab.connect("origin.test", 7000) as conn:
        conn.sendall(b"\0" * 3000)
        back = 0
        while back < 3000 and (data := conn.recv(65536)):
            back += len(data)
        conn.close()
        gw.wait_output(rf"^{CLIENT} tcp [\w.]+:7000 2\.9k up 2\.9k down \S+  decrypt \(raw TCP: .*\)$")


def test_messages_are_counted_when_somebody_listens(lab: Lab) -> None:
    addon = "def tcp_message(flow): pass\n"
    with (
        lab.gateway_proc("-m", "transparent@8081", addon=addon) as gw,
        lab.redirect(8081, only=[7000]),
        lab.connect("origin.test", 7000) as conn,
    ):
        conn.sendall(b"\0one")
        assert conn.recv(100) == b"\0one"
        conn.close()
        gw.wait_output(rf"^{CLIENT} tcp [\w.]+:7000 4b up 4b down \S+ in 1 \+ 1 messages ")


def test_quiet_says_nothing(lab: Lab) -> None:
    with lab.gateway_proc("-q") as gw:
        assert lab.curl("https://origin.test/1k", via=gw).status == 200
        assert lab.curl("https://origin.test:8011/", via=gw).status == 502
        assert gw.stop() == ""


def test_detail(lab: Lab) -> None:
    with lab.gateway_proc("--flow-detail", "3") as gw:
        lab.curl("http://origin.test:8000/echo", "-d", "ping\t\x1b[31mpong", "-H", "X-Lab: \x9b31mred", via=gw)
        lab.curl("http://origin.test:80/1k", via=gw)
        output = gw.stop()
    assert "    > X-Lab: \\x9b31mred\n" in output
    assert output.count("      ping    \\x1b[31mpong:\n") == 1  # there, as a form
    assert output.count("      ping    \\x1b[31mpong\n") == 1  # and back
    assert "    < Content-Length: " in output
    assert "\x1b" not in output and "\x9b" not in output


def test_a_stream_is_not_held_for_the_terminal(lab: Lab) -> None:
    """The dumper listens to `response`; a slow body must come to the client piece by piece all the same."""
    with lab.gateway_proc() as gw:
        reply = lab.curl("http://origin.test:8000/slow?head=0&n=10&gap=60", via=gw)
    assert reply.status == 200
    assert reply.first_byte < 0.4 < reply.seconds


def test_port_in_use_names_its_holder(lab: Lab, tmp_path: Path) -> None:
    with lab.gateway_proc() as gw:
        command = [*gw.command[:-2], "--set", f"confdir={tmp_path}"]
        second = lab.gateway.run(command, check=False)
        assert second.returncode == 1
        assert re.search(rf"10\.61\.1\.1:8080 is in use by .*{gw.process.pid}", second.stdout + second.stderr)


def test_interrupt_ends_with_totals(lab: Lab) -> None:
    with lab.gateway_proc() as gw:
        lab.curl("http://origin.test:8000/bytes/10", via=gw)
        gw.signal(signal.SIGINT)
        wait_for(lambda: gw.process.poll() is not None, 5, "the gateway ends")
        assert gw.process.returncode == 0
        assert gw.output.endswith("1 connection, 1 flow.\n")


def test_a_client_that_does_not_trust_us_has_one_line(lab: Lab) -> None:
    with lab.gateway_proc() as gw:
        assert lab.curl("https://origin.test/1k", via=gw, ca=lab.root).exit == 60
        gw.wait_output("does not trust the gateway's CA")
        (line,) = [line for line in gw.stop().splitlines() if "10.61.1.2" in line]
    assert "asked for origin.test" in line
    assert "http://lockgate.internal/" in line
