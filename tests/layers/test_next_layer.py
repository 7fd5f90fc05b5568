"""The decision carried out: waiting, dialling for silent clients, add-ons, rules, explicit proxying."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from appliance.layers.base import Context, Layer
from appliance.layers.tcp import TCPLayer
from appliance.layers.tls import ClientTLSLayer, ServerTLSLayer
from appliance.net.stream import Stream
from tests.harness import ORIGIN, Events, Make, Peer, answering, cpu, echo, until

GET = b"GET /path HTTP/1.1\r\nUser-Agent: a test\r\nHost: origin.test\r\n\r\n"


async def banner(peer: Peer) -> None:
    await peer.say(b"SSH-2.0-server\r\n")
    while data := await peer.some():
        await peer.say(data)


async def test_a_server_that_speaks_first(rigs: Make) -> None:
    events = Events()
    rig = await rigs(events, server_greeting_wait_ms=20)
    client = await rig.connect(await rig.transparent(await rig.origin(banner)))
    assert await client.until(b"\n") == b"SSH-2.0-server\r\n"
    await client.say(b"SSH-2.0-client\r\n")
    assert await client.until(b"\n") == b"SSH-2.0-client\r\n"
    assert events.names == ["client_connected", "server_connect", "server_connected", "tcp_start"]


async def test_ssh_that_speaks_first_itself(rigs: Make) -> None:
    rig = await rigs(events := Events())
    client = await rig.connect(await rig.transparent(await rig.origin(echo)))
    await client.say(b"SSH-2.0-client\r\n")
    assert await client.until(b"\n") == b"SSH-2.0-client\r\n"
    assert "tcp_start" in events.names


@pytest.mark.parametrize("wait", [0.0, 0.3])
async def test_a_slow_http_client_is_still_http(rigs: Make, wait: float) -> None:
    """Connected ahead of need, then a request in small pieces."""
    events = Events()
    rig = await rigs(events, server_greeting_wait_ms=100)
    client = await rig.connect(await rig.transparent(await rig.origin(answering(b"body"))))
    await asyncio.sleep(wait)
    for i in range(0, len(GET), 3):
        await client.say(GET[i : i + 3])
        await asyncio.sleep(0)
    assert (await client.head()).startswith(b"HTTP/1.1 200")
    assert await client.exactly(4) == b"body"
    assert "tcp_start" not in events.names
    assert events.names.count("server_connect") == 1


async def test_a_short_word_of_another_protocol_is_not_held_back(rigs: Make) -> None:
    rig = await rigs(events := Events(), server_greeting_wait_ms=30)
    client = await rig.connect(await rig.transparent(await rig.origin(echo)))
    await client.say(b"PING")
    assert await client.exactly(4) == b"PING"
    assert "tcp_start" in events.names


async def test_two_silent_sides_cost_nothing_and_wait(rigs: Make) -> None:
    async def silent(peer: Peer) -> None:
        await peer.rest()

    rig = await rigs(events := Events(), server_greeting_wait_ms=10)
    listener = await rig.transparent(await rig.origin(silent))
    clients = [await rig.connect(listener) for _ in range(20)]
    await until(lambda: len(events.of("server_connected")) == 20)
    await asyncio.sleep(0.1)
    with cpu() as used:
        await asyncio.sleep(0.5)
        assert used() < 0.02
    assert "tcp_start" not in events.names
    clients[0].eof()
    await events.wait("client_disconnected")


async def test_a_silent_client_of_a_dead_server(rigs: Make) -> None:
    rig = await rigs(events := Events(), server_greeting_wait_ms=10)
    client = await rig.connect(await rig.transparent(("127.0.0.1", 1)))
    with pytest.raises(ConnectionResetError):
        await client.rest()
    await events.wait("client_disconnected")
    assert events.names == ["client_connected", "server_connect", "server_connect_error", "client_disconnected"]


async def test_a_server_that_ends_while_the_client_has_begun(rigs: Make) -> None:
    """Half a method, and the server gone: no spinning between the two."""

    async def leaves(peer: Peer) -> None:
        peer.eof()
        await peer.rest()

    rig = await rigs(Events(), server_greeting_wait_ms=10)
    client = await rig.connect(await rig.transparent(await rig.origin(leaves)))
    await asyncio.sleep(0.005)
    await client.say(b"GE")
    with cpu() as used:
        await asyncio.sleep(0.3)
        assert used() < 0.05


class Own(Layer):
    async def run(self, client: Any) -> None:
        assert isinstance(client, Stream)
        client.write(b"own layer: " + await client.read())
        client.close()


async def test_an_addon_chooses_the_layer(rigs: Make) -> None:
    def choose(nextlayer: Any) -> None:
        seen.append((nextlayer.verdict, nextlayer.data_client(), nextlayer.data_server()))
        if nextlayer.data_client().startswith(b"MINE"):
            nextlayer.layer = Own(nextlayer.context)

    seen: list[Any] = []
    rig = await rigs(Events("next_layer", next_layer=choose))
    listener = await rig.transparent(await rig.origin(answering(b"body")))
    client = await rig.connect(listener)
    await client.say(b"MINE")
    assert await client.rest() == b"own layer: MINE"
    assert seen[-1][1:] == (b"MINE", b"")
    client = await rig.connect(listener)
    await client.say(GET)
    assert (await client.head()).startswith(b"HTTP/1.1 200")
    assert seen[-1][0].action == "decrypt"


@pytest.mark.parametrize("alpn", [(), ("http/1.1",), ("h2",)])
async def test_addons_are_asked_when_there_are_bytes(rigs: Make, alpn: tuple[str, ...]) -> None:
    def choose(nextlayer: Any) -> None:
        seen.append(nextlayer.data_client()[:4])
        if nextlayer.data_client()[:1] not in (b"\x16", b"C"):
            nextlayer.layer = Own(nextlayer.context)

    seen: list[bytes] = []
    rig = await rigs(Events("next_layer", next_layer=choose))
    origin = await rig.origin(answering(), tls=True, alpn=alpn)
    client = await rig.tunnel(await rig.regular(), f"{ORIGIN}:{origin[1]}")
    await client.start_tls(alpn=alpn)
    await asyncio.sleep(0.1)
    assert seen[0] == b"CONN"
    assert [data[:1] for data in seen[1:]] == [b"\x16"]
    await client.say(b"MINE")
    assert await client.exactly(15) == b"own layer: MINE"


async def test_an_addons_layer_is_under_no_deadline_of_ours(rigs: Make) -> None:
    def choose(nextlayer: Any) -> None:
        if nextlayer.data_client():
            nextlayer.layer = Own(nextlayer.context)

    rig = await rigs(Events("next_layer", next_layer=choose))
    client = await rig.connect(await rig.regular())
    await client.say(b"M")
    assert await client.rest() == b"own layer: M"
    for handler in rig.worker.handlers:
        assert not any(stream.deadline for stream in handler.streams)


async def test_an_addon_passes_with_tcp_layer_ignore(rigs: Make) -> None:
    def choose(nextlayer: Any) -> None:
        nextlayer.layer = TCPLayer(nextlayer.context, ignore=True)

    events = Events("next_layer", "tcp_start", next_layer=choose)
    rig = await rigs(events)
    client = await rig.connect(await rig.transparent(await rig.origin(answering(), tls=True)))
    tls = await client.start_tls()
    assert b"lockgate" not in (tls.getpeercert(True) or b"")
    assert "tcp_start" not in events.names


def test_a_generator_layer_is_refused() -> None:
    with pytest.raises(TypeError, match="_handle_event"):
        type("Old", (Layer,), {"_handle_event": lambda self, event: None})


async def issuer(client: Peer, name: str | None = ORIGIN) -> str:
    tls = await client.start_tls(name)
    certificate = tls.getpeercert()
    assert certificate
    return str(dict(pair for part in certificate["issuer"] for pair in part)["commonName"])  # type: ignore[misc,union-attr]


@pytest.mark.parametrize(
    ("options", "name", "passes"),
    [
        ({"ignore_hosts": [".*"]}, ORIGIN, True),
        ({"ignore_hosts": [r"127\.0\.0\.1"]}, ORIGIN, True),
        ({"ignore_hosts": [r"^origin\.test:\d+$"]}, ORIGIN, True),
        ({"ignore_hosts": [r"other\.test"]}, ORIGIN, False),
        ({"ignore_hosts": [r"other\.test"]}, "other.test", True),
        ({"allow_hosts": [r"origin\.test"]}, ORIGIN, False),
        ({"allow_hosts": [r"origin\.test"]}, "other.test", True),
        ({"allow_hosts": [r"origin\.test"], "ignore_hosts": [r"\.test"]}, ORIGIN, True),
    ],
)
@pytest.mark.parametrize("mode", ["transparent", "regular"])
async def test_rules_by_name(rigs: Make, options: dict[str, Any], name: str, passes: bool, mode: str) -> None:
    if mode == "regular" and options.get("ignore_hosts") == [r"127\.0\.0\.1"]:
        options = {"ignore_hosts": [rf"{name}:\d+"]}
    rig = await rigs(events := Events("tcp_start", "client_disconnected"), **options)
    origin = await rig.origin(answering(), tls=True)
    if mode == "transparent":
        client = await rig.connect(await rig.transparent(origin))
    else:
        client = await rig.tunnel(await rig.regular(), f"{name}:{origin[1]}")
    assert ("lab root" in await issuer(client, name)) is passes
    assert rig.worker.totals.passed == passes
    assert "tcp_start" not in events.names
    await client.close()
    await events.wait("client_disconnected")
    verdict = events.of("client_disconnected")[0].verdict
    assert verdict.action == ("pass" if passes else "decrypt")


async def test_rules_by_host_header_wait_for_it(rigs: Make) -> None:
    rig = await rigs(events := Events(), ignore_hosts=[r"origin\.test"], server_greeting_wait_ms=10)
    listener = await rig.transparent(await rig.origin(answering(b"body")))
    client = await rig.connect(listener)
    for part in (GET[:4], GET[4:30], GET[30:50], GET[50:]):
        await client.say(part)
        await asyncio.sleep(0.05)
    assert (await client.head()).startswith(b"HTTP/1.1 200")
    assert "request" not in events.names
    assert rig.worker.totals.passed == 1
    client = await rig.connect(listener)
    await client.say(GET.replace(b"origin.test", b"other.test"))
    await client.head()
    assert "request" in events.names


async def test_show_ignored_hosts_makes_a_flow(rigs: Make) -> None:
    events = Events("tcp_start", "tcp_end", "client_disconnected")
    rig = await rigs(events, ignore_hosts=[".*"], show_ignored_hosts=True)
    client = await rig.connect(await rig.transparent(await rig.origin(answering(), tls=True)))
    assert "lab root" in await issuer(client)
    await client.close()
    await events.wait("client_disconnected")
    assert events.names == ["tcp_start", "tcp_end", "client_disconnected"]


async def test_server_first_through_a_tunnel(rigs: Make) -> None:
    rig = await rigs(server_greeting_wait_ms=10)
    origin = await rig.origin(banner)
    client = await rig.tunnel(await rig.regular(), f"127.0.0.1:{origin[1]}")
    assert await client.until(b"\n") == b"SSH-2.0-server\r\n"


async def test_plain_http_through_a_tunnel(rigs: Make) -> None:
    rig = await rigs(events := Events())
    origin = await rig.origin(answering(b"body"))
    client = await rig.tunnel(await rig.regular(), f"{ORIGIN}:{origin[1]}")
    await client.say(GET)
    assert (await client.head()).startswith(b"HTTP/1.1 200")
    assert events.names[-4:] == ["requestheaders", "request", "responseheaders", "response"]


async def test_a_proxy_client_that_says_nothing(rigs: Make) -> None:
    rig = await rigs(events := Events("client_disconnected"))
    rig.worker.settings.header_timeout = 0.1
    client = await rig.connect(await rig.regular())
    await client.rest()
    await events.wait("client_disconnected")


async def test_no_proxying_to_ourselves(rigs: Make) -> None:
    rig = await rigs()
    proxy = await rig.regular()
    client = await rig.connect(proxy)
    await client.say(f"CONNECT 127.0.0.1:{proxy[1]} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert (await client.head()).startswith(b"HTTP/1.1 502")


async def test_the_context_says_what_it_is_made_of(rigs: Make) -> None:
    contexts: list[Context] = []
    rig = await rigs(Events(tls_start_client=lambda data: contexts.append(data.context)))
    origin = await rig.origin(answering(), tls=True)
    client = await rig.connect(await rig.transparent(origin))
    await client.start_tls()
    await client.say(GET)
    await client.head()
    assert [type(layer).__name__ for layer in contexts[0].layers] == ["TransparentProxy", "ClientTLSLayer", "HttpLayer"]
    assert "TransparentProxy > ClientTLSLayer" in repr(contexts[0])


async def test_an_addon_stacks_layers_as_mitmproxys_do(rigs: Make) -> None:
    """TLS with the client alone, raw TCP inside: the server is spoken to in plain."""

    def choose(nextlayer: Any) -> None:
        if nextlayer.data_client():
            nextlayer.context.client.alpn = b""
            nextlayer.layer = ClientTLSLayer(nextlayer.context)
            nextlayer.layer.child_layer = TCPLayer(nextlayer.context)

    events = Events("tcp_message", next_layer=choose)
    rig = await rigs(events)
    client = await rig.connect(await rig.transparent(await rig.origin(echo)))
    tls = await client.start_tls(alpn=("h2", "http/1.1"))
    assert tls.selected_alpn_protocol() is None
    await client.say(GET)
    assert await client.until(b"\r\n\r\n") == GET
    assert events.of("tcp_message")[0].messages[0].content == GET


async def test_an_addon_puts_tls_on_both_sides(rigs: Make) -> None:
    def choose(nextlayer: Any) -> None:
        if nextlayer.data_client() and len(nextlayer.context.layers) == 1:
            nextlayer.layer = ServerTLSLayer(nextlayer.context)
            nextlayer.layer.child_layer = ClientTLSLayer(nextlayer.context)

    events = Events("response", next_layer=choose)
    rig = await rigs(events)
    client = await rig.connect(await rig.transparent(await rig.origin(answering(b"body"), tls=True)))
    await client.start_tls()
    await client.say(GET)
    assert (await client.head()).startswith(b"HTTP/1.1 200")
    assert events.of("response")[0].server_conn.tls_established


async def test_tls_with_the_client_alone_and_http_inside(rigs: Make) -> None:
    def choose(nextlayer: Any) -> None:
        if nextlayer.data_client()[:1] == b"\x16":
            nextlayer.layer = ClientTLSLayer(nextlayer.context)

    events = Events("response", next_layer=choose)
    rig = await rigs(events)
    client = await rig.connect(await rig.transparent(await rig.origin(answering(b"body"))))
    await client.start_tls(alpn=("http/1.1",))
    await client.say(GET)
    assert (await client.head()).startswith(b"HTTP/1.1 200")
    flow = events.of("response")[0]
    assert not flow.server_conn.tls and flow.client_conn.tls_established
