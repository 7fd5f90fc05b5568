"""A store in a temporary folder, written without an event loop."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from appliance.flow import Flow
from appliance.store.recorder import Recorder


def put(recorder: Recorder, flow: Flow) -> None:
    """As the engine would: conversations with their messages, everything else at its end."""
    if flow.type in ("tcp", "udp"):
        talk = recorder.talk(flow)
        for message in flow.messages:  # type: ignore[attr-defined]
            talk.say(message)
        recorder.over(talk)
    else:
        recorder.end(flow)


def fill(folder: Path, flows: Iterable[Flow], **options: int) -> None:
    """A store with these flows, closed again."""
    recorder = Recorder(folder, **options)  # type: ignore[arg-type]
    recorder.start()
    for flow in flows:
        put(recorder, flow)
    recorder.close()
    assert recorder.dropped == 0


def cut_off(recorder: Recorder) -> None:
    """As a kill -9 does it: its descriptors close, and nothing else happens."""
    os.close(recorder._fd)
    recorder._fd = -1
    if recorder._db is not None:
        recorder._db.close()
        recorder._db = None
    recorder._closed = True


def facts(flow: Flow) -> dict[str, object]:
    """All that must come back: the state, the verdict, what streamed past."""
    state = flow.get_state()
    state["verdict"] = flow.client_conn.verdict
    state["moved"] = getattr(flow, "moved", None)
    for name in ("mitmcert", "certificate_list"):
        assert name in state["client_conn"]
    return state
