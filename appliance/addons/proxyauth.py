"""Lets in who knows a name and a password (option `proxyauth`), by HTTP's Basic scheme (RFC 7617).

An explicit proxy asks with 407, once a connection for CONNECT; the other modes ask with 401, and know HTTP only: what
is passed, raw or not HTTP cannot be asked.
"""

from __future__ import annotations

import asyncio
import binascii
import hashlib
import hmac
import logging
import os
from base64 import b64decode
from collections.abc import Awaitable
from pathlib import Path
from typing import Final, Protocol
from weakref import WeakKeyDictionary

from appliance import ctx
from appliance.addons.switch import Switch
from appliance.connection import Client
from appliance.exceptions import OptionsError
from appliance.home import expanded
from appliance.htpasswd import Htpasswd
from appliance.http import HTTPFlow, Response
from appliance.log import RateLimited

logger = logging.getLogger(__name__)
_told = RateLimited(logger, per_minute=6)

REMEMBERED: Final = 1000
"""Good pairs of a file whose hashes need not be made again."""
AT_ONCE: Final = 2
"""Hashes made side by side: they keep a processor busy."""
_EXPLICIT: Final = frozenset({"regular", "upstream"})
_REALM: Final = 'Basic realm="lockgate", charset="UTF-8"'


class Validator(Protocol):
    """public: the password is no secret of ours, so add-ons may see it."""

    public: bool

    def check(self, user: bytes, password: bytes) -> bool | Awaitable[bool]: ...


class AcceptAll:
    """Whoever gives any name."""

    public = True

    def check(self, user: bytes, password: bytes) -> bool:
        return True


class SingleUser:
    public = False

    def __init__(self, user: bytes, password: bytes) -> None:
        self._user = user
        self._password = password

    def check(self, user: bytes, password: bytes) -> bool:
        name, word = hmac.compare_digest(user, self._user), hmac.compare_digest(password, self._password)
        return name and word


class FileUsers:
    """Those of an htpasswd file, which is read again when it has changed."""

    public = False

    def __init__(self, path: Path) -> None:
        """Raises ValueError, OSError."""
        self._path = path
        self._state = self._look()
        self._file = Htpasswd(path)
        self._key = os.urandom(32)
        self._good: dict[bytes, None] = {}  # digests of pairs
        self._turn = asyncio.Semaphore(AT_ONCE)

    def _look(self) -> tuple[int, int, int]:
        found = self._path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino

    def check(self, user: bytes, password: bytes) -> bool | Awaitable[bool]:
        self._refresh()
        pair = hmac.digest(self._key, hashlib.sha256(user).digest() + password, "sha256")
        return True if pair in self._good else self._check(user, password, pair)

    async def _check(self, user: bytes, password: bytes, pair: bytes) -> bool:
        async with self._turn:
            file = self._file
            good = await asyncio.to_thread(file.check, user, password)
        if good and file is self._file:
            self._good[pair] = None
            if len(self._good) > REMEMBERED:
                del self._good[next(iter(self._good))]
        return good

    def _refresh(self) -> None:
        try:
            state = self._look()
            if state == self._state:
                return
            self._state = state
            self._file = Htpasswd(self._path)
        except (OSError, ValueError) as error:
            _told.log(logging.ERROR, self._path, "proxyauth: %s: %s; what was read before counts", self._path, error)
            return
        self._good.clear()
        logger.info("proxyauth: %s was read again", self._path)


def validator(spec: str) -> Validator:
    """``any``, ``NAME:PASSWORD`` or ``@HTPASSWD-FILE``. Raises OptionsError, which does not repeat a password."""
    if spec == "any":
        return AcceptAll()
    if spec.startswith("@"):
        path = expanded(spec[1:], "proxyauth")
        try:
            return FileUsers(path)
        except (OSError, ValueError) as error:
            raise OptionsError(f"proxyauth: {path}: {getattr(error, 'strerror', None) or error}") from None
    if spec.startswith(("ldap:", "ldaps:")):
        raise OptionsError("proxyauth: LDAP is not in lockgate: use @FILE, a file written with `htpasswd -B`")
    user, colon, password = spec.partition(":")
    if not colon or not user or ":" in password:
        raise OptionsError("proxyauth: write any, NAME:PASSWORD (no further colon) or @FILE, an htpasswd file")
    return SingleUser(user.encode("utf-8", "surrogateescape"), password.encode("utf-8", "surrogateescape"))


class ProxyAuth(Switch):
    """On while the option `proxyauth` is set."""

    name = "proxyauth"

    def configure(self, updated: frozenset[str]) -> None:
        if "proxyauth" in updated:
            spec = ctx.options.proxyauth
            self.use(Asking(validator(spec)) if spec else None)


class Asking:
    """The hooks. What the client gave is taken out of the request: it is for us alone."""

    name = "proxyauth requests"

    def __init__(self, validator: Validator) -> None:
        self._validator = validator
        self.authenticated: WeakKeyDictionary[Client, tuple[str, str]] = WeakKeyDictionary()
        """Clients whose CONNECT was granted, with what `metadata` says of them."""

    def http_connect(self, flow: HTTPFlow) -> Awaitable[None] | None:
        return self._ask(flow, tunnel=True)

    def requestheaders(self, flow: HTTPFlow) -> Awaitable[None] | None:
        if flow.is_replay == "request":
            return None
        known = self.authenticated.get(flow.client_conn)
        if known is not None:
            flow.metadata["proxyauth"] = known
            return None
        return self._ask(flow, tunnel=False)

    def _ask(self, flow: HTTPFlow, tunnel: bool) -> Awaitable[None] | None:
        field = "authorization" if not _explicit(flow) else "proxy-authorization"
        pair = credentials(flow.request.headers.get(field, ""))
        if pair is None:
            self._refuse(flow)
            return None
        verdict = self._validator.check(*pair)
        if isinstance(verdict, bool):
            self._decide(flow, tunnel, field, pair, verdict)
            return None
        return self._wait(flow, tunnel, field, pair, verdict)

    async def _wait(
        self, flow: HTTPFlow, tunnel: bool, field: str, pair: tuple[bytes, bytes], verdict: Awaitable[bool]
    ) -> None:
        self._decide(flow, tunnel, field, pair, await verdict)

    def _decide(self, flow: HTTPFlow, tunnel: bool, field: str, pair: tuple[bytes, bytes], good: bool) -> None:
        flow.request.headers.pop(field, None)
        if not good:
            _told.log(logging.WARNING, flow.client_conn.peername, "proxyauth: %s gave a wrong name or password",
                      flow.client_conn.peername[0] if flow.client_conn.peername else "a client")  # fmt: skip
            self._refuse(flow)
            return
        user, password = (part.decode("utf-8", "replace") for part in pair)
        flow.metadata["proxyauth"] = found = (user, password if self._validator.public else "")
        if tunnel:
            self.authenticated[flow.client_conn] = found

    def _refuse(self, flow: HTTPFlow) -> None:
        explicit = _explicit(flow)
        status, field = (407, "Proxy-Authenticate") if explicit else (401, "WWW-Authenticate")
        page = b"<!doctype html>\n<title>lockgate</title>\n<p>This gateway asks for a name and a password.\n"
        headers = {field: _REALM, "Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store"}
        flow.response = Response.make(status, page, headers)


def _explicit(flow: HTTPFlow) -> bool:
    """Whether the client speaks to us as to its proxy."""
    return flow.client_conn.proxy_mode.type_name in _EXPLICIT


def credentials(value: str) -> tuple[bytes, bytes] | None:
    """Name and password of a Basic field (RFC 7617 §2); None: there are none, or they cannot be read."""
    scheme, _, text = value.strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = b64decode(text.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return (user, password) if colon else None
