"""How an exchange that failed ends: what the fault was, what its client is told, what add-ons hear."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from appliance.layers.http import pages
from appliance.layers.http.h1_fields import Refused
from appliance.layers.http.wire import Inbound
from appliance.log import RateLimited
from appliance.net.reasons import Gone

if TYPE_CHECKING:
    from appliance.handler import ConnectionHandler
    from appliance.http import HTTPFlow

logger = logging.getLogger(__name__)

_note = RateLimited(logger, 2)


class Failed(Exception):
    """The exchange cannot go on. status: of the page the client gets, when it can still get one; 0 = just end it.

    detail: of the reason behind it, such as the code of a stream that was reset.
    """

    def __init__(self, status: int, text: str, kind: str = "", detail: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.kind = kind
        self.detail = detail


def failed(e: Exception, flow: HTTPFlow, inbound: Inbound) -> Failed:
    """What this exception means to the client."""
    if isinstance(e, Failed):
        return e
    if isinstance(e, Gone):
        refused = inbound.refused  # the request's body: malformed, or cut off
        status = 502 if refused is None else refused.status
        if inbound.why is not None or inbound.carries(e.reason):
            status = 0
        return Failed(status, _blame(e, inbound) if refused is None else refused.why, "", e.reason.detail)
    if isinstance(e, Refused):  # what an add-on made of a head, or a server answered, cannot be sent
        logger.warning("%s: %s", flow, e.why)
        return Failed(max(e.status, 500), e.why)
    logger.error("fault in an exchange", exc_info=e)
    return Failed(500, f"fault in the gateway: {e!r}")


def _blame(e: Gone, inbound: Inbound) -> str:
    why = inbound.why
    if why is None:
        return e.reason.text
    return "the client disconnected" if why.kind in ("closed", "reset") else why.text


async def send_page(inbound: Inbound, flow: HTTPFlow, e: Failed) -> None:
    """Tell the client, if it is still there to hear it."""
    page = pages.error(e.status, e.text, e.kind, flow)
    if not inbound.whole or inbound.refused is not None:
        inbound.persistent = False
    with suppress(Gone):
        wait = inbound.respond(page, page.raw_content or b"")
        if wait is not None:
            await wait


async def fire_error(handler: ConnectionHandler, flow: HTTPFlow) -> None:
    """Count it, and tell add-ons."""
    worker = handler.worker
    worker.totals.errors += 1
    if (pending := worker.hooks.fire("error", flow)) is not None:
        await pending
    if (pending := worker.hooks.fire("update", [flow])) is not None:
        await pending


def note_cut(flow: HTTPFlow) -> None:
    """The server ended the TLS connection, and so the body, without close_notify: it may be incomplete (RFC 9112 §9.8).

    Many a server always ends so, hence no error: see docs/decisions/exchange.md.
    """
    flow.metadata["response_incomplete"] = "perhaps: the server ended TLS without close_notify"
    request = flow.request
    _note.log(
        logging.INFO,
        (request.host, request.port),
        "%s:%s: a response may be incomplete: the server ended the TLS connection, and with it the body, without "
        "close_notify",
        request.host,
        request.port,
    )
