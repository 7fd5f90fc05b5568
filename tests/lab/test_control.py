"""A running gateway, asked and changed through its control socket, by the client class and by the command line."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from appliance.control.protocol import ControlError
from tests.control.kit import Checked
from tests.lab.bytes_on_wire import get
from tests.lab.gateway_proc import LOCKGATE, ROOT, Gateway
from tests.lab.labkit import ECHO, HTTP, HTTPS, Lab
from tests.lab.netns import clean_environment, wait_for
from tests.lab.recorder import Origins
from tests.lab.test_firewall import state
from tests.lab.witness import connect, issuer_of, read_response, status, tunnel

PORT = 8086


def client(gateway: Gateway) -> Checked:
    return Checked(gateway.confdir / "control.sock")


def lockgate(gateway: Gateway | Path, *words: str, expect: int = 0) -> str:
    """What a subcommand prints. It needs no namespace of the gateway's: the socket is a file."""
    confdir = gateway if isinstance(gateway, Path) else gateway.confdir
    env = {**clean_environment(), "PYTHONPATH": str(ROOT), "LOCKGATE_CONFDIR": str(confdir), "HOME": "/nonexistent"}
    done = subprocess.run([*LOCKGATE, *words], capture_output=True, text=True, timeout=30, env=env)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout if not expect else done.stderr


def held(gateway: Gateway, count: int = 1) -> list[dict[str, Any]]:
    """Once so many flows are held."""
    found: list[dict[str, Any]] = []

    def there() -> bool:
        with client(gateway) as control:
            found[:] = control.call("flows.intercepted")["flows"]
        return len(found) == count

    wait_for(there, 10, f"{count} flows are held")
    return found


@pytest.mark.parametrize("https", [pytest.param(False, marks=pytest.mark.slow), True])
def test_an_edit_of_a_held_request_arrives_at_the_origin(lab: Lab, origins: Origins, https: bool) -> None:
    with lab.gateway_proc(options={"intercept": "~q & ~m POST"}) as gateway, ThreadPoolExecutor(1) as pool:
        url = f"https://origin.test:{HTTPS}/old" if https else f"http://origin.test:{HTTP}/old"
        reply = pool.submit(lab.curl, url, "-d", "before", "-H", "X-Away: 1", via=gateway)
        [flow] = held(gateway)
        assert (flow["method"], flow["url"], flow["intercepted"]) == ("POST", url, True)
        with client(gateway) as control:
            details = control.call("flows.get", id=flow["id"])["flow"]
            assert details["request"]["content"] == {"size": 6, "text": "before"}
            part = control.call("flows.content", id=flow["id"], part="request", offset=1, limit=4)
            assert part == {"size": 6, "text": "efor", "next": 5}
            # One that cannot be leaves all as it was.
            with pytest.raises(ControlError, match="no name of a header field"):
                control.call("flows.edit", id=flow["id"], request={"path": "/bad", "set_headers": {"a b": "1"}})
            edited = control.call(
                "flows.edit",
                id=flow["id"],
                request={"path": "/new?x=1", "method": "PUT", "text": "after, and longer",
                         "set_headers": {"X-Lab": "1", "X-Away": None}},
                resume=True,
            )["flow"]  # fmt: skip
            assert edited["url"].endswith("/new?x=1") and not edited["intercepted"]
        answer = reply.result(20)
    [request] = origins.requests()
    digest = hashlib.sha256(b"after, and longer").hexdigest()
    assert (request.method, request.target, request.sha256) == ("PUT", "/new?x=1", digest)
    assert request.values("x-lab") == ["1"] and request.values("x-away") == []
    assert request.values("content-length") == ["17"]
    assert answer.status == 200


def test_the_same_by_the_command_line(lab: Lab, origins: Origins) -> None:
    with lab.gateway_proc() as gateway, ThreadPoolExecutor(2) as pool:
        assert lockgate(gateway, "options", "set", "intercept=~d origin.test") == 'intercept: "~d origin.test"\n'
        reply = pool.submit(lab.curl, f"http://origin.test:{HTTP}/old", via=gateway)
        [flow] = held(gateway)
        short = lockgate(gateway, "intercepted").split()[0]
        assert f"GET http://origin.test:{HTTP}/old HTTP/1.1" in lockgate(gateway, "intercepted", "show", short)
        lockgate(gateway, "intercepted", "edit", short, "--path", "/new", "--header", "X-Lab: 2", "--resume")
        [flow] = held(gateway)  # now its response
        assert flow["status"] == 200
        lockgate(gateway, "intercepted", "edit", short, "--status", "418", "--body", "short and stout")
        assert lockgate(gateway, "intercepted", "resume", "--all") == flow["id"] + "\n"
        answer = reply.result(20)
        assert (answer.status, answer.body) == (418, b"short and stout")
        reply = pool.submit(lab.curl, f"http://origin.test:{HTTP}/kill", via=gateway)
        held(gateway)
        lockgate(gateway, "intercepted", "kill", "--all")
        assert reply.result(20).exit != 0
        lockgate(gateway, "options", "reset", "intercept")
        assert lab.curl(f"http://origin.test:{HTTP}/free", via=gateway).status == 200
        assert "unknown option 'tcp_timout'; did you mean tcp_timeout?" in lockgate(
            gateway, "options", "set", "tcp_timout=1", expect=1
        )
    assert [request.target for request in origins.requests()] == ["/new", "/free"]
    assert origins.requests()[0].values("x-lab") == ["2"]


def test_flows_in_memory_are_named_and_replayed(lab: Lab, origins: Origins) -> None:
    with lab.gateway_proc(options={"view_limit": 10}) as gateway, client(gateway) as control:
        assert lab.curl(f"https://origin.test:{HTTPS}/again", via=gateway).status == 200
        [flow] = json.loads(lockgate(gateway, "command", "view.flows.resolve", "~u again"))
        whole = control.call("flows.get", id=flow["id"])["flow"]
        assert json.loads(whole["response"]["content"]["text"])["target"] == "/again"
        control.call("flows.edit", id=flow["id"], request={"path": "/changed"})
        control.call("flows.replay", ids=[flow["id"]])
        wait_for(lambda: len(origins.requests()) == 2, 10, "it is asked again")
    assert [request.target for request in origins.requests()] == ["/again", "/changed"]


def test_replays_that_another_client_stops(lab: Lab, origins: Origins, tmp_path: Path) -> None:
    """`lockgate flows replay` does not wait for ever for those that did not begin."""
    begun, go, script = tmp_path / "begun", tmp_path / "go", tmp_path / "slow.py"
    script.write_text(
        "import asyncio, pathlib\n"
        "async def request(flow):\n"
        "    if flow.is_replay:\n"
        f"        pathlib.Path({str(begun)!r}).touch()\n"
        f"        while not pathlib.Path({str(go)!r}).exists(): await asyncio.sleep(0.02)\n"
    )
    options = {"client_replay_concurrency": 1, "store_dir": tmp_path / "store"}
    store = ("--set", f"store_dir={tmp_path / 'store'}")
    with (
        lab.gateway_proc("-s", str(script), options=options) as gateway,
        client(gateway) as control,
        ThreadPoolExecutor(1) as pool,
    ):
        for path in ("one", "two", "three"):
            assert lab.curl(f"http://origin.test:{HTTP}/{path}", via=gateway).status == 200
        wait_for(lambda: lockgate(gateway, "flows", "list", "--json", *store).count("\n") == 3, 10, "they are recorded")
        watch = pool.submit(lockgate, gateway, "flows", "replay", "1", "2", "3", expect=1)
        wait_for(begun.exists, 10, "the first has begun")
        control.call("commands.call", name="replay.client.stop", args=[])
        go.touch()
        assert watch.result(20) == "lockgate: 2 of them were stopped (replay.client.stop)\n"
    assert [request.target for request in origins.requests()] == ["/one", "/two", "/three", "/one"]


@pytest.mark.slow
def test_a_held_answer_without_a_server(lab: Lab, origins: Origins) -> None:
    with lab.gateway_proc(options={"intercept": "~q"}) as gateway, ThreadPoolExecutor(1) as pool:
        reply = pool.submit(lab.curl, f"http://origin.test:{HTTP}/x", via=gateway)
        [flow] = held(gateway)
        with client(gateway) as control:
            control.call("flows.edit", id=flow["id"], response={"status_code": 503, "text": "no"}, resume=True)
        assert (reply.result(20).status, reply.result().body) == (503, b"no")
    assert origins.requests() == []


def test_a_held_message_of_tcp(lab: Lab) -> None:
    gateway = lab.gateway_proc("-m", f"transparent@{PORT}", options={"intercept": "~tcp"})
    with gateway, lab.redirect(PORT, only=[ECHO]), lab.connect("origin.test", ECHO) as sock:
        sock.sendall(b"hello")
        [flow] = held(gateway)
        with client(gateway) as control:
            control.call("flows.edit", id=flow["id"], message={"text": "HELLO"}, resume=True)
            held(gateway)  # on its way back
            control.call("flows.resume", all=True)
        assert sock.recv(100) == b"HELLO"


def test_modes_come_and_go_while_traffic_runs(lab: Lab, origins: Origins) -> None:
    """Through the proxy something is loaded all the time; beside it a redirect is laid, used and taken away, twice."""
    before = state(lab)
    with lab.gateway_proc("-m", "regular@8080") as gateway, connect(lab) as sock:
        sock.sendall(get(f"http://origin.test:{HTTP}/sse?n=1000&ms=20"))
        assert b"200 OK" in sock.recv(4096)
        for method, fail in (("tproxy", "open"), ("redirect", "closed")):
            with client(gateway) as control:
                control.call("options.set", values={"firewall_method": method, "firewall_fail": fail})
                modes = control.call("modes.add", spec=f"transparent:lan0@{PORT}")["modes"]
                assert [mode["spec"] for mode in modes] == ["regular@8080", f"transparent:lan0@{PORT}"]
                assert (modes[1]["firewall"]["interfaces"], modes[1]["firewall"]["method"]) == (["lan0"], method)
                assert state(lab) != before
                for family in ("-4", "-6"):
                    assert (
                        lab.curl(f"https://origin.test:{HTTPS}/{method}{family}", family, ca=gateway.ca).status == 200
                    )
                wait_for(lambda: "beating" in lockgate(gateway, "status"), 5, "a heartbeat")
                held_open = lab.connect("origin.test", HTTP)
                held_open.sendall(get("/sse?n=1000&ms=20"))
                assert b"200 OK" in held_open.recv(4096)
                control.call("modes.remove", spec=f"transparent:lan0@{PORT}")
                assert state(lab) == before
                # What it had brought has ended, and says so to the client.
                held_open.settimeout(5)
                while held_open.recv(65536):
                    pass
                held_open.close()
            with pytest.raises(OSError):
                lab.connect("origin.test", HTTP, timeout=1)  # the box forwards nothing
            assert sock.recv(65536), "the proxy's own connection goes on"
        assert "closed it" not in gateway.output and "Traceback" not in gateway.output
    assert state(lab) == before
    assert len([one for one in origins.requests() if one.target.startswith(("/tproxy", "/redirect"))]) == 4


def test_a_mode_that_cannot_be_changes_nothing(lab: Lab) -> None:
    before = state(lab)
    with lab.gateway_proc("-m", "regular@8080") as gateway, client(gateway) as control:
        taken = socket.socket()
        with lab.gateway.inside():
            taken = socket.create_server((lab.gateway.v4, 8099))
        for spec, text in (
            (f"regular@{lab.gateway.v4}:8099", "8099 is in use"),
            ("regular@8080", "runs already"),
            (f"transparent:lan0@{lab.gateway.v4}:8080", "listens there already|in use"),
        ):
            with pytest.raises(ControlError, match=text):
                control.call("modes.add", spec=spec)
        # Of two changes the second cannot be: neither is, and not the option beside them either.
        with pytest.raises(ControlError, match="in use"):
            modes = ["regular@8080", "regular@8098", f"regular@{lab.gateway.v4}:8099"]
            control.call("options.set", values={"tcp_timeout": 5, "mode": modes})
        assert control.call("options.get", names=["tcp_timeout", "mode"])["values"] == {
            "tcp_timeout": 600, "mode": ["regular@8080"],
        }  # fmt: skip
        assert [mode["spec"] for mode in control.call("modes.list")["modes"]] == ["regular@8080"]
        assert lab.gateway.listening() & {8080, 8098} == {8080}
        taken.close()
        # A mode takes the port of one that goes.
        control.call("options.set", values={"mode": [f"regular@{lab.gateway.v4}:8080"]})
        assert lab.curl(f"http://origin.test:{HTTP}/", via=gateway).status == 200
    assert state(lab) == before


def test_config_yaml_changes_modes_too(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mode: [regular@8080]\n")
    command = [*LOCKGATE, "run", "--set", f"confdir={tmp_path}"]
    with Gateway(lab.gateway, command, ports=[8080], confdir=tmp_path, scratch=lab.scratch) as gateway:
        (tmp_path / "config.yaml").write_text("mode: [regular@8081]\n")
        gateway.signal(signal.SIGHUP)
        wait_for(lambda: lab.gateway.listening() & {8080, 8081} == {8081}, 5, "the other port")
        (tmp_path / "config.yaml").write_text("mode: [regular@8082]\nlisten_host: 127.0.0.1\n")
        assert "changed: mode, listen_host" in lockgate(gateway, "reload")
        assert lab.gateway.listening() & {8080, 8081, 8082} == {8082}
        (tmp_path / "config.yaml").write_text("mode: [regular@1.2.3.4:8083]\n")
        assert "1.2.3.4" in lockgate(gateway, "reload", expect=1)
        gateway.signal(signal.SIGHUP)
        gateway.wait_output("the modes stay as they were: .*1.2.3.4")
        assert "regular@8082  on 127.0.0.1:8082" in lockgate(gateway, "modes")
        assert lab.gateway.listening() & {8082, 8083} == {8082}


def test_an_option_works_from_the_next_connection_on(lab: Lab) -> None:
    with lab.gateway_proc() as gateway, client(gateway) as control:

        def issuer() -> str:
            with lab.connect_tls(ca=False, over=tunnel(lab, "origin.test", HTTPS)) as tls:
                return issuer_of(tls.getpeercert(True) or b"")

        assert "lockgate" in issuer()
        control.call("flows.subscribe", events=["connection"])
        control.call("options.set", specs=[f"ignore_hosts=origin.test:{HTTPS}$"])
        assert "lockgate" not in issuer()
        event = next(control.events())
        assert event["connection"]["verdict"]["action"] == "pass"
        assert event["connection"]["server"] == f"origin.test:{HTTPS}"
        control.call("options.reset", names=["ignore_hosts"])
        assert "lockgate" in issuer()


def test_events_of_flows(lab: Lab) -> None:
    """Every kind of flow, held to the schema; with `tail` beside it."""
    with lab.gateway_proc("-m", "regular@8080", "-m", f"transparent@{PORT}") as gateway:
        with client(gateway) as control, lab.redirect(PORT, only=[ECHO, 53], udp=True):
            control.call("flows.subscribe")
            tail = subprocess.Popen(
                [*LOCKGATE, "tail", "--set", f"confdir={gateway.confdir}"],
                stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**clean_environment(), "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
            wait_for(lambda: control.call("status")["subscriptions"] == 2, 10, "tail listens")
            assert lab.curl(f"https://origin.test:{HTTPS}/x", via=gateway).status == 200
            assert lab.curl("http://nowhere.test/y", via=gateway).status == 502
            with lab.connect("origin.test", ECHO) as sock:
                sock.sendall(b"\0raw")
                assert sock.recv(10) == b"\0raw"
            seen: list[tuple[str, str, str]] = []
            ended: dict[str, dict[str, Any]] = {}
            for event in control.events():
                flow = event["flow"]
                what = flow.get("url") or flow["server"]
                seen.append((event["kind"], flow["type"], what))
                if event["kind"] == "end":
                    ended[what] = flow
                if len(ended) == 3:
                    break
            assert tail.stdout is not None
            lines = [tail.stdout.readline() for _ in range(3)]
            ok = ended[f"https://origin.test:{HTTPS}/x"]
            assert (ok["status"], ok["method"], ok["verdict"]["action"]) == (200, "GET", "decrypt")
            assert ok["duration"] > 0 and ok["client"].startswith(lab.client.v4)
            assert ended["http://nowhere.test/y"]["error"]
            raw = next(flow for flow in ended.values() if flow["type"] == "tcp")
            assert raw["up"] == raw["down"] == 4
            for what, flow in ended.items():
                mine = [kind for kind, _, name in seen if name == what]
                assert mine[0] == "begin" and mine.count("begin") == mine.count("end") == 1, (flow, seen)
        assert "200" in lines[0] and "decrypt (TLS)" in lines[0]
        assert "error:" in lines[1] and " tcp " in lines[2]
        gateway.stop()
        assert tail.wait(10) == 0


def test_a_subscriber_that_does_not_read_holds_up_nobody(lab: Lab) -> None:
    with lab.gateway_proc(options={"flow_detail": 0}) as gateway, client(gateway) as control:
        deaf = client(gateway)
        deaf.call("flows.subscribe")
        path = "/" + "x" * 1900
        requests = 450
        with connect(lab) as sock:
            for _ in range(requests):
                sock.sendall(get(f"http://origin.test:{HTTP}{path}"))
                assert status(read_response(sock)[0]) == 200
        found = control.call("status")
        assert found["flows"]["total"] == requests
        assert found["dropped"]["events"] > 0
        # It is told as soon as it reads, and then hears of what is new.
        told = ended = 0
        lab.curl(f"http://origin.test:{HTTP}/last", via=gateway)
        for event in deaf.events():
            told += event.get("count", 0)
            ended += event.get("kind") == "end"
            if event["event"] == "flow" and event["flow"]["url"].endswith("/last") and event["kind"] == "end":
                break
            if told == control.call("status")["dropped"]["events"]:
                lab.curl(f"http://origin.test:{HTTP}/last", via=gateway)
        assert told == control.call("status")["dropped"]["events"]
        assert 0 < ended < requests
        deaf.close()
        wait_for(lambda: control.call("status")["subscriptions"] == 0, 5, "it is forgotten")


def test_who_may_use_it_and_what_kill_9_leaves(lab: Lab, tmp_path: Path) -> None:
    sock = tmp_path / "control.sock"

    def mode() -> int:
        return stat.S_IMODE(sock.stat().st_mode)

    assert "no gateway runs with" in lockgate(tmp_path, "status", expect=1)
    with lab.gateway_proc(confdir=tmp_path, options={"ca_key": "ec"}) as gateway:
        assert mode() == 0o600
        assert json.loads(lockgate(gateway, "status", "--json"))["pid"] == gateway.process.pid
        # A second one is refused, and the first goes on.
        with pytest.raises(RuntimeError, match=r"another gateway uses .*(?s:.)*--set confdir=DIR"):
            lab.gateway_proc("-p", "8090", confdir=tmp_path)
        gateway.signal(signal.SIGKILL)
        gateway.process.wait(10)
    assert sock.exists()
    assert "lockgate run" in lockgate(tmp_path, "status", expect=1)
    with lab.gateway_proc(confdir=tmp_path, options={"control_group": str(os.getgid())}) as gateway:
        assert mode() == 0o660
        assert f"process {gateway.process.pid}" in lockgate(gateway, "stop")
        assert gateway.process.wait(5) == 0
    assert not sock.exists()


@pytest.mark.slow
def test_two_gateways_have_two_folders(lab: Lab, tmp_path: Path) -> None:
    quick = {"ca_key": "ec"}
    first = lab.gateway_proc("-m", "regular@8080", confdir=tmp_path / "a", options=quick)
    with first, lab.gateway_proc("-m", "regular@8090", confdir=tmp_path / "b", options=quick) as second:
        for gateway, port in ((first, 8080), (second, 8090)):
            with client(gateway) as control:
                found = control.call("status")
            assert found["pid"] == gateway.process.pid
            assert [address[1] for mode in found["modes"] for address in mode["addresses"]] == [port, port]
        lockgate(second, "stop")
        assert "8080" in lockgate(first, "modes")


@pytest.mark.slow
def test_a_hung_gateway_is_named(lab: Lab) -> None:
    with lab.gateway_proc() as gateway:
        control = client(gateway)
        gateway.signal(signal.SIGSTOP)
        try:
            control._sock.settimeout(0.5)
            with pytest.raises(ControlError, match="does not answer in time"):
                control.call("status")
        finally:
            gateway.signal(signal.SIGCONT)
        control.close()
