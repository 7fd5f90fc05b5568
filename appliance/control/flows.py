"""Methods on flows: who may see them live, and what can be done to those that are held."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from appliance import flowfilter
from appliance.addons.recording import Recording
from appliance.control import stored
from appliance.control.edit import edit
from appliance.control.feed import KINDS, FlowSubscription
from appliance.control.methods import method
from appliance.control.protocol import ControlError
from appliance.control.summary import CONTENT, MOST_CONTENT, content, decoded, details, summary
from appliance.exceptions import ControlException
from appliance.http import HTTPFlow
from appliance.ids import short_id

if TYPE_CHECKING:
    from appliance.addons.flowfeed import FlowFeed
    from appliance.control.server import Session
    from appliance.flow import Flow

_SHORT = 4
"""Characters of the beginning of an id that are enough, if no other flow's begins with them."""


def _feed(session: Session) -> FlowFeed:
    feed: FlowFeed = session.server.gateway.addons.get("flowfeed")
    return feed


@method("flows.subscribe", filter="text?", events="texts?")
def subscribe(session: Session, filter: str = "", events: list[str] | None = None) -> dict[str, Any]:
    try:
        flt = flowfilter.parse(filter) if filter else None
    except ValueError as error:
        raise ControlError("bad_params", str(error)) from None
    kinds = frozenset(KINDS if events is None else events)
    if wrong := kinds - set(KINDS):
        raise ControlError("bad_params", f"there is no event {min(wrong)!r}", f"there are {', '.join(KINDS)}")
    feed = _feed(session)
    made = session.subscribe(
        lambda n: FlowSubscription(n, session.transport, session.server.loop, flt, kinds), feed.remove
    )
    assert isinstance(made, FlowSubscription)
    feed.add(made)
    return {"subscription": made.number}


@method("flows.intercepted")
def intercepted(session: Session) -> dict[str, Any]:
    return {"flows": [summary(flow) for flow in _held(session).values()]}


def _held(session: Session) -> dict[str, Flow]:
    return session.server.gateway.worker.held


def _find(session: Session, flow_id: str) -> Flow:
    """By its id, its short id, or the beginning of it. Raises ControlError."""
    flows = _feed(session).at_hand()
    if flow_id in flows:
        return flows[flow_id]
    found = [flow for known, flow in flows.items() if short_id(known) == flow_id]
    if not found and len(flow_id) >= _SHORT:
        found = [flow for known, flow in flows.items() if known.startswith(flow_id)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ControlError("not_found", f"{len(found)} flows go by {flow_id}", "give the whole id")
    raise NotAtHand(
        "not_found",
        f"no flow {flow_id[:100]} is at hand, nor does the id of one in the store begin so",
        "at hand is what is held (`lockgate intercepted`), followed by a subscriber, or kept in memory",
    )


class NotAtHand(ControlError):
    """It may be in the store."""


async def _found(session: Session, id: str | None, number: int | None) -> Flow:
    """At hand by its id, else in the store; by its number there. Raises ControlError."""
    if (id is None) == (number is None):
        raise ControlError("bad_params", "no flow is named", "give its id, or its number in the store")
    if id is not None:
        try:
            return _find(session, id)
        except NotAtHand as error:
            try:
                return await stored.load(session.server.gateway, id)
            except ControlError as other:
                raise (error if other.code == "not_found" else other) from None
    assert number is not None
    return await stored.load(session.server.gateway, number)


@method("flows.get", id="text?", number="count?", content_limit="count?")
async def get(
    session: Session, id: str | None = None, number: int | None = None, content_limit: int = CONTENT
) -> dict[str, Any]:
    flow = await _found(session, id, number)
    return {"flow": details(flow, min(content_limit, MOST_CONTENT), await decoded(flow))}


@method("flows.content", id="text?", number="count?", part="text", offset="count?", limit="count?")
async def get_content(
    session: Session,
    part: str,
    id: str | None = None,
    number: int | None = None,
    offset: int = 0,
    limit: int = MOST_CONTENT,
) -> dict[str, Any]:
    """A body piece by piece, its content codings taken off."""
    flow = await _found(session, id, number)
    if part not in ("request", "response") or not isinstance(flow, HTTPFlow):
        raise ControlError("bad_params", f"{part[:100]!r} is no part of this flow", "request or response, of HTTP")
    message = getattr(flow, part)
    if message is None:
        raise ControlError("not_found", f"there is no {part} yet")
    body = (await decoded(flow)).get(part, message.raw_content)
    return content(body, max(4, min(limit, MOST_CONTENT)), offset)


@method(
    "flows.edit",
    id="text",
    request="object?",
    response="object?",
    message="object?",
    comment="text?",
    marked="text?",
    resume="bool?",
)
def edit_flow(session: Session, id: str, resume: bool = False, **changes: Any) -> dict[str, Any]:
    flow = _find(session, id)
    if changes:
        edit(flow, changes)
    if resume:
        flow.resume()
    session.server.gateway.addons.trigger("update", [flow])
    return {"flow": summary(flow)}


@method("flows.resume", ids="texts?", all="bool?")
def resume(session: Session, ids: list[str] | None = None, all: bool = False) -> dict[str, Any]:
    flows = [flow for flow in _chosen(session, ids, all) if flow.intercepted]
    for flow in flows:
        flow.resume()
    return _told(session, flows)


@method("flows.kill", ids="texts?", all="bool?")
def kill(session: Session, ids: list[str] | None = None, all: bool = False) -> dict[str, Any]:
    """`all`: all that are held."""
    flows = []
    for flow in _chosen(session, ids, all):
        if flow.killable:
            try:
                flow.kill()
            except ControlException:
                continue
            flows.append(flow)
    return _told(session, flows)


def _chosen(session: Session, ids: list[str] | None, all: bool) -> list[Flow]:
    if (ids is None) == (not all):
        raise ControlError("bad_params", "no flow is named", "give ids, or all: true for all that are held")
    return list(_held(session).values()) if ids is None else [_find(session, one) for one in ids]


def _told(session: Session, flows: list[Flow]) -> dict[str, Any]:
    if flows:
        session.server.gateway.addons.trigger("update", flows)
    return {"ids": [flow.id for flow in flows]}


@method("flows.replay", ids="texts?", numbers="counts?")
async def replay(session: Session, ids: list[str] | None = None, numbers: list[int] | None = None) -> dict[str, Any]:
    """Send their requests again: all of them, or none. Those at hand go as they are now, those of the store as copies
    under the ids in the answer.
    """
    gateway = session.server.gateway
    playback = gateway.addons.get("clientplayback")
    if ids is None and numbers is None:
        raise ControlError("bad_params", "no flow is named", "give ids, or numbers in the store")
    flows: list[Flow] = []
    references: list[str | int] = []
    for one in ids or ():
        try:
            flows.append(_find(session, one))
        except NotAtHand:
            references.append(one)
    references += numbers or ()
    for flow in flows:
        if (why := playback.check(flow)) is not None:
            raise ControlError("refused", why)
    copies: list[str] = []
    if references:
        copies, again = await stored.replayable(gateway, references, playback.check)
        playback.source(Recording("the store", again))
    if flows:
        gateway.commands.call("replay.client", flows)
    return {"ids": [*(flow.id for flow in flows), *copies]}
