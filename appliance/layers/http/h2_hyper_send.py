"""The sending half of HTTP/2 by h2: its states and HPACK, our frames."""

from __future__ import annotations

from collections.abc import Sequence

from h2.connection import AllowedStreamIDs, ConnectionInputs
from h2.stream import H2Stream, StreamInputs, StreamState
from hpack import Encoder

from appliance.layers.http.h2_frames import END_HEADERS, END_STREAM, HEADER
from appliance.layers.http.h2_hyper_core import Core
from appliance.layers.http.h2_session import THEIR_FAULT, Clock, Field, Patience


class Sending:
    """client: whether we are."""

    def __init__(self, client: bool, core: Core, clock: Clock) -> None:
        self._client = client
        self._core = core
        self.patience = Patience(clock)
        self._open = 0  # of the streams that the client opened
        self._last = 0  # the highest stream of the peer's that was handed on
        self._gone = False

    def _idle(self, stream: int) -> bool:
        """Nobody ever opened it (RFC 9113 §5.1)."""
        core = self._core
        return stream > (
            core.highest_outbound_stream_id if stream % 2 == self._client else core.highest_inbound_stream_id
        )

    def output(self) -> bytes:
        out = self._core._data_to_send
        if not out:
            return b""
        self._core._data_to_send = bytearray()
        return bytes(out)

    @property
    def pending(self) -> int:
        return len(self._core._data_to_send)

    def open(self) -> int:
        core = self._core
        number = core.highest_outbound_stream_id + 2 if core.highest_outbound_stream_id else 1
        return number if number <= core.HIGHEST_ALLOWED_STREAM_ID else 0

    def headers(self, stream: int, fields: Sequence[Field], end: bool) -> None:
        core = self._core
        found = core.streams.get(stream)
        if found is None:
            if not self._client or not self._idle(stream) or self._gone:
                return
            core.state_machine.process_input(ConnectionInputs.SEND_HEADERS)
            found = core._begin_new_stream(stream, AllowedStreamIDs.ODD)
            self._open += 1
        state = found.state_machine
        informs = not self._client and fields[0][0] == b":status" and fields[0][1][:1] == b"1"
        state.process_input(StreamInputs.SEND_INFORMATIONAL_HEADERS if informs else StreamInputs.SEND_HEADERS)
        block = _encode(core.encoder, fields)
        if end:
            state.process_input(StreamInputs.SEND_END_STREAM)
        out, most = core._data_to_send, core.max_outbound_frame_size
        flags = END_STREAM if end else 0
        size = len(block)
        if size <= most:
            out += HEADER.pack(size >> 8, size & 255, 1, flags | END_HEADERS, stream)
            out += block
        else:
            kind = 1
            for at in range(0, size, most):
                piece = block[at : at + most]
                if at + most >= size:
                    flags |= END_HEADERS
                out += HEADER.pack(len(piece) >> 8, len(piece) & 255, kind, flags, stream)
                out += piece
                kind, flags = 9, 0
        if end:
            self._settle(found)

    def window(self, stream: int) -> int:
        core = self._core
        found = core.streams.get(stream)
        if found is None:
            return 0
        mine, all_ = found.outbound_flow_control_window, core.outbound_flow_control_window
        return mine if mine < all_ else all_

    def data(self, stream: int, data: bytes | memoryview, end: bool) -> None:
        core = self._core
        found = core.streams.get(stream)
        if found is None:
            return
        size = len(data)
        out, most = core._data_to_send, core.max_outbound_frame_size
        found.outbound_flow_control_window -= size
        core.outbound_flow_control_window -= size
        self.patience.earn(4)
        if size <= most:
            out += HEADER.pack(size >> 8, size & 255, 0, END_STREAM if end else 0, stream)
            out += data
        else:
            view = memoryview(data)
            for at in range(0, size, most):
                piece = view[at : at + most]
                last = end and at + most >= size
                out += HEADER.pack(len(piece) >> 8, len(piece) & 255, 0, END_STREAM if last else 0, stream)
                out += piece
                self.patience.earn(4)
        if end:
            found.state_machine.process_input(StreamInputs.SEND_END_STREAM)
            self._settle(found)

    def credit(self, stream: int, count: int) -> None:
        core = self._core
        if count <= 0 or self._gone:
            return
        if stream:
            found = core.streams.get(stream)
            if found is None:
                return
            found._inbound_window_manager.window_opened(count)
        else:
            core._inbound_flow_control_window_manager.window_opened(count)
        core._data_to_send += HEADER.pack(0, 4, 8, 0, stream) + count.to_bytes(4, "big")

    def reset(self, stream: int, code: int) -> None:
        if code in THEIR_FAULT and not self._client:
            self.patience.left -= 5  # CVE-2025-8671: rapid reset, and we are made to do it
        found = self._core.streams.get(stream)
        if found is None or found.state_machine.state is StreamState.CLOSED:  # such as by the head that is at fault
            return
        found.state_machine.process_input(StreamInputs.SEND_RST_STREAM)
        self._send_reset(stream, code)
        self._settle(found)

    def _send_reset(self, stream: int, code: int) -> None:
        self._core._data_to_send += HEADER.pack(0, 4, 3, 0, stream) + code.to_bytes(4, "big")

    def ping(self) -> None:
        self._core._data_to_send += HEADER.pack(0, 8, 6, 0, 0) + bytes(8)

    def goaway(self, code: int, text: str) -> None:
        if self._gone:
            return
        self._gone = True
        said = text.encode()[:200]
        size = 8 + len(said)
        last = 0 if self._client else self._last
        self._core._data_to_send += (
            HEADER.pack(size >> 8, size & 255, 7, 0, 0) + last.to_bytes(4, "big") + code.to_bytes(4, "big") + said
        )

    def _settle(self, stream: H2Stream) -> None:
        if stream.state_machine.state is StreamState.CLOSED and stream.stream_id in self._core.streams:
            self._core.close(stream)
            self._open -= 1


def _encode(encoder: Encoder, fields: Sequence[Field]) -> bytes:
    return encoder.encode(fields)
