"""Pieces of flows as rows: `cut @all request.host,response.status_code`, to add-ons or as CSV to a file."""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from appliance import command, types
from appliance.addons.save import open_target
from appliance.exceptions import CommandError, OptionsError
from appliance.flow import Flow
from appliance.headers import Headers
from appliance.log import ALERT

logger = logging.getLogger(__name__)

_HEADER: Final = re.compile(r"header\[(.+)\]", re.DOTALL)
_ENDS: Final[dict[str, Callable[[Any], object]]] = {"host": lambda address: address[0], "port": lambda a: a[1]}


def extract(cut: str, flow: Flow) -> str | bytes:
    """The value at the path `cut`, such as `request.header[host]` or `client_conn.peername.host`; "" where the flow has
    none. Raises CommandError for a path that no flow has.
    """
    value: Any = flow
    for name in _parts(cut):
        if value is None:
            return ""
        if isinstance(value, tuple) and name in _ENDS:
            value = _ENDS[name](value)
        elif name.startswith("_") or isinstance(value, str | bytes | int | float | list | tuple | dict):
            raise CommandError(f"{cut!r}: there is no {name!r}")
        else:
            try:
                found = _HEADER.fullmatch(name)
                value = value.headers.get(found[1], "") if found else getattr(value, name)
            except AttributeError:
                if name in _OTHER_KINDS:  # of another kind of flow
                    return ""
                raise CommandError(f"{cut!r}: a flow of {flow.type} has no {name!r}") from None
            except ValueError:  # a body that cannot be decoded
                return ""
    return _shown(cut, value)


_OTHER_KINDS: Final = frozenset({"request", "response", "websocket", "messages"})


def _parts(cut: str) -> list[str]:
    head, mark, name = cut.partition(".header[")
    return [*head.split("."), "header[" + name] if mark else cut.split(".")


def _shown(cut: str, value: Any) -> str | bytes:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if (pem := getattr(value, "to_pem", None)) is not None:  # a certificate
        return bytes(pem())
    if isinstance(value, Headers):
        return bytes(value)
    if callable(value):
        raise CommandError(f"{cut!r} is no value")
    return str(value)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")


class Cut:
    """Commands alone; it listens to nothing."""

    name = "cut"

    @command.command("cut")
    def cut(self, flows: Sequence[Flow], cuts: types.CutSpec) -> types.Data:
        """A row for each flow, a cell for each path, separated by commas: text, or bytes where it is bytes.

        Paths are attributes of flows: request.host, request.header[accept], response.content, client_conn.sni,
        server_conn.peername.port.
        """
        rows: Any = [[extract(cut, flow) for cut in cuts] for flow in flows]
        return rows  # type: ignore[no-any-return]

    @command.command("cut.save")
    def save(self, flows: Sequence[Flow], cuts: types.CutSpec, path: types.Path) -> None:
        """Write the rows to a file as CSV; one cell alone is written as it is, byte for byte. + in front appends."""
        rows = self.cut(flows, cuts)
        try:
            with open_target(path) as file:
                file.write(_file_content(rows))
        except (OSError, OptionsError) as error:
            raise CommandError(f"cut.save: {error}") from None
        logger.log(ALERT, "saved %d rows of %d cells to %s", len(rows), len(cuts), path.removeprefix("+"))

    @command.command("cut.clip")
    def clip(self, flows: Sequence[Flow], cuts: types.CutSpec) -> None:
        """Not here: a gateway has no clipboard."""
        raise CommandError("a gateway has no clipboard: use cut.save")


def _file_content(rows: Iterable[Sequence[str | bytes]]) -> bytes:
    rows = list(rows)
    if len(rows) == 1 and len(rows[0]) == 1:
        cell = rows[0][0]
        return cell if isinstance(cell, bytes) else cell.encode("utf-8", "surrogateescape")
    out = io.StringIO(newline="")
    csv.writer(out).writerows([[_text(cell) for cell in row] for row in rows])
    return out.getvalue().encode("utf-8", "backslashreplace")
