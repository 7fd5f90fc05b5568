"""Answers requests from local files."""

from __future__ import annotations

import asyncio
import logging
import mimetypes
import os.path
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from appliance import __version__, ctx
from appliance.addons.filters import insist, parse_spec, regex, untouched, will_stream
from appliance.addons.switch import Switch
from appliance.exceptions import OptionsError
from appliance.flowfilter import FlowFilter
from appliance.hooks import body_not_needed
from appliance.http import HTTPFlow, Response
from appliance.log import RateLimited
from appliance.url import unquote

LARGEST: Final = 64 << 20
"""Bytes of a file: it is held in memory while it is sent."""
logger = logging.getLogger(__name__)
_told = RateLimited(logger, per_minute=6)
_ODD = re.compile(r"[^0-9A-Za-z\-_.=(),/]")


class Rule(NamedTuple):
    filter: FlowFilter
    pattern: re.Pattern[str]
    path: Path


def parse_rule(text: str) -> Rule:
    """``[/FILTER]/URL-REGEX/PATH`` of a file or folder. Raises OptionsError."""
    spec = parse_spec("map_local", text)
    pattern = regex("map_local", spec.subject)
    try:
        path = Path(spec.replacement).expanduser().resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise OptionsError(f"map_local: {spec.replacement}: {error}") from None
    return Rule(spec.filter, pattern, path)


class MapLocal(Switch):
    """On while there is something in the option `map_local`."""

    name = "maplocal"

    def configure(self, updated: frozenset[str]) -> None:
        if "map_local" in updated:
            rules = tuple(map(parse_rule, ctx.options.map_local))
            self.use(FromFiles(rules) if rules else None)


class FromFiles:
    """The first rule that has a file wins. Rules match and none has: 404, nothing goes to the server."""

    name = "maplocal requests"

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._rules = rules
        self._needs_body = any(rule.filter.tree.needs_body for rule in rules)

    async def requestheaders(self, flow: HTTPFlow) -> None:
        if self._needs_body:
            insist(flow.request)
        if will_stream(flow):
            await self._apply(flow)

    @body_not_needed
    async def request(self, flow: HTTPFlow) -> None:
        if not flow.request.stream:
            await self._apply(flow)

    async def _apply(self, flow: HTTPFlow) -> None:
        if flow.response is not None or not untouched(flow):
            return
        url, matched = flow.request.pretty_url, False
        for rule in self._rules:
            if not rule.filter(flow) or (found := rule.pattern.search(url)) is None:
                continue
            matched = True
            try:
                response = await asyncio.to_thread(_answer, candidates(url, found, rule.path))
            except Exception:  # whatever it is, the request is not for the server
                logger.exception("map_local: %s", url)
                response = Response.make(500, "map_local failed", {"Server": f"lockgate {__version__}"})
            if response is not None:
                flow.response = response
                return
        if matched:
            _told.log(logging.WARNING, url, "map_local: no file for %s, answered with 404", url)
            flow.response = Response.make(404, headers={"Server": f"lockgate {__version__}"})


def _answer(paths: Iterable[Path]) -> Response | None:
    for path in paths:
        if not _is_file(path):
            continue
        headers = {"Server": f"lockgate {__version__}"}
        if kind := mimetypes.guess_type(path.name)[0]:
            headers["Content-Type"] = kind
        try:
            with path.open("rb") as file:
                content = file.read(LARGEST + 1)
        except OSError as error:
            _told.log(logging.ERROR, path, "map_local: %s: %s", path, error.strerror or error)
            return Response.make(404, headers=headers)
        if len(content) > LARGEST:
            _told.log(logging.ERROR, path, "map_local: %s is over %d MB and not served", path, LARGEST >> 20)
            return Response.make(500, "the mapped file is too large", {"Server": headers["Server"]})
        return Response.make(200, content, headers)
    return None


def candidates(url: str, found: re.Match[str], path: Path) -> Iterator[Path]:
    """The files that may answer for `url`, in which `found` is the rule's match; none lies outside of `path`.

    `path` is a file: that one. A folder: what follows the match (or the first group, if there is one) is looked up
    below it, as it is and with index.html, then with odd characters replaced by "_".
    """
    if _is_file(path):
        yield path
        return
    rest = (found[1] or "") if found.re.groups else url[found.end() :]
    rest = unquote(rest.partition("#")[0].partition("?")[0]).strip("/")
    names = [rest, f"{rest}/index.html"] if rest else ["index.html"]
    plain = _ODD.sub("_", rest)
    if plain != rest:
        names += [plain, f"{plain}/index.html"]
    for name in names:
        try:
            full = (path / name.lstrip("/")).resolve()
        except (OSError, RuntimeError, ValueError):  # too long a name, a NUL in it
            continue
        if full.is_relative_to(path):
            yield full


def _is_file(path: Path) -> bool:
    """False also where `Path.is_file` raises: too long a name, a folder that is closed to us."""
    return os.path.isfile(path)
