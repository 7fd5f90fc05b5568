"""`lockgate wireguard`: the server's file and its peers. A running gateway reads the file again by itself."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from appliance import config
from appliance.exceptions import ModeError, OptionsError
from appliance.human import pretty_size
from appliance.options import COMMAND_LINE, Options
from modes.wireguard.book import FILE, Book
from modes.wireguard.config import PORT, decode_key, encode_key

_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def main(args: argparse.Namespace) -> int:
    """Run `lockgate wireguard COMMAND`. Raises OptionsError, ModeError."""
    options = Options()
    options.set(*args.specs, source=COMMAND_LINE)
    config.start(options)
    confdir = options.path("confdir")
    assert confdir is not None
    book = Book(Path(args.conf) if args.conf else confdir / FILE)
    match args.wireguard_command:
        case "check":
            return _check(book)
        case "init":
            if args.port is not None and not 0 < args.port < 65536:
                raise OptionsError(f"--port: {args.port} is no port; 1 to 65535, and {PORT} without it")
            server = book.init(args.endpoint or "", args.port)
            print(f"{book.path}: made; public key {encode_key(server.private.public)}")
            print("next: lockgate wireguard add NAME, and lockgate run -m wireguard")
        case "add":
            return _add(book, args)
        case "remove":
            book.remove(args.name)
            print(f"{args.name}: removed; a running gateway cuts it off within a second")
        case "peers":
            return _peers(book)
        case "show":
            print(book.show(args.name), end="")
        case "qr":
            return _qr(book.show(args.name), args.name, args.output)
    return 0


def _check(book: Book) -> int:
    """Whether the mode would start here; opens all that it needs, and closes it again."""
    import asyncio
    import socket

    from modes.netns import Namespace
    from modes.wireguard import tunnel

    port = (book.load().port if book.path.exists() else None) or PORT

    async def attempt() -> None:
        namespace = await Namespace.open("wg0", tun=True)
        namespace.close()
        await namespace.gone()

    try:
        for sock in tunnel.bind([(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")], port):
            sock.close()
    except OSError as e:
        raise ModeError(f"UDP port {port}: {e.strerror}; another WireGuard may have it: -m wireguard@PORT") from None
    asyncio.run(attempt())
    print("the mode wireguard works here")
    return 0


def _add(book: Book, args: argparse.Namespace) -> int:
    from appliance.cli.firstscreen import own_address

    if not book.path.exists():
        book.init(args.endpoint or "")
        print(f"{book.path}: made", file=sys.stderr)
    server = book.load()
    try:
        public = decode_key(args.public_key) if args.public_key else None
    except ValueError as e:
        raise OptionsError(f"--public-key: {e}") from None
    endpoint = args.endpoint or server.endpoint or own_address()
    text = book.add(
        args.name,
        label=args.label or "",
        expires=_when(args.expires) if args.expires else 0.0,
        endpoint=endpoint,
        port=server.port if server.port else PORT,
        reach=tuple(args.route) if args.route else ("0.0.0.0/0", "::/0"),
        public=public,
        psk=not args.no_psk,
    )
    if not args.endpoint and not server.endpoint:
        print(
            f"Endpoint: this machine's address {endpoint or '(none found)'}; --endpoint HOST says another",
            file=sys.stderr,
        )
    print(text, end="")
    if public is None and sys.stdout.isatty():
        return _qr(text, args.name, None)
    return 0


def _when(text: str) -> float:
    """Unix time of `30d`, `12h`, or a date. :raises OptionsError: it is neither, or past."""
    match = re.fullmatch(r"(\d{1,5})([mhdw])", text)
    if match:
        return time.time() + int(match[1]) * _UNITS[match[2]]
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise OptionsError(f"--expires: {text!r} is neither a time from now, such as 30d, nor a date") from None
    found = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    if found <= time.time():
        raise OptionsError(f"--expires: {text} is past")
    return found


def _peers(book: Book) -> int:
    server, state = book.load(), book.recall()
    if not server.peers:
        print(f"{book.path} has no peers; `lockgate wireguard add NAME` makes one", file=sys.stderr)
        return 0
    rows = [("NAME", "LABEL", "ADDRESSES", "LAST HANDSHAKE", "RECEIVED", "SENT", "EXPIRES (UTC)")]
    for peer in server.peers:
        known = state.get(encode_key(peer.public), {})
        expires = f"{datetime.fromtimestamp(peer.expires, UTC):%Y-%m-%d %H:%M}" if peer.expires else "-"
        if peer.expires and peer.expires <= time.time():
            expires = "EXPIRED"
        rows.append(
            (
                peer.name,
                peer.label or "-",
                ", ".join(str(network.network_address) for network in peer.allowed) or "-",
                _ago(known.get("last_handshake")),
                _size(known.get("received")),
                _size(known.get("sent")),
                expires,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _ago(when: object) -> str:
    if not isinstance(when, (int, float)) or not when:
        return "never"
    seconds = max(0, int(time.time() - when))
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds // unit} {name} ago"
    return f"{seconds} s ago"


def _size(count: object) -> str:
    return pretty_size(count) if isinstance(count, int) else "0b"


def _qr(text: str, name: str, output: str | None) -> int:
    import segno

    code = segno.make(text, error="l", micro=False)
    if output is None:
        # In colours where there are no half blocks, in a terminal of another encoding than UTF-8.
        code.terminal(sys.stdout, border=2, compact=bool("█".encode(sys.stdout.encoding or "utf-8", "ignore")))
        return 0
    kind = Path(output).suffix.lower()
    if kind not in (".png", ".svg"):
        raise OptionsError(f"{output}: the name ends in .png or .svg")
    try:
        fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            code.save(file, kind=kind[1:], scale=8)
    except OSError as e:
        raise ModeError(f"{output}: cannot be written: {e.strerror}") from None
    print(f"{output}: the QR code of {name}; whoever sees it has its key", file=sys.stderr)
    return 0
