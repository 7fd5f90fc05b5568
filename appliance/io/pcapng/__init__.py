"""pcapng: flows as packets of what was said in the clear, and real captures with the TLS secrets that open them.

    file.write(header())                       # once
    for block in packets(flow):                # any flow, as many as there are
        file.write(block)

    for block in with_secrets(capture, keylog):  # a pcap or pcapng of tcpdump, and a key log file
        file.write(block)

All are iterators: nothing is in memory as a whole but a flow's own content.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, TYPE_CHECKING

from appliance.io.pcapng.blocks import header, secrets
from appliance.io.pcapng.merge import with_secrets
from appliance.io.pcapng.packets import packets

if TYPE_CHECKING:
    from appliance.flow import Flow

__all__ = ["header", "packets", "secrets", "with_secrets", "write"]


def write(flows: Iterable[Flow], file: IO[bytes]) -> tuple[int, list[str]]:
    """A whole file. Returns (flows that said something, what was wrong with others). Raises OSError.

    A flow that cannot be written as packets (an add-on, or a file, may have put anything into it) costs the others
    nothing; what was written of it is whole packets.
    """
    file.write(header())
    count, faults = 0, []
    for flow in flows:
        blocks = iter(packets(flow))
        said = False
        while True:
            try:
                block = next(blocks, None)
            except Exception as error:
                faults.append(f"flow {flow.id}: {type(error).__name__}: {error}")
                break
            if block is None:
                break
            said = True
            file.write(block)
        count += said
    return count, faults
