"""HTTP/2 framing by python-hyper's h2, with its validation off and its reactions corrected where RFC 9113 wants others.

With h2_hyper_core.py the only file that touches h2, private names included; what is corrected is said at each method.
"""

from __future__ import annotations

from typing import Any

from h2.config import H2Configuration
from h2.connection import AllowedStreamIDs, ConnectionInputs
from h2.events import Event
from h2.exceptions import FlowControlError, ProtocolError
from h2.settings import SettingCodes, Settings
from h2.stream import StreamClosedBy, StreamInputs, StreamState
from hpack.exceptions import HPACKError
from hyperframe.exceptions import InvalidPaddingError
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
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

from appliance.layers.http.h2_frames import (
    PRIORITY_UPDATE,
    WINDOW_MOST,
    StreamFault,
    expect,
)
from appliance.layers.http.h2_hyper_core import Core, Frames
from appliance.layers.http.h2_hyper_send import Sending
from appliance.layers.http.h2_session import (
    CONNECTION_WINDOW,
    HARD_LIMIT,
    MAX_STREAMS,
    STREAM_WINDOW,
    Clock,
    Code,
    Fault,
    Listener,
)

_NO_PRIORITIES: Any = 9
"""SETTINGS_NO_RFC7540_PRIORITIES (RFC 9218 §2.1), which h2 does not know."""
_TABLE_MOST = 4096
"""Bytes of HPACK's dynamic table that we fill, whatever a peer would let us."""


class HyperSession(Sending):
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
        super().__init__(client, Core(config), clock)
        core = self._core
        self._listener = listener
        self._max_head = max_head
        self.greeted = False
        self.peer_streams = MAX_STREAMS
        self.takes_protocols = False
        values = {
            SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            SettingCodes.MAX_HEADER_LIST_SIZE: max_head,
        }
        if client:
            values[SettingCodes.ENABLE_PUSH] = 0
        else:
            values[SettingCodes.ENABLE_CONNECT_PROTOCOL] = 1
            values[_NO_PRIORITIES] = 1
        core.local_settings = Settings(client=client, initial_values=values)
        # h2 would send it, and it is for the other end to say.
        core.local_settings.pop(SettingCodes.ENABLE_CONNECT_PROTOCOL if client else SettingCodes.ENABLE_PUSH, None)
        core.max_inbound_frame_size = core.local_settings.max_frame_size
        core.incoming_buffer = Frames(server=not client)
        core.decoder.max_header_list_size = max_head * HARD_LIMIT
        table = core._frame_dispatch_table
        table[HeadersFrame] = self._headers_frame
        table[DataFrame] = self._data_frame
        table[RstStreamFrame] = self._rst_frame
        table[GoAwayFrame] = self._goaway_frame
        table[PriorityFrame] = self._priority_frame
        table[PushPromiseFrame] = self._push_frame
        table[WindowUpdateFrame] = self._window_frame
        table[ExtensionFrame] = self._other_frame

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
        if not self.greeted:
            if kind is not SettingsFrame or "ACK" in frame.flags:
                raise Fault(Code.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self.greeted = True
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
            takes = frame.settings.get(SettingCodes.ENABLE_CONNECT_PROTOCOL, self.takes_protocols)
            if takes > 1 or takes < self.takes_protocols:  # RFC 8441 §3
                raise Fault(Code.PROTOCOL_ERROR, f"ENABLE_CONNECT_PROTOCOL {takes}")
            self.takes_protocols = bool(takes)
            core._receive_frame(frame)
            sizes = core.encoder.table_size_changes  # which h2 gathers until there is a head to send
            if len(sizes) > 2:
                sizes[:] = min(sizes), sizes[-1]
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
        except StreamFault as e:
            self._listener.failed(e.stream, e.code, e.text)
            self.reset(e.stream, e.code)
            frames = []
        if frames:
            core._prepare_for_sending(frames)
        if self.patience.left < 0 and not self.patience.spend(0):
            raise Fault(Code.ENHANCE_YOUR_CALM, "too many faulty streams")

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
            raise StreamFault(number, Code.STREAM_CLOSED, "a head after the end of the stream")
        if stream.state_machine.headers_received and not end:
            raise StreamFault(number, Code.PROTOCOL_ERROR, "a second head, and the stream goes on")
        try:
            stream.receive_headers(fields, end, None)
        except ProtocolError as e:  # such as a 1xx that ends the stream
            raise StreamFault(number, Code.PROTOCOL_ERROR, str(e) or "malformed message") from None
        if frame.depends_on == number and "PRIORITY" in frame.flags:
            raise StreamFault(number, Code.PROTOCOL_ERROR, "a stream that depends on itself")
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
            raise StreamFault(number, Code.STREAM_CLOSED, "data after the end of the stream")
        if not state.headers_received:
            self.credit(0, length)
            raise StreamFault(number, Code.PROTOCOL_ERROR, "data before the head")
        try:
            stream._inbound_window_manager.window_consumed(length)
        except FlowControlError:
            self.credit(0, length)
            raise StreamFault(number, Code.FLOW_CONTROL_ERROR, "more data than the window allows") from None
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
            raise StreamFault(frame.stream_id, Code.PROTOCOL_ERROR, "a stream that depends on itself")
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
            raise StreamFault(number, Code.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
        stream.outbound_flow_control_window += increment
        if stream.outbound_flow_control_window > core.MAX_WINDOW_INCREMENT:
            raise StreamFault(number, Code.FLOW_CONTROL_ERROR, "a window over 2^31-1")
        self._listener.opened(number)
        return [], []

    def _other_frame(self, frame: ExtensionFrame) -> tuple[list[Frame], list[Event]]:
        if frame.type == PRIORITY_UPDATE:  # RFC 9218 §7.1
            data = frame.body
            expect(not frame.stream_id and not self._client, len(data) >= 4, "PRIORITY_UPDATE")
            number = int.from_bytes(data[:4], "big") & WINDOW_MOST
            expect(number % 2 == 1, True, "PRIORITY_UPDATE of no request")
            self._listener.reprioritized(number, data[4:])
        return [], []  # RFC 9113 §4.1: unknown kinds are ignored
