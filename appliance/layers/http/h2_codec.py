"""Which implementation of HTTP/2's framing a connection gets: option `http2_codec`."""

from __future__ import annotations

from appliance.layers.http.h2_hyper import HyperSession
from appliance.layers.http.h2_lean import LeanSession
from appliance.layers.http.h2_session import Clock, Listener, Session

CODECS: dict[str, type[LeanSession] | type[HyperSession]] = {"lean": LeanSession, "h2": HyperSession}


def new_session(codec: str, client: bool, listener: Listener, max_head: int, clock: Clock) -> Session:
    """A session that has begun: preface and SETTINGS are in its output. client: whether we are."""
    session = CODECS[codec](client, listener, max_head, clock)
    session.start()
    return session
