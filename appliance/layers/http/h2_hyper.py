"""HTTP/2 framing by python-hyper's h2, with its validation off and its reactions corrected where RFC 9113 wants others.

The only file that touches h2, private names included; what is corrected is said at each method.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

from h2.config import H2Configuration
from h2.connection import AllowedStreamIDs, ConnectionInputs, H2Connection
from h2.events import Event
from h2.exceptions import FlowControlError, ProtocolError
from h2.frame_buffer import FrameBuffer
from h2.settings import SettingCodes, Settings
from h2.stream import H2Stream, StreamClosedBy, StreamInputs, StreamState
from hpack import Encoder
from hpack.exceptions import HPACKError
from hyperframe.exceptions import InvalidPaddingError
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from appliance.layers.http.h2_session import (
    CONNECTION_WINDOW,
    HARD_LIMIT,
    MAX_STREAMS,
    STREAM_WINDOW,
    Clock,
    Code,
    Fault,
    Field,
    Listener,
    Patience,
)

_HEADER = struct.Struct(">HBBBL")
_END_STREAM, _END_HEADERS = 1, 4
_CLOSED_REMEMBERED = 256
_MASK = 0x7FFFFFFF
_TABLE_MOST = 4096
"""Bytes of HPACK's dynamic table that we fill, whatever a peer would let us."""


class _Stream(H2Stream):
    """h2's stream without its looks at fields: they cost, and content-length is ours to check."""

    def _initialize_content_length(self, headers: Iterable[Any]) -> None: ...
    def _track_content_length(self, length: int, end_stream: bool) -> None: ...
    def _build_hdr_validation_flags(self, events: Any) -> Any: ...


class _Frames(FrameBuffer):
    """h2's buffer, which would gather all of a frame that is too large, and tears connections for a stream's fault."""

    def __next__(self) -> Frame:
        held = self._data
        if len(held) >= 9:
            size, kind = int.from_bytes(held[:3], "big"), held[3]
            if size > self.max_frame_size:
                raise Fault(Code.FRAME_SIZE_ERROR, f"a frame of {size} bytes")
            if kind == 4 and size and held[4] & 1:
                raise Fault(Code.FRAME_SIZE_ERROR, "SETTINGS acknowledged with a payload")
            if kind == 8 and size == 4 and not self._headers_buffer:
                if len(held) < 13:
                    raise StopIteration
                window = WindowUpdateFrame(
                    int.from_bytes(held[5:9], "big") & _MASK, int.from_bytes(held[9:13], "big") & _MASK
                )
                del held[:13]
                return window
        return super().__next__()


class _StreamFault(Exception):
    """A stream error (RFC 9113 §5.4.2)."""

    def __init__(self, stream: int, code: int, text: str) -> None:
        super().__init__(text)
        self.stream = stream
        self.code = code
        self.text = text


class _Core(H2Connection):
    MAX_CLOSED_STREAMS = _CLOSED_REMEMBERED

    def _begin_new_stream(self, stream_id: int, allowed_ids: AllowedStreamIDs) -> H2Stream:
        made = super()._begin_new_stream(stream_id, allowed_ids)
        made.__class__ = _Stream
        return made

    def _open_streams(self, remainder: int) -> int:
        return 0  # counted by the session: h2 goes through all streams for each new one

    def close(self, stream: H2Stream) -> None:
        """It is over: only how it closed is remembered, of the last few."""
        self.streams.pop(stream.stream_id, None)
        self._closed_streams[stream.stream_id] = stream.closed_by


class HyperSession:
    """See h2_session.Session. client: whether we are."""

    def __init__(self, client: bool, listener: Listener, max_head: int, clock: Clock) -> None:
        config = H2Configuration(
            client_side=client,
            header_encoding=None,
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self._core = core = _Core(config)
        self._client = client
        self._listener = listener
        self._max_head = max_head
        self.patience = Patience(clock)
        self._greeted = False
        self._open = 0  # of the streams that the client opened
        self._last = 0  # the highest stream of the peer's that was handed on
        self._gone = False
        self.peer_streams = MAX_STREAMS
        values = {
            SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            SettingCodes.MAX_HEADER_LIST_SIZE: max_head,
        }
        if client:
            values[SettingCodes.ENABLE_PUSH] = 0
        core.local_settings = Settings(client=client, initial_values=values)
        for unsaid in (SettingCodes.ENABLE_CONNECT_PROTOCOL, *(() if client else (SettingCodes.ENABLE_PUSH,))):
            core.local_settings.pop(unsaid, None)  # h2 would send them, and a server that says ENABLE_PUSH is odd
        core.max_inbound_frame_size = core.local_settings.max_frame_size
        core.incoming_buffer = _Frames(server=not client)
        core.decoder.max_header_list_size = max_head * HARD_LIMIT
        table = core._frame_dispatch_table
        table[HeadersFrame] = self._headers_frame
        table[DataFrame] = self._data_frame
        table[RstStreamFrame] = self._rst_frame
        table[GoAwayFrame] = self._goaway_frame
        table[PriorityFrame] = self._priority_frame
        table[PushPromiseFrame] = self._push_frame
        table[WindowUpdateFrame] = self._window_frame

    def start(self) -> None:
        core = self._core
        core.initiate_connection()
        core.increment_flow_control_window(CONNECTION_WINDOW - 65535)

    # -- in

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        if self._gone:
            return
        core = self._core
        frames = core.incoming_buffer
        frames.max_frame_size = core.max_inbound_frame_size
        try:
            frames.add_data(data)
            for frame in frames:
                self._frame(frame)
        except Fault as e:
            self.goaway(e.code, e.text)
            raise
        except InvalidPaddingError:
            raise self._fault(Code.PROTOCOL_ERROR, "padding longer than its frame") from None
        except ProtocolError as e:
            raise self._fault(int(e.error_code), str(e) or type(e).__name__) from e
        except HPACKError as e:
            raise self._fault(Code.COMPRESSION_ERROR, str(e)) from e

    def _fault(self, code: int, text: str) -> Fault:
        self.goaway(code, text)
        return Fault(code, text)

    def _frame(self, frame: Frame) -> None:
        kind = frame.__class__
        if not self._greeted:
            if kind is not SettingsFrame or "ACK" in frame.flags:
                raise Fault(Code.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self._greeted = True
        core = self._core
        if kind is PingFrame or kind is SettingsFrame or kind is PriorityFrame or kind is WindowUpdateFrame:
            cost = 5 if kind is SettingsFrame else 1
            if not self.patience.spend(cost):
                raise Fault(Code.ENHANCE_YOUR_CALM, f"too many {kind.__name__}s")
        elif kind is HeadersFrame or kind is DataFrame:
            pass
        elif not self.patience.spend(1):
            raise Fault(Code.ENHANCE_YOUR_CALM, f"too many {kind.__name__}s")
        if isinstance(frame, SettingsFrame):
            if frame.settings.get(SettingCodes.HEADER_TABLE_SIZE, 0) > _TABLE_MOST:
                frame.settings[SettingCodes.HEADER_TABLE_SIZE] = _TABLE_MOST
            core._receive_frame(frame)
            if "ACK" not in frame.flags:
                self.peer_streams = min(core.remote_settings.max_concurrent_streams, MAX_STREAMS)
                self._listener.settled()
                self._listener.opened(0)
            return
        handle = core._frame_dispatch_table[kind]
        if kind is ContinuationFrame:
            raise Fault(Code.PROTOCOL_ERROR, "CONTINUATION without a head to continue")
        try:
            frames, _ = handle(frame)
        except _StreamFault as e:
            self._listener.failed(e.stream, e.code, e.text)
            self.reset(e.stream, e.code)
            if not self._client and not self.patience.spend(5):  # CVE-2025-8671: rapid reset, and we do it
                raise Fault(Code.ENHANCE_YOUR_CALM, "too many faulty streams") from None
            return
        if frames:
            core._prepare_for_sending(frames)

    def _idle(self, stream: int) -> bool:
        """Nobody ever opened it (RFC 9113 §5.1)."""
        core = self._core
        return stream > (
            core.highest_outbound_stream_id if stream % 2 == self._client else core.highest_inbound_stream_id
        )

    def _headers_frame(self, frame: HeadersFrame) -> tuple[list[Frame], list[Event]]:
        core, number = self._core, frame.stream_id
        stream = core.streams.get(number)
        end = "END_STREAM" in frame.flags
        self.patience.earn(3)
        fields: Any = core.decoder.decode(frame.data, raw=True)  # in any case: the table must stay in step
        if stream is None:
            if number <= core.highest_inbound_stream_id or self._client:
                self._late(number)
                return [], []
            if self._open >= MAX_STREAMS:
                core._begin_new_stream(number, AllowedStreamIDs.ODD)
                self._refuse(number)
                return [], []
            core.state_machine.process_input(ConnectionInputs.RECV_HEADERS)
            stream = core._begin_new_stream(number, AllowedStreamIDs.ODD)
            self._open += 1
            self._last = number
        state = stream.state_machine.state
        if state in (StreamState.HALF_CLOSED_REMOTE, StreamState.CLOSED):
            raise _StreamFault(number, Code.STREAM_CLOSED, "a head after the end of the stream")
        if stream.state_machine.headers_received and not end:
            raise _StreamFault(number, Code.PROTOCOL_ERROR, "a second head, and the stream goes on")
        try:
            stream.receive_headers(fields, end, None)
        except ProtocolError as e:  # such as a 1xx that ends the stream
            raise _StreamFault(number, Code.PROTOCOL_ERROR, str(e) or "malformed message") from None
        if frame.depends_on == number and "PRIORITY" in frame.flags:
            raise _StreamFault(number, Code.PROTOCOL_ERROR, "a stream that depends on itself")
        if sum([len(name) + len(value) + 32 for name, value in fields]) > self._max_head:
            self._listener.too_large(number, end)
        else:
            self._listener.headers(number, fields, end)
        if end:
            self._settle(stream)
        return [], []

    def _late(self, number: int) -> None:
        """A head for a stream that is over, or that we never opened (RFC 9113 §5.1)."""
        if self._idle(number) or number % 2 == 0:
            raise Fault(Code.PROTOCOL_ERROR, f"a head on stream {number}, which nobody opened")
        by = self._core._closed_streams.get(number)
        if by is None:
            raise Fault(Code.PROTOCOL_ERROR, f"a head on stream {number}, behind a later one")
        if by is StreamClosedBy.RECV_RST_STREAM:
            self._send_reset(number, Code.STREAM_CLOSED)
        elif by is not StreamClosedBy.SEND_RST_STREAM:  # else it may not have seen our reset yet
            raise Fault(Code.STREAM_CLOSED, f"a head on stream {number}, which is closed")

    def _refuse(self, number: int) -> None:
        if not self.patience.spend(2):
            raise Fault(Code.ENHANCE_YOUR_CALM, "too many streams over the limit")
        self._send_reset(number, Code.REFUSED_STREAM)
        stream = self._core.streams[number]
        stream.state_machine.stream_closed_by = StreamClosedBy.SEND_RST_STREAM
        self._core.close(stream)

    def _data_frame(self, frame: DataFrame) -> tuple[list[Frame], list[Event]]:
        core, number = self._core, frame.stream_id
        length = frame.flow_controlled_length
        end = "END_STREAM" in frame.flags
        core._inbound_flow_control_window_manager.window_consumed(length)
        stream = core.streams.get(number)
        if not length and not end and not self.patience.spend(1):
            raise Fault(Code.ENHANCE_YOUR_CALM, "too many empty DATA frames")
        if stream is None:
            if self._idle(number):
                raise Fault(Code.PROTOCOL_ERROR, f"data on stream {number}, which nobody opened")
            self.credit(0, length)
            by = core._closed_streams.get(number)
            if by is StreamClosedBy.RECV_END_STREAM or by is StreamClosedBy.SEND_END_STREAM:
                raise Fault(Code.STREAM_CLOSED, f"data on stream {number}, which is closed")
            if by is StreamClosedBy.RECV_RST_STREAM:
                self._send_reset(number, Code.STREAM_CLOSED)
            return [], []
        state = stream.state_machine
        if state.state is StreamState.HALF_CLOSED_REMOTE:
            self.credit(0, length)
            raise _StreamFault(number, Code.STREAM_CLOSED, "data after the end of the stream")
        if not state.headers_received:
            self.credit(0, length)
            raise _StreamFault(number, Code.PROTOCOL_ERROR, "data before the head")
        try:
            stream._inbound_window_manager.window_consumed(length)
        except FlowControlError:
            self.credit(0, length)
            raise _StreamFault(number, Code.FLOW_CONTROL_ERROR, "more data than the window allows") from None
        if end:
            state.process_input(StreamInputs.RECV_END_STREAM)
        self._listener.data(number, frame.data, length, end)
        if end:
            self._settle(stream)
        return [], []

    def _rst_frame(self, frame: RstStreamFrame) -> tuple[list[Frame], list[Event]]:
        core, number = self._core, frame.stream_id
        stream = core.streams.get(number)
        if stream is None:
            if self._idle(number):
                raise Fault(Code.PROTOCOL_ERROR, f"RST_STREAM on stream {number}, which nobody opened")
            spent = self.patience.spend(1)
        else:
            stream.stream_reset(frame)
            self._settle(stream)
            self._listener.was_reset(number, frame.error_code)
            # Rapid reset (CVE-2023-44487): each costs an exchange begun.
            spent = self._client or self.patience.spend(5)
        if not spent:
            raise Fault(Code.ENHANCE_YOUR_CALM, "too many resets")
        return [], []

    def _goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        # h2 closes the connection here; streams up to the last go on (RFC 9113 §6.8).
        self._listener.goes_away(frame.last_stream_id, frame.error_code, bytes(frame.additional_data))
        return [], []

    def _push_frame(self, frame: PushPromiseFrame) -> tuple[list[Frame], list[Event]]:
        raise Fault(Code.PROTOCOL_ERROR, "PUSH_PROMISE, and nobody may push here")

    def _priority_frame(self, frame: PriorityFrame) -> tuple[list[Frame], list[Event]]:
        if frame.depends_on == frame.stream_id and frame.stream_id in self._core.streams:
            raise _StreamFault(frame.stream_id, Code.PROTOCOL_ERROR, "a stream that depends on itself")
        return [], []  # RFC 9113 §5.3.2: not used any more

    def _window_frame(self, frame: WindowUpdateFrame) -> tuple[list[Frame], list[Event]]:
        core, number, increment = self._core, frame.stream_id, frame.window_increment
        if not number:
            if not increment:
                raise Fault(Code.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
            core.outbound_flow_control_window += increment
            if core.outbound_flow_control_window > core.MAX_WINDOW_INCREMENT:
                raise Fault(Code.FLOW_CONTROL_ERROR, "a window over 2^31-1")
            self._listener.opened(0)
            return [], []
        stream = core.streams.get(number)
        if stream is None:
            if self._idle(number):
                raise Fault(Code.PROTOCOL_ERROR, f"WINDOW_UPDATE on stream {number}, which nobody opened")
            return [], []
        if not increment:
            raise _StreamFault(number, Code.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
        stream.outbound_flow_control_window += increment
        if stream.outbound_flow_control_window > core.MAX_WINDOW_INCREMENT:
            raise _StreamFault(number, Code.FLOW_CONTROL_ERROR, "a window over 2^31-1")
        self._listener.opened(number)
        return [], []

    # -- out

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
        flags = _END_STREAM if end else 0
        size = len(block)
        if size <= most:
            out += _HEADER.pack(size >> 8, size & 255, 1, flags | _END_HEADERS, stream)
            out += block
        else:
            kind = 1
            for at in range(0, size, most):
                piece = block[at : at + most]
                if at + most >= size:
                    flags |= _END_HEADERS
                out += _HEADER.pack(len(piece) >> 8, len(piece) & 255, kind, flags, stream)
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
            out += _HEADER.pack(size >> 8, size & 255, 0, _END_STREAM if end else 0, stream)
            out += data
        else:
            view = memoryview(data)
            for at in range(0, size, most):
                piece = view[at : at + most]
                last = end and at + most >= size
                out += _HEADER.pack(len(piece) >> 8, len(piece) & 255, 0, _END_STREAM if last else 0, stream)
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
        core._data_to_send += _HEADER.pack(0, 4, 8, 0, stream) + count.to_bytes(4, "big")

    def reset(self, stream: int, code: int) -> None:
        found = self._core.streams.get(stream)
        if found is None or found.state_machine.state is StreamState.CLOSED:  # such as by the head that is at fault
            return
        found.state_machine.process_input(StreamInputs.SEND_RST_STREAM)
        self._send_reset(stream, code)
        self._settle(found)

    def _send_reset(self, stream: int, code: int) -> None:
        self._core._data_to_send += _HEADER.pack(0, 4, 3, 0, stream) + code.to_bytes(4, "big")

    def goaway(self, code: int, text: str) -> None:
        if self._gone:
            return
        self._gone = True
        said = text.encode()[:200]
        size = 8 + len(said)
        last = 0 if self._client else self._last
        self._core._data_to_send += (
            _HEADER.pack(size >> 8, size & 255, 7, 0, 0) + last.to_bytes(4, "big") + code.to_bytes(4, "big") + said
        )

    def _settle(self, stream: H2Stream) -> None:
        if stream.state_machine.state is StreamState.CLOSED and stream.stream_id in self._core.streams:
            self._core.close(stream)
            self._open -= 1


def _encode(encoder: Encoder, fields: Sequence[Field]) -> bytes:
    return encoder.encode(fields)
