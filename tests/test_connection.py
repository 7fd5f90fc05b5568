from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from appliance.connection import Client, Connection, ConnectionState, ModeName, Server


def certificate() -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a.example")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(1))
    return builder.sign(key, hashes.SHA256())


def client(**more: Any) -> Client:
    return Client(peername=("10.0.0.2", 40000), sockname=("10.0.0.1", 8080), timestamp_start=1.5, **more)


def test_defaults() -> None:
    c, s = client(), Server(address=("a.example", 443))
    assert (c.transport_protocol, c.tls, c.error, c.verdict, c.sni) == ("tcp", False, None, None, None)
    assert c.proxy_mode.full_spec == c.proxy_mode.type_name == "regular"
    assert s.address == ("a.example", 443)
    assert s.peername is s.via is s.timestamp_start is None
    assert not c.connected
    assert not s.tls_established
    s.timestamp_tls_setup = 1.0
    assert s.tls_established


def test_state_flags() -> None:
    c = client(state=ConnectionState.OPEN)
    assert c.connected
    c.state &= ~ConnectionState.CAN_WRITE
    assert c.state is ConnectionState.CAN_READ
    assert not c.connected


@pytest.mark.parametrize("bad", ["nope", "_id", "via"])
def test_unknown_attributes(bad: str) -> None:
    with pytest.raises(TypeError, match=bad):
        client(**{bad: 1})


def test_identity() -> None:
    a, b = client(), client()
    assert a != b
    assert len({a, b, a}) == 2
    b.id = a.id
    assert a == b
    assert hash(a) == hash(b)
    assert a != "a"
    assert a.copy() != a
    assert a.copy().peername == a.peername


@pytest.mark.parametrize("state", [ConnectionState.OPEN, ConnectionState.CAN_READ])
def test_destination_is_fixed_while_connected(state: ConnectionState) -> None:
    s = Server(address=("a.example", 443), via=("http", ("p", 3128)), state=state)
    s.address = ("a.example", 443)
    s.via = ("http", ("p", 3128))
    with pytest.raises(RuntimeError, match=r"server\.address"):
        s.address = ("b.example", 443)
    with pytest.raises(RuntimeError, match=r"server\.via"):
        s.via = None
    assert s.address == ("a.example", 443)
    s.state = ConnectionState.CLOSED
    s.address, s.via = ("b.example", 1), None
    assert s.address == ("b.example", 1)


@pytest.mark.parametrize(
    "conn",
    [
        client(
            proxy_mode=ModeName("transparent:lan0@8080"), sni="a.example", alpn=b"h2", alpn_offers=[b"h2", b"x"],
            certificate_list=[certificate()], mitmcert=certificate(), cipher_list=["A"], tls=True, error="no",
        ),
        Server(address=None),
        Server(address=("::1", 1), peername=("::1", 1, 0, 0), via=("https", ("p", 1)), timestamp_tcp_setup=2.0),
    ],
)  # fmt: skip
def test_state_round_trip(conn: Client | Server) -> None:
    state = conn.get_state()
    again = type(conn).from_state(state)
    assert again.get_state() == state
    assert again == conn
    assert again.state is ConnectionState.CLOSED
    # as a file would give it back: tuples have become lists
    listed = json.loads(json.dumps(state, default=lambda b: {"b": b.hex()}), object_hook=_unhex)
    assert type(conn).from_state(listed).get_state() == state


def _unhex(d: dict[str, Any]) -> Any:
    return bytes.fromhex(d["b"]) if set(d) == {"b"} else d


@pytest.mark.parametrize("conn", [client(), Server(address=None)])
def test_states_are_strict(conn: Connection) -> None:
    state = conn.get_state()
    with pytest.raises(ValueError, match="extra"):
        conn.set_state(state | {"extra": 1})
    state.pop("sni")
    with pytest.raises(ValueError, match="sni"):
        conn.set_state(state)


def test_older_names() -> None:
    cert = certificate()
    c, s = client(certificate_list=[cert], cipher="X", alpn=b"h2"), Server(address=None, certificate_list=[cert])
    assert (c.address, c.cipher_name, c.clientcert, c.alpn_proto_negotiated) == (c.peername, "X", cert, b"h2")
    assert s.cert == cert
    assert s.ip_address is None
    assert client().clientcert is None


def test_repr() -> None:
    assert repr(client()) == "Client(10.0.0.2:40000, CLOSED)"
    assert repr(Server(address=("::1", 443))) == "Server([::1]:443, CLOSED)"
    assert repr(Server(address=None)) == "Server(-, CLOSED)"
