"""h2's own parts as the session wants them: stream, frame buffer, connection, less what costs or reacts wrongly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from h2.connection import AllowedStreamIDs, H2Connection
from h2.frame_buffer import FrameBuffer
from h2.stream import H2Stream
from hyperframe.frame import Frame, WindowUpdateFrame

from appliance.layers.http.h2_frames import WINDOW_MOST
from appliance.layers.http.h2_session import Code, Fault

_CLOSED_REMEMBERED = 256


class _Stream(H2Stream):
    """h2's stream without its looks at fields: they cost, and content-length is ours to check."""

    def _initialize_content_length(self, headers: Iterable[Any]) -> None: ...
    def _track_content_length(self, length: int, end_stream: bool) -> None: ...
    def _build_hdr_validation_flags(self, events: Any) -> Any: ...


class Frames(FrameBuffer):
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
                    int.from_bytes(held[5:9], "big") & WINDOW_MOST, int.from_bytes(held[9:13], "big") & WINDOW_MOST
                )
                del held[:13]
                return window
        return super().__next__()


class Core(H2Connection):
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
