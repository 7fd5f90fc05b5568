"""The server under good and bad clients; every line is held to docs/control.schema.json."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import gzip
import json
import logging
import os
import random
import socket
import threading
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from appliance.control.feed import MOST_UNREAD
from appliance.control.methods import METHODS, plain
from appliance.control.protocol import CODES, MAX_LINE, ControlError, dump
from appliance.control.server import MAX_CLIENTS, ControlServer
from appliance.exceptions import OptionsError
from appliance.http import Response
from appliance.ids import short_id
from appliance.store.store import Store
from appliance.tcp import TCPMessage
from appliance.test import tflow
from tests.control.kit import SCHEMA, Checked, answer, plain_socket, raw, running
from tests.flowkit import http, tcp
from tests.harness import until
from tests.store.gatewaykit import origin
from tests.store.storekit import fill

_SCHEMA_KIND = {"text": "string", "count": "integer", "bool": "boolean", "texts": "array", "object": "object"}


def test_the_schema_names_what_there_is() -> None:
    assert SCHEMA["methods"].keys() == METHODS.keys()
    for name, method in METHODS.items():
        about = SCHEMA["methods"][name]
        assert about["params"].keys() == method.params.keys(), name
        assert set(about.get("required", ())) == {one for one, kind in method.params.items() if kind[-1] != "?"}, name
    assert set(SCHEMA["$defs"]["error"]["properties"]["code"]["enum"]) == CODES.keys()


def test_the_page_names_what_there_is() -> None:
    page = (Path(__file__).parents[2] / "docs/control.md").read_text(encoding="utf-8")
    for name in (*METHODS, *CODES):
        assert f"`{name}`" in page, name


async def test_status(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        found = await gateway.call("status")
        assert found["pid"] == os.getpid()
        assert found["confdir"] == str(tmp_path)
        assert found["modes"][0]["addresses"] == [list(gateway.proxy[:2])]
        assert found["clients"] == 1 and found["memory"]["resident"] > 1 << 20
        modes = [{**mode, "firewall": None} for mode in found["modes"]]
        assert modes == (await gateway.call("modes.list"))["modes"]
    assert not gateway.path.exists()


async def test_options(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        client = await gateway.client()

        async def call(method: str, **params: Any) -> Any:
            return await asyncio.to_thread(client.call, method, **params)

        assert (await call("options.get", names=["tcp_timeout"]))["values"] == {"tcp_timeout": 600}
        assert (await call("options.set", values={"tcp_timeout": 5}))["values"] == {"tcp_timeout": 5}
        assert gateway.gateway.worker.settings.idle_timeout == 5.0
        specs = ["ignore_hosts=a", "ignore_hosts=b", "anticache"]
        assert (await call("options.set", specs=specs))["values"] == {"ignore_hosts": ["a", "b"], "anticache": True}
        await call("options.reset", names=["tcp_timeout", "ignore_hosts"])
        assert gateway.gateway.options.tcp_timeout == 600
        listed = {one["name"]: one for one in (await call("options.list"))["options"]}
        assert listed["anticache"]["value"] is True and listed["anticache"]["source"] == "set while running"
        await call("options.set", values={"cert_passphrase": "secret"})
        assert (await call("options.list", names=["cert_passphrase"]))["options"][0]["value"] == "***"


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"values": {"tcp_timout": 5}}, "refused", "did you mean tcp_timeout"),
    ({"values": {"tcp_timeout": "x"}}, "refused", "expected"),
    ({"values": {"tcp_timeout": 7, "intercept": "~q ("}}, "refused", "intercept"),  # an add-on refuses
    ({"specs": ["tcp_timeout=7", "upstream_cert_invalid=no"]}, "refused", "is not one of"),
    ({"values": {"tcp_timeout": 7, "mode": ["reglar"]}}, "refused", "did you mean regular"),
    ({"values": {"control_group": "x"}}, "refused", "restart"),
    ({}, "bad_params", "either"),
]


async def test_options_change_together_or_not_at_all(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        before = dict(gateway.gateway.options.items())
        for params, code, text in REFUSED:
            with pytest.raises(ControlError) as caught:
                await gateway.call("options.set", **params)
            assert caught.value.code == code and text in str(caught.value)
            assert dict(gateway.gateway.options.items()) == before


async def test_what_is_asked_for_wrongly(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        client = await gateway.client()
        client.right = False
        for method, params, code in (
            ("statu", {}, "unknown_method"),
            ("status", {"x": 1}, "bad_params"),
            ("options.get", {"names": "mode"}, "bad_params"),
            ("modes.add", {}, "bad_params"),
            ("modes.add", {"spec": 5}, "bad_params"),
            ("unsubscribe", {"subscription": True}, "bad_params"),
            ("unsubscribe", {"subscription": 3}, "not_found"),
            ("commands.call", {"name": "no.such"}, "not_found"),
            ("commands.call", {"name": "flow.mark"}, "refused"),
            ("scripts.reload", {"path": "/none.py"}, "not_found"),
            ("log.subscribe", {"level": "loud"}, "bad_params"),
            ("flows.subscribe", {"filter": "~q ("}, "bad_params"),
            ("flows.subscribe", {"events": ["start"]}, "bad_params"),
            ("flows.get", {"id": "nobody"}, "not_found"),
            ("flows.resume", {}, "bad_params"),
            ("flows.resume", {"ids": [], "all": True}, "bad_params"),
            ("flows.kill", {"ids": ["x"]}, "not_found"),
        ):
            with pytest.raises(ControlError) as caught:
                await asyncio.to_thread(client.call, method, **params)
            assert caught.value.code == code, method
        client.right = True
        assert await asyncio.to_thread(client.call, "flows.intercepted") == {"flows": []}


async def test_malformed_lines_hurt_nobody(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        reader, writer = await raw(gateway.path)
        for line in (b"nonsense", b"[1]", b'{"id":7}', b"\xff\xff", b"[" * 100_000, b'{"id":NaN,"method":"x"}'):
            writer.write(line + b"\n\n \r\n")
            found = await answer(reader)
            assert found["error"]["code"] == "bad_request"
            assert found["id"] == (7 if line == b'{"id":7}' else None)
        writer.write(b'{"id":"a","method":"flows.intercepted"}\n')
        assert await answer(reader) == {"id": "a", "result": {"flows": []}}
        writer.write(b"x" * (MAX_LINE + 10))
        found = await answer(reader)
        assert found["id"] is None and "longer than" in found["error"]["message"]
        assert await reader.read() == b""
        writer.close()
        assert (await gateway.call("status"))["clients"] == 1


async def test_many_requests_at_once_are_answered_in_order(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        reader, writer = await raw(gateway.path)
        writer.write(b"".join(b'{"id":%d,"method":"options.get","params":{}}\n' % n for n in range(500)))
        for n in range(500):
            assert (await answer(reader))["id"] == n
        writer.close()


async def test_a_client_that_does_not_read_is_not_read_from(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        sock = plain_socket(gateway.path)
        sock.setblocking(False)
        line, sent = b'{"id":1,"method":"options.list"}\n' * 1000, 0
        with contextlib.suppress(TimeoutError):
            while True:
                await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(sock, line), 1)
                sent += len(line)
                assert sent < 8 << 20
        session = next(iter(gateway.gateway.control.sessions))
        assert session.transport.get_write_buffer_size() < 1 << 20
        sock.close()
        await until(lambda: not gateway.gateway.control.sessions)


async def test_who_has_closed_his_side_still_gets_his_answer(tmp_path: Path) -> None:
    """As `echo ... | nc -U` does."""
    async with running(tmp_path) as gateway:
        reader, writer = await raw(gateway.path)
        writer.write(b'{"id":1,"method":"status"}\n{"id":2,"method":"status"}\n')
        writer.write_eof()
        lines = (await asyncio.wait_for(reader.read(), 10)).splitlines()
        assert [json.loads(line)["id"] for line in lines] == [1, 2]
        writer.close()


async def test_there_are_not_more_clients_than_a_bound(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        held = [await raw(gateway.path) for _ in range(MAX_CLIENTS)]
        with pytest.raises(ControlError) as caught:
            await gateway.call("status")
        assert caught.value.code == "busy"
        held.pop()[1].close()
        await until(lambda: len(gateway.gateway.control.sessions) < MAX_CLIENTS)
        assert (await gateway.call("status"))["clients"] == MAX_CLIENTS
        for _, writer in held:
            writer.close()


async def test_two_gateways_need_two_folders(tmp_path: Path) -> None:
    async with running(tmp_path / "a") as first, running(tmp_path / "b") as second:
        assert first.proxy != second.proxy
        with pytest.raises(OptionsError, match="another gateway uses"):
            async with running(tmp_path / "a"):
                pass
        # That one ended as it began; the first has not noticed.
        assert (await first.call("status"))["modes"][0]["addresses"] == [list(first.proxy[:2])]
        assert (await second.call("status"))["modes"][0]["addresses"] == [list(second.proxy[:2])]


async def test_without_a_server_there_is_no_socket(tmp_path: Path) -> None:
    async with running(tmp_path):
        from appliance.gateway import Gateway
        from appliance.options import Options

        reading = Gateway(Options(confdir=str(tmp_path), server=False, flow_detail=0))
        task = asyncio.ensure_future(reading.run())
        await until(lambda: reading.addons.is_running)
        reading.shutdown()
        assert await task == 0
        assert (tmp_path / "control.sock").exists()


async def test_commands(tmp_path: Path) -> None:
    script = tmp_path / "addon.py"
    script.write_text(
        "import asyncio, sys\nfrom appliance import command\n"
        "@command.command('lab.add')\ndef add(a: int, b: int) -> int:\n    'Add.'\n    return a + b\n"
        "@command.command('lab.wait')\nasync def wait() -> bytes:\n    await asyncio.sleep(0.01)\n    return b'\\xff'\n"
        "@command.command('lab.bad')\ndef bad() -> None:\n    raise ZeroDivisionError('oh')\n"
        "@command.command('lab.exit')\ndef leave() -> None:\n    sys.exit(3)\n"
    )
    async with running(tmp_path, scripts=[str(script)]) as gateway:
        listed = {one["name"]: one for one in (await gateway.call("commands.list"))["commands"]}
        assert listed["lab.add"] == {"name": "lab.add", "signature": "lab.add a b -> int", "help": "Add."}
        assert (await gateway.call("commands.call", name="lab.add", args=["2", "3"]))["value"] == 5
        assert (await gateway.call("commands.call", name="lab.wait"))["value"] == {"base64": "/w=="}
        for name, args, code in (
            ("lab.add", ["x", "1"], "refused"),
            ("lab.bad", [], "failed"),
            ("lab.exit", [], "failed"),
        ):
            with pytest.raises(ControlError) as caught:
                await gateway.call("commands.call", name=name, args=args)
            assert caught.value.code == code
        await gateway.call("commands.call", name="set", args=["mode", "regular@127.0.0.1:0", "regular@0"])
        assert len((await gateway.call("modes.list"))["modes"]) == 2


async def test_scripts_are_read_again(tmp_path: Path) -> None:
    script = tmp_path / "addon.py"
    script.write_text("from appliance import command\n@command.command('lab.v')\ndef v() -> int:\n    return 1\n")
    (tmp_path / "config.yaml").write_text("")
    async with running(tmp_path, scripts=[str(script)]) as gateway:
        assert (await gateway.call("scripts.list"))["scripts"] == [{"path": str(script), "loaded": True}]
        script.write_text(script.read_text().replace("return 1", "return 2"))
        assert (await gateway.call("scripts.reload"))["scripts"] == [str(script)]
        assert (await gateway.call("commands.call", name="lab.v"))["value"] == 2
        script.write_text("raise ValueError('broken')\n")
        with pytest.raises(ControlError, match="broken"):
            await gateway.call("scripts.reload", path=str(script))
        assert (await gateway.call("commands.call", name="lab.v"))["value"] == 2
        script.write_text("")
        (tmp_path / "config.yaml").write_text("tcp_timeout: 9\n")
        assert await gateway.call("reload") == {"changed": ["tcp_timeout"], "scripts": [str(script)]}
        (tmp_path / "config.yaml").write_text("tcp_timeout: 9\nudp_timeout: x\n")
        with pytest.raises(ControlError, match=r"config.yaml:2"):
            await gateway.call("reload")


async def test_the_log(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        client = await gateway.client()
        number = (await asyncio.to_thread(client.call, "log.subscribe", level="warn"))["subscription"]
        log = logging.getLogger("test")
        log.info("not this")
        log.warning("from the loop %d", 1)
        odd = logging.LogRecord("test", logging.WARNING, __file__, 1, "%d is no fault", ("here",), None)
        gateway.gateway.control.log.handle(odd)  # pytest's own handler would raise
        thread = threading.Thread(target=lambda: log.error("from a thread \x1b[31m"))
        thread.start()
        events = client.events()
        found = [await asyncio.to_thread(next, events) for _ in range(3)]
        assert [(one["level"], one["text"]) for one in found] == [
            ("warn", "from the loop 1"),
            ("warn", "'%d is no fault' (TypeError: its arguments do not fit)"),
            ("error", "from a thread \x1b[31m"),
        ]
        events.close()
        await asyncio.to_thread(client.call, "unsubscribe", subscription=number)
        assert not [one for one in logging.getLogger().handlers if one is gateway.gateway.control.log]
        thread.join()


async def test_a_subscriber_that_does_not_read_costs_a_bounded_amount_and_is_told(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        client = await gateway.client()
        await asyncio.to_thread(client.call, "log.subscribe")
        session = next(iter(gateway.gateway.control.sessions))
        log, text = logging.getLogger("test"), "x" * 2000
        for _ in range(30):
            for _ in range(100):
                log.warning(text)
            await asyncio.sleep(0.06)
            assert session.transport.get_write_buffer_size() < 2 * MOST_UNREAD
        lost = gateway.gateway.control.log.subscriptions[0].lost
        assert 0 < lost < 3000
        events, seen, told = client.events(), 0, 0
        while seen + told < 3000:
            event = await asyncio.to_thread(next, events)
            if event["event"] == "dropped":
                told += event["count"]
            else:
                seen += 1
        assert told == lost
        assert (await gateway.call("status"))["dropped"]["events"] == lost
        events.close()


async def test_a_flow_that_cannot_be_told_costs_no_other(tmp_path: Path) -> None:
    """An add-on may have put anything into it."""
    async with running(tmp_path) as gateway:
        client = await gateway.client()
        await asyncio.to_thread(client.call, "flows.subscribe", events=["end"])
        feed = gateway.gateway.addons.get("flowfeed")
        odd, worse, good = http(), http(), http()
        odd.comment = b"bytes"  # type: ignore[assignment]
        worse.request.timestamp_start = float("nan")
        for flow in (odd, worse, good):
            feed.note("end", flow)
        events = client.events()
        found = [await asyncio.to_thread(next, events) for _ in range(2)]
        assert [event["flow"]["id"] for event in found] == [odd.id, good.id]
        assert found[0]["flow"]["comment"] == "b'bytes'"
        events.close()
        assert (await gateway.call("status"))["dropped"]["events"] == 1


async def test_large_bodies_and_many_messages_are_shown_in_parts_and_hold_nothing_up(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        client = await gateway.client()
        await asyncio.to_thread(client.call, "flows.subscribe", events=["end"])
        feed = gateway.gateway.addons.get("flowfeed")
        bomb, talk = http(), tcp()
        assert bomb.response is not None
        bomb.response.headers["content-encoding"] = "gzip"
        bomb.response.raw_content = gzip.compress(bytes(100 << 20), 1)
        talk.messages = [TCPMessage(True, b"\xff" * (1 << 20)) for _ in range(64)]
        for flow in (bomb, talk):
            feed.note("end", flow)
        where: list[int] = []
        decode = Response.get_content

        def noted(*args: Any, **more: Any) -> Any:
            where.append(threading.get_ident())
            return decode(*args, **more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Response, "get_content", noted)
            about = await asyncio.to_thread(client.call, "flows.get", id=bomb.id)
            assert about["flow"]["response"]["content"]["size"] == 100 << 20
            part = await asyncio.to_thread(client.call, "flows.content", id=bomb.id, part="response", offset=5)
            assert part["size"] == 100 << 20
        assert len(where) == 2 and threading.get_ident() not in where
        about = await asyncio.to_thread(client.call, "flows.get", id=talk.id, content_limit=1 << 20)
        shown = about["flow"]["last_messages"]
        assert [one["size"] for one in shown] == [1 << 20] * 64
        assert sum("base64" in one for one in shown) == 8 and "base64" in shown[-1] and shown[0]["next"] == 0


async def test_a_listener_without_descriptors_does_not_keep_the_loop_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.control.server.ACCEPT_AGAIN_SECONDS", 0.1)
    async with running(tmp_path) as gateway:
        control = gateway.gateway.control
        assert control._claimed is not None
        calls = 0
        accept = control._accept

        class Exhausted:
            def fileno(self) -> int:
                return control._claimed.sock.fileno()  # type: ignore[union-attr]

            def accept(self) -> Any:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        def counting(listener: Any) -> None:
            nonlocal calls
            calls += 1
            accept(Exhausted() if calls < 4 else listener)  # type: ignore[arg-type]

        monkeypatch.setattr(control, "_accept", counting)
        control.serve()
        began = asyncio.get_running_loop().time()
        assert await gateway.call("modes.list")
        assert calls == 4 and asyncio.get_running_loop().time() - began >= 0.3


async def test_the_end_of_the_gateway_is_the_end_of_the_stream(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        client = await gateway.client()
        assert (await asyncio.to_thread(client.call, "shutdown"))["pid"] == os.getpid()
        await asyncio.to_thread(client.wait_end, 10)
        await gateway.task
    with pytest.raises(ControlError, match="no gateway runs"):
        Checked(gateway.path)


async def test_flows_in_memory_are_at_hand_and_can_be_replayed(tmp_path: Path) -> None:
    heads: list[bytes] = []

    async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(origin, "127.0.0.1", 0)
    async with running(tmp_path, view_limit=10) as gateway, server:
        one, held = tflow.tflow(resp=True), tflow.tflow()
        one.request.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/again"
        one.request.content, one._live = b"", None
        assert gateway.gateway.view is not None
        gateway.gateway.view.add([one, held])
        with pytest.raises(ControlError, match="while it is going on"):
            await gateway.call("flows.replay", ids=[one.id, held.id])
        assert heads == []
        assert (await gateway.call("flows.replay", ids=[short_id(one.id)]))["ids"] == [one.id]
        await until(lambda: one.response is not None and one.response.status_code == 204)
        assert heads[0].startswith(b"GET /again HTTP/1.1\r\n")
        assert (await gateway.call("flows.get", id=one.id))["flow"]["is_replay"] == "request"


async def test_flows_of_the_store_are_shown_and_replayed(tmp_path: Path) -> None:
    """No longer in memory, by number and by id; what comes of them is beside them."""
    asked: list[bytes] = []

    async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                asked.append(head.split()[1])
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nnew")
        writer.close()

    server = await asyncio.start_server(origin, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    flows: list[Any] = [http(f"http://127.0.0.1:{port}/{n}", answer=b"old" * 100) for n in range(3)]
    flows[1].response.headers["content-encoding"] = "identity"
    fill(tmp_path / "flows", [*flows, tcp(), http("http://a.example/large", answer=b"x" * 5000)], body_limit=1000)
    async with running(tmp_path) as gateway, server:

        async def refused(method: str, **params: Any) -> str:
            with pytest.raises(ControlError) as caught:
                await gateway.call(method, **params)
            return f"{caught.value.code}: {caught.value}"

        whole = (await gateway.call("flows.get", number=2))["flow"]
        assert whole["id"] == flows[1].id and whole["response"]["content"]["size"] == 300
        assert (await gateway.call("flows.get", id=flows[1].id))["flow"] == whole
        part = await gateway.call("flows.content", number=2, part="response", offset=3, limit=4)
        assert part == {"size": 300, "text": "oldo", "next": 7}
        assert (await gateway.call("flows.get", number=5))["flow"]["response_size"] == 5000
        assert "not_found: 77: no such flow" in await refused("flows.get", number=77)
        for id in ("abcdef0", "2", ""):  # what is no number, is none
            assert f"not_found: no flow {id} is at hand" in await refused("flows.get", id=id)
            assert "not_found" in await refused("flows.replay", ids=[id])
        assert "bad_params: no flow is named" in await refused("flows.get")
        assert "bad_params: no flow is named" in await refused("flows.get", number=1, id="x")
        assert "bad_params: no flow is named" in await refused("flows.replay")
        assert "not_found: 77" in await refused("flows.replay", numbers=[1, 77])
        assert "refused: flow 4: only HTTP" in await refused("flows.replay", numbers=[1, 4])
        assert asked == []
        ids = (await gateway.call("flows.replay", numbers=[3, 1], ids=[flows[1].id]))["ids"]
        assert len(ids) == 3 and not set(ids) & {flow.id for flow in flows}
        await until(lambda: len(asked) == 3)
        assert asked == [b"/1", b"/2", b"/0"]
        await until(lambda: gateway.gateway.store.recorder.flows == 3)  # type: ignore[union-attr]
        again = (await gateway.call("flows.get", id=ids[0]))["flow"]  # recorded just now
        assert again["is_replay"] == "request" and again["response"]["content"]["text"] == "new"
    with Store(tmp_path / "flows") as store:
        assert [flow.id for flow in store.flows("~replayq")] == ids
        assert len(list(store.flows("~http & !~replay"))) == 4


async def test_without_a_store(tmp_path: Path) -> None:
    async with running(tmp_path, store=False) as gateway:
        for method, params in (("flows.get", {"number": 1}), ("flows.replay", {"numbers": [1]})):
            with pytest.raises(ControlError, match="no flows have been recorded there"):
                await gateway.call(method, **params)
        with pytest.raises(ControlError, match="no flow abcdef is at hand"):
            await gateway.call("flows.get", id="abcdef")


def test_values_of_commands_as_json() -> None:
    @dataclasses.dataclass
    class Status:
        flows: int
        folder: Path

    class Pair(NamedTuple):
        a: int
        b: bytes

    found = plain({"x": (1, b"\0", None, 1.5, float("nan"), {2: True}), "y": Status(3, Path("/z")), "z": Pair(4, b"")})
    assert found == {
        "x": [1, {"base64": "AA=="}, None, 1.5, "nan", {"2": True}],
        "y": {"flows": 3, "folder": "/z"},
        "z": {"a": 4, "b": {"base64": ""}},
    }
    json.dumps(found)
    loop: list[Any] = []
    loop.append(loop)
    assert json.dumps(plain(loop))


async def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def bind(sock: object, name: object) -> None:
        raise OSError(30, "Read-only file system")

    async with running(tmp_path) as gateway:
        await gateway.stop()
        monkeypatch.setattr("socket.socket.bind", bind)
        server = ControlServer(gateway.gateway)
        server.claim()
        assert "cannot be made: Read-only file system; name another place" in caplog.text
        gateway.gateway.options.__dict__["control_socket"] = str(tmp_path / "x.sock")
        with pytest.raises(OptionsError, match="Read-only"):
            server.claim()
        await server.close()


async def test_of_two_changes_at_once_the_good_one_stays(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            bad = f"regular@127.0.0.1:{taken.getsockname()[1]}"
            found = await asyncio.gather(
                *(gateway.call("modes.add", spec=spec) for spec in ("regular@localhost:0", bad, "regular@[::1]:0")),
                return_exceptions=True,
            )
        assert [isinstance(one, ControlError) for one in found] == [False, True, False]
        modes = {mode["spec"] for mode in (await gateway.call("modes.list"))["modes"]}
        assert modes == {"regular@127.0.0.1:0", "regular@localhost:0", "regular@[::1]:0"}


@pytest.mark.parametrize("events", [["end"], ["update", "end"]])
async def test_a_filter_that_looks_into_bodies_has_them(tmp_path: Path, events: list[str]) -> None:
    """Also of what would stream past."""
    async with running(tmp_path) as gateway, origin(b"first " + b"x" * 300_000 + b" last") as port:
        plain, looks = await gateway.client(), await gateway.client()
        await asyncio.to_thread(plain.call, "flows.subscribe", events=events)
        hooks = gateway.gateway.hooks
        assert not hooks.holds["response"] and not hooks.wants("tcp_message")
        await asyncio.to_thread(looks.call, "flows.subscribe", filter="~bs first.*last", events=["end"])
        assert hooks.holds["response"] and hooks.wants("tcp_message")
        reader, writer = await asyncio.open_connection(*gateway.proxy)
        writer.write(b"GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: o\r\nConnection: close\r\n\r\n" % port)
        assert len(await reader.read()) > 300_000
        writer.close()
        found = looks.events()
        assert (await asyncio.wait_for(asyncio.to_thread(next, found), 10))["flow"]["status"] == 200
        found.close()
        looks.close()
        await until(lambda: not hooks.holds["response"])
        assert hooks.wants("response") and not hooks.wants("tcp_message")


async def test_while_nobody_is_subscribed_nothing_listens(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        hooks = gateway.gateway.hooks

        def ears() -> Any:
            return dict(hooks.table), dict(hooks.holds), dict(hooks.heard)

        before, client = ears(), await gateway.client()
        first = await asyncio.to_thread(client.call, "flows.subscribe", events=["end", "connection"])
        assert hooks.heard["response"] and not hooks.holds["response"]
        assert not hooks.heard["tcp_message"] and not hooks.heard["tcp_start"]
        second = await asyncio.to_thread(client.call, "flows.subscribe", filter="~c 500")
        assert hooks.heard["tcp_message"] and not hooks.table["tcp_message"]  # raw TCP is still spliced
        assert not hooks.holds["request"] and not hooks.holds["response"]
        for one in (second, first):
            await asyncio.to_thread(client.call, "unsubscribe", **one)
        assert ears() == before
        await asyncio.to_thread(client.call, "flows.subscribe")
        client.close()
        await until(lambda: ears() == before)


async def test_whatever_is_asked_is_answered_and_nothing_is_a_fault(tmp_path: Path) -> None:
    odd = [None, True, 0, -1, 1.5, "", "x", "x" * 300, "\udcff", [], ["x"], [1], {}, {"x": 1}, {"url": 5}, 10**30]
    fit: dict[str, list[Any]] = {
        "text": ["x", "\udcff", "regular@0"],
        "count": [0, 3, 10**30],
        "bool": [True, False],
        "texts": [[], ["x"], ["tcp_timeout=1"]],
        "counts": [[], [1], [10**30]],
        "object": [{}, {"x": 1}, {"path": "/x"}, {"text": "\ud800"}],
    }
    chance = random.Random(3)
    async with running(tmp_path, view_limit=5) as gateway:
        assert gateway.gateway.view is not None
        gateway.gateway.view.add([held := tflow.tflow(resp=True), tflow.ttcpflow(), tflow.tdnsflow()])
        held.intercepted = True
        ids = [flow.id for flow in gateway.gateway.view]
        fit["text"] += ids
        fit["texts"].append(ids)
        reader, writer = await raw(gateway.path)
        codes = set()
        for number in range(700):
            name = chance.choice([*sorted(METHODS.keys() - {"shutdown"}), "x"])
            known = METHODS[name].params if name in METHODS else {}
            params = {
                key: chance.choice(odd if chance.random() < 0.2 else fit[kind.rstrip("?")])
                for key, kind in [*known.items(), ("bogus", "text")]
                if chance.random() < (0.05 if key == "bogus" else 0.7)
            }
            writer.write(dump({"id": number, "method": name, "params": params}))
            while "event" in (found := await answer(reader)):
                pass
            assert found["id"] == number
            codes.add(found.get("error", {}).get("code", "ok"))
            assert found.get("error", {}).get("code") != "failed", (name, params, found)
        writer.close()
        assert codes >= {"ok", "bad_params", "unknown_method", "not_found", "refused"}
        assert (await gateway.call("status"))["clients"] == 1
