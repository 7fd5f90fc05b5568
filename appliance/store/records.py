"""From flows to records and back. A record is a msgpack array whose first element says what it is.

``x`` DER of a certificate; ``c`` a client or server connection; ``b`` a piece of a body; ``m`` messages of a
conversation; ``f`` a flow. Records name others by their offset in the same segment, pieces of bodies by (segment,
offset). A connection carries what was set on it, under the names of its attributes. Text that is no UTF-8 travels as
`_ODD`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
from cryptography import x509

from appliance.connection import Client, Connection, ModeName, Server
from appliance.dns import DNSError, DNSFlow, DNSMessage
from appliance.flow import Error, Flow
from appliance.headers import Headers
from appliance.http import HTTPFlow, Message, Request, Response
from appliance.tcp import TCPFlow, TCPMessage
from appliance.udp import UDPFlow, UDPMessage
from appliance.verdict import Verdict
from appliance.websocket import WebSocketData, WebSocketMessage

State = dict[str, Any]
Body = bytes | list[Any] | None
"""A whole body; or [size, SHA-256 or None, cut, [[segment, offset], ...] of pieces, rest]; None: nothing is known."""

_NOTHING: Final[State] = {}
_BODY_OF_REQUEST: Final = 8
_BODY_OF_RESPONSE: Final = 4
"""Where bodies stand in what is written of a request and a response."""
_ODD: Final = 1  # code of the extension type
_LEFT_OUT: Final = frozenset(
    {"state", "chain", "mitmcert", "proxy_mode", "verdict", "_certs", "_recorded", "_ja4", "device"}
)
_CONVERSATIONS: Final[dict[str, tuple[type[Any], type[Any]]]] = {
    "tcp": (TCPFlow, TCPMessage),
    "udp": (UDPFlow, UDPMessage),
}

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ext_hook=lambda code, data: bytes(data).decode("utf-8", "surrogateescape"))
decode: Final[Callable[[bytes], Any]] = _decoder.decode


def encode(record: Any) -> bytes:
    """What is no plain value in it is left out. Never raises for what add-ons have put there."""
    try:
        return _encoder.encode(record)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return _encoder.encode(_plain(record, 0))


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return msgspec.msgpack.Ext(_ODD, value.encode("utf-8", "surrogatepass")
                                       if any("\ud800" <= c < "\udc80" or "\udcff" < c <= "\udfff" for c in value)
                                       else value.encode("utf-8", "surrogateescape"))  # fmt: skip
        return str(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int):
        return int(value) if -(1 << 63) <= value < 1 << 64 else str(int(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if depth < 100:
        if isinstance(value, list | tuple):
            return [_plain(one, depth + 1) for one in value]
        if isinstance(value, dict):
            return {k.encode("utf-8", "backslashreplace").decode() if isinstance(k, str) else _plain(k, depth + 1):
                    _plain(v, depth + 1) for k, v in value.items()
                    if isinstance(k, str | bytes | int) and not _odd(v)}  # fmt: skip
    return None


def _odd(value: Any) -> bool:
    return not (value is None or isinstance(value, str | bytes | bytearray | int | float | list | tuple | dict))


# -- connections


def connection(conn: Connection, certificate: Callable[[x509.Certificate], int]) -> State:
    """What is known of a connection. certificate: gives the offset of a certificate's record."""
    conn.id  # noqa: B018 - it is made when it is first asked for
    state = {name: value for name, value in vars(conn).items() if name not in _LEFT_OUT}
    if conn.chain:
        state["chain"] = [certificate(cert) for cert in conn.chain]
    if isinstance(conn, Client):
        if conn.mitmcert is not None:
            state["mitmcert"] = certificate(conn.mitmcert)
        state["proxy_mode"] = conn.proxy_mode.full_spec
        if (verdict := conn.verdict) is not None:
            state["verdict"] = verdict.action, verdict.reason, verdict.rule, verdict.at
        device = getattr(conn, "device", None)
        if device is not None:
            state["device"] = str(getattr(device, "name", device))
    return state


def connection_of(kind: type[Connection], state: State, certificate: Callable[[int], x509.Certificate]) -> Any:
    conn = kind.__new__(kind)
    attributes = vars(conn)
    for name, value in state.items():
        attributes[name] = tuple(value) if isinstance(value, list) else value
    if "chain" in state:
        conn.chain = tuple(certificate(offset) for offset in state["chain"])
    if isinstance(conn, Client):
        conn.proxy_mode = ModeName(state["proxy_mode"])
        if "mitmcert" in state:
            conn.mitmcert = certificate(state["mitmcert"])
        if "verdict" in state:
            conn.verdict = Verdict(*state["verdict"])
    elif (via := attributes.get("_via")) is not None:
        attributes["_via"] = (via[0], tuple(via[1]))
    return conn


# -- bodies


class Kept:
    """What is known of a body that is not there: `size` bytes, `sha256` (or None), and as much of it as was kept."""

    __slots__ = ("content", "sha256", "size", "why")

    def __init__(self, size: int, sha256: bytes | None, content: bytes, why: str) -> None:
        self.size = size
        self.sha256 = sha256
        self.content = content
        self.why = why


def body(message: Message, limit: int) -> Body:
    """The body to be written. Bytes over `limit` are cut off, with the whole's size and hash."""
    raw = message.raw_content
    if raw is None:
        tee = message.tee
        if tee is not None:
            found: Body = tee.body()
            return found
        return None if message.moved is None else [message.moved, None, True, [], b""]
    if len(raw) <= limit:
        return raw
    return [len(raw), hashlib.sha256(raw).digest(), True, [], raw[:limit]]


def _put_body(message: Message, stored: Body, piece: Callable[[int, int], bytes | None]) -> None:
    message.raw_content = stored if isinstance(stored, bytes) else None
    if not isinstance(stored, list):
        return
    size, sha256, cut, places, rest = stored
    why = "larger than store_body_limit" if cut else ""
    parts = []
    for segment, offset in places:
        part = piece(segment, offset)
        if part is None:
            why = "a part of it is gone"
            break
        parts.append(part)
    else:
        parts.append(rest)
    content = b"".join(parts)
    if why:
        message.moved = size
        message.tee = Kept(size, sha256, content, why)
    else:
        message.raw_content = content


def pieces(record: list[Any]) -> list[tuple[int, int]]:
    """(segment, offset) of the pieces that the bodies of an ``f`` record name. Raises TypeError, ValueError, IndexError
    for one that is none."""
    if record[0] != "f" or record[1] != "http":
        return []
    bodies = [message[at] for message, at in zip(record[8:], (_BODY_OF_REQUEST, _BODY_OF_RESPONSE), strict=False)]
    return [(segment, offset) for stored in bodies if isinstance(stored, list) for segment, offset in stored[3]]


# -- flows


def flow(
    flow: Flow, client: int | State, server: int | State, limit: int, spoken_here: list[Any] | None = None,
    count: tuple[int, int, float] | None = None, bits: int = 0,
) -> list[Any]:  # fmt: skip
    """The record of a flow as it is now; of a conversation, without messages but those `spoken_here` (states).

    count, bits: what its row has of them, see `rows.row`.
    """
    error = flow.error
    extra: State = _NOTHING if type(flow) is HTTPFlow and flow.websocket is None else {}
    if flow.is_replay or flow.marked or flow.comment or flow._metadata or spoken_here or count is not None or bits:
        extra = {}
    if flow.is_replay:
        extra["is_replay"] = flow.is_replay
    if flow.marked:
        extra["marked"] = flow.marked
    if flow.comment:
        extra["comment"] = flow.comment
    if flow._metadata:
        extra["metadata"] = flow._metadata
    record: list[Any] = ["f", flow.type, flow.id, flow.timestamp_created, client, server,
                         None if error is None else (error.msg, error.timestamp), extra]  # fmt: skip
    if isinstance(flow, HTTPFlow):
        request, response = flow.request, flow.response
        trailers = request.trailers
        record.append((
            request.raw_host, request.raw_port, request.raw_method, request.raw_scheme, request.raw_authority,
            request.raw_path, request.raw_http_version, request.headers.fields,
            raw if (raw := request.raw_content) is not None and len(raw) <= limit else body(request, limit),
            None if trailers is None else trailers.fields, request.timestamp_start, request.timestamp_end,
        ))  # fmt: skip
        if response is not None:
            trailers = response.trailers
            record.append((
                response.raw_http_version, response.status_code, response.raw_reason, response.headers.fields,
                raw if (raw := response.raw_content) is not None and len(raw) <= limit else body(response, limit),
                None if trailers is None else trailers.fields,
                response.timestamp_start, response.timestamp_end,
            ))  # fmt: skip
        if (spoken := flow.websocket) is not None:
            extra["websocket"] = (
                spoken.closed_by_client, spoken.close_code, spoken.close_reason, spoken.timestamp_end
            )  # fmt: skip
    elif isinstance(flow, DNSFlow):
        record.append(_dns(flow.request))
        if flow.response is not None:
            record.append(_dns(flow.response))
    else:
        moved = getattr(flow, "moved", None)
        if moved is not None:
            extra["moved"] = moved
    if spoken_here:
        extra["messages"] = spoken_here
    if count is not None:
        extra["count"] = count
    if bits:
        extra["bits"] = bits
    return record


def _dns(message: DNSMessage) -> tuple[Any, float]:
    try:
        return message.packed, message.timestamp
    except DNSError:
        return message.get_state(), message.timestamp


def messages(of: Iterable[Any]) -> list[Any]:
    return [message.get_state() for message in of]


class Reader:
    """Whoever turns records into flows: where certificates, connections and pieces come from."""

    def certificate(self, offset: int) -> x509.Certificate:
        raise NotImplementedError

    def connection(self, kind: type[Connection], place: int | State) -> Any:
        raise NotImplementedError

    def piece(self, segment: int, offset: int) -> bytes | None:
        raise NotImplementedError


def flow_of(record: list[Any], reader: Reader) -> Flow:
    """The flow of an ``f`` record. Raises ValueError, TypeError, IndexError, KeyError for one that is none."""
    _, kind, id, created, client, server, error, extra = record[:8]
    made: Any
    if kind == "http":
        made = HTTPFlow.__new__(HTTPFlow)
        made.request = _request(record[8], reader)
        if len(record) > 9:
            made.response = _response(record[9], reader)
        if "websocket" in extra:
            made.websocket = WebSocketData((), *extra["websocket"])
    elif kind == "dns":
        made = DNSFlow.__new__(DNSFlow)
        made.request = _dns_of(record[8])
        if len(record) > 9:
            made.response = _dns_of(record[9])
    else:
        made = object.__new__(_CONVERSATIONS[kind][0])
        made.messages = []
        if "moved" in extra:
            made.moved = tuple(extra["moved"])
    made.id = id
    made.timestamp_created = created
    made.client_conn = reader.connection(Client, client)
    made.server_conn = reader.connection(Server, server)
    if error is not None:
        made.error = Error(*error)
    for name in ("is_replay", "marked", "comment"):
        if name in extra:
            setattr(made, name, extra[name])
    if "metadata" in extra:
        made.metadata = extra["metadata"]
    flow: Flow = made
    if "messages" in extra:
        add_messages(flow, extra["messages"])
    return flow


def add_messages(flow: Flow, states: Iterable[Any]) -> None:
    """Append messages that were stored to a conversation."""
    if isinstance(flow, HTTPFlow):
        flow.websocket = flow.websocket or WebSocketData()
        flow.websocket.messages.extend(WebSocketMessage.from_state(state) for state in states)
    else:
        kind = _CONVERSATIONS[flow.type][1]
        flow.messages.extend(kind.from_state(state) for state in states)  # type: ignore[attr-defined]


def _headers(fields: Iterable[Any]) -> Headers:
    return Headers.trusted(tuple([(name, value) for name, value in fields]))


def _request(stored: list[Any], reader: Reader) -> Request:
    host, port, method, scheme, authority, path, version, fields, content, trailers, start, end = stored
    request = Request(
        host, port, method, scheme, authority, path, version, _headers(fields), None,
        None if trailers is None else _headers(trailers), start, end,
    )  # fmt: skip
    _put_body(request, content, reader.piece)
    return request


def _response(stored: list[Any], reader: Reader) -> Response:
    version, status, reason, fields, content, trailers, start, end = stored
    response = Response(
        version, status, reason, _headers(fields), None, None if trailers is None else _headers(trailers), start, end
    )
    _put_body(response, content, reader.piece)
    return response


def _dns_of(stored: list[Any]) -> DNSMessage:
    message, timestamp = stored
    if isinstance(message, dict):
        return DNSMessage.from_state(message)
    try:
        return DNSMessage.unpack(message, timestamp)
    except DNSError:  # carried as it was, by a gateway that had no reason to look into it
        found = DNSMessage(int.from_bytes(message[:2], "big"), not message[2:3] or message[2] < 0x80,
                           timestamp=timestamp)  # fmt: skip
        return found
