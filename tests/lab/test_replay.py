"""Replays and proxy authentication as users run them: curl, nginx, and origins that have changed or are gone."""

from __future__ import annotations

from pathlib import Path

from appliance.http import HTTPFlow
from appliance.io import read_flows_from_paths
from tests.lab.gateway_proc import LOCKGATE, ROOT
from tests.lab.labkit import HTTP, HTTPS, Lab
from tests.lab.netns import clean_environment
from tests.lab.origins import pattern, raw_path
from tests.lab.recorder import Origins
from tests.test_htpasswd import BCRYPT

ORIGIN, SECURE, LATER = f"http://origin.test:{HTTP}", f"https://origin.test:{HTTPS}", 8031


def record(lab: Lab, path: Path, *urls: str) -> list[HTTPFlow]:
    """What curl gets for these, through a gateway that writes it down."""
    with lab.gateway_proc("-w", str(path)) as gw:
        for url in urls:
            said = () if ":8443" in url else ("-d", "said")
            assert lab.curl(url, *said, via=gw).status == 200
    flows = read_flows_from_paths([path])
    assert len(flows) == len(urls) and all(isinstance(flow, HTTPFlow) for flow in flows)
    return [flow for flow in flows if isinstance(flow, HTTPFlow)]


def test_requests_again_against_an_origin_that_has_changed(lab: Lab, origins: Origins, tmp_path: Path) -> None:
    """-C sends them and ends; HTTP/1 and HTTP/2, TLS; what does not verify gets nothing."""
    flows, again = tmp_path / "flows", tmp_path / "again"
    h2 = "https://origin.test:8443/1k"  # nginx, HTTP/2
    with lab.origin("http", LATER, lab.pki.good):
        recorded = record(lab, flows, f"{ORIGIN}/echo", f"{SECURE}/a?b=1", f"https://origin.test:{LATER}/echo", h2)
        assert recorded[3].request.is_http2
    before = {port: len(origins.requests(port)) for port in (HTTP, HTTPS)}
    addon = tmp_path / "addon.py"
    addon.write_text("def request(flow):\n    flow.request.headers['x-again'] = str(flow.is_replay)\n")
    command = [*LOCKGATE, "run", "-n", "-C", str(flows), "-w", str(again), "-s", str(addon), "--set",
               f"confdir={lab.scratch / 'confdir'}", "--set", f"ssl_verify_upstream_trusted_ca={lab.root}"]  # fmt: skip
    with lab.origin("http", LATER, lab.pki.bad["expired"]):
        done = lab.gateway.run(command, timeout=30, env={**clean_environment(), "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done
    assert done.stdout.count("[replay]") == 4 and "Traceback" not in done.stderr
    for port, target in ((HTTP, "/echo"), (HTTPS, "/a?b=1")):
        (seen,) = origins.requests(port)[before[port] :]
        assert seen.target == target and seen.values("x-again") == ["request"] and seen.length == 4
    plain, secure, expired, two = (flow for flow in read_flows_from_paths([again]) if isinstance(flow, HTTPFlow))
    assert plain.response is not None and plain.response.content == b"said" and plain.is_replay == "request"
    assert secure.response is not None and secure.server_conn.tls_established
    assert expired.response is None and expired.error is not None and "has expired" in expired.error.msg
    assert two.response is not None and two.response.is_http2 and two.response.content == pattern(1024)
    assert [flow.id for flow in (plain, secure, expired, two)] == [flow.id for flow in recorded]


def test_recorded_responses_while_the_origin_is_down(lab: Lab, origins: Origins, tmp_path: Path) -> None:
    flows, gone = tmp_path / "flows", f"https://origin.test:{LATER}/gone"
    with lab.origin("http", LATER, lab.pki.good):
        recorded = record(lab, flows, f"{ORIGIN}/a", f"{gone}?nonce=1", f"{gone}?nonce=2")
    before = len(origins.requests(HTTP))
    options = {"server_replay_ignore_params": "nonce", "keepserving": True}
    with lab.gateway_proc("-S", str(flows), "--server-replay-extra", "404", options=options) as gw:
        assert lab.curl(f"{ORIGIN}/a", "-d", "other", via=gw).status == 404
        reply = lab.curl(f"{ORIGIN}/a", "-d", "said", via=gw)
        first = recorded[0].response
        assert reply.status == 200 and first is not None and reply.body == first.content
        answers = [lab.curl(f"{gone}?nonce={n}", "-d", "said", via=gw) for n in (7, 8, 9)]
        assert [answer.status for answer in answers] == [200, 200, 404]
        assert lab.curl(f"https://never.test:{LATER}/", via=gw).status == 404  # no such name, and nobody looks
        assert gw.output.count("[replay]") == 6
    assert len(origins.requests(HTTP)) == before
    # by itself it ends when all are used
    with lab.gateway_proc("-S", str(flows), options={"server_replay_ignore_params": "nonce"}) as gw:
        for url in (f"{ORIGIN}/a", f"{gone}?nonce=1", f"{gone}?nonce=1"):
            assert lab.curl(url, "-d", "said", via=gw).status == 200
        assert gw.process.wait(10) == 0


def test_flows_of_the_store_by_the_command_line(lab: Lab, origins: Origins, tmp_path: Path) -> None:
    """Recorded by one gateway, replayed by others: by number, by filter, and as answers."""
    gone = f"https://origin.test:{LATER}/gone"
    store = {"store_dir": tmp_path / "store"}
    with lab.gateway_proc(options=store) as gw, lab.origin("http", LATER, lab.pki.good):
        assert lab.curl(f"{ORIGIN}/a", "-d", "one", via=gw).status == 200
        assert lab.curl(f"{SECURE}/b", "-d", "two", via=gw).status == 200
        first = lab.curl(gone, via=gw)
        assert first.status == 200
        places = ["--set", f"confdir={gw.confdir}", "--set", f"store_dir={tmp_path / 'store'}"]

    def flows(*words: str, expect: int = 0, where: str = "stderr") -> str:
        env = {**clean_environment(), "PYTHONPATH": str(ROOT)}
        done = lab.gateway.run([*LOCKGATE, "flows", *words, *places], timeout=30, env=env)
        assert done.returncode == expect, done
        return str(getattr(done, where if expect else "stdout"))

    assert "no gateway runs" in flows("replay", "1", expect=1)
    with lab.gateway_proc(options=store) as gw:
        shown = flows("replay", "2", "1").splitlines()
        assert [f"POST {SECURE}/b 200" in shown[0], f"POST {ORIGIN}/a 200" in shown[1]] == [True, True], shown
        assert f"error: origin.test:{LATER}" in flows("replay", "3", expect=1, where="stdout")
        assert "no such flow" in flows("replay", "1", "99", expect=1)
        assert "say which flows" in flows("replay", expect=2)
        assert "there is no operator" in flows("replay", "--filter", "~nonsense", expect=2)
        assert "no HTTP flow in" in flows("replay", "--filter", "~d nobody", expect=1)
        flows("replay", "--filter", "~u /a$ & !~replay")
        gw.wait_output(rf"\[replay\].*{ORIGIN}/a 200(.|\n)*\[replay\].*{ORIGIN}/a 200")
    assert [(seen.target, seen.length) for seen in origins.requests(HTTP)] == [("/a", 3)] * 3
    assert [(seen.target, seen.length) for seen in origins.requests(HTTPS)] == [("/b", 3)] * 2
    assert len(flows("list", "~replayq", "--json").splitlines()) == 4
    command = ["-S", "store:~u /gone$ & ~c 200", "--server-replay-extra", "404"]
    with lab.gateway_proc(*command, options=store) as gw:
        again = lab.curl(gone, via=gw)  # nobody listens there any more
        assert again.status == 200 and again.body == first.body
    command = [*LOCKGATE, "run", "-C", "store:~u /b$ & !~replay", "-m", "regular@8099", *places,
               "--set", f"ssl_verify_upstream_trusted_ca={lab.root}"]  # fmt: skip
    done = lab.gateway.run(command, timeout=30, env={**clean_environment(), "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0 and done.stdout.count("[replay]") == 1 and f"{SECURE}/b 200" in done.stdout, done
    assert len(origins.requests(HTTPS)) == 3
    assert len(flows("list", "~replayq", "--json").splitlines()) == 5  # and it is recorded itself


def test_proxyauth_with_curl(lab: Lab, origins: Origins, tmp_path: Path) -> None:
    users = tmp_path / "htpasswd"
    users.write_bytes(b"ann:%b\n" % BCRYPT)
    modes = ["-m", f"regular@{lab.gateway.v4}:8080", "-m", "transparent@8081"]
    with lab.gateway_proc(*modes, "--proxyauth", f"@{users}", "-v") as gw, lab.redirect(8081):
        good, bad = ("--proxy-user", "ann:U*U"), ("--proxy-user", "ann:wrong-word")
        for url, port in ((f"{ORIGIN}/x", HTTP), (f"{SECURE}/x", HTTPS)):
            for arguments in ((), bad):
                reply = lab.curl(url, *arguments, via=gw)
                assert reply.status == 407 or " 407" in reply.heads[0].line, reply
            assert not origins.connections(port)
            assert lab.curl(url, *good, via=gw).status == 200
            assert lab.curl(url, *good, "--proxy-anyauth", via=gw).status == 200  # asked first, then answered
            seen = origins.requests(port)
            assert len(seen) == 2 and not any(one.values("proxy-authorization") for one in seen)
        # behind the redirect there is no proxy to be asked for: 401, for each request
        assert lab.curl(f"{SECURE}/t", ca=gw.ca).status == 401
        assert lab.curl(f"{SECURE}/t", "-u", "ann:U*U", ca=gw.ca).status == 200
        assert not origins.requests(HTTPS)[-1].values("authorization")
        # and what would lead past the gateway does not come through it; an explicit proxy's clients cannot follow
        offer = raw_path(b'HTTP/1.1 200 OK\r\nAlt-Svc: h3=":443", h2="alt.test:443"\r\nContent-Length: 0\r\n\r\n')
        reply = lab.curl(f"{SECURE}{offer}", "-u", "ann:U*U", ca=gw.ca)
        assert reply.header("alt-svc") == 'h2="alt.test:443"'
        assert lab.curl(f"{SECURE}{offer}", *good, via=gw).header("alt-svc") == 'h3=":443", h2="alt.test:443"'
        output = gw.output
    assert "wrong name or password" in output and "U*U" not in output and "wrong-word" not in output
    assert "Traceback" not in output
