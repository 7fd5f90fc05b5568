"""pcapng: flows as packets of what was said in the clear, and real captures with the TLS secrets that open them.

    file.write(header())                       # once
    for block in packets(flow):                # any flow, as many as there are
        file.write(block)

    for block in with_secrets(capture, keylog):  # a pcap or pcapng of tcpdump, and a key log file
        file.write(block)

All are iterators: nothing is in memory as a whole but a flow's own content.
"""

from __future__ import annotations

from appliance.io.pcapng.blocks import header, secrets
from appliance.io.pcapng.merge import with_secrets
from appliance.io.pcapng.packets import packets

__all__ = ["header", "packets", "secrets", "with_secrets"]
