"""From a filter's tree to a condition on the index.

A condition has two sides: `may` holds for every flow that could match, `must` only for flows that do. Where both are
the same the index has answered; else the flow is loaded and the filter itself asked. ``!`` swaps the sides.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec

from appliance.flowfilter.operators import _ASSET, _compiled, _flags
from appliance.flowfilter.tree import And, Node, Not, Or, Test
from appliance.store import index as ix
from appliance.store.literal import Literal, literal
from appliance.store.rows import INEXACT, MAX_TEXT


class Sql(NamedTuple):
    """A boolean expression and its parameters."""

    text: str
    params: tuple[Any, ...] = ()


class Condition(NamedTuple):
    may: Sql
    must: Sql

    @property
    def exact(self) -> bool:
        return self.may == self.must


_YES, _NO = Sql("1"), Sql("0")
_ALL: Final = Condition(_YES, _YES)
_NONE: Final = Condition(_NO, _NO)


def _exactly(text: str, *params: Any) -> Condition:
    made = Sql(text, params)
    return Condition(made, made)


def _joined(word: str, parts: Iterable[Sql]) -> Sql:
    found = list(parts)
    neutral, final = (_YES, _NO) if word == "AND" else (_NO, _YES)
    found = [part for part in found if part != neutral]
    if final in found:
        return final
    if not found:
        return neutral
    return Sql(f"({f' {word} '.join(part.text for part in found)})", tuple(p for part in found for p in part.params))


def _not(part: Sql) -> Sql:
    if part in (_YES, _NO):
        return _NO if part == _YES else _YES
    return Sql(f"(NOT coalesce({part.text}, 0))", part.params)


class Translator:
    """Translates for one index; asks it for its names. Functions that conditions call are registered with `db`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._functions = 0

    def condition(self, node: Node) -> Condition:
        """Raises re.error."""
        if isinstance(node, And | Or):
            parts = [self.condition(operand) for operand in node.operands]
            word = "AND" if isinstance(node, And) else "OR"
            return Condition(_joined(word, (p.may for p in parts)), _joined(word, (p.must for p in parts)))
        if isinstance(node, Not):
            inner = self.condition(node.operand)
            return Condition(_not(inner.must), _not(inner.may))
        if isinstance(node, Test):
            return self._test(node.operator.code, node.argument)
        return Condition(_YES, _NO)

    def _test(self, code: str, argument: Any) -> Condition:
        if code in _PLAIN:
            return _PLAIN[code]
        if code == "c":
            return _exactly(f"(kind = 1 AND flags & {ix.ANSWERED} AND status = ?)", argument)
        make = getattr(self, f"_{code}", None)
        if make is not None:
            made: Condition = make(argument)
            return made
        if code in _TYPES:
            search = _search(argument)
            found = [self._named(column, ix.TYPE, lambda text, _: (text.encode("utf-8"),), search)
                     for column in _TYPES[code]]  # fmt: skip
            return Condition(_joined("OR", (f.may for f in found)), _joined("OR", (f.must for f in found)))
        if code in ("h", "hq", "hs"):
            return Condition(Sql("(kind = 1)"), _NO)
        return Condition(_YES, _NO)

    # -- names

    def _named(
        self, column: str, kind: int, texts: Callable[[str, str | None], Iterable[Any]], search: Callable[[Any], Any]
    ) -> Condition:
        """Flows whose `column` is a name of that kind of whose `texts` one is found by `search`."""
        sure, unsure, other = [], [], False
        known: dict[tuple[str, str | None], bool] = {}  # each segment has names of its own, often with the same text
        for id, text, alias in self._db.execute("SELECT id, text, alias FROM name WHERE kind = ?", (kind,)):
            if inexact(text) or (alias and inexact(alias)):
                unsure.append(id)
                continue
            if (found := known.get((text, alias))) is None:
                found = known[text, alias] = any(search(one) for one in texts(text, alias))
            if found:
                sure.append(id)
            else:
                other = True
        must = self._among(column, sure, other or bool(unsure))
        return Condition(_joined("OR", (must, self._among(column, unsure, True))), must)

    def _among(self, column: str, ids: list[int], selective: bool) -> Sql:
        if not ids:
            return _NO
        if not selective:
            return _of(column, f"{column} IS NOT NULL")
        return _ids(column, ids)

    def _table(self, kind: int) -> dict[int, str]:
        return dict(self._db.execute("SELECT id, text FROM name WHERE kind = ?", (kind,)))

    def _function(self, columns: int, function: Callable[..., Any]) -> str:
        self._functions += 1
        name = f"lg_{self._functions}"
        self._db.create_function(name, columns, function, deterministic=True)
        return name

    # -- operators, by their code

    def _a(self, argument: Any) -> Condition:
        found = self._named("type", ix.TYPE, lambda text, _: (text.encode("utf-8"),), _ASSET.match)
        return Condition(*[_joined("AND", (Sql(f"(kind = 1 AND flags & {ix.ANSWERED})"), side)) for side in found])

    def _d(self, argument: str) -> Condition:
        search = _compiled(argument, _flags()).search
        host = self._named("host", ix.HOST, lambda text, _: (text,), search)
        site = self._named("site", ix.SITE, lambda _, alias: (alias or "",), search)
        return Condition(_joined("OR", (host.may, site.may)), _joined("OR", (host.must, site.must)))

    def _m(self, argument: str) -> Condition:
        found = self._named(
            "method", ix.METHOD, lambda text, _: (text.encode("latin-1", "replace"),), _search(argument)
        )
        return Condition(*[_joined("AND", (Sql("(kind = 1)"), side)) for side in found])

    def _dst(self, argument: str) -> Condition:
        return self._named("server", ix.SERVER, lambda text, _: (text,), _compiled(argument, _flags()).search)

    def _device(self, argument: str) -> Condition:
        return self._named("device", ix.DEVICE, lambda text, alias: (text, alias or ""),
                           _compiled(argument, _flags()).search)  # fmt: skip

    def _reason(self, argument: str) -> Condition:
        return self._named("reason", ix.REASON, lambda text, alias: (text, alias or ""),
                           _compiled(argument, _flags()).search)  # fmt: skip

    def _verdict(self, argument: str) -> Condition:
        search = _compiled(argument, _flags()).search
        found = [number for number, name in enumerate(ix.VERDICTS) if name and search(name)]
        return _exactly(f"(verdict IN ({', '.join(map(str, found))}))") if found else _NONE

    def _src(self, argument: str) -> Condition:
        search = _compiled(argument, _flags()).search
        texts = self._table(ix.CLIENT)

        def source(client: int | None, port: int | None) -> bool:
            return client is not None and search(f"{texts.get(client, '')}:{port}") is not None

        test = Sql(f"{self._function(2, source)}({_common('client')}, cport)")
        if (found := literal(argument, _flags())) is not None:
            some = [id for id, text in texts.items() if _before_port(f"{text}:", found.atoms)]
            test = _where(_ids("client", some), test)
        return Condition(test, test)

    def _u(self, argument: str) -> Condition:
        search = _compiled(argument, _flags()).search
        texts = self._table(ix.SITE)

        def url(site: int | None, path: str | None) -> bool:
            if path is None:
                return False
            return search(texts.get(site, "") + path if site is not None else path) is not None

        asked = Sql(f"{self._function(2, url)}({_common('site')}, path)")
        test = asked
        if (found := literal(argument, _flags())) is not None:
            contains = _in_url(texts, found)
            test = contains if found.whole and _flags() & re.IGNORECASE else _where(contains, asked)
        # One look at the flags for each row, and one at the path.
        odd = f"(CASE WHEN flags & {ix.ODD_PATH | ix.LONG_PATH} THEN"
        may = Sql(f"{odd} flags & {ix.LONG_PATH} OR {asked.text} ELSE {test.text} END)", test.params)
        must = Sql(f"{odd} NOT flags & {ix.LONG_PATH} AND {asked.text} ELSE {test.text} END)", test.params)
        cut = _ids("site", [id for id, text in texts.items() if inexact(text)])
        return Condition(_joined("OR", (may, cut)), _joined("AND", (must, _not(cut))))

    def _comment(self, argument: str) -> Condition:
        return _empty_unless(ix.COMMENTED, argument)

    def _marker(self, argument: str) -> Condition:
        return _empty_unless(ix.MARKED, argument)

    def _meta(self, argument: str) -> Condition:
        return _empty_unless(ix.NOTED, argument)


def inexact(text: str) -> bool:
    return len(text) >= MAX_TEXT or text.endswith(INEXACT)


def _search(argument: str) -> Callable[[bytes], Any]:
    return _compiled(argument.encode("utf-8", "surrogateescape"), _flags()).search


def _empty_unless(flag: int, argument: str) -> Condition:
    """The text is empty where the flag is not set, and unknown here where it is."""
    has = Sql(f"(flags & {flag} != 0)")
    if _compiled(argument, _flags()).search("") is not None:
        return Condition(_YES, _not(has))
    return Condition(has, _NO)


def _where(first: Sql, then: Sql) -> Sql:
    """`then` is only looked at where `first` holds; AND leaves that to SQLite."""
    if first in (_YES, _NO):
        return then if first == _YES else _NO
    return Sql(f"(CASE WHEN {first.text} THEN {then.text} ELSE 0 END)", (*first.params, *then.params))


def _in_url(sites: dict[int, str], found: Literal) -> Sql:
    """Flows whose URL has this text. It may lie in the site, in the path, or across."""
    compiled = partial(re.compile, flags=re.IGNORECASE | re.DOTALL)
    same: dict[str, list[int]] = {}  # each segment has names of its own, of the same sites
    for id, text in sites.items():
        same.setdefault(text, []).append(id)

    def those(search: Callable[[str], Any]) -> list[int]:
        return [id for text, ids in same.items() if search(text) for id in ids]

    parts = [Sql("(path LIKE ? ESCAPE '\\')", (f"%{found.like()}%",)),
             _ids("site", those(compiled(found.pattern()).search))]  # fmt: skip
    for at in range(1, len(found.atoms)):
        if before := those(compiled(found.pattern(0, at) + r"\Z").search):
            rest = Sql("(path LIKE ? ESCAPE '\\')", (f"{found.like(at)}%",))
            parts.append(_joined("AND", (_ids("site", before), rest)))
    return _joined("OR", parts)


def _before_port(text: str, atoms: tuple[str, ...]) -> bool:
    """Whether `text` with the digits of a port behind it could contain this."""
    padded = text.lower() + "\0" * 5
    return any(
        all(not atom or (atom.isdigit() if there == "\0" else atom.lower() == there)
            for atom, there in zip(atoms, padded[start:], strict=False))
        for start in range(len(padded) - len(atoms) + 1)
    )  # fmt: skip


def _ids(column: str, ids: list[int]) -> Sql:
    if not ids:
        return _NO
    if len(ids) == 1:
        return _of(column, f"{column} = ?", ids[0])
    return _of(column, f"{column} IN (SELECT value FROM json_each(?))", msgspec.json.encode(ids).decode())


def _of(column: str, test: str, *params: Any) -> Sql:
    """Flows of those combinations that pass the test: they are looked for once, not for each flow."""
    table = "form" if column in ix.FORM else "common"
    return Sql(f"({table} IN (SELECT id FROM {table} WHERE {test}))", params)


def _common(column: str) -> str:
    """The name that a flow's combination has there."""
    return f"(SELECT {column} FROM common WHERE id = flow.common)"


_TYPES: Final = {"t": ("type", "qtype"), "tq": ("qtype",), "ts": ("type",)}
_PLAIN: Final = {
    "all": _ALL,
    **{name: _exactly(f"(kind = {number})") for number, name in enumerate(ix.KINDS) if name},
    "websocket": _exactly(f"(flags & {ix.WEBSOCKET} != 0)"),
    "e": _exactly(f"(flags & {ix.FAILED} != 0)"),
    "q": _exactly(f"(kind IN (1, 4) AND NOT flags & {ix.ANSWERED})"),
    "s": _exactly(f"(kind IN (1, 4) AND flags & {ix.ANSWERED} != 0)"),
    "replay": _exactly(f"(flags & {ix.REPLAYED_REQUEST | ix.REPLAYED_RESPONSE} != 0)"),
    "replayq": _exactly(f"(flags & {ix.REPLAYED_REQUEST} != 0)"),
    "replays": _exactly(f"(flags & {ix.REPLAYED_RESPONSE} != 0)"),
    "marked": _exactly(f"(flags & {ix.MARKED} != 0)"),
}
