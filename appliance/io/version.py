"""Which flow states are read: those of the present format, once `older` has brought what it knows to it."""

from __future__ import annotations

from typing import Any

from appliance.flow import FORMAT_VERSION

State = dict[Any, Any]


def check(state: State) -> None:
    """:raises ValueError: a state of another version."""
    version = state.get("version", state.get(b"version"))
    if version == FORMAT_VERSION and not isinstance(version, bool):
        return
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ValueError(f"flow format version {version} cannot be read: a newer program wrote it")
    if isinstance(version, int) or (isinstance(version, list) and all(isinstance(part, int) for part in version)):
        shown = version if isinstance(version, int) else ".".join(map(str, version))
        raise ValueError(
            f"flow format version {shown} cannot be read, only 0.11 to 3.0 and 4 to {FORMAT_VERSION}: "
            "a mitmproxy of that time may convert the file (mitmdump -nr OLD -w NEW)"
        )
    raise ValueError(f"its version is {version!r:.40}")


def as_ours(state: State) -> None:
    """A file knows lists only; our states have tuples where addresses and header fields are."""
    for name in ("request", "response"):
        message = state.get(name)
        if isinstance(message, dict) and "headers" in message:
            for part in ("headers", "trailers"):
                if message.get(part) is not None:
                    message[part] = tuple([(key, value) for key, value in message[part]])
    server = state["server_conn"]
    if server.get("address") is not None:
        server["address"] = tuple(server["address"])
    if server.get("via") is not None:
        scheme, address = server["via"]
        server["via"] = scheme, tuple(address)
