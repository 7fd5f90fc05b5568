"""`regular`: an explicit HTTP(S) proxy."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from appliance.layers.modes import HttpProxy
from modes.base import TcpMode

if TYPE_CHECKING:
    from appliance.connection import Address
    from appliance.layers.base import Context, Layer


class Regular(TcpMode):
    """Clients name their destination in HTTP."""

    @staticmethod
    def top(context: Context) -> Layer:
        return HttpProxy(context)

    def wanted(self, sock: socket.socket, peer: Address) -> Address | None:
        return None
