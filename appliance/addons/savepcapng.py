"""Flows as packets in the clear: the command `save.pcapng`, for Wireshark, Zeek and Suricata."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from appliance.addonmanager import Loader
from appliance.addons.save import open_target
from appliance.exceptions import CommandError, OptionsError
from appliance.flow import Flow
from appliance.io import pcapng

logger = logging.getLogger(__name__)

NAMED = 5
"""Flows that cannot be written and are named."""


class SavePcapng:
    """Has no hooks: it costs nothing."""

    name = "savepcapng"

    def load(self, loader: Loader) -> None:
        loader.add_command("save.pcapng", self.save)
        loader.add_command("export.pcapng", self.save)

    def save(self, flows: Sequence[Flow], path: str) -> None:
        """Save what flows said as packets in the clear, for Wireshark and the like."""
        try:
            with open_target(path, append=False) as file:
                written, faults = pcapng.write(flows, file)
        except (OSError, OptionsError) as error:
            raise CommandError(f"cannot save the pcapng: {error}") from None
        logger.info("%d of %d flows saved to %s", written, len(flows), path)
        for fault in faults[:NAMED]:
            logger.error("save.pcapng: %s", fault)
