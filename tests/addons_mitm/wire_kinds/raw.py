"""Bytes, datagrams, DNS and WebSocket messages."""

import logging

from mitmproxy import ctx, dns, http, tcp, udp
from mitmproxy.proxy import layer, layers


class Layers:
    """Says what a protocol is."""

    def next_layer(self, nextlayer: layer.NextLayer) -> None:
        data = nextlayer.data_client()
        if data.startswith(b"GET /as-tcp"):
            nextlayer.layer = layers.TCPLayer(nextlayer.context)
        elif data.startswith(b"GET /unseen"):
            nextlayer.layer = layers.TCPLayer(nextlayer.context, ignore=True)
        elif data.startswith(b"UNHTTP"):
            nextlayer.layer = layers.HttpLayer(nextlayer.context, layers.http.HTTPMode.transparent)


class Injector:
    def tcp_start(self, flow: tcp.TCPFlow) -> None:
        logging.info("tcp_start %s", flow.server_conn.address[1])

    def tcp_message(self, flow: tcp.TCPFlow) -> None:
        message = flow.messages[-1]
        if message.from_client and b"inject" in message.content:
            ctx.master.commands.call("inject.tcp", flow, True, b"[injected]")
            message.content = message.content.replace(b"inject", b"asked")

    def tcp_end(self, flow: tcp.TCPFlow) -> None:
        logging.info("tcp_end after %d messages", len(flow.messages))


class Datagrams:
    def udp_message(self, flow: udp.UDPFlow) -> None:
        if flow.messages[-1].from_client:
            flow.messages[-1].content = flow.messages[-1].content[::-1]


class Names:
    def dns_request(self, flow: dns.DNSFlow) -> None:
        question = flow.request.question
        if question.name == "made.lab.test":
            flow.response = flow.request.succeed([dns.ResourceRecord.A(question.name, "192.0.2.55")])
        elif question.name == "gone.lab.test":
            flow.response = flow.request.fail(dns.response_codes.NXDOMAIN)

    def dns_response(self, flow: dns.DNSFlow) -> None:
        for record in flow.response.answers:
            if record.type == dns.types.A and flow.request.question.name == "www.lab.test":
                record.ipv4_address = "192.0.2.66"


class Sockets:
    """WebSocket messages."""

    def websocket_start(self, flow: http.HTTPFlow) -> None:
        logging.info("websocket_start %s", flow.request.path)

    def websocket_message(self, flow: http.HTTPFlow) -> None:
        message = flow.websocket.messages[-1]
        if not message.is_text:
            return
        if message.text == "drop me":
            message.drop()
        elif message.from_client:
            message.text = message.text.replace("client", "guest")

    def websocket_end(self, flow: http.HTTPFlow) -> None:
        logging.info("websocket_end %s", flow.websocket.close_code)
