"""The two ends of a flow as add-ons see them: facts about a connection, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Flag
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Self, TypedDict, Unpack

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from .ids import new_id
from .modefacts import ModeFacts

if TYPE_CHECKING:
    from .certs import Cert
    from .device import Device
    from .verdict import Verdict

Address = tuple[str, int] | tuple[str, int, int, int]  # IPv6 socket names also have flow info and scope

TransportProtocol = Literal["tcp", "udp"]
State = dict[str, Any]


class ServerSpec(NamedTuple):
    """Such as ("http", ("proxy.example", 3128)); a plain pair will do wherever one is taken."""

    scheme: str
    address: tuple[str, int]


class ConnectionState(Flag):
    """Which directions of a connection are open."""

    CLOSED = 0
    CAN_READ = 1
    CAN_WRITE = 2
    OPEN = CAN_READ | CAN_WRITE


class ProxyMode(Protocol):
    """What a client's mode tells about itself; the modes live in a package of their own."""

    @property
    def full_spec(self) -> str: ...
    @property
    def type_name(self) -> str: ...


@dataclass(frozen=True, slots=True)
class ModeName(ModeFacts):
    """A mode of which only the specification is known, such as one read from a file."""

    full_spec: str = "regular"

    @property
    def type_name(self) -> str:
        return self._parts()[0]

    @property
    def data(self) -> str:
        return self._parts()[1]


class Attributes(TypedDict, total=False):
    """What a constructor takes beside the addresses. Times are seconds since the epoch."""

    id: str
    state: ConnectionState
    transport_protocol: TransportProtocol
    error: str | None
    tls: bool
    certificate_list: Sequence[Cert | x509.Certificate]
    alpn: bytes | None
    alpn_offers: Sequence[bytes]
    cipher: str | None
    cipher_list: Sequence[str]
    tls_version: str | None
    sni: str | None
    timestamp_end: float | None
    timestamp_tls_setup: float | None


class ClientAttributes(Attributes, total=False):
    mitmcert: x509.Certificate | None
    proxy_mode: ProxyMode
    verdict: Verdict | None


class ServerAttributes(Attributes, total=False):
    peername: Address | None
    sockname: Address | None
    via: tuple[str, tuple[str, int]] | None
    timestamp_start: float | None
    timestamp_tcp_setup: float | None


class Connection:
    """Common to both ends. Connections compare and hash by `id`; rare attributes are class defaults until set."""

    peername: Address | None = None
    sockname: Address | None = None
    state: ConnectionState = ConnectionState.CLOSED
    transport_protocol: TransportProtocol = "tcp"
    error: str | None = None
    tls: bool = False
    chain: Sequence[x509.Certificate] = ()  # what the peer showed, its own first
    alpn: bytes | None = None
    alpn_offers: Sequence[bytes] = ()
    cipher: str | None = None
    cipher_list: Sequence[str] = ()
    tls_version: str | None = None
    sni: str | None = None
    timestamp_start: float | None = None
    timestamp_end: float | None = None
    timestamp_tls_setup: float | None = None
    _id: str | None = None
    _certs: tuple[Sequence[x509.Certificate], tuple[Cert, ...]] | None = None
    _recorded: Any = None  # where the flow store has it

    # Every attribute that goes into a flow file as it is. `state` does not: what was read from a file is closed.
    _stored: tuple[str, ...] = (
        "id",
        "peername",
        "sockname",
        "transport_protocol",
        "error",
        "tls",
        "alpn",
        "cipher",
        "tls_version",
        "sni",
        "timestamp_start",
        "timestamp_end",
        "timestamp_tls_setup",
    )
    _converted: tuple[str, ...] = ("alpn_offers", "cipher_list", "certificate_list")

    def _assign(self, attributes: Mapping[str, object]) -> None:
        for name, value in attributes.items():
            if name.startswith("_") or not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument {name!r}")
            setattr(self, name, value)

    @property
    def id(self) -> str:
        if self._id is None:
            self._id = new_id()
        return self._id

    @id.setter
    def id(self, value: str) -> None:
        self._id = value

    @property
    def certificate_list(self) -> Sequence[Cert]:
        """`chain` as add-ons read it."""
        kept = self._certs
        if kept is None or kept[0] is not self.chain:
            from .certs import Cert

            kept = self._certs = self.chain, tuple(Cert(cert) for cert in self.chain)
        return kept[1]

    @certificate_list.setter
    def certificate_list(self, certs: Sequence[Cert | x509.Certificate]) -> None:
        self.chain = tuple(cert if isinstance(cert, x509.Certificate) else cert.to_cryptography() for cert in certs)

    @property
    def connected(self) -> bool:
        return self.state is ConnectionState.OPEN

    @property
    def tls_established(self) -> bool:
        return self.timestamp_tls_setup is not None

    @property
    def alpn_proto_negotiated(self) -> bytes | None:
        """The older name of `alpn`."""
        return self.alpn

    @property
    def cipher_name(self) -> str | None:
        """The older name of `cipher`."""
        return self.cipher

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Connection):
            return self is other or self.id == other.id
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    # State

    def get_state(self) -> State:
        """Plain values only; certificates as PEM."""
        state = {name: getattr(self, name) for name in self._stored}
        state["alpn_offers"] = list(self.alpn_offers)
        state["cipher_list"] = list(self.cipher_list)
        state["certificate_list"] = [cert.public_bytes(Encoding.PEM) for cert in self.chain]
        return state

    def set_state(self, state: State) -> None:
        """Raises ValueError for a key too many or too few, RuntimeError like `Server.address`."""
        expected = {*self._stored, *self._converted}
        if state.keys() != expected:
            raise ValueError(f"not a {type(self).__name__} state: {sorted(state.keys() ^ expected)}")
        for name in self._stored:
            setattr(self, name, state[name])
        self.peername = _address(state["peername"])
        self.sockname = _address(state["sockname"])
        self.alpn_offers = tuple(state["alpn_offers"])
        self.cipher_list = tuple(state["cipher_list"])
        self.chain = tuple(x509.load_pem_x509_certificate(pem) for pem in state["certificate_list"])

    @classmethod
    def from_state(cls, state: State) -> Self:
        new = cls.__new__(cls)
        new.set_state(state)
        return new

    def copy(self) -> Self:
        """The same facts under a new id, closed."""
        new = self.from_state(self.get_state())
        new.id = new_id()
        return new


class Client(Connection):
    """The peer that opened the connection. `sockname` is where it reached us, or wanted to go (transparent)."""

    mitmcert: x509.Certificate | None = None  # the leaf shown to this client
    proxy_mode: ProxyMode = ModeName()
    # What follows is not part of the state. A verdict is decided late; the rest is there at client_disconnected:
    verdict: Verdict | None = None
    wanted: tuple[str, int] | None = None  # the server's name or address, and port
    passed: tuple[int, int] | None = None  # bytes carried untouched, up and down
    device: Device | None = None  # at once, where the mode knows who it is
    hello: bytes | None = None  # the body of its (last) ClientHello
    _ja4: tuple[bytes, str] | None = None
    _converted = (*Connection._converted, "mitmcert", "proxy_mode")

    def __init__(
        self,
        *,
        peername: Address | None,
        sockname: Address | None,
        timestamp_start: float | None = None,
        **attributes: Unpack[ClientAttributes],
    ) -> None:
        """Raises TypeError for an attribute that clients do not have."""
        self.peername = peername
        self.sockname = sockname
        self.timestamp_start = timestamp_start
        if attributes:
            self._assign(attributes)

    @property
    def address(self) -> Address | None:
        """The older name of `peername`."""
        return self.peername

    @property
    def clientcert(self) -> Cert | None:
        """The certificate that the client showed, if any."""
        return self.certificate_list[0] if self.certificate_list else None

    @property
    def ja4(self) -> str | None:
        """The fingerprint of its ClientHello, worked out when first asked for; None without TLS, or from a file."""
        hello = self.hello
        if hello is None:
            return None
        if self._ja4 is None or self._ja4[0] is not hello:
            from .tls import ClientHello

            self._ja4 = hello, ClientHello(hello, dtls=self.transport_protocol == "udp").ja4
        return self._ja4[1]

    def get_state(self) -> State:
        cert = self.mitmcert
        pem = cert and cert.public_bytes(Encoding.PEM)
        return {**super().get_state(), "mitmcert": pem, "proxy_mode": self.proxy_mode.full_spec}

    def set_state(self, state: State) -> None:
        super().set_state(state)
        pem, mode = state["mitmcert"], state["proxy_mode"]
        self.mitmcert = x509.load_pem_x509_certificate(pem) if pem else None
        if self.proxy_mode.full_spec != mode:
            self.proxy_mode = ModeName(mode)

    def __repr__(self) -> str:
        return f"Client({_shown(self.peername)}, {self.state.name})"


class Server(Connection):
    """The destination. `address` is where to connect, `via` the proxy on the way; both are fixed while connected."""

    timestamp_tcp_setup: float | None = None
    _address: tuple[str, int] | None = None
    _via: ServerSpec | None = None
    _stored = (*Connection._stored, "address", "via", "timestamp_tcp_setup")

    def __init__(self, address: tuple[str, int] | None, **attributes: Unpack[ServerAttributes]) -> None:
        """Raises TypeError for an attribute that servers do not have."""
        self._address = address
        if attributes:
            self._assign({**attributes, "state": ConnectionState.CLOSED})
            self.state = attributes.get("state", ConnectionState.CLOSED)

    def _fixed(self, what: str) -> None:
        if self.state is not ConnectionState.CLOSED:
            raise RuntimeError(f"cannot change server.{what} while connected")

    @property
    def address(self) -> tuple[str, int] | None:
        return self._address

    @address.setter
    def address(self, value: tuple[str, int] | None) -> None:
        value = (value[0], value[1]) if value else None
        if value != self._address:
            self._fixed("address")
        self._address = value

    @property
    def via(self) -> ServerSpec | None:
        return self._via

    @via.setter
    def via(self, value: tuple[str, tuple[str, int]] | None) -> None:
        value = ServerSpec(value[0], (value[1][0], value[1][1])) if value else None
        if value != self._via:
            self._fixed("via")
        self._via = value

    @property
    def ip_address(self) -> Address | None:
        """The older name of `peername`."""
        return self.peername

    @property
    def cert(self) -> Cert | None:
        """The certificate that the server showed, if any."""
        return self.certificate_list[0] if self.certificate_list else None

    def __repr__(self) -> str:
        return f"Server({_shown(self.address)}, {self.state.name})"


def _address(value: Sequence[Any] | None) -> Address | None:
    return tuple(value) if value else None


def _shown(address: Address | None) -> str:
    if address is None:
        return "-"
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{host}:{address[1]}"
