"""The import alias: scripts that import `mitmproxy.*` get lockgate's modules, the very same objects.

`install` puts a finder before all others on `sys.meta_path`, so an installed mitmproxy does not win. Nothing is
imported before a script asks for it. A name without a counterpart raises ImportError that says so.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

from appliance import __version__

ROOT: Final = "mitmproxy"

#: Modules with the same name on both sides, below `mitmproxy` and `appliance`.
# fmt: off
_SAME: Final = (
    "addonmanager", "addons", "certs", "command", "connection", "contentviews", "ctx", "dns", "eventsequence",
    "exceptions", "flow", "flowfilter", "hooks", "http", "io", "log", "options", "script", "tcp", "test",
    "tls", "types", "udp", "version", "websocket",
)
# fmt: on

#: The others, from the older path to ours. What lies below them follows.
_MOVED: Final = {
    "addons.asgiapp": "appliance.addons.asgiapp",
    "addons.dns_resolver": "appliance.addons.engineparts",
    "addons.errorcheck": "appliance.addons.engineparts",
    "addons.next_layer": "appliance.addons.engineparts",
    "addons.onboarding": "appliance.addons.portal",
    "addons.termlog": "appliance.addons.engineparts",
    "addons.tlsconfig": "appliance.addons.engineparts",
    "command_lexer": "appliance.command_lexer",
    "contentviews._api": "appliance.contentviews.api",
    "contentviews._registry": "appliance.contentviews.viewregistry",
    "coretypes.multidict": "appliance.multidict",
    "coretypes.serializable": "appliance.serializable",
    "io.io": "appliance.io",
    "master": "appliance.embedding",
    "net.dns": "appliance.net.dns",
    "net.encoding": "appliance.encoding",
    "net.http.cookies": "appliance.cookies",
    "net.http.headers": "appliance.headers",
    "net.http.http1": "appliance.http1",
    "net.http.http1.assemble": "appliance.http1",
    "net.http.http1.read": "appliance.http1",
    "net.http.multipart": "appliance.multipart",
    "net.http.status_codes": "appliance.status_codes",
    "net.http.url": "appliance.url",
    "net.http.user_agents": "appliance.user_agents",
    "net.server_spec": "appliance.server_spec",
    "net.tls": "appliance.tls",
    "optmanager": "appliance.options",
    "proxy.context": "appliance.layers.base",
    "proxy.layer": "appliance.proxy.layer",
    "proxy.layers": "appliance.layers",
    "proxy.layers.modes": "appliance.layers.modes",
    "proxy.mode_specs": "appliance.proxy.mode_specs",
    "proxy.server_hooks": "appliance.proxy.server_hooks",
    "tools.dump": "appliance.embedding",
    "tools.main": "appliance.embedding",
    "utils.asyncio_utils": "appliance.asyncio_utils",
    "utils.emoji": "appliance.emoji",
    "utils.human": "appliance.human",
    "utils.strutils": "appliance.strutils",
}

#: Packages that hold the above and nothing else. They import what is asked of them when it is asked.
_HOLDERS: Final = frozenset({"", "coretypes", "net", "net.http", "proxy", "tools", "utils"})

#: Why there is none, where a reader should be told more.
_WHY: Final = {
    "proxy.commands": "layers made of mitmproxy's generator of events and commands do not run here: write `run()`",
    "proxy.events": "layers made of mitmproxy's generator of events and commands do not run here: write `run()`",
    "proxy.server": "embed `mitmproxy.tools.dump.DumpMaster`",
    "tools.console": "lockgate's console is a program of its own",
    "tools.web": "lockgate's console is a program of its own",
}


def target(name: str) -> str | None:
    """Our module for `name` (without the leading `mitmproxy.`), or None. Whether it exists is not looked at."""
    if name in _MOVED:
        return _MOVED[name]
    head = name.partition(".")[0]
    if head in _SAME:
        return f"appliance.{name}"
    for older, ours in _MOVED.items():
        if name.startswith(older + "."):
            return ours + name[len(older) :]
    return None


def _below(fullname: str) -> frozenset[str]:
    """The modules that are right below this one there, and elsewhere here."""
    start = fullname.removeprefix(ROOT + ".") + "."
    return frozenset(
        name.removeprefix(start) for name in _MOVED if name.startswith(start) and "." not in name.removeprefix(start)
    )


def _moved(fullname: str, below: frozenset[str], name: str) -> ModuleType:
    if name not in below:
        raise AttributeError(f"module {target(fullname.removeprefix(ROOT + '.'))!r} has no attribute {name!r}")
    return importlib.import_module(f"{fullname}.{name}")


def missing(name: str) -> ImportError:
    why = next((text for head, text in _WHY.items() if f"{name}.".startswith(head + ".")), "")
    full = f"{ROOT}.{name}"
    return ImportError(f"{full} is not in lockgate {__version__}{f': {why}' if why else ''}", name=full)


class _Holder(ModuleType):
    """A package that exists for the names below it."""

    def __getattr__(self, name: str) -> ModuleType:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return importlib.import_module(f"{self.__name__}.{name}")
        except ImportError as error:
            if error.name != f"{self.__name__}.{name}":
                raise
            raise AttributeError(str(error)) from None


class _Alias(Loader):
    """Puts one of our modules in the place of the one that is being loaded."""

    def __init__(self, ours: str | None) -> None:
        self.ours = ours

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None if self.ours else _Holder(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        if self.ours:
            # The import system takes from here what the import gives: the object itself, its own spec untouched.
            ours = sys.modules[module.__name__] = importlib.import_module(self.ours)
            if below := _below(module.__name__):
                # Modules that are below it there, and elsewhere here: `http1.assemble`, `addons.onboarding`.
                ours.__dict__.setdefault("__path__", [])
                ours.__dict__.setdefault("__getattr__", partial(_moved, module.__name__, below))


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target_module: ModuleType | None = None
    ) -> ModuleSpec | None:
        root, _, name = fullname.partition(".")
        if root != ROOT:
            return None
        if name in _HOLDERS:
            return ModuleSpec(fullname, _Alias(None), is_package=True)
        ours = target(name)
        if ours is None or not _exists(ours):
            raise missing(name)
        return ModuleSpec(fullname, _Alias(ours))


def _exists(name: str) -> bool:
    if name in sys.modules:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a parent is no package, or is missing
        return False


_FINDER: Final = _Finder()


def install() -> None:
    """Switch the alias on, for this process. A mitmproxy that was imported before is hidden from later imports."""
    if _FINDER in sys.meta_path:
        return
    for name in [name for name in sys.modules if name == ROOT or name.startswith(ROOT + ".")]:
        del sys.modules[name]
    sys.meta_path.insert(0, _FINDER)


def uninstall() -> None:
    """Switch it off, for tests."""
    if _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)
    for name in [name for name in sys.modules if name == ROOT or name.startswith(ROOT + ".")]:
        del sys.modules[name]
