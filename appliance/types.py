"""Types of command arguments and results, and how their values are read from text."""

from __future__ import annotations

import codecs
import inspect
import re
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path as _Path
from typing import TYPE_CHECKING, Any

from appliance import flow
from appliance.exceptions import CommandError
from appliance.strutils import escaped_str_to_bytes

if TYPE_CHECKING:
    from appliance.command import CommandManager


class Path(str):
    """A file's name; `~` is expanded."""


class Cmd(str):
    """The name of a command."""


class CmdArgs(str):
    """Arguments of the command named before, as texts."""


class Marker(str):
    """A marker of a flow, such as `:red_circle:`."""


class Space(str):
    """White space in a command line."""


class Unknown(str):
    """A word whose type is not known."""


class CutSpec(Sequence[str]):
    """What `cut` takes from a flow: names such as `request.method`, with commas between."""


class Data(Sequence[Sequence["str | bytes"]]):
    """Rows of cells, as `cut` gives them."""


class Choice:
    """One of what the command `options_command` lists. For `@command.argument`."""

    def __init__(self, options_command: str) -> None:
        self.options_command = options_command


_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[\\'\"abfnrtv0])")


def _text(manager: CommandManager, text: str) -> str:
    return _ESCAPE.sub(lambda m: codecs.decode(m[0], "unicode_escape"), text)


def _bytes(manager: CommandManager, text: str) -> bytes:
    return escaped_str_to_bytes(text)


def _bool(manager: CommandManager, text: str) -> bool:
    try:
        return {"true": True, "false": False}[text]
    except KeyError:
        raise ValueError("expected true or false") from None


def _texts(manager: CommandManager, text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _path(manager: CommandManager, text: str) -> str:
    return str(_Path(text).expanduser())


def _cmd(manager: CommandManager, text: str) -> str:
    if text not in manager.commands:
        raise ValueError("no such command")
    return text


def _flows(manager: CommandManager, text: str) -> Sequence[flow.Flow]:
    if "view.flows.resolve" not in manager.commands:
        raise ValueError("no add-on keeps flows, so none can be named")
    found: Sequence[flow.Flow] = manager.call("view.flows.resolve", text)
    return found


def _flow(manager: CommandManager, text: str) -> flow.Flow:
    flows = _flows(manager, text)
    if len(flows) != 1:
        raise ValueError(f"exactly one flow is wanted, this names {len(flows)}")
    return flows[0]


def _marker(manager: CommandManager, text: str) -> str:
    return {"true": ":default:", "false": ""}.get(text, text)


def _as_is(manager: CommandManager, text: str) -> str:
    return text


#: type: (name shown, reader or None if it is a result only, is it a value of this type)
_KINDS: dict[Any, tuple[str, Callable[[CommandManager, str], Any] | None, Callable[[Any], bool]]] = {
    str: ("str", _text, lambda v: isinstance(v, str)),
    bytes: ("bytes", _bytes, lambda v: isinstance(v, bytes)),
    int: ("int", lambda _, text: int(text), lambda v: isinstance(v, int)),
    float: ("float", lambda _, text: float(text), lambda v: isinstance(v, int | float)),
    bool: ("bool", _bool, lambda v: isinstance(v, bool)),
    Sequence[str]: ("str[]", _texts, lambda v: _all(v, str)),
    Path: ("path", _path, lambda v: isinstance(v, str)),
    Cmd: ("cmd", _cmd, lambda v: isinstance(v, str)),
    CmdArgs: ("arg", _as_is, lambda v: isinstance(v, str)),
    Marker: ("marker", _marker, lambda v: isinstance(v, str)),
    CutSpec: ("cut[]", _texts, lambda v: _all(v, str)),
    flow.Flow: ("flow", _flow, lambda v: isinstance(v, flow.Flow)),
    Sequence[flow.Flow]: ("flow[]", _flows, lambda v: _all(v, flow.Flow)),
    Data: ("data[][]", None, lambda v: isinstance(v, Sequence)),
}


def _all(value: Any, kind: type) -> bool:
    return (
        not isinstance(value, str | bytes) and isinstance(value, Sequence) and all(isinstance(v, kind) for v in value)
    )


def _known(kind: Any) -> Any:
    """`list[X]` and `tuple[X, ...]` are read as `Sequence[X]`; a subclass of Flow as Flow."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (list, tuple, Sequence) and args:
        inner: Any = args[0]
        return Sequence[flow.Flow] if inspect.isclass(inner) and issubclass(inner, flow.Flow) else Sequence[inner]
    if inspect.isclass(kind) and kind not in _KINDS and issubclass(kind, flow.Flow):
        return flow.Flow
    if origin in (typing.Union, types.UnionType) and type(None) in args and len(args) == 2:
        return _known(args[0] if args[1] is type(None) else args[1])
    return kind


def _flow_class(kind: Any) -> type[flow.Flow]:
    """The class of flows that an annotation names, in `list[HTTPFlow]` as in `HTTPFlow`; Flow for all others."""
    for inner in (kind, *typing.get_args(kind)):
        if inspect.isclass(inner) and issubclass(inner, flow.Flow):
            return inner
    return flow.Flow


def _of_kind(wanted: type[flow.Flow], value: Any) -> Any:
    """Flows of this class; others are left out of several. Raises ValueError where it is the one."""
    if wanted is flow.Flow:
        return value
    if isinstance(value, flow.Flow):
        if not isinstance(value, wanted):
            raise ValueError(f"a flow of {wanted.type} is wanted, this is one of {value.type}")
        return value
    return [one for one in value if isinstance(one, wanted)]


def display(kind: Any) -> str:
    """The name of a type for people; "" for None. Raises CommandError if arguments cannot have it."""
    if kind in (None, type(None), inspect.Signature.empty):
        return ""
    if isinstance(kind, Choice):
        return "choice"
    known = _known(kind)
    if known not in _KINDS:
        raise CommandError(
            f"{kind!r} cannot be the type of an argument; there are {', '.join(k[0] for k in _KINDS.values())}"
        )
    return _KINDS[known][0]


def read(manager: CommandManager, kind: Any, text: str) -> Any:
    """`text` as a value. Raises CommandError."""
    if isinstance(kind, Choice):
        options = manager.call(kind.options_command)
        if text not in options:
            raise CommandError(f"{text!r} is not one of {', '.join(options)}")
        return text
    reader = _KINDS[_known(kind)][1]
    if reader is None:
        raise CommandError(f"{display(kind)} cannot be given as text")
    try:
        return _of_kind(_flow_class(kind), reader(manager, text))
    except ValueError as error:
        raise CommandError(f"{text!r} as {display(kind)}: {error}") from None


def is_valid(kind: Any, value: Any) -> bool:
    """Has `value` this type? For results."""
    if isinstance(kind, Choice):
        return isinstance(value, str)
    known = _KINDS.get(_known(kind))
    return known is not None and known[2](value)
