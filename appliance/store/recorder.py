"""What is recorded of flows, connections and conversations: records for the segment, rows for the index.

Flows are encoded when they have ended, some dozens together; `writer.py` writes them. Never raises.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.flow import Error, Flow
from appliance.http import HTTPFlow
from appliance.store import index as ix
from appliance.store import plain, records, rows
from appliance.store.records import State
from appliance.store.segment import FRAME, frame
from appliance.store.tee import Talk, Tee
from appliance.store.writer import BATCH, FLUSH_BYTES, FLUSH_SECONDS, PART_COST, ROW_COST, TALK_COST, Writer
from appliance.tcp import TCPFlow
from appliance.udp import UDPFlow

if TYPE_CHECKING:
    from appliance.connection import Client, Server
    from appliance.dns import DNSFlow

LARGE: Final = 64 << 10
"""Bytes of a body before which it is asked whether there is room; else that is asked for each sixteenth flow."""
CERTIFICATES: Final = 512
"""Certificates of a segment that are remembered; others are written again."""


class Recorder(Writer):
    """What a gateway tells what has happened.

    body_limit: bytes of a body that are kept. messages_limit: bytes of the messages of one conversation. The rest:
    `Writer`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        body_limit: int = 8 << 20,
        messages_limit: int = 64 << 20,
        segment_bytes: int = 64 << 20,
        segment_seconds: float = 3600.0,
        queue_bytes: int = 32 << 20,
    ) -> None:
        self.body_limit = body_limit
        self.messages_limit = messages_limit
        self._late: list[Talk] = []  # have ended while there was no room to say so
        super().__init__(folder, loop=loop, segment_bytes=segment_bytes, segment_seconds=segment_seconds,
                         queue_bytes=queue_bytes)  # fmt: skip

    def _fresh(self) -> None:
        super()._fresh()
        self._epoch = object()  # what connections carry when their records are in this segment
        self._certificates: dict[bytes, int] = {}

    def end(self, flow: HTTPFlow | DNSFlow) -> None:
        """A flow that is over (HTTP, DNS)."""
        sent, got = getattr(flow.request, "raw_content", None), getattr(flow.response, "raw_content", None)
        size = (len(sent) if sent else 0) + (len(got) if got else 0)
        gathered = self._gathered
        if (not gathered & 15 or size >= LARGE) and self._no_room():
            return
        ended = self._ended
        ended.append(flow)
        self._heavy += size
        self._gathered = gathered = gathered + 1
        if self._timer is None:
            self._arm(FLUSH_SECONDS)
        if gathered >= BATCH or self._heavy >= FLUSH_BYTES:
            if not self.fault or self._timer is None:
                self.flush()
            elif len(ended) >= BATCH or self._heavy >= FLUSH_BYTES:  # all that waits is tried by the timer only
                self._encode()

    def _encode(self) -> None:
        """What has ended becomes records and rows."""
        ended: list[Any] = self._ended
        self._ended = []
        self._heavy = 0
        late, self._late = self._late, []
        for talk in late:
            try:
                self._head(talk, 0)
            except Exception as error:
                self._broken(error, talk.flow)
        if not ended:
            return
        epoch, names, limit = self._epoch, self._names, self.body_limit
        part, row, short = self._parts.append, self._batch.rows.append, plain.made
        ended.reverse()
        while ended:
            flow = ended.pop()  # let go as soon as it is encoded, while what it is made of is in the cache
            try:
                client, server, http = flow.client_conn, flow.server_conn, type(flow) is HTTPFlow
                if not http and flow.type == "dns":  # ends that no other flow has
                    self._alone(flow)
                    continue
                known = client._recorded
                if known is None or known[0] is not epoch or known[1] is not client.verdict or known[2] != client.timestamp_tls_setup:  # fmt: skip # noqa: E501
                    known = self._client(client)
                there = server._recorded
                if there is None or there[0] is not epoch or there[1] is not server.peername or there[2] != server.timestamp_tls_setup:  # fmt: skip # noqa: E501
                    there = self._server(server)
                if http:
                    made = short(flow, known[3], there[3], limit, self._end, known[4], there[4], names)
                    if made is not None:
                        payload, values = made
                        size = len(payload)
                        part(frame(size, crc32(payload)))
                        part(payload)
                        row(values)
                        self._end += FRAME.size + size
                        self.flows += 1
                        continue
                spoken = flow.websocket if isinstance(flow, HTTPFlow) else None
                said = None if spoken is None else records.messages(spoken.messages)
                self._write(flow, known[3], there[3], known[4], there[4], messages=said)
            except Exception as error:
                self._broken(error, flow)

    def _alone(
        self, flow: Flow, count: tuple[int, int, float] | None = None, bits: int = 0, messages: list[Any] | None = None
    ) -> None:
        """A flow whose connections stand in its own record."""
        client, server = flow.client_conn, flow.server_conn
        facts, of_client = rows.client_facts(client, self._names), records.connection(client, self._certificate)
        name, of_server = rows.server_name(server, self._names), records.connection(server, self._certificate)
        self._write(flow, of_client, of_server, facts, name, count, bits, messages)

    def connection(self, client: Client, server: Server, moved: tuple[int, int]) -> None:
        """A connection that was passed or blocked, or came to nothing: it has no flow. moved: bytes up and down."""
        try:
            if self._no_room():
                return
            self._encode()  # first what ended before
            kind: type[TCPFlow] | type[UDPFlow] = UDPFlow if client.transport_protocol == "udp" else TCPFlow
            flow = kind(client, server)
            flow.timestamp_created = client.timestamp_start or flow.timestamp_created
            flow.moved = moved
            if client.error:
                flow.error = Error(client.error, client.timestamp_end)
            self._alone(flow, (*moved, client.timestamp_end or time.time()), ix.BARE)
        except Exception as error:
            self._broken(error, client)

    def tee(self) -> Tee:
        """For a body that streams: call it with each piece, and set it as the message's `tee`."""
        return Tee(self, self.body_limit)

    def talk(self, flow: Flow, limit: int | None = None) -> Talk:
        """A conversation begins. It is in the index with its first messages, or with its end.

        limit: bytes of messages that are kept, unless it is what all are limited to.
        """
        return Talk(self, flow, self.messages_limit if limit is None else limit)

    def piece(self, data: bytes) -> tuple[int, int] | None:
        """Keep a piece of a body: (segment, offset), None = there is no room."""
        if not self._ready() or self._end - self._written + len(data) > self.queue_bytes:
            return None
        return self.number, self._put(("b", data))[0]

    def talking(self, talk: Talk) -> None:
        """Something was said in it since the last batch."""
        self._talks.append(talk)
        if self._timer is None:
            self._arm(FLUSH_SECONDS)

    def said(self, talk: Talk) -> None:
        """Write the new messages of a conversation that goes on."""
        messages = talk.take()
        try:
            if self._no_room(0):
                self.dropped += len(messages)
                return
            if talk.segment != self.number:
                self._head(talk, ix.OPEN)
            offset, _ = self._put(("m", talk.flow.id, messages))
            self._batch.parts.append((self.number, offset, talk))
            self._held += PART_COST
        except Exception as error:
            self._broken(error, talk.flow)

    def over(self, talk: Talk) -> None:
        """The conversation has ended; its flow says how."""
        try:
            if talk.segment:
                talk.flush()
                if self._no_room(0):
                    self._late.append(talk)  # or its row would say for ever that it goes on
                else:
                    self._head(talk, 0)
                return
            messages = talk.take()
            if self._no_room():
                return
            self._encode()
            up, down = getattr(talk.flow, "moved", None) or (talk.up, talk.down)
            self._alone(talk.flow, (up, down, time.time()), ix.CUT if talk.cut else 0, messages)
        except Exception as error:
            self._broken(error, talk.flow)

    def _head(self, talk: Talk, bits: int) -> None:
        """What is known of a conversation now, into the present segment and its row."""
        self._encode()
        flow = talk.flow
        facts = rows.client_facts(flow.client_conn, self._names)
        name = rows.server_name(flow.server_conn, self._names)
        of_client = records.connection(flow.client_conn, self._certificate)
        of_server = records.connection(flow.server_conn, self._certificate)
        count = (*(getattr(flow, "moved", None) or (talk.up, talk.down)), time.time())
        bits |= talk.bits
        offset, size = self._put(records.flow(flow, of_client, of_server, self.body_limit, None, count, bits))
        row = rows.row(flow, offset, size + talk.kept, facts, name, self._names, count, bits,
                       self.body_limit)  # fmt: skip
        if talk.segment >= max(self._oldest, 1):
            self._batch.parts.append((talk.segment, talk.offset, talk))  # what was said of it before is still its own
            self._batch.changed.append((talk, row))
            self._held += PART_COST
        else:
            self._batch.opened.append((talk, row))
            self.flows += 1
        self._held += ROW_COST + TALK_COST
        talk.segment, talk.offset = self.number, offset

    def _write(
        self, flow: Flow, client: int | State, server: int | State, facts: rows.Facts, name: int | None,
        count: tuple[int, int, float] | None = None, bits: int = 0, messages: list[Any] | None = None,
    ) -> None:  # fmt: skip
        offset, size = self._put(records.flow(flow, client, server, self.body_limit, messages, count, bits))
        self._batch.rows.append(rows.row(flow, offset, size, facts, name, self._names, count, bits, self.body_limit))
        self.flows += 1

    def _client(self, client: Client) -> Any:
        offset, _ = self._put(("c", records.connection(client, self._certificate)))
        facts = rows.client_facts(client, self._names)
        known = client._recorded = self._epoch, client.verdict, client.timestamp_tls_setup, offset, facts
        return known

    def _server(self, server: Server) -> Any:
        offset, _ = self._put(("c", records.connection(server, self._certificate)))
        name = rows.server_name(server, self._names)
        known = server._recorded = self._epoch, server.peername, server.timestamp_tls_setup, offset, name
        return known

    def _certificate(self, cert: x509.Certificate) -> int:
        der = cert.public_bytes(Encoding.DER)
        offset = self._certificates.get(der)
        if offset is None:
            if len(self._certificates) >= CERTIFICATES:
                self._certificates.clear()
            offset, _ = self._put(("x", der))
            self._certificates[der] = offset
        return offset

    def _broken(self, error: Exception, what: object) -> None:
        self.dropped += 1
        self._odd.log(
            logging.ERROR,
            type(error).__name__,
            "%r could not be recorded: %r",
            what,
            error,
            exc_info=(type(error), error, error.__traceback__),
        )
