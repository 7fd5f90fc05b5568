"""What can be asked for, by name. docs/control.md describes each to users, docs/control.schema.json to programs."""

from __future__ import annotations

import base64
import dataclasses
import inspect
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from appliance.control.protocol import ControlError, nearest
from appliance.exceptions import CommandError, LockgateError
from appliance.flow import Flow

if TYPE_CHECKING:
    from appliance.control.server import Session
    from appliance.gateway import Gateway

Function = Callable[..., "Awaitable[Any] | Any"]
_F = TypeVar("_F", bound=Function)

_SECRET = frozenset({"cert_passphrase"})


class Method(NamedTuple):
    """params: the kind of each by name, with ``?`` behind it where it may be left out."""

    call: Function
    params: dict[str, str]


METHODS: dict[str, Method] = {}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "text": ("a text", lambda v: isinstance(v, str)),
    "count": ("a whole number, 0 or more", _is_count),
    "bool": ("true or false", lambda v: isinstance(v, bool)),
    "texts": ("a list of texts", lambda v: isinstance(v, list) and all(isinstance(one, str) for one in v)),
    "counts": ("a list of whole numbers, 0 or more", lambda v: isinstance(v, list) and all(map(_is_count, v))),
    "object": ("an object", lambda v: isinstance(v, dict)),
}


def method(name: str, /, **params: str) -> Callable[[_F], _F]:
    """Makes a function of a session and keyword arguments a method."""

    def mark(function: _F) -> _F:
        METHODS[name] = Method(function, params)
        return function

    return mark


async def call(session: Session, name: str, params: dict[str, Any]) -> Any:
    """The result. Raises ControlError and other LockgateErrors."""
    found = METHODS.get(name)
    if found is None:
        hint = nearest(name, METHODS) or f"there are {', '.join(METHODS)}"
        raise ControlError("unknown_method", f"there is no method {name[:100]!r}", hint)
    _check(name, found.params, params)
    outcome = found.call(session, **params)
    return await outcome if inspect.isawaitable(outcome) else outcome


def _check(name: str, known: dict[str, str], given: dict[str, Any]) -> None:
    for key, value in given.items():
        if key not in known:
            listed = f"there are {', '.join(known)}" if known else "it takes none"
            raise ControlError("bad_params", f"{name} has no parameter {key[:100]!r}", nearest(key, known) or listed)
        text, fits = _KINDS[known[key].rstrip("?")]
        if not fits(value):
            raise ControlError("bad_params", f"{name}: {key} should be {text}")
    for key, kind in known.items():
        if not kind.endswith("?") and key not in given:
            raise ControlError("bad_params", f"{name}: {key} is missing", f"give {_KINDS[kind][0]}")


def _gateway(session: Session) -> Gateway:
    return session.server.gateway


# -- the gateway


@method("status")
def status(session: Session) -> dict[str, Any]:
    from appliance.control.status import status as of

    return of(session.server)


@method("reload")
async def reload(session: Session) -> dict[str, Any]:
    """config.yaml and all scripts."""
    gateway = _gateway(session)
    before = {name: (value, gateway.options.source(name)) for name, value in gateway.options.items()}
    await gateway.change(list(before), gateway.reload)
    scripts = _reload_scripts(gateway, None)
    changed = [name for name, value in gateway.options.items() if name in before and before[name][0] != value]
    return {"changed": changed, "scripts": scripts}


@method("shutdown")
def shutdown(session: Session) -> dict[str, Any]:
    from appliance.control.server import logger

    logger.info("stopped over the control socket by %s", session.who)
    _gateway(session).shutdown()
    return {"pid": os.getpid()}


# -- options


@method("options.list", names="texts?")
def options_list(session: Session, names: list[str] | None = None) -> dict[str, Any]:
    options = _gateway(session).options
    return {"options": [_option(options, name) for name in (names if names is not None else options)]}


def _option(options: Any, name: str) -> dict[str, Any]:
    entry = options.entry(name)
    return {
        "name": name,
        "type": str(options._types[name]),
        "value": _shown(options, name),
        "default": plain(entry.default),
        "source": str(options.source(name)),
        "help": entry.help,
        "choices": list(entry.choices) if entry.choices else None,
    }


def _shown(options: Any, name: str) -> Any:
    value = getattr(options, name)
    return "***" if name in _SECRET and value else plain(value)


@method("options.get", names="texts?")
def options_get(session: Session, names: list[str] | None = None) -> dict[str, Any]:
    options = _gateway(session).options
    for name in names or ():
        options.entry(name)
    return {"values": {name: _shown(options, name) for name in (names if names is not None else options)}}


@method("options.set", values="object?", specs="texts?")
async def options_set(
    session: Session, values: dict[str, Any] | None = None, specs: list[str] | None = None
) -> dict[str, Any]:
    """`values` by name, or `specs` in the grammar of ``--set``: all of them, or none."""
    gateway = _gateway(session)
    if (values is None) == (specs is None):
        raise ControlError("bad_params", "options.set takes either values or specs")
    names = list(values) if values is not None else [spec.partition("=")[0].strip() for spec in specs or ()]
    return await _changed(
        session, names, lambda: gateway.options.update(**values) if values else gateway.options.set(*(specs or ()))
    )


@method("options.reset", names="texts")
async def options_reset(session: Session, names: list[str]) -> dict[str, Any]:
    options = _gateway(session).options
    return await _changed(session, names, lambda: options.reset(*names))


async def _changed(session: Session, names: Sequence[str], change: Callable[[], None]) -> dict[str, Any]:
    from appliance.control.server import logger

    gateway = _gateway(session)
    await gateway.change(names, change)
    if names:
        logger.info("%s set over the control socket by %s", ", ".join(names), session.who)
    return {"values": {name: _shown(gateway.options, name) for name in names}}


# -- modes


@method("modes.list")
def modes_list(session: Session) -> dict[str, Any]:
    from appliance.control.status import modes

    return {"modes": modes(_gateway(session))}


@method("modes.add", spec="text")
async def modes_add(session: Session, spec: str) -> dict[str, Any]:
    gateway = _gateway(session)
    if spec in gateway.options.mode:
        raise ControlError("refused", f"mode {spec} runs already", "`lockgate modes list` shows all")
    await _changed(session, ["mode"], lambda: gateway.options.update(mode=[*gateway.options.mode, spec]))
    return modes_list(session)


@method("modes.remove", spec="text")
async def modes_remove(session: Session, spec: str) -> dict[str, Any]:
    gateway = _gateway(session)
    left = [one for one in gateway.options.mode if one != spec]
    if len(left) == len(gateway.options.mode):
        hint = nearest(spec, gateway.options.mode) or f"there are {', '.join(gateway.options.mode)}"
        raise ControlError("not_found", f"no mode {spec!r} runs", hint)
    if not left:
        raise ControlError(
            "refused", f"{spec} is the last mode", "add another first, or end the gateway: `lockgate stop`"
        )
    await _changed(session, ["mode"], lambda: gateway.options.update(mode=left))
    return modes_list(session)


# -- commands


@method("commands.list")
def commands_list(session: Session) -> dict[str, Any]:
    commands = _gateway(session).commands
    return {
        "commands": [
            {"name": name, "signature": commands.get(name).signature_help(), "help": commands.get(name).help}
            for name in sorted(commands)
        ]
    }


@method("commands.call", name="text", args="texts?")
async def commands_call(session: Session, name: str, args: list[str] | None = None) -> dict[str, Any]:
    gateway = _gateway(session)
    if name not in gateway.commands:
        try:
            gateway.commands.get(name)
        except CommandError as error:
            raise ControlError.of(error, "not_found") from None
    outcome = gateway.commands.call_strings(name, args or ())
    if inspect.isawaitable(outcome):
        outcome = await outcome
    await gateway.settle()  # it may have been `set mode=...`
    return {"value": plain(outcome)}


# -- scripts


@method("scripts.list")
def scripts_list(session: Session) -> dict[str, Any]:
    loader = _gateway(session).addons.get("scriptloader")
    return {"scripts": [{"path": str(script.path), "loaded": script.module is not None} for script in loader.scripts]}


@method("scripts.reload", path="text?")
def scripts_reload(session: Session, path: str | None = None) -> dict[str, Any]:
    return {"scripts": _reload_scripts(_gateway(session), path)}


def _reload_scripts(gateway: Gateway, path: str | None) -> list[str]:
    """Those that were read again. Raises OptionsError for the first that fails; its old self goes on."""
    from appliance.addons.script import script_path, stamp_of

    loader = gateway.addons.get("scriptloader")
    chosen = [script for script in loader.scripts if path is None or script.path == script_path(path)]
    if path is not None and not chosen:
        raise ControlError("not_found", f"{path} is not loaded", "`lockgate options set scripts=PATH` loads it")
    for script in chosen:
        script.stamp = stamp_of(script.path)
        loader._reload(script)
        gateway.addons.drop_options()
    return [str(script.path) for script in chosen]


# -- the log, and the end of subscriptions


@method("log.subscribe", level="text?")
def log_subscribe(session: Session, level: str = "info") -> dict[str, Any]:
    from appliance.control.feed import LogSubscription
    from appliance.log import level_number

    server = session.server
    try:
        number = level_number(level)
    except KeyError:
        raise ControlError("bad_params", f"{level!r} is no level", "error, warn, alert, info or debug") from None
    made = session.subscribe(lambda n: LogSubscription(n, session.transport, server.loop, number), server.log.remove)
    assert isinstance(made, LogSubscription)
    server.log.add(made)
    return {"subscription": made.number}


@method("unsubscribe", subscription="count")
def unsubscribe(session: Session, subscription: int) -> dict[str, Any]:
    session.unsubscribe(subscription)
    return {}


# -- values


def plain(value: Any, depth: int = 0) -> Any:
    """A value of an option or a command as JSON has it: a flow is its summary, bytes are ``{"base64": …}``."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, Flow):
        from appliance.control.summary import summary

        return summary(value)
    if depth > 20:
        return str(value)
    if hasattr(value, "_asdict"):
        value = value._asdict()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(one, depth + 1) for key, one in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [plain(one, depth + 1) for one in value]
    return str(value)


from appliance.control import flows as _flows  # noqa: E402, F401 - its methods
from appliance.control import programs as _programs  # noqa: E402, F401

__all__ = ["METHODS", "LockgateError", "call", "plain"]
