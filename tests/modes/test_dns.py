"""The `dns` mode on loopback: UDP and TCP on one port, answers from the address asked, hosts and resolv.conf."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import modes
from appliance.dns import DNSMessage, Question
from appliance.exceptions import ModeError
from appliance.net.hosts import System, parse_server
from modes.dns import DnsListener
from tests.harness import Events, Make, Rig, until


def query(name: str, kind: int = 1) -> bytes:
    return DNSMessage(7, True, questions=[Question(name, kind)]).packed


async def listening(rig: Rig, spec: str) -> modes.Mode:
    mode = modes.make(modes.ModeSpec.parse(spec), rig.worker, "", None)
    await rig.listen(mode)
    return mode


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    file = tmp_path / "hosts"
    file.write_text(
        "192.0.2.1  Host.Test host # comment\n2001:db8::1 host.test\nnonsense x\n\n192.0.2.2\nfe80::1%eth0 link.test\n"
        "192.0.2.3 host.test . ..\n"
    )
    return file


async def test_udp_and_tcp_on_one_port(rigs: Make, hosts: Path) -> None:
    events = Events("client_connected", "client_disconnected", "dns_request")
    rig = await rigs(events)
    rig.worker.system = System(hosts=hosts)
    mode = await listening(rig, "dns@127.0.0.1:0")
    address = mode.addresses[0]
    assert rig.worker.guard.refuse(*address[:2])
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as udp:
        udp.connect(address)
        for _ in range(2):
            await loop.sock_sendall(udp, query("HOST.test"))
            found = DNSMessage.unpack(await asyncio.wait_for(loop.sock_recv(udp, 512), 5))
        assert [str(one) for one in found.answers] == ["192.0.2.1", "192.0.2.3"]
        assert found.questions == [Question("HOST.test")]
    peer = await rig.connect(address)
    sent = query("1.2.0.192.in-addr.arpa", 12)
    await peer.say(len(sent).to_bytes(2, "big") + sent)
    found = DNSMessage.unpack(await peer.exactly(int.from_bytes(await peer.exactly(2), "big")))
    assert [str(one) for one in found.answers] == ["Host.Test."]
    await peer.close()
    await rig.idle(8)
    assert events.names.count("client_connected") == events.names.count("client_disconnected") == 2
    first = events.of("client_connected")[0]
    assert (first.sockname, first.transport_protocol, first.proxy_mode.type_name) == (address, "udp", "dns")
    assert isinstance(mode, modes.Dns)
    assert mode.datagrams[0].flows == {}


async def test_it_answers_from_the_address_that_was_asked(rigs: Make, hosts: Path) -> None:
    rig = await rigs()
    rig.worker.system = System(hosts=hosts)
    mode = await listening(rig, "dns@0.0.0.0:0")
    loop = asyncio.get_running_loop()
    for host in ("127.0.0.1", "127.0.0.5"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as udp:
            udp.connect((host, mode.addresses[0][1]))  # takes nothing from another address
            await loop.sock_sendall(udp, query("host"))
            assert await asyncio.wait_for(loop.sock_recv(udp, 512), 5)


async def test_a_port_that_udp_cannot_have(rigs: Make) -> None:
    rig = await rigs()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
            taken.bind(("127.0.0.1", port))
        mode = modes.make(modes.ModeSpec.parse(f"dns@127.0.0.1:{port}"), rig.worker, "", None)
        with pytest.raises(ModeError, match=f"UDP 127.0.0.1:{port} is in use"):
            await mode.start(rig.worker.arrive)
    with socket.socket() as tcp:
        tcp.bind(("127.0.0.1", port))  # nothing was left open


async def test_full(rigs: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modes.dns.MAX_FLOWS", 1)
    rig = await rigs(dns_name_servers=["127.0.0.1:9"])
    mode = await listening(rig, "dns@127.0.0.1:0")
    assert isinstance(mode, modes.Dns)
    listener: DnsListener = mode.datagrams[0]
    for _ in range(2):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.sendto(query("x.test"), mode.addresses[0])
    await until(lambda: listener.refused == 1)


async def test_what_is_no_query_takes_no_place(rigs: Make, hosts: Path) -> None:
    events = Events("client_connected")
    rig = await rigs(events)
    rig.worker.system = System(hosts=hosts)
    for spec, family, host in (
        ("dns@127.0.0.1:0", socket.AF_INET, "127.0.0.5"),
        ("dns@[::1]:0", socket.AF_INET6, "::1"),
    ):
        mode = await listening(rig, spec)
        assert isinstance(mode, modes.Dns)
        address = (host if family == socket.AF_INET6 else "127.0.0.1", mode.addresses[0][1])
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as udp:
            udp.connect(address)
            for bad in (b"", b"x", b"\0\1\x81\x80" + bytes(8), query("host")[:-1]):
                udp.send(bad)
            loop = asyncio.get_running_loop()
            assert await asyncio.wait_for(loop.sock_recv(udp, 512), 5) == b"\0\7\x81\x81" + bytes(8)
            assert mode.datagrams[0].flows == {}
            udp.send(query("host"))
            assert len(await asyncio.wait_for(loop.sock_recv(udp, 512), 5)) > 20
            assert len(mode.datagrams[0].flows) == 1
    assert len(events.of("client_connected")) == 2


async def test_one_address_has_a_share_and_silence_gives_way(
    rigs: Make, hosts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modes.dns.MAX_FLOWS", 40)
    monkeypatch.setattr("modes.flowlistener.YOUNG_SECONDS", 0.0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent, contextlib.ExitStack() as stack:
        silent.bind(("127.0.0.1", 0))
        rig = await rigs(dns_name_servers=[f"127.0.0.1:{silent.getsockname()[1]}"])
        rig.worker.system = System(hosts=hosts)
        mode = await listening(rig, "dns@127.0.0.1:0")
        assert isinstance(mode, modes.Dns)
        listener = mode.datagrams[0]

        def ask(source: str, name: str) -> socket.socket:
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
            sock.bind((source, 0))
            sock.connect(mode.addresses[0])
            sock.send(query(name))
            return sock

        for _ in range(15):
            ask("127.0.0.66", "x.test")
        await until(lambda: listener.refused == 5)
        for number in range(50):
            ask(f"127.0.1.{number + 1}", "x.test")
        loop = asyncio.get_running_loop()
        assert await asyncio.wait_for(loop.sock_recv(ask("127.0.0.7", "host"), 512), 3)
        assert len(listener.flows) == 40
        assert listener.refused == 5
    await mode.stop()


def test_defaults_and_grammar() -> None:
    spec = modes.ModeSpec.parse("dns")
    assert (spec.type_name, spec.port) == ("dns", None)


def test_hosts_file_is_read_again(hosts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.net.hosts.LOOK_SECONDS", 0.0)
    system = System(hosts=hosts, resolv_conf=hosts.with_name("resolv.conf"))
    assert list(system.addresses("host.test")) == ["192.0.2.1", "2001:db8::1", "192.0.2.3"]
    assert list(system.addresses("link.test")) == ["fe80::1"]
    assert system.knows(b"\4HOST\4test\0")
    assert not system.knows(b"\0")
    assert not system.servers()
    hosts.write_text("192.0.2.9 other.test\n")
    assert not system.knows(b"\4host\4test\0")
    assert list(system.names("9.2.0.192.in-addr.arpa")) == ["other.test"]
    hosts.unlink()
    assert not system.addresses("other.test")
    hosts.with_name("resolv.conf").write_text(
        "search x\nnameserver 192.0.2.53\nnameserver\nnameserver fe80::1%lo\nnameserver a.b\n"
    )
    assert system.servers() == (("192.0.2.53", 53), ("fe80::1%lo", 53))


def test_name_servers() -> None:
    assert parse_server("192.0.2.53") == ("192.0.2.53", 53)
    assert parse_server("192.0.2.53:5353") == ("192.0.2.53", 5353)
    assert parse_server("2001:db8::53") == ("2001:db8::53", 53)
    assert parse_server("[2001:db8::53]:5353") == ("2001:db8::53", 5353)
    for text in ("", "dns.test", "192.0.2.53:0", "192.0.2.53:x", "[::1", "[::1]x", "1.2.3.4:99999", "::1]"):
        with pytest.raises(ValueError, match="is no name server"):
            parse_server(text)


@given(st.text(max_size=30))
def test_name_servers_raise_nothing_else(text: str) -> None:
    try:
        host, port = parse_server(text)
    except ValueError:
        return
    assert host
    assert 0 < port < 65536
