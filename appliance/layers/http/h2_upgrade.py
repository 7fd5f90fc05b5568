"""Extended CONNECT (RFC 8441) as the rest of the gateway sees it: the upgrade that it is in HTTP/1, and back.

So a WebSocket is one thing to add-ons and the exchange, whichever versions the two sides speak.
"""

from __future__ import annotations

import base64
import hashlib
import os
from typing import TYPE_CHECKING

from appliance.headers import Headers
from appliance.layers.http.h2_fields import Field, write_request

if TYPE_CHECKING:
    from appliance.request import Request

WEBSOCKET = b"websocket"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_REPLACED = frozenset({b"connection", b"upgrade"})


def upgrade_fields(headers: Headers, protocol: bytes) -> Headers:
    """A request's fields with what asks HTTP/1 for `protocol`; for a WebSocket with a key (RFC 6455 §4.1) as well."""
    fields = [*headers.fields, (b"connection", b"Upgrade"), (b"upgrade", protocol)]
    if protocol.lower() == WEBSOCKET and "sec-websocket-key" not in headers:
        fields.append((b"sec-websocket-key", base64.b64encode(os.urandom(16))))
    return Headers.trusted(tuple(fields))


def write_extended(request: Request, path: bytes, protocol: bytes) -> list[Field]:
    """The extended CONNECT that stands for a request in upgrade form. :raises Refused: it cannot be said."""
    method, *rest = write_request(request, path, None)
    kept = [field for field in rest if field[0] not in (b"sec-websocket-key", b"content-length")]
    return [(method[0], b"CONNECT"), (b":protocol", protocol), *kept]


def switch_fields(headers: Headers, protocol: bytes, key: bytes | None) -> Headers:
    """Fields of the 101 that stands for a 2xx to an extended CONNECT. key: the WebSocket key it answers."""
    fields = [field for field in headers.fields if field[0].lower() not in _REPLACED]
    fields += [(b"connection", b"Upgrade"), (b"upgrade", protocol)]
    if protocol.lower() == WEBSOCKET and key is not None:
        fields.append((b"sec-websocket-accept", base64.b64encode(hashlib.sha1(key.strip() + _GUID).digest())))
    return Headers.trusted(tuple(fields))


def granted_fields(headers: Headers) -> Headers:
    """Fields of the 2xx to an extended CONNECT that stands for a 101: key and accept are HTTP/1's alone (§5)."""
    dropped = _REPLACED | {b"sec-websocket-accept", b"content-length", b"transfer-encoding"}
    return Headers.trusted(tuple([field for field in headers.fields if field[0].lower() not in dropped]))
