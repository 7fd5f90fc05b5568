"""save.pcapng, and pcap_over_ip: finished flows live."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path

import pytest

from appliance.addons import pcapoverip
from appliance.addons.pcapoverip import PcapOverIp
from appliance.addons.savepcapng import SavePcapng
from appliance.exceptions import CommandError, OptionsError
from appliance.io import pcapng
from tests import flowkit
from tests.harness import Make, Rig, answering, until


def test_save(tmp_path: Path) -> None:
    flows = [flowkit.http(), flowkit.tcp(), flowkit.udp()]
    SavePcapng().save(flows, str(tmp_path / "new" / "out.pcapng"))
    data = (tmp_path / "new" / "out.pcapng").read_bytes()
    assert data == pcapng.header() + b"".join(block for flow in flows for block in pcapng.packets(flow))
    with pytest.raises(CommandError, match="cannot save"):
        SavePcapng().save(flows, str(tmp_path))


async def ready(rigs: Make) -> tuple[Rig, PcapOverIp]:
    addon = PcapOverIp()
    rig = await rigs(addon)
    rig.addons.configure()
    return rig, addon


async def feeding(rigs: Make) -> tuple[Rig, PcapOverIp]:
    rig, addon = await ready(rigs)
    rig.options.update(pcap_over_ip="0")
    await until(lambda: addon._server is not None)
    assert addon.address is not None and addon.address[0] == "127.0.0.1"
    return rig, addon


async def listen(addon: PcapOverIp) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    assert addon.address is not None
    before = len(addon.clients)
    reader, writer = await asyncio.open_connection(*addon.address)
    await until(lambda: len(addon.clients) > before)
    return reader, writer


async def request(rig: Rig) -> None:
    client = await rig.connect(await rig.transparent(await rig.origin(answering(b"seen by all"))))
    await client.say(b"GET /live HTTP/1.1\r\nHost: origin.test\r\n\r\n")
    await client.until(b"seen by all")


async def test_live(rigs: Make) -> None:
    rig, addon = await feeding(rigs)
    assert not rig.hooks.wants("response") and not rig.hooks.wants("tcp_message")  # nobody is connected
    await request(rig)
    one, two = await listen(addon), await listen(addon)
    assert rig.hooks.wants("response")
    await request(rig)
    for reader, _ in (one, two):
        data = await asyncio.wait_for(reader.readuntil(b"seen by all"), 5)
        assert data.startswith(pcapng.header()) and data.count(b"GET /live HTTP/1.1\r\n") == 1
    one[1].close()
    await until(lambda: len(addon.clients) == 1)
    assert rig.hooks.wants("response")
    two[1].close()
    await until(lambda: not addon.clients)
    assert not rig.hooks.wants("response")
    rig.options.update(pcap_over_ip="")
    assert addon.address is None


async def test_a_slow_reader_loses_whole_flows(
    rigs: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(pcapoverip, "MAX_QUEUED", 100_000)
    rig, addon = await feeding(rigs)
    reader, writer = await listen(addon)
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    flow = flowkit.http(answer=b"x" * 200_000)
    for _ in range(60):
        addon.feed(flow)
        await asyncio.sleep(0)
    (count,) = addon.clients.values()
    assert count.dropped > 10 and count.sent + count.dropped == 60
    (server,) = addon.clients
    assert server.transport.get_write_buffer_size() < 500_000
    reader._transport.resume_reading()  # type: ignore[attr-defined]
    size = len(pcapng.header()) + count.sent * len(b"".join(pcapng.packets(flow)))
    await asyncio.wait_for(reader.readexactly(size), 10)
    writer.close()
    await until(lambda: "left out" in caplog.text and "has left" in caplog.text)
    assert f"{count.sent} flows sent, {count.dropped} left out" in caplog.text
    rig.options.update(pcap_over_ip="")


async def test_too_many_clients(rigs: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pcapoverip, "MAX_CLIENTS", 1)
    rig, addon = await feeding(rigs)
    await listen(addon)
    assert addon.address is not None
    reader, _ = await asyncio.open_connection(*addon.address)
    assert await asyncio.wait_for(reader.read(), 5) == b""
    rig.options.update(pcap_over_ip="")
    await until(lambda: not addon.clients)


@pytest.mark.parametrize("text", ["x", "host.test:1", "127.0.0.1:70000", "127.0.0.1:", "[::1]"])
async def test_odd_addresses(rigs: Make, text: str) -> None:
    rig, _ = await ready(rigs)
    with pytest.raises(OptionsError, match="pcap_over_ip"):
        rig.options.update(pcap_over_ip=text)


async def test_a_port_in_use(rigs: Make) -> None:
    rig, addon = await feeding(rigs)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OptionsError, match="in use"):
        rig.options.update(pcap_over_ip=f"127.0.0.1:{taken.getsockname()[1]}")
    await listen(addon)  # the old one stays
    rig.options.update(pcap_over_ip="")


async def test_ipv6_and_a_warning_beyond_loopback(rigs: Make, caplog: pytest.LogCaptureFixture) -> None:
    rig, addon = await ready(rigs)
    rig.options.update(pcap_over_ip="[::1]:0")
    await listen(addon)
    rig.options.update(pcap_over_ip="0.0.0.0:0")
    await until(lambda: "everything in the clear" in caplog.text)
    rig.options.update(pcap_over_ip="")
