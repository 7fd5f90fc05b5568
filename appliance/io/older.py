"""States of older flow files, brought to the present form.

Made from files that mitmproxy 0.11 to 10 wrote (tests/io/samples). Versions differ in the names of keys far more than
in what they mean, so that a state is read by what it holds, not by its number: a version in between, of which no file
was to be had, is read if it holds nothing else than its neighbours. What is not known is an error, never left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from appliance.flow import FORMAT_VERSION
from appliance.ids import new_id

State = dict[Any, Any]

LISTED: Final = frozenset({*((0, minor) for minor in range(11, 20)), (1, 0), (2, 0), (3, 0)})
"""Versions that were those of the release; later ones are plain numbers."""
NUMBERED: Final = range(4, FORMAT_VERSION)
MAX_HANDSHAKES: Final = 64
"""Handshakes remembered for a WebSocket flow to come that names its own."""

_RENAMED: Final = {
    "client_conn": {"address": "peername", "clientcert": "certificate_list"},
    "server_conn": {"ip_address": "peername", "source_address": "sockname", "cert": "certificate_list", "via2": "via"},
    "request": {"httpversion": "http_version", "body": "content"},
    "response": {"httpversion": "http_version", "body": "content", "code": "status_code", "msg": "reason"},
}
_BOTH_ENDS: Final = {
    "cipher_name": "cipher",
    "alpn_proto_negotiated": "alpn",
    "timestamp_ssl_setup": "timestamp_tls_setup",
    "ssl_established": "tls_established",
}
_DROPPED: Final = {
    "client_conn": frozenset({"state", "tls_extensions"}),
    "server_conn": frozenset({"state"}),
    "request": frozenset({"form_in", "form_out", "stickyauth", "stickycookie"}),
    "response": frozenset[str](),
}
"""What says nothing once the connection is gone, or what another key says as well."""
_TALK: Final = (
    "client_key", "client_protocol", "client_extensions", "server_accept", "server_protocol", "server_extensions",
)  # fmt: skip
"""Of a WebSocket flow: what the fields of its handshake say."""
_MODES: Final = frozenset({"regular", "transparent", "socks5"})
"""Modes that are whole without the address that old files do not have."""


def is_older(version: object) -> bool:
    """Whether `upgraded` reads states of this version."""
    if isinstance(version, list):
        return len(version) in (2, 3) and tuple(version[:2]) in LISTED
    return isinstance(version, int) and not isinstance(version, bool) and version in NUMBERED


class Upgrade:
    """Brings the states of one file to the present form, one after the other."""

    def __init__(self) -> None:
        self._handshakes: dict[str, State] = {}

    def __call__(self, old: State) -> State:
        """A state of the present form; `old` is used up. Raises ValueError for what is not known."""
        state = _with_text_keys(old)
        kind = _text(state.pop("type", None))
        handshake = None
        if kind == "websocket":
            state, handshake = self._websocket(state)
            kind = "http"
        state["type"], state["version"] = kind, FORMAT_VERSION
        client, server = _connections(state, "udp" if kind in ("udp", "dns") else "tcp")
        _common(state)
        if kind == "http":
            replayed = [part for part in ("request", "response") if (state.get(part) or {}).pop("is_replay", False)]
            state["is_replay"] = state["is_replay"] or (replayed[0] if replayed else None)
            state["request"] = _request(state["request"], client["timestamp_start"])
            state["response"] = _response(state.get("response"))
            state["websocket"] = _messages(state.get("websocket"))
            started = state["request"]["timestamp_start"]
        elif kind == "dns":
            started = state["request"]["timestamp"]
        else:
            started = client["timestamp_start"]
        state.setdefault("timestamp_created", started or client["timestamp_start"] or server["timestamp_start"] or 0.0)
        backup = state.setdefault("backup", None)
        if isinstance(backup, dict):
            state["backup"] = self({"type": kind, "version": None, **_with_text_keys(backup), "backup": None})
        if handshake is None and kind == "http" and (state["response"] or {}).get("status_code") == 101:
            self._remember(state)
        return state

    def _remember(self, state: State) -> None:
        self._handshakes[state["id"]] = {part: state[part] for part in ("request", "response")}
        while len(self._handshakes) > MAX_HANDSHAKES:
            del self._handshakes[next(iter(self._handshakes))]

    def _websocket(self, state: State) -> tuple[State, State]:
        """Messages had a flow of their own, beside that of the handshake; they become one with the same request."""
        for name in _TALK:
            state.pop(name, None)
        own = state.pop("handshake_flow", None)
        named = _text((state.get("metadata") or {}).get("websocket_handshake"))
        handshake = _with_text_keys(own) if isinstance(own, dict) else self._handshakes.get(named or "")
        if handshake is None:
            address = _address(state["server_conn"].get("address")) or ("unknown", 80)
            handshake = {"request": _unknown_request(address), "response": None}
        code, message = state.pop("close_code", None), _text(state.pop("close_message", None))
        reason, sender = _text(state.pop("close_reason", None)), _text(state.pop("close_sender", None))
        state["websocket"] = {
            "messages": state.pop("messages"),
            "closed_by_client": sender == "client",
            "close_code": code if isinstance(code, int) else 1005,
            "close_reason": reason if message in (None, "", "(message missing)") else message,
            "timestamp_end": state["server_conn"].get("timestamp_end"),
        }
        for part in ("request", "response"):
            state[part] = dict(handshake[part]) if handshake.get(part) else None
        return state, handshake


def _common(state: State) -> None:
    """What all flows have."""
    error = state.setdefault("error", None)
    if error:
        state["error"] = {"msg": _text(error["msg"]), "timestamp": error["timestamp"]}
    state["id"] = _text(state.get("id")) or new_id()
    state.setdefault("intercepted", False)
    state["is_replay"] = _text(state.get("is_replay"))
    marked = state.get("marked")
    state["marked"] = (_text(marked) if not isinstance(marked, bool) else ":default:" if marked else "") or ""
    state["comment"] = _text(state.get("comment")) or ""
    metadata = state.get("metadata")
    state["metadata"] = {_text(key): value for key, value in metadata.items()} if metadata else {}


def _connections(state: State, transport: str) -> tuple[State, State]:
    mode = _text(state.pop("mode", None))
    client, server = (_renamed(state[name], name, _BOTH_ENDS) for name in ("client_conn", "server_conn"))
    client["sockname"] = _address(client.get("sockname")) or ("", 0)
    client["peername"] = _address(client.get("peername")) or ("", 0)
    client.setdefault("mitmcert", None)
    client["mitmcert"] = _pem(client["mitmcert"])
    client.setdefault("proxy_mode", mode if mode in _MODES else "regular")
    for name in ("address", "peername", "sockname"):
        server[name] = _address(server.get(name))
    via = server.get("via")
    if isinstance(via, dict):  # once the whole connection to a proxy
        via = ("http", _address(via.get("address")))
    server["via"] = (_text(via[0]), _address(via[1])) if via else None
    server.setdefault("timestamp_tcp_setup", None)
    for conn in (client, server):
        established = conn.pop("tls_established", False)
        conn.setdefault("tls", bool(established))
        conn["id"] = _text(conn.get("id")) or new_id()
        conn.setdefault("transport_protocol", transport)
        for name in ("sni", "tls_version", "cipher", "error"):
            conn[name] = _text(conn.get(name))
        for name in ("timestamp_start", "timestamp_end", "timestamp_tls_setup", "alpn"):
            conn.setdefault(name, None)
        for name in ("alpn_offers", "cipher_list"):
            conn[name] = list(conn.get(name) or ())
        certs = conn.get("certificate_list") or []
        conn["certificate_list"] = [_pem(cert) for cert in ([certs] if isinstance(certs, (bytes, str)) else certs)]
    state["client_conn"], state["server_conn"] = client, server
    return client, server


def _request(old: State, arrived: float | None) -> State:
    request = _message(old, "request")
    form = _text(request.pop("first_line_format", None))
    request["host"], port = _text(request["host"]), request["port"]
    request["port"] = port if isinstance(port, int) else int(_text(port) or "")
    if "authority" not in request:
        request["authority"] = f"{request['host']}:{request['port']}".encode() if form == "authority" else b""
    for name in ("method", "scheme", "path"):
        request[name] = request.get(name) or b""
    if request.get("timestamp_start") is None:
        request["timestamp_start"] = arrived or 0.0
    request.setdefault("timestamp_end", None)
    return request


def _response(old: State | None) -> State | None:
    if not old:
        return None
    response = _message(old, "response")
    response["reason"] = response.get("reason") or b""
    for name in ("timestamp_start", "timestamp_end"):
        response.setdefault(name, None)
    if response["timestamp_start"] is None:
        response["timestamp_start"] = response["timestamp_end"] or 0.0
    return response


def _message(old: State, part: str) -> State:
    message = _renamed(old, part, {})
    version = message["http_version"]
    if isinstance(version, list):
        message["http_version"] = b"HTTP/%d.%d" % tuple(version)
    message.setdefault("content", None)
    message.setdefault("trailers", None)
    return message


def _messages(websocket: State | None) -> State | None:
    if websocket is None:
        return None
    # dropped and injected came later
    shown = [[*message, False, False][:6] for message in websocket["messages"]]
    return {"closed_by_client": None, "timestamp_end": None, **websocket, "messages": shown}


def _unknown_request(address: tuple[Any, ...]) -> State:
    return {
        "http_version": b"HTTP/1.1", "headers": [], "content": None, "trailers": None, "timestamp_start": None,
        "timestamp_end": None, "host": address[0], "port": address[1], "method": b"GET", "scheme": b"http",
        "authority": b"", "path": b"/",
    }  # fmt: skip


def _renamed(old: Any, part: str, more: Mapping[str, str]) -> State:
    names, dropped = {**more, **_RENAMED[part]}, _DROPPED[part]
    new: State = {}
    for key, value in old.items():
        if key in dropped:
            continue
        name = names.get(key, key)
        if new.get(name) is None:  # an older and a newer name may stand beside each other
            new[name] = value
    return new


def _with_text_keys(state: Any) -> State:
    """Keys as text, all the way down but for metadata. Python 2 wrote them as bytes."""
    if not isinstance(state, dict):
        raise ValueError(f"a part of it is {state!r:.40}")
    found = {}
    for key, value in state.items():
        name = key.decode("utf-8", "replace") if isinstance(key, bytes) else key
        found[name] = _with_text_keys(value) if isinstance(value, dict) and name != "metadata" else value
    return found


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if value is None or isinstance(value, str):
        return value
    raise ValueError(f"a text was expected, not {value!r:.40}")


def _pem(value: Any) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def _address(value: Any) -> tuple[Any, ...] | None:
    if isinstance(value, dict):  # with a mark for IPv6, that the host shows as well
        value = value.get("address")
    if not value:
        return None
    host, port, *more = value
    return (_text(host), port, *more)
