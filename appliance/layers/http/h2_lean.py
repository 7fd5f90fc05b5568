"""HTTP/2 framing of our own (RFC 9113 §4 to §6), as thin as Python lets it be: a third of what h2 costs.

Reactions are those of the RFC to the letter: stream errors end their stream and nothing else.
"""

from __future__ import annotations

from appliance.layers.http.h2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_MOST,
    GOAWAY,
    HEADER,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    PRIORITY_UPDATE,
    PUSH_PROMISE,
    RST_STREAM,
    SETTING,
    SETTINGS,
    TWO,
    WINDOW_MOST,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    StreamFault,
    StreamState,
    expect,
    unpadded,
)
from appliance.layers.http.h2_hpack import Decoder, HpackError, TooLarge
from appliance.layers.http.h2_lean_send import ENDED, RESET_BY_PEER, RESET_BY_US, Sending
from appliance.layers.http.h2_session import (
    CONNECTION_WINDOW,
    HARD_LIMIT,
    MAX_STREAMS,
    PREFACE,
    STREAM_WINDOW,
    Clock,
    Code,
    Fault,
    Listener,
)

FRAME_SENT_MOST = 65536
CONTINUATIONS_MOST = 64


class LeanSession(Sending):
    """See h2_session.Session. client: whether we are."""

    def __init__(self, client: bool, listener: Listener, max_head: int, clock: Clock) -> None:
        super().__init__(client, clock)
        self._listener = listener
        self._max_head = max_head
        self._decoder = Decoder(max_head * HARD_LIMIT)
        self._in = bytearray()
        self._preface = b"" if client else PREFACE
        self.greeted = False
        self._block: tuple[int, int, bytearray, int] | None = None  # a head that is not whole: stream, flags, …, frames
        self.peer_streams = MAX_STREAMS
        self.takes_protocols = False

    def start(self) -> None:
        if self._client:
            self._out += PREFACE
        settings = [(3, MAX_STREAMS), (4, STREAM_WINDOW), (6, self._max_head)]
        settings += [(2, 0)] if self._client else [(8, 1), (9, 1)]
        self._send(SETTINGS, 0, 0, b"".join([SETTING.pack(*one) for one in settings]))
        self._send(WINDOW_UPDATE, 0, 0, (CONNECTION_WINDOW - 65535).to_bytes(4, "big"))

    # -- in

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        if self._gone:
            return
        buf = self._in
        joined = bool(buf)
        if joined:
            buf += data
        with memoryview(buf if joined else data) as source:
            at, have = 0, len(source)
            try:
                if self._preface:
                    at = len(self._preface)
                    if not self._preface.startswith(bytes(source[:at])):
                        raise Fault(Code.PROTOCOL_ERROR, "this is not HTTP/2")
                    if have < at:
                        at = 0
                    else:
                        self._preface = b""
                while have - at >= 9 and not self._preface:
                    high, low, kind, flags, stream = HEADER.unpack_from(source, at)
                    size = high << 8 | low
                    if size > FRAME_MOST:
                        raise Fault(Code.FRAME_SIZE_ERROR, f"a frame of {size} bytes")
                    end = at + 9 + size
                    if end > have:
                        break
                    self._frame(kind, flags, stream & WINDOW_MOST, bytes(source[at + 9 : end]))
                    at = end
            except Fault as e:
                self.goaway(e.code, e.text)
                raise
            if not joined:
                buf += source[at:]
        if joined:
            del buf[:at]

    def _frame(self, kind: int, flags: int, stream: int, data: bytes) -> None:
        """:raises Fault: it is a connection error."""
        if not self.greeted and kind != SETTINGS:
            raise Fault(Code.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if self._block is not None and (kind != CONTINUATION or stream != self._block[0]):
            raise Fault(Code.PROTOCOL_ERROR, "a head is interrupted by another frame")
        try:
            if kind == DATA:
                self._data(flags, stream, data)
            elif kind == HEADERS:
                self._headers(flags, stream, data)
            elif kind == WINDOW_UPDATE:
                self._window_update(stream, data)
            elif kind == CONTINUATION:
                self._continuation(flags, data)
            elif kind == RST_STREAM:
                self._rst_stream(stream, data)
            else:
                self._control(kind, flags, stream, data)
        except StreamFault as e:
            self._listener.failed(e.stream, e.code, e.text)
            self.reset(e.stream, e.code)
        if self._patience.left < 0 and not self._patience.spend(0):
            raise Fault(Code.ENHANCE_YOUR_CALM, "too many faulty streams")

    def _idle(self, stream: int) -> bool:
        """Nobody ever opened it (§5.1)."""
        return stream > self._highest or not stream % 2

    def _data(self, flags: int, number: int, data: bytes) -> None:
        length = len(data)
        if not number:
            raise Fault(Code.PROTOCOL_ERROR, "DATA on the connection")
        self._receives -= length
        if self._receives < 0:
            raise Fault(Code.FLOW_CONTROL_ERROR, "more data than the connection's window allows")
        if flags & PADDED:
            data = unpadded(data)
        end = bool(flags & END_STREAM)
        if not data and not end and not self._patience.spend(1):
            raise Fault(Code.ENHANCE_YOUR_CALM, "too many empty DATA frames")
        stream = self._streams.get(number)
        if stream is None:
            self._late(number, length, "data")
            return
        if stream.ended or not stream.heard:
            self.credit(0, length)
            if stream.ended:
                raise StreamFault(number, Code.STREAM_CLOSED, "data after the end of the stream")
            raise StreamFault(number, Code.PROTOCOL_ERROR, "data before the head")
        stream.receives -= length
        if stream.receives < 0:
            self.credit(0, length)
            raise StreamFault(number, Code.FLOW_CONTROL_ERROR, "more data than the window allows")
        stream.ended = end
        self._listener.data(number, data, length, end)
        if end and stream.ours:
            self._close(stream, ENDED)

    def _late(self, number: int, length: int, what: str) -> None:
        """DATA or a head for a stream that is over, or never was (§5.1)."""
        how = self._closed.get(number)
        if self._idle(number):
            raise Fault(Code.PROTOCOL_ERROR, f"{what} on stream {number}, which nobody opened")
        self.credit(0, length)
        if how == RESET_BY_PEER:
            self._rst(number, Code.STREAM_CLOSED)
        elif how == ENDED:
            raise Fault(Code.STREAM_CLOSED, f"{what} on stream {number}, which is closed")
        elif how is None and what == "a head":
            raise Fault(Code.PROTOCOL_ERROR, f"a head on stream {number}, behind a later one")
        # else the peer may not have seen our reset yet

    def _headers(self, flags: int, number: int, data: bytes) -> None:
        if not number:
            raise Fault(Code.PROTOCOL_ERROR, "HEADERS on the connection")
        if flags & PADDED:
            data = unpadded(data)
        depends = 0
        if flags & WITH_PRIORITY:
            if len(data) < 5:
                raise Fault(Code.FRAME_SIZE_ERROR, "HEADERS of the wrong size")
            depends = int.from_bytes(data[:4], "big") & WINDOW_MOST
            data = data[5:]
        if depends == number:
            flags |= WITH_PRIORITY << 8
        if flags & END_HEADERS:
            self._head(number, flags, data)
        else:
            self._block = number, flags, bytearray(data), 0

    def _continuation(self, flags: int, data: bytes) -> None:
        if self._block is None:
            raise Fault(Code.PROTOCOL_ERROR, "CONTINUATION without a head to continue")
        number, first, block, count = self._block
        block += data
        if count >= CONTINUATIONS_MOST or len(block) > self._max_head * HARD_LIMIT:
            raise Fault(Code.ENHANCE_YOUR_CALM, "a head in too many pieces")
        if flags & END_HEADERS:
            self._block = None
            self._head(number, first, bytes(block))
        else:
            self._block = number, first, block, count + 1

    def _head(self, number: int, flags: int, block: bytes) -> None:
        try:
            fields, size = self._decoder.decode(block)  # in any case: the table must stay in step
        except HpackError as e:
            raise Fault(Code.COMPRESSION_ERROR, str(e)) from None
        except TooLarge:
            raise Fault(Code.ENHANCE_YOUR_CALM, "a head far over the limit") from None
        self._patience.earn(3)
        end = bool(flags & END_STREAM)
        stream = self._streams.get(number)
        if stream is None:
            if self._client or number <= self._highest or not number % 2:
                self._late(number, 0, "a head")
                return
            self._highest = number
            if len(self._streams) >= MAX_STREAMS:
                if not self._patience.spend(2):
                    raise Fault(Code.ENHANCE_YOUR_CALM, "too many streams over the limit")
                self._rst(number, Code.REFUSED_STREAM)
                self._remember(number, RESET_BY_US)
                return
            stream = self._streams[number] = StreamState(number, self._first_sends, True)
        elif stream.ended:
            raise StreamFault(number, Code.STREAM_CLOSED, "a head after the end of the stream")
        elif not stream.heard:
            informs = fields and fields[0][0] == b":status" and fields[0][1][:1] == b"1"
            stream.heard = not informs
            if informs and end:
                raise StreamFault(number, Code.PROTOCOL_ERROR, "a 1xx that ends the stream")
        elif not end:
            raise StreamFault(number, Code.PROTOCOL_ERROR, "trailers that do not end the stream")
        if flags & WITH_PRIORITY << 8:
            raise StreamFault(number, Code.PROTOCOL_ERROR, "a stream that depends on itself")
        stream.ended = end
        if size > self._max_head:
            self._listener.too_large(number, end)
        else:
            self._listener.headers(number, fields, end)
        if end and stream.ours:
            self._close(stream, ENDED)

    def _rst_stream(self, number: int, data: bytes) -> None:
        expect(bool(number) and not self._idle(number), len(data) == 4, "RST_STREAM")
        stream = self._streams.get(number)
        cost = 1
        if stream is not None:
            self._close(stream, RESET_BY_PEER)
            self._listener.was_reset(number, int.from_bytes(data, "big"))
            if not self._client:
                cost = 5  # rapid reset (CVE-2023-44487): each costs an exchange begun
        if not self._patience.spend(cost):
            raise Fault(Code.ENHANCE_YOUR_CALM, "too many resets")

    def _window_update(self, number: int, data: bytes) -> None:
        expect(not number or not self._idle(number), len(data) == 4, "WINDOW_UPDATE")
        if not self._patience.spend(1):
            raise Fault(Code.ENHANCE_YOUR_CALM, "too many WINDOW_UPDATE frames")
        more = int.from_bytes(data, "big") & WINDOW_MOST
        if not number:
            self._sends += more
            if not more:
                raise Fault(Code.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
            if self._sends > WINDOW_MOST:
                raise Fault(Code.FLOW_CONTROL_ERROR, "a window over 2^31-1")
        else:
            stream = self._streams.get(number)
            if stream is None:
                return
            stream.sends += more
            if not more:
                raise StreamFault(number, Code.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
            if stream.sends > WINDOW_MOST:
                raise StreamFault(number, Code.FLOW_CONTROL_ERROR, "a window over 2^31-1")
        self._listener.opened(number)

    def _control(self, kind: int, flags: int, stream: int, data: bytes) -> None:
        if not self._patience.spend(5 if kind == SETTINGS else 1):
            raise Fault(Code.ENHANCE_YOUR_CALM, "too many frames that say nothing")
        if kind == SETTINGS:
            self._settings(bool(flags & ACK), stream, data)
        elif kind == PING:
            expect(not stream, len(data) == 8, "PING")
            if not flags & ACK:
                self._send(PING, ACK, 0, data)
        elif kind == GOAWAY:
            expect(not stream, len(data) >= 8, "GOAWAY")
            last, code = TWO.unpack_from(data)
            self._listener.goes_away(last & WINDOW_MOST, code, data[8:])
        elif kind == PRIORITY:  # §5.3.2: not used any more
            expect(bool(stream), True, "PRIORITY")
            if len(data) != 5:
                raise StreamFault(stream, Code.FRAME_SIZE_ERROR, "PRIORITY of the wrong size")
            if int.from_bytes(data[:4], "big") & WINDOW_MOST == stream:
                raise StreamFault(stream, Code.PROTOCOL_ERROR, "a stream that depends on itself")
        elif kind == PRIORITY_UPDATE:  # RFC 9218 §7.1
            expect(not stream and not self._client, len(data) >= 4, "PRIORITY_UPDATE")
            number = int.from_bytes(data[:4], "big") & WINDOW_MOST
            expect(number % 2 == 1, True, "PRIORITY_UPDATE of no request")
            self._listener.reprioritized(number, data[4:])
        elif kind == PUSH_PROMISE:
            raise Fault(Code.PROTOCOL_ERROR, "PUSH_PROMISE, and nobody may push here")
        # §4.1: unknown kinds are ignored

    def _settings(self, ack: bool, stream: int, data: bytes) -> None:
        expect(not stream, not len(data) % 6 and not (ack and data), "SETTINGS")
        if ack:
            expect(self.greeted, True, "the acknowledgement of SETTINGS")
            return
        self.greeted = True
        for key, value in SETTING.iter_unpack(data):
            self._setting(key, value)
        self._send(SETTINGS, ACK, 0, b"")
        self._listener.settled()
        self._listener.opened(0)

    def _setting(self, key: int, value: int) -> None:
        """§6.5.2; RFC 8441 §3 for the last."""
        if key == 1:
            self._encoder.resize(value)
        elif key == 3:
            self.peer_streams = min(value, MAX_STREAMS)
        elif key == 4:
            if value > WINDOW_MOST:
                raise Fault(Code.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE {value}")
            more, self._first_sends = value - self._first_sends, value
            for stream in self._streams.values():
                stream.sends += more
                if stream.sends > WINDOW_MOST:
                    raise Fault(Code.FLOW_CONTROL_ERROR, "a window over 2^31-1")
        elif key == 5:
            if not 16384 <= value <= 16777215:
                raise Fault(Code.PROTOCOL_ERROR, f"MAX_FRAME_SIZE {value}")
            self._frame_most = min(value, FRAME_SENT_MOST)
        elif key == 2 and value > (0 if self._client else 1):
            raise Fault(Code.PROTOCOL_ERROR, f"ENABLE_PUSH {value}")
        elif key == 8:
            if value > 1 or value < self.takes_protocols:
                raise Fault(Code.PROTOCOL_ERROR, f"ENABLE_CONNECT_PROTOCOL {value}")
            self.takes_protocols = bool(value)
