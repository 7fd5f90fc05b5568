"""Flows of the store, for methods that name one which is no longer in memory. Read in a thread: disks are slow."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.control.protocol import ControlError
from appliance.flow import Flow
from appliance.ids import new_id
from appliance.store.folder import folder_of
from appliance.store.segment import Damaged
from appliance.store.store import Row, Store, StoreError

if TYPE_CHECKING:
    from appliance.gateway import Gateway

logger = logging.getLogger(__name__)


async def load(gateway: Gateway, reference: str | int) -> Flow:
    """By number, or by the beginning of an id. Raises ControlError: not_found; failed, it cannot be read."""
    flows: list[Flow] = []
    await asyncio.to_thread(_read, _folder(gateway), [reference], lambda row, flow: flows.append(flow))
    return flows[0]


async def replayable(
    gateway: Gateway, references: Sequence[str | int], check: Callable[[Flow], str | None]
) -> tuple[list[str], Iterator[Flow]]:
    """Ids under which these flows go once more, and the flows, each read again when it is its turn: the bodies of many
    would not fit into memory. check: says why one cannot go. Raises ControlError: then none does.
    """
    folder = _folder(gateway)

    def refuse(row: Row, flow: Flow) -> None:
        if (why := check(flow)) is not None:
            raise ControlError("refused", f"flow {row.n}: {why}")

    chosen = {new_id(): row for row in await asyncio.to_thread(_read, folder, references, refuse)}
    return list(chosen), _again(folder, chosen)


def _folder(gateway: Gateway) -> Path:
    """Where it is, with what was recorded a moment ago in it."""
    if (recorder := gateway.store.recorder) is not None:
        recorder.sync()
    return folder_of(gateway.options)


def _read(folder: Path, references: Sequence[str | int], look: Callable[[Row, Flow], None]) -> list[Row]:
    """`look` gets each row with its flow."""
    rows = []
    try:
        with Store(folder, recover=False) as store:
            for reference in references:
                row = store.row(reference) if isinstance(reference, int) else store.by_id(reference)
                look(row, store.load(row))
                rows.append(row)
    except StoreError as error:
        raise ControlError.of(error, "not_found") from None
    except Damaged as error:
        raise ControlError("failed", str(error)) from None
    return rows


def _again(folder: Path, chosen: dict[str, Row]) -> Iterator[Flow]:
    with Store(folder, recover=False) as store:
        for id, row in chosen.items():
            try:
                flow = store.load(row)
            except Damaged as error:
                logger.warning("replay: flow %d cannot be read any more: %s", row.n, error)
                continue
            flow.id = id
            yield flow
