"""The commonest flow at half the price: an HTTP exchange that went well, with both bodies whole, that nobody marked.

Its record and its row are what `records.flow` and `rows.row` make of it, put together in one go. For every other flow
`made` returns None, and those two are asked.
"""

from __future__ import annotations

from typing import Any, Final

from appliance.http import HTTPFlow
from appliance.store import index as ix
from appliance.store import rows

_NOTHING: Final[dict[str, Any]] = {}
_ANSWERED: Final = ix.ANSWERED | ix.KINDS.index("http") << ix.KIND
_ODD: Final = _ANSWERED | ix.ODD_PATH


def made(
    flow: HTTPFlow, client: int, server: int, limit: int, offset: int, facts: rows.Facts, name: int | None,
    names: rows.Names,
) -> tuple[bytes, tuple[Any, ...]] | None:  # fmt: skip
    """(payload of the record, row). client, server: offsets of their records. offset: of this one.

    limit: bytes of a body that are kept. facts, name: see `rows.row`.
    """
    request, response = flow.request, flow.response
    if (
        response is None or flow.error is not None or flow.websocket is not None or flow._metadata or flow.marked
        or flow.comment or flow.is_replay
    ):  # fmt: skip
        return None
    sent, got, path = request.raw_content, response.raw_content, request.raw_path
    if (
        sent is None or got is None or len(sent) > limit or len(got) > limit or len(path) > rows.MAX_PATH
        or path == b"*" or request.trailers is not None or response.trailers is not None
    ):  # fmt: skip
        return None
    asked, answered, id_ = request.headers, response.headers, flow.id
    host, port, method, scheme = request.raw_host, request.raw_port, request.raw_method, request.raw_scheme
    authority, version, begun, end = (
        request.raw_authority, request.raw_http_version, request.timestamp_start, response.timestamp_end,
    )  # fmt: skip
    fields, theirs, status, lines = asked.fields, answered.fields, response.status_code, names.lines
    try:
        known = lines.get(id(fields))
        if known is None or known[0] is not fields:
            known = names.look(asked)
        _, called, qtype, fields = known
        known = lines.get(id(theirs))
        if known is None or known[0] is not theirs:
            known = names.look(answered)
        _, _, type, theirs = known
        if fields is None or theirs is None:
            return None
        text = path.decode()
        payload = rows.encode((
            "f", "http", id_, flow.timestamp_created, client, server, None, _NOTHING,
            (host, port, method, scheme, authority, path, version, fields, sent, None, begun, request.timestamp_end),
            (response.raw_http_version, status, response.raw_reason, theirs, got, None, response.timestamp_start, end),
        ))  # fmt: skip
    except (TypeError, ValueError, OverflowError, RecursionError, AttributeError):  # UnicodeError is a ValueError
        return None
    number, cport, bits, of_client = facts
    key = (number, name, called, authority, scheme, host, port, version, method, type, qtype)
    shared = names.shared.get(key)
    if shared is None:
        common = names.common.number((*of_client, name, *names.site(request)))
        form = names.forms.number((
            names.method(method), None if type is None else names.type(type),
            None if qtype is None else names.type(qtype),
        ))  # fmt: skip
        shared = common, form
        names.remember(key, shared)
    return payload, (
        *shared, bits | (_ODD if path.translate(None, rows.PRINTABLE) else _ANSWERED), status, text, cport, offset,
        len(payload), begun, None if end is None else end - begun, len(sent), len(got), id_, None,
    )  # fmt: skip
