"""What all flows share: identity, the two connections, errors, and control by add-ons."""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar, Protocol, Self

from .connection import Client, Server, State
from .exceptions import ControlException
from .ids import new_id
from .serializable import Serializable

FORMAT_VERSION = 21  # of the states; the number that mitmproxy's flow files carry for these keys


class Live(Protocol):
    """The engine's hold on a flow in progress."""

    def kill(self) -> None:
        """Abort both ends. Idempotent; may be called in a hook of this very flow."""


class Injectable(Live, Protocol):
    """The same of a flow of messages: TCP and UDP."""

    def inject(self, to_client: bool, message: Any) -> None:
        """Say `message` to one side as if the other had said it; its hook hears of it, and it keeps the order of what
        is said there. :raises ControlException: not possible, with the cause and the remedy.
        """


class _Unattached:
    def kill(self) -> None:
        """Nothing to abort: a flow that was called live by hand, as tests do."""


class Error(Serializable):
    """Why a flow failed. `timestamp`: seconds since the epoch. `status`: of the page the client gets, 0 = none."""

    __slots__ = ("msg", "status", "timestamp")
    KILLED_MESSAGE: ClassVar[str] = "Connection killed."

    def __init__(self, msg: str, timestamp: float | None = None, *, status: int = 0) -> None:
        self.msg = msg
        self.status = status  # not part of the state
        self.timestamp = time.time() if timestamp is None else timestamp

    def __str__(self) -> str:
        return self.msg

    def __repr__(self) -> str:
        return f"Error({self.msg!r})"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Error):
            return (self.msg, self.timestamp) == (other.msg, other.timestamp)
        return NotImplemented

    def __hash__(self) -> int:
        return hash((self.msg, self.timestamp))

    def get_state(self) -> State:
        return {"msg": self.msg, "timestamp": self.timestamp}

    @classmethod
    def from_state(cls, state: State) -> Self:
        return cls(**state)


class Flow:
    """A conversation between a client and a server. Rare attributes are class defaults until set."""

    type: ClassVar[str] = ""  # "http", "tcp", "udp", "dns"

    error: Error | None = None
    intercepted: bool = False
    marked: str | bool = ""  # a marker such as ":red_circle:"; True means ":default:"
    is_replay: str | None = None  # "request" or "response"
    comment: str = ""

    _id: str | None = None
    _metadata: dict[str, Any] | None = None
    _live: Live | None = None  # None once the flow is over
    _backup: State | None = None
    _resumed: asyncio.Event | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    def __init__(self, client_conn: Client, server_conn: Server, live: Live | bool = False) -> None:
        self.client_conn = client_conn
        self.server_conn = server_conn
        self.timestamp_created = time.time()
        if live:
            self._live = _Unattached() if isinstance(live, bool) else live

    @property
    def id(self) -> str:
        if self._id is None:
            self._id = new_id()
        return self._id

    @id.setter
    def id(self, value: str) -> None:
        self._id = value

    @property
    def metadata(self) -> dict[str, Any]:
        """Notes of add-ons on this flow. Plain values, if the flow is to be saved."""
        if self._metadata is None:
            self._metadata = {}
        return self._metadata

    @metadata.setter
    def metadata(self, value: dict[str, Any]) -> None:
        self._metadata = value

    @property
    def timestamp_start(self) -> float:
        return self.timestamp_created

    @property
    def live(self) -> bool:
        """Whether the exchange is still going on, and was not killed. It is set for flows made by hand; the engine
        does not let go of its own.
        """
        return self._live is not None and not self.killed

    @live.setter
    def live(self, value: bool) -> None:
        if value != self.live and (value or isinstance(self._live, _Unattached)):
            self._live = _Unattached() if value else None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.client_conn!r} -> {self.server_conn!r}>"

    # Control

    @property
    def killable(self) -> bool:
        return self._live is not None and not self.killed

    @property
    def killed(self) -> bool:
        return self.error is not None and self.error.msg == Error.KILLED_MESSAGE

    def kill(self) -> None:
        """End the flow: neither side gets anything more. Raises ControlException unless `killable`."""
        live = self._live
        if live is None or self.killed:
            raise ControlException("the flow cannot be killed: it has ended")
        self.error = Error(Error.KILLED_MESSAGE)
        self.resume()
        live.kill()

    def intercept(self) -> None:
        """Hold the flow after the present hook, until `resume` or `kill`."""
        self.intercepted = True

    def resume(self) -> None:
        """Let an intercepted flow go on. May be called from any thread."""
        if not self.intercepted:
            return
        self.intercepted = False
        resumed, self._resumed = self._resumed, None
        if resumed is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(resumed.set)

    async def wait_for_resume(self) -> None:
        """Return once the flow is not intercepted (any more)."""
        while self.intercepted:
            self._loop = asyncio.get_running_loop()
            resumed = self._resumed
            if resumed is None:
                resumed = self._resumed = asyncio.Event()
            if self.intercepted:  # again, now that a resume from another thread would find the event
                await resumed.wait()

    # Edits

    def backup(self, force: bool = False) -> None:
        """Remember the present state for `revert`, unless one is remembered already (`force` overrides it)."""
        if force or self._backup is None:
            self._backup = self.get_state()
            self._backup["backup"] = None

    def modified(self) -> bool:
        """Whether the content differs from the backup; what the engine writes (connections, control) is left out."""
        if self._backup is None:
            return False
        now = self.get_state()
        return any(now[key] != value for key, value in self._backup.items() if key not in _NOT_EDITED)

    def revert(self) -> None:
        """Go back to the backup, if there is one. The connections stay as they are: they are facts, not edits."""
        if self._backup is not None:
            now = self.get_state()
            self.set_state(self._backup | {key: now[key] for key in _NOT_EDITED} | {"backup": None})

    def copy(self) -> Self:
        """A flow of its own with a new id; the connections keep theirs. It is neither live nor intercepted."""
        return self.from_state(self.get_state() | {"id": new_id(), "intercepted": False})

    # State

    def get_state(self) -> State:
        """Plain values (dict, list, tuple, str, bytes, int, float, bool, None), as flow files store them."""
        return {
            "version": FORMAT_VERSION,
            "type": self.type,
            "id": self.id,
            "error": self.error.get_state() if self.error else None,
            "client_conn": self.client_conn.get_state(),
            "server_conn": self.server_conn.get_state(),
            "intercepted": self.intercepted,
            "is_replay": self.is_replay,
            "marked": (":default:" if self.marked else "") if isinstance(self.marked, bool) else self.marked,
            "metadata": dict(self._metadata or {}),
            "comment": self.comment,
            "timestamp_created": self.timestamp_created,
            "backup": self._backup,
        } | self._get_content()

    def set_state(self, state: State) -> None:
        """Take over a state. Raises ValueError for another version or type, or a key too many or too few."""
        if (state.get("version"), state.get("type")) != (FORMAT_VERSION, self.type):
            raise ValueError(f"not a {self.type} flow of version {FORMAT_VERSION}")
        if state.keys() != _COMMON | self._content_keys:
            raise ValueError(f"not a {self.type} flow: {sorted(state.keys() ^ (_COMMON | self._content_keys))}")
        self._set_content(state)
        self.id = state["id"]
        self.error = Error.from_state(state["error"]) if state["error"] else None
        self._set_connections(state["client_conn"], state["server_conn"])
        self.intercepted = state["intercepted"]
        self.is_replay = state["is_replay"]
        self.marked = state["marked"]
        self._metadata = dict(state["metadata"]) or None
        self.comment = state["comment"]
        self.timestamp_created = state["timestamp_created"]
        self._backup = state["backup"]

    def _set_connections(self, client: State, server: State) -> None:
        # A connection that the flow has already is kept: others hold it too, and it may be open.
        mine = self.__dict__.get("client_conn")
        if mine is None or mine.id != client["id"]:
            self.client_conn = Client.from_state(client)
        mine = self.__dict__.get("server_conn")
        if mine is None or mine.id != server["id"]:
            self.server_conn = Server.from_state(server)

    @classmethod
    def from_state(cls, state: State) -> Self:
        new = cls.__new__(cls)
        new.set_state(state)
        return new

    # What a kind of flow adds to the state.

    _content_keys: ClassVar[frozenset[str]] = frozenset()

    def _get_content(self) -> State:
        return {}

    def _set_content(self, state: State) -> None:
        """Take the keys in `_content_keys` out of `state`."""


_NOT_EDITED = frozenset({"id", "client_conn", "server_conn", "intercepted", "timestamp_created", "backup"})
_COMMON = _NOT_EDITED | {"version", "type", "error", "is_replay", "marked", "metadata", "comment"}
