"""What add-ons ask of `client.proxy_mode` beside its name, read from the specification it was given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from appliance.connection import ServerSpec

__all__ = ["ModeFacts"]

_DEFAULT_PORTS = {"dns": 53, "wireguard": 51820, "socks5": 1080, "local": None, "tun": None}
_DATAGRAMS = frozenset({"http3", "dtls", "udp", "quic"})
_BOTH = frozenset({"https", "dns"})


class ModeFacts:
    """A mode by its specification, `NAME[:DATA][@[HOST:]PORT]`."""

    __slots__ = ()

    full_spec: str

    def _parts(self) -> tuple[str, str, str]:
        """Name, data, and what stands behind the @."""
        head, at, listen = self.full_spec.rpartition("@")
        name, _, data = (head if at else listen).partition(":")
        return name.strip().lower(), data, listen if at else ""

    @property
    def custom_listen_host(self) -> str | None:
        """The address it says it listens at; None if it says none."""
        host, colon, _ = self._parts()[2].rpartition(":")
        return host.strip("[]") if colon else None

    @property
    def custom_listen_port(self) -> int | None:
        """The port it says it listens at; None if it says none."""
        digits = self._parts()[2].rpartition(":")[2]
        return int(digits) if digits.isdecimal() else None

    @property
    def default_port(self) -> int | None:
        """Where its kind listens if nobody says where; None if it does not listen."""
        name, data, _ = self._parts()
        kind = "dns" if name == "reverse" and data.startswith("dns:") else name
        return _DEFAULT_PORTS.get(kind, 8080)

    def listen_host(self, default: str | None = None) -> str:
        """Where it listens, `default` (else anywhere) if it does not say itself."""
        host = self.custom_listen_host
        return (default or "") if host is None else host

    def listen_port(self, default: int | None = None) -> int | None:
        """Where it listens: its own port, else `default`, else that of its kind."""
        port = self.custom_listen_port
        if port is not None:
            return port
        return self.default_port if default is None else default

    @property
    def scheme(self) -> str:
        """Of the target of a reverse or upstream mode. Raises AttributeError for another."""
        return self._target()[0]

    @property
    def address(self) -> tuple[str, int]:
        """The target of a reverse or upstream mode. Raises AttributeError for another."""
        return self._target()[1]

    def _target(self) -> ServerSpec:
        from appliance import server_spec  # it needs `connection`, which needs us

        name, data, _ = self._parts()
        if name not in ("reverse", "upstream"):
            raise AttributeError(f"mode {self.full_spec} has no target")
        try:
            return server_spec.parse(data, "https" if name == "reverse" else "http")
        except ValueError as error:
            raise AttributeError(f"mode {self.full_spec}: {error}") from None

    @property
    def transport_protocol(self) -> Literal["tcp", "udp", "both"]:
        """Of what it accepts."""
        name, data, _ = self._parts()
        if name in ("wireguard", "tun", "local"):
            return "udp" if name == "wireguard" else "both"
        if name == "dns":
            return "both"
        if name == "reverse":
            scheme = data.partition("://")[0] if "://" in data else "https"
            return "udp" if scheme in _DATAGRAMS else "both" if scheme in _BOTH else "tcp"
        return "tcp"
