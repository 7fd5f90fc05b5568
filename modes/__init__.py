"""The ways in. Each mode accepts connections or flows and hands them to the appliance as `Arrival`s."""

from __future__ import annotations

from appliance.arrival import Host
from appliance.exceptions import ModeError
from modes.base import Mode
from modes.dns import Dns
from modes.regular import Regular
from modes.spec import ModeSpec
from modes.transparent import Transparent

_KINDS: dict[str, type[Regular] | type[Transparent] | type[Dns]] = {
    "regular": Regular,
    "transparent": Transparent,
    "dns": Dns,
}


def make(spec: ModeSpec, host: Host, listen_host: str, listen_port: int | None) -> Mode:
    """The mode of a specification; listen_* hold where it does not say itself. :raises ModeError: it cannot be."""
    if spec.type_name == "wireguard":
        from modes.wireguard.mode import WireGuard

        return WireGuard(spec, host, listen_host, listen_port)
    if spec.type_name == "local":
        raise ModeError("mode local is for one program, started by `lockgate exec -- COMMAND`")
    return _KINDS[spec.type_name](spec, host, listen_host, listen_port)


__all__ = ["Dns", "Mode", "ModeSpec", "make"]
