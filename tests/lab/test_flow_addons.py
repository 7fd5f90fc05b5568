"""The add-ons that work on flows, against real traffic: their effect at the other end, and what is in the files."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from appliance.http import HTTPFlow
from appliance.io import read_flows_from_paths
from appliance.tcp import TCPFlow
from tests.io.har_schema import check
from tests.lab.bytes_on_wire import read_all
from tests.lab.gateway_proc import LOCKGATE, ROOT
from tests.lab.labkit import ECHO, HTTP, HTTPS, Lab
from tests.lab.netns import clean_environment, wait_for
from tests.lab.origins import pattern
from tests.lab.recorder import Origins
from tests.lab.witness import tunnel

ORIGIN = f"http://origin.test:{HTTP}"
MITMDUMP = os.environ.get("LOCKGATE_MITMDUMP", "")


def lockgate(*arguments: str, confdir: Path) -> subprocess.CompletedProcess[str]:
    """`lockgate run` that ends by itself."""
    command = [*LOCKGATE, "run", *arguments, "--set", f"confdir={confdir}"]
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=environment)


def test_messages_are_changed_and_answered(lab: Lab, origins: Origins, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "page.html").write_text("from a file")
    flags = ["-B", "/~bq secret/secret/PUBLIC", "-B", "/~s & ~t plain/^.{4}/CHANGED!", "-H", "/~q/X-Added/yes",
             "-H", "/~s/X-Seen/yes", "-H", "/~q/User-Agent/", "-M", f"|cloud.test|origin.test:{HTTP}", "--map-local",
             f"|{ORIGIN}/local|{tmp_path / 'site'}", "--anticomp", "--anticache", "--stickycookie", "~all",
             "--stickyauth", "~all", "--set", "block_list=|~u blocked|451", "--set",
             "block_list=|~u silent|444"]  # fmt: skip
    with lab.gateway_proc(*flags) as gw:
        # modify_body, modify_headers, anticomp, anticache: what the origin saw, and what the client got
        reply = lab.curl(f"{ORIGIN}/echo", "-d", "my secret word", "-H", "If-None-Match: x", "--compressed", via=gw)
        assert reply.body == b"my PUBLIC word" and reply.header("x-seen") == "yes"
        (seen,) = origins.requests(HTTP)
        assert seen.length == 14 and seen.values("content-length") == ["14"] and seen.values("x-added") == ["yes"]
        assert not seen.values("user-agent") and not seen.values("if-none-match")
        assert seen.values("accept-encoding") == ["identity"]
        # compressed, and over TLS
        reply = lab.curl(f"https://origin.test:{HTTPS}/gzip", via=gw)
        assert gzip.decompress(reply.body) == b"CHANGED!" + pattern(4096)[4:] and reply.header("x-seen") == "yes"
        # bodies of no interest to any rule stream as ever
        assert lab.curl(f"{ORIGIN}/bytes/3000000", via=gw).body == pattern(3_000_000)
        assert lab.curl(f"{ORIGIN}/sse?n=3&ms=1", via=gw).body.count(b"data:") == 3
        # map_remote, also where the upload is too large to be held
        assert lab.curl("http://cloud.test/a", via=gw).json()["target"] == "/a"
        big = tmp_path / "big"
        big.write_bytes(b"x" * 3_000_000)
        assert lab.curl("http://cloud.test/b", "-T", str(big), via=gw).json()["length"] == 3_000_000
        # map_local
        assert lab.curl(f"{ORIGIN}/local/page.html", via=gw).body == b"from a file"
        assert lab.curl(f"{ORIGIN}/local/../../etc/passwd", "--path-as-is", via=gw).status == 404
        # block_list
        before = len(origins.requests(HTTP))
        assert lab.curl(f"{ORIGIN}/blocked", via=gw).status == 451
        assert lab.curl(f"{ORIGIN}/silent", via=gw).exit in (52, 56)  # not a byte
        assert len(origins.requests(HTTP)) == before
        # stickyauth
        lab.curl(f"{ORIGIN}/in", "-u", "user:word", via=gw)
        assert lab.curl(f"{ORIGIN}/again", via=gw).status == 200
        assert [seen.values("authorization") for seen in origins.requests(HTTP)[-2:]] == [["Basic dXNlcjp3b3Jk"]] * 2
    assert "Traceback" not in gw.output and "failed in" not in gw.output, gw.output


def test_what_went_by_is_in_the_files(lab: Lab, origins: Origins, tmp_path: Path) -> None:
    flows_file, har = tmp_path / "flows", tmp_path / "all.har"
    flags = ["-w", str(flows_file), "--set", f"hardump={har}", "-M", "|cloud.test|nowhere.invalid", "!~u unseen"]
    with lab.gateway_proc(*flags, options={"flow_detail": 1}) as gw:
        lab.curl(f"{ORIGIN}/echo", "-d", "asked", via=gw)
        lab.curl(f"https://origin.test:{HTTPS}/gzip", via=gw)
        lab.curl(f"{ORIGIN}/bytes/3000000", via=gw)
        lab.curl(f"{ORIGIN}/unseen", via=gw)
        lab.curl("http://cloud.test/", via=gw)
        with tunnel(lab, "origin.test", ECHO, proxy=8080) as sock:
            sock.sendall(b"\x00raw bytes")
            sock.shutdown(1)
            assert read_all(sock) == b"\x00raw bytes"
        gw.wait_output(r" tcp origin\.test")
        whole = read_flows_from_paths([flows_file])  # while it runs
        unfinished = lab.connect(to="gateway.test", port=8080)
        unfinished.sendall(f"GET {ORIGIN}/slow?head=-1 HTTP/1.1\r\nHost: origin.test\r\n\r\n".encode())
        origins_wait(origins, "/slow?head=-1")
        output = gw.stop()
        unfinished.close()
    assert "/unseen" not in output and "/gzip" in output
    echoed, zipped, big, failed, talk = whole
    assert isinstance(echoed, HTTPFlow) and echoed.request.content == b"asked" and echoed.response is not None
    assert echoed.response.content == b"asked" and echoed.client_conn.peername is not None
    assert isinstance(zipped, HTTPFlow) and zipped.response is not None and zipped.response.content == pattern(4096)
    assert zipped.server_conn.certificate_list and zipped.server_conn.tls_version == "TLSv1.3"
    assert isinstance(big, HTTPFlow) and big.response is not None and big.response.raw_content is None  # it streamed
    assert isinstance(failed, HTTPFlow) and failed.error is not None
    assert isinstance(talk, TCPFlow)
    assert b"".join(m.content for m in talk.messages if m.from_client) == b"\x00raw bytes"
    last = read_flows_from_paths([flows_file])[-1]
    assert isinstance(last, HTTPFlow) and last.request.path == "/slow?head=-1"
    entries = check(har.read_text())["log"]["entries"]
    assert len(entries) >= 5 and "/unseen" in har.read_text()  # the filter is not for the HAR
    assert [e["response"]["content"].get("_truncated") for e in entries if e["request"]["url"].endswith("3000000")] == [
        True
    ]
    assert next(e for e in entries if "/gzip" in e["request"]["url"])["timings"]["ssl"] > 0
    # again from the file, through the filter, into another
    done = lockgate("-n", "-r", str(flows_file), "-w", str(tmp_path / "copy"), "~u gzip | ~tcp", confdir=tmp_path)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 3, done  # two flows, and the totals
    assert re.search(r"GET https://origin\.test:\d+/gzip 200", done.stdout) and " tcp origin.test" in done.stdout
    assert [flow.id for flow in read_flows_from_paths([tmp_path / "copy"])] == [zipped.id, talk.id]
    # a HAR is read too, and what is broken is told
    done = lockgate("-n", "-r", str(har), "--set", f"hardump={tmp_path / 'again.zhar'}", confdir=tmp_path)
    assert done.returncode == 0
    assert len(check(zlib.decompress((tmp_path / "again.zhar").read_bytes()).decode())["log"]["entries"]) == len(
        entries
    )
    flows_file.write_bytes(flows_file.read_bytes()[:-3])
    done = lockgate("-n", "-r", str(flows_file), confdir=tmp_path)
    assert done.returncode == 1 and "the file ends in the middle of it" in done.stdout + done.stderr
    if MITMDUMP:
        shown = subprocess.run([MITMDUMP, "-nr", tmp_path / "copy", "--set", f"confdir={tmp_path}"],
                               capture_output=True,
                               text=True, timeout=60, check=True).stdout  # fmt: skip
        assert "/gzip" in shown and "raw bytes" not in shown.splitlines()[0]


_ASK = """
from mitmproxy import ctx, http

def requestheaders(flow):
    if flow.request.path.startswith("/ask?"):
        answer = ctx.master.commands.execute(flow.request.query["run"])
        flow.response = http.Response.make(200, repr(answer))
"""


def test_commands_name_flows_of_real_traffic(lab: Lab, origins: Origins, tmp_path: Path) -> None:
    def ask(line: str) -> str:
        reply = lab.curl("-G", f"{ORIGIN}/ask", "--data-urlencode", f"run={line}", via=gw)
        assert reply.status == 200
        return reply.body.decode()

    with lab.gateway_proc(addon=_ASK, options={"view_limit": 3}) as gw:
        for size in range(5):
            lab.curl(f"{ORIGIN}/bytes/{size}", via=gw)
        rows = [[f"/bytes/{size}", "200"] for size in (2, 3, 4)]
        assert ask("cut @all request.path,response.status_code") == repr(rows)
        assert ask("cut '~u /bytes/4$' request.path") == "[['/bytes/4']]"
        ask("replay.client '~u /bytes/4$'")
        wait_for(lambda: [seen.target for seen in origins.requests(HTTP)].count("/bytes/4") == 2, 10, "the replay")
        ask(f"save.file @all {tmp_path}/saved")
    assert len(read_flows_from_paths([tmp_path / "saved"])) == 3
    with lab.gateway_proc("--intercept", "~u held", addon=_ASK) as gw, ThreadPoolExecutor(1) as pool:
        held = pool.submit(lab.curl, f"{ORIGIN}/bytes/7?held", via=gw)
        wait_for(lambda: "held" in ask("cut '~u bytes' request.path"), 10, "the flow that is held")
        assert not held.done()
        ask("flow.resume '~u bytes'")  # its request
        while not held.done():
            ask("flow.resume '~u bytes'")  # and its response
        assert held.result().body == pattern(7)
    assert "failed in" not in gw.output, gw.output


def origins_wait(origins: Origins, target: str) -> None:
    wait_for(lambda: any(seen.target == target for seen in origins.requests(HTTP)), 5, f"{target} at the origin")


@pytest.mark.parametrize(("arguments", "why"), [
    (["~q &"], "save_stream_filter: filter: an expression is missing"), (["-r", "/nonexistent"], "no such file"),
    (["--set", "block_list=/~q/1"], "is not a status"), (["-w", "/"], "save_stream_file"),
])  # fmt: skip
def test_what_cannot_be_ends_at_the_start(arguments: list[str], why: str, tmp_path: Path) -> None:
    done = lockgate("-n", *arguments, confdir=tmp_path)
    assert done.returncode != 0 and why in done.stdout + done.stderr and "Traceback" not in done.stderr, done
