"""Events as classes: `UpdateHook([flow])` for `trigger`, and events of an add-on's own (`class MineHook(Hook)`)."""

from __future__ import annotations

import re
from dataclasses import fields, make_dataclass
from typing import Any, ClassVar

from appliance.events import EVENTS

_WORD = re.compile(r"(?<!^)(?=[A-Z])")


class Hook:
    """One firing of an event. Subclasses are dataclasses whose fields are the event's arguments.

    The event is named after the class: `TlsClienthelloHook` is `tls_clienthello`, unless it says `name = "..."`.
    """

    name: ClassVar[str]

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = _WORD.sub("_", cls.__name__.removesuffix("Hook")).lower()

    def args(self) -> list[Any]:
        return [getattr(self, field.name) for field in fields(self)]  # type: ignore[arg-type]


def _named(event: str) -> str:
    return "".join(part.capitalize() for part in event.split("_")) + "Hook"


_CLASSES: dict[str, type[Hook]] = {
    _named(event.name): make_dataclass(_named(event.name), [(name, Any) for name in event.args], bases=(Hook,))
    for event in EVENTS.values()
}


_OLDER = {
    "HttpRequestHeadersHook": "RequestheadersHook",
    "HttpRequestHook": "RequestHook",
    "HttpResponseHeadersHook": "ResponseheadersHook",
    "HttpResponseHook": "ResponseHook",
    "HttpErrorHook": "ErrorHook",
}
"""Classes that are named after their layer, too."""


def find(name: str) -> type[Hook]:
    """The class of this name. Raises AttributeError."""
    if name == "Hook":
        return Hook
    try:
        return _CLASSES[_OLDER.get(name, name)]
    except KeyError:
        raise AttributeError(f"there is no event {name}") from None
