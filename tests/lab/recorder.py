"""What the Python origins saw, for the tests: the `origins` fixture."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from tests.lab.netns import wait_for
from tests.lab.origin_http import Record, Seen


class Origins:
    """Connections to the session's Python origins since the test began, in the order they came.

    It is asked over a Unix socket, so that asking is no traffic.
    """

    def __init__(self, control: Path) -> None:
        self._control = control
        self._ask("clear")

    def connections(self, port: int | None = None) -> list[Record]:
        """Records of all connections, or of those to one port."""
        return [record for record in self._ask("seen") if port in (None, record.port)]

    def requests(self, port: int | None = None) -> list[Seen]:
        """Requests whose head was whole, the refused ones among them."""
        return [seen for record in self.connections(port) for seen in record.requests]

    def received(self, port: int | None = None) -> bytes:
        """Every byte that came, all connections one after the other (the first MiB of each)."""
        return b"".join(bytes(record.raw) for record in self.connections(port))

    def ended(self, port: int | None = None, timeout: float = 5.0) -> list[Record]:
        """The records once every connection has ended (and there is one at least). Raises TimeoutError."""

        def over() -> bool:
            records = self.connections(port)
            return bool(records) and all(record.ended for record in records)

        wait_for(over, timeout, "the connections to the origins end")
        return self.connections(port)

    def _ask(self, what: str) -> list[Record]:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(5)
            control.connect(str(self._control))
            control.sendall(f"{what}\n".encode())
            with control.makefile("rb") as answer:
                told = json.loads(answer.readline())
        for record in told:
            record["raw"] = bytearray(record["raw"], "latin-1")
            record["peer"] = tuple(record["peer"])
            for seen in record["requests"]:
                for part in ("fields", "trailers"):
                    seen[part] = [(name, value) for name, value in seen[part]]
            record["requests"] = [Seen(**seen) for seen in record["requests"]]
        return [Record(**record) for record in told]
