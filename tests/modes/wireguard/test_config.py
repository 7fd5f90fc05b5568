"""The server's file, clients' files, and what is kept beside them."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_interface, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.exceptions import ModeError
from modes.wireguard.book import Book, client_file, stamp_of
from modes.wireguard.config import ServerConfig, decode_key, encode_key, parse, render, with_peer, without_peer
from modes.wireguard.device import Device
from modes.wireguard.noise import NO_PSK, PrivateKey
from modes.wireguard.peer import PeerConfig

KEY, PEER = PrivateKey(b"k" * 32), PrivateKey(b"p" * 32)
LATE = PrivateKey(b"l" * 32).public
TEXT = f"""\
# made by hand
[Interface]
PrivateKey={encode_key(KEY.data)}   # ours
Address = 10.87.0.1/24
Address = fd87::1/64
ListenPort = 51821
PostUp = iptables -A FORWARD
# Endpoint = lab.example

[peer]
# Name = phone
# Label = Anna's = hers
# Expires = 2027-01-31
# a = free comment
publickey = {encode_key(PEER.public)}
AllowedIPs = 10.87.0.2/32, fd87::2/128
Endpoint = [2001:db8::5]:1234
PersistentKeepalive = 25
"""


def test_a_file_by_hand() -> None:
    server = parse(TEXT, "wg.conf")
    assert server.private.data == KEY.data and server.ignored == ("postup",)
    assert (server.port, server.mtu, server.endpoint) == (51821, 1420, "lab.example")
    assert server.name_servers == ("10.87.0.1", "fd87::1")
    (peer,) = server.peers
    assert (peer.name, peer.label, peer.expires) == ("phone", "Anna's = hers", 1801353600)
    assert (peer.endpoint, peer.keepalive, peer.psk) == (("2001:db8::5", 1234), 25, NO_PSK)
    assert list(map(str, peer.allowed)) == ["10.87.0.2/32", "fd87::2/128"]


@pytest.mark.parametrize(("written", "read"), [("FD87::1", "fd87::1"), ("fd87:0:0::0002", "fd87::2")])
@pytest.mark.parametrize("line", ["# DNS", "DNS"])
def test_name_servers_are_read_as_addresses(line: str, written: str, read: str) -> None:
    """A client's question is known by where it went, as the kernel writes that."""
    server = parse(TEXT.replace("PostUp =", f"{line} = 10.87.0.9, {written}\nPostUp ="), "wg.conf")
    assert server.dns == server.name_servers == ("10.87.0.9", read)
    assert parse(render(server), "wg.conf").dns == server.dns


@pytest.mark.parametrize(
    ("was", "becomes", "says"),
    [
        ("PrivateKey=", "PrivateKey=x", "line 3: this is no key"),
        ("Address = 10.87.0.1/24", "Address = 10.87.0.300/24", "line 5: '10.87.0.300/24' is no address"),
        ("51821", "70000", "line 6: '70000' is no number from 0 to 65535"),
        ("51821", "²", "line 6"),
        ("[peer]", "[pear]", "line 10: .pear. is neither"),
        ("publickey", "publikey", "line 15: .Peer. has no 'publikey'"),
        ("AllowedIPs = ", "AllowedIPs = x, ", "line 16: 'x' is no network"),
        ("[2001:db8::5]:1234", "phone.example:1", "line 17: .* no ADDRESS:PORT"),
        ("[2001:db8::5]:1234", "1.2.3.4:0", "line 17: 0 is no port"),
        ("2027-01-31", "soon", "line 13: 'soon' is no time"),
        ("ListenPort = 51821", "ListenPort", "line 6: this is no KEY = VALUE"),
        ("[Interface]", "", "line 3: .* in an .Interface. or"),
        ("[Interface]", "[Interface]\n[Interface]", "one .Interface. section, there are 2"),
        (f"publickey = {encode_key(PEER.public)}\n", "", "a .Peer. has no PublicKey"),
    ],
)
def test_faults_name_their_line(was: str, becomes: str, says: str) -> None:
    assert was in TEXT
    with pytest.raises(ModeError, match=says) as caught:
        parse(TEXT.replace(was, becomes, 1), "wg.conf")
    assert encode_key(KEY.data)[:10] not in str(caught.value)


def test_twice() -> None:
    with pytest.raises(ModeError, match="twice"):
        parse(TEXT + TEXT[TEXT.index("[peer]") :].replace("phone", "other"), "x")
    with pytest.raises(ModeError, match="two peers named 'phone'"):
        parse(TEXT + TEXT[TEXT.index("[peer]") :].replace(encode_key(PEER.public), encode_key(KEY.public)), "x")


@given(st.text(max_size=300) | st.lists(st.sampled_from([*TEXT.splitlines(), "[Interface]", "=", "#", "[", "{}"]),
                                        max_size=20).map("\n".join))  # fmt: skip
def test_any_text_is_a_configuration_or_a_mode_error(text: str) -> None:
    try:
        server = parse(text, "x")
    except ModeError:
        return
    assert parse(render(server), "x").peers == server.peers


NAMES = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}", fullmatch=True)
PEERS = st.builds(
    PeerConfig,
    public=st.binary(min_size=32, max_size=32),
    allowed=st.lists(st.ip_addresses().map(ip_network), max_size=3).map(tuple),
    psk=st.just(NO_PSK) | st.binary(min_size=32, max_size=32),
    name=NAMES,
    label=st.from_regex(r"([\w#=]([\w#= ]{0,20}[\w#=])?)?", fullmatch=True)
    | st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"])).map(str.strip),
    endpoint=st.none() | st.tuples(st.ip_addresses().map(str), st.integers(1, 65535)),
    keepalive=st.integers(0, 65535).map(float),
    expires=st.just(0.0) | st.integers(1, 4_000_000_000).map(float),
)


@given(st.lists(PEERS, max_size=4, unique_by=(lambda peer: peer.public, lambda peer: peer.name)), st.integers(0, 65535))
def test_what_is_written_is_read(peers: list[PeerConfig], port: int) -> None:
    server = ServerConfig(KEY, (ip_interface("10.0.0.1/24"),), port, 1280, "h:1", ("10.0.0.9",), tuple(peers))
    found = parse(render(server), "x")
    assert (found.peers, found.port, found.mtu, found.endpoint) == (server.peers, port, 1280, "h:1")
    assert (found.addresses, found.dns, found.private.data) == (server.addresses, server.dns, KEY.data)


def test_mitmproxys_file() -> None:
    server = parse(json.dumps({"server_key": encode_key(KEY.data), "client_key": encode_key(PEER.data)}), "x")
    assert server.private.public == KEY.public and server.peers[0].public == PEER.public
    assert server.name_servers == ("10.0.0.53",)
    assert Device(KEY).add(server.peers[0]) and len(server.peers[0].allowed) == 2
    for text in ('{"server_key": 1}', "{", "{}", '{"server_key": "eA==", "client_key": "eA=="}', "{" * 100_000):
        with pytest.raises(ModeError, match="JSON"):
            parse(text, "x")


# -- the book


def test_add_show_remove(tmp_path: Path) -> None:
    book = Book(tmp_path / "conf" / "wireguard.conf")
    with pytest.raises(ModeError, match="lockgate wireguard init"):
        book.load()
    book.init("192.0.2.7", 51999)
    with pytest.raises(ModeError, match="exists already"):
        book.init()
    text = book.add("phone", label="Anna's", port=51999)
    assert "Endpoint = 192.0.2.7:51999" in text and "AllowedIPs = 0.0.0.0/0, ::/0" in text and "MTU = 1420" in text
    assert book.show("phone") == text
    client = parse(text.replace("[Peer]", "[Peer]\n# Name = server"), "client")
    server = book.load()
    assert client.private.public == server.peers[0].public and client.peers[0].public == server.private.public
    assert client.peers[0].psk == server.peers[0].psk != NO_PSK
    split = book.add("laptop", reach=("192.168.7.0/24",), psk=False)
    own = [str(address.ip) for address in server.addresses]
    assert f"AllowedIPs = 192.168.7.0/24, {own[0]}/32, {own[1]}/128" in split and "PresharedKey" not in split
    assert "YOUR-PRIVATE-KEY" in book.add("own", public=PEER.public)
    addresses = [str(peer.allowed[0]) for peer in book.load().peers]
    assert addresses == ["10.87.0.2/32", "10.87.0.3/32", "10.87.0.4/32"]
    assert all(str(peer.allowed[1]).endswith(f"::{n}/128") for n, peer in enumerate(book.load().peers, 2))
    book.remove("laptop")
    assert str(book.load().peers[0].name) == "phone" and "10.87.0.3/" in book.add("again")
    for path in (book.path, book.clients / "phone.conf"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for call, says in (
        (lambda: book.add("phone"), "already"),
        (lambda: book.add("../x"), "no name"),
        (lambda: book.add("y", public=PEER.public), "this key"),
        (lambda: book.add("z", label="a\n[Peer]"), "one line"),
        (lambda: book.add("z", reach=("x",)), "no network"),
        (lambda: book.remove("nobody"), "there are: phone, own, again"),
        (lambda: book.show("own"), "whoever made its key has it"),
        (lambda: book.show("../wireguard"), "no name"),
    ):
        with pytest.raises(ModeError, match=says):
            call()


@pytest.mark.parametrize(
    "end", ["\n", "\r", "\x0b", "\x0c", "\x1c", "\x1e", "\x85", "\u2028", "\u2029", "\0", "\ud800"]
)
def test_a_label_is_no_line_of_the_file(tmp_path: Path, end: str) -> None:
    """Not from the command line, and not in a file that has one."""
    book = Book(tmp_path / "wireguard.conf")
    book.init()
    book.add("victim")
    label = f"Anna{end}AllowedIPs = 10.87.0.2/32"
    with pytest.raises(ModeError, match="one line of printable text"):
        book.add("phone", label=label)
    book.add("phone", label="Zoë Ω's 手機 (2)")
    assert book.load().peers[1].label == "Zoë Ω's 手機 (2)"
    if end not in "\n\r":
        phone = parse(render(book.load()).replace("Zoë Ω's 手機 (2)", label), "x").peers[1]
        assert phone.label == label and str(phone.allowed[0]) == "10.87.0.3/32"


BY_HAND = f"""\
# The lab's server. Ask Ben before you change anything.
[Interface]
PrivateKey={encode_key(KEY.data)}
Address = 10.87.0.1/24
PostUp = iptables -A FORWARD -i %i -j ACCEPT  # for wg-quick
MTU = 1420
"""
PRINTER = f"""\
# Floor 2
[Peer] # old
# Name = printer
PublicKey = {encode_key(LATE)}
AllowedIPs = 10.87.0.0/28
# its manual is on the shelf

# Anna's, since May:
# ask her first
"""
PHONE = f"""\
[Peer]
PublicKey={encode_key(PEER.public)}
# Name = phone
"""


def test_what_people_have_written_stays(tmp_path: Path) -> None:
    """Comments, what is for wg-quick, order and spacing: a file that wg-quick uses may be ours, too."""
    book = Book(tmp_path / "wireguard.conf")
    book.path.write_text(f"{BY_HAND}\n{PRINTER}{PHONE}")
    book.add("new")
    assert book.path.read_text().startswith(f"{BY_HAND}\n{PRINTER}{PHONE}\n[Peer]\n# Name = new\n")
    book.remove("new")
    assert book.path.read_text() == f"{BY_HAND}\n{PRINTER}{PHONE}"
    book.remove("phone")
    kept, _, hers = PRINTER.partition("\n# Anna's")
    assert hers and book.path.read_text() == f"{BY_HAND}\n{kept}"
    book.remove("printer")
    assert book.path.read_text() == BY_HAND


@given(st.lists(PEERS, max_size=5, unique_by=(lambda peer: peer.public, lambda peer: peer.name)), st.data())
def test_one_peer_less_and_one_more(peers: list[PeerConfig], data: st.DataObject) -> None:
    text = render(ServerConfig(KEY, (ip_interface("10.0.0.1/24"),)))
    for peer in peers:
        text = with_peer(text, "x", peer)
    assert parse(text, "x").peers == tuple(peers)
    for peer in data.draw(st.permutations(peers)):
        peers = [one for one in peers if one is not peer]
        text = without_peer(text, "x", peer.public)
        assert parse(text, "x").peers == tuple(peers)


def test_mitmproxys_file_becomes_one_of_ours(tmp_path: Path) -> None:
    book = Book(tmp_path / "wireguard.conf")
    book.path.write_text(json.dumps({"server_key": encode_key(KEY.data), "client_key": encode_key(PEER.data)}))
    book.remove("mitmproxy")
    assert book.load().peers == () and book.load().private.data == KEY.data


def test_a_new_peer_gets_no_address_of_anothers_network(tmp_path: Path) -> None:
    book = Book(tmp_path / "wireguard.conf")
    book.path.write_text(f"{BY_HAND}\n{PRINTER}{PHONE}AllowedIPs = 0.0.0.0/0\n")
    assert "Address = 10.87.0.16/32\n" in book.add("new")


def test_two_at_once_lose_nobody(tmp_path: Path) -> None:
    names = [f"peer{number}" for number in range(16)]
    Book(tmp_path / "wireguard.conf").init()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: Book(tmp_path / "wireguard.conf").add(name), names))
    peers = Book(tmp_path / "wireguard.conf").load().peers
    assert sorted(peer.name for peer in peers) == sorted(names)
    assert len({peer.allowed for peer in peers}) == len(names)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files of another owner")
def test_root_takes_nothing_away_from_a_users_gateway(tmp_path: Path) -> None:
    book = Book(tmp_path / "wireguard.conf")
    os.chown(tmp_path, 64242, 64243)
    book.init()
    book.add("phone")
    made = (book.path, book.clients, book.clients / "phone.conf")
    assert [(path.stat().st_uid, path.stat().st_gid) for path in made] == [(64242, 64243)] * 3
    assert [stat.S_IMODE(path.stat().st_mode) for path in made] == [0o600, 0o700, 0o600]
    os.chown(book.path, 64244, 64245)
    book.path.chmod(0o640)
    book.add("laptop")
    found = book.path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (64244, 64245, 0o640)


def test_a_link_stays_one(tmp_path: Path) -> None:
    book = Book(tmp_path / "wireguard.conf")
    book.path.symlink_to("wg0.conf")
    Book(tmp_path / "wg0.conf").init()
    book.add("phone")
    assert book.path.is_symlink() and book.load().peers[0].name == "phone"


def test_no_address_left(tmp_path: Path) -> None:
    book = Book(tmp_path / "wireguard.conf")
    book.path.write_text(render(ServerConfig(KEY, (ip_interface("10.0.0.1/30"),))))
    assert "10.0.0.2/32" in book.add("one")
    with pytest.raises(ModeError, match="free one"):
        book.add("two")


@pytest.mark.parametrize(
    ("endpoint", "written"),
    [
        ("host", "host:7"),
        ("host:9", "host:9"),
        ("192.0.2.1", "192.0.2.1:7"),
        ("2001:db8::1", "[2001:db8::1]:7"),
        ("[2001:db8::1]", "[2001:db8::1]:7"),
        ("[2001:db8::1]:9", "[2001:db8::1]:9"),
        ("", "ADDRESS-OF-THE-GATEWAY:7"),
    ],
)
def test_endpoints(endpoint: str, written: str) -> None:
    text = client_file(ServerConfig(KEY), PeerConfig(PEER.public), PEER, endpoint, 7, ("0.0.0.0/0",))
    assert f"Endpoint = {written}\n" in text


def test_what_outlives_the_process(tmp_path: Path) -> None:
    book = Book(tmp_path / "wireguard.conf")
    assert book.recall() == {}
    device = Device(KEY)
    peer = device.add(PeerConfig(PEER.public, name="phone"))
    peer.stamp, peer.received, peer.endpoint = b"s" * 12, 5, ("192.0.2.1", 7)
    book.remember(device.peers, {"other": {"stamp": "00" * 12}})
    found = book.recall()
    assert stamp_of(found[encode_key(PEER.public)]) == b"s" * 12 and stamp_of(found["other"]) == bytes(12)
    before = book.state.read_bytes()
    peer.stamp = b"t" * 12
    book.note(peer)
    with book.state.open("a") as file:
        file.write('\n["other", "11')  # a full disk
    late = device.add(PeerConfig(LATE))
    late.stamp = b"l" * 12
    book.note(late)
    found = book.recall()
    assert {key: stamp_of(one)[:1] for key, one in found.items()} == {
        encode_key(PEER.public): b"t", encode_key(LATE): b"l", "other": b"\0",
    }  # fmt: skip
    assert found[encode_key(PEER.public)]["received"] == 5
    assert book.state.read_bytes().startswith(before), "one handshake does not write down all peers"
    assert book.state.stat().st_mode & 0o777 == 0o600 and book.noted == 2
    book.remember(device.peers, found)
    assert book.noted == 0 and stamp_of(book.recall()[encode_key(LATE)]) == b"l" * 12
    for text in ("", "[]", '{"x": 1}', "\x00", "{" * 10_000):
        book.state.write_text(text)
        assert book.recall() == {}
    assert stamp_of({"stamp": 7}) == stamp_of({"stamp": "zz"}) == stamp_of({}) == b""
    assert decode_key(encode_key(b"x" * 32)) == b"x" * 32
