"""The command line of `lockgate flows`: words and flags, no imports that cost."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

EXAMPLES = """\
examples:
  lockgate flows list                               the newest 100
  lockgate flows list '~d device.example & ~c 500'  those that match a filter (docs/filters.md)
  lockgate flows list -n 20 --columns n,time,client,url,error --before 48123
  lockgate flows show 48122                         one of them, with its bodies
  lockgate flows tail --json '~verdict block'       as they come, a JSON object a line
  lockgate flows stats
  lockgate flows export har --redact -o traffic.har '~d device.example'
  lockgate flows export bodies -o bodies/ '~t image'
  lockgate flows replay 48122                       its request once more, by the gateway that runs
  lockgate flows delete '~d bank.example'
"""


COLUMNS = (
    "n", "id", "time", "kind", "client", "device", "method", "url", "host", "server", "status", "type", "size", "up",
    "down", "took", "verdict", "reason", "rule", "tls", "sni", "error",
)  # fmt: skip
"""Those of appliance/cli/flows.py, which costs imports."""


def add(group: Any, command: Callable[..., Any], settable: Callable[..., None]) -> None:
    """Add the subcommands. command, settable: `_command` and `_settable` of the parser module."""
    listed = command(group, "list", "flows that match, newest first")
    _page(listed, 100)
    listed.add_argument("--before", type=int, metavar="N", help="only flows with a lower number: the next page")
    listed.add_argument("--after", type=int, metavar="N", help="only flows with a higher number")
    listed.add_argument("--oldest", action="store_true", help="oldest first")
    tail = command(group, "tail", "the newest flows that match, then those that come, until Ctrl-C")
    _page(tail, 10)
    show = command(group, "show", "one flow, with headers, bodies and messages")
    show.add_argument("flows", nargs="+", metavar="N", help="number, or the beginning of an id")
    show.add_argument("--view", default="auto", metavar="VIEW", help="content view, such as hex, json, raw")
    show.add_argument("--json", action="store_true", help="print a JSON object a line")
    stats = command(group, "stats", "what the store holds")
    stats.add_argument("--top", type=_count, default=5, metavar="N", help="names of each kind that are listed (5)")
    stats.add_argument("--json", action="store_true", help="print JSON")
    export = command(group, "export", "flows as a file: for other programs, or to be read again")
    export.add_argument("format", choices=FORMATS, help="; ".join(f"{name}: {help}" for name, help in FORMATS.items()))
    _which(export)
    export.add_argument("-o", "--output", metavar="PATH", help="file, or folder for bodies; default: standard output")
    export.add_argument("--redact", action="store_true", help="leave out what looks like a secret, and store_redact")
    replay = command(group, "replay", "have the running gateway send requests again, and show what comes")
    replay.add_argument("flows", nargs="*", metavar="N", help="number, or the beginning of an id")
    replay.add_argument("--filter", dest="matching", metavar="FILTER", help="all that match, one after another")
    replay.add_argument("--json", action="store_true", help="print a JSON object a line")
    delete = command(group, "delete", "delete flows, and what the store's files hold of them")
    _which(delete)
    delete.add_argument("--yes", action="store_true", help="do not ask")
    for one in (listed, tail, show, stats, export, replay, delete):
        settable(one)


FORMATS = {
    "flows": "flow file, as `lockgate run -r` and mitmproxy read it",
    "har": "HTTP Archive",
    "curl": "a command line each",
    "httpie": "the same for HTTPie",
    "python": "a program each",
    "raw": "requests and responses as on the wire",
    "bodies": "each body a file in a folder",
    "pcapng": "packets of what was said in the clear, for Wireshark",
}


def _which(parser: Any) -> None:
    parser.add_argument("filter", nargs="*", default=[], metavar="FILTER", help="flows that match")
    parser.add_argument("--number", action="append", metavar="N", help="this flow, by number or id; repeatable")


def _page(parser: Any, limit: int) -> None:
    parser.add_argument("filter", nargs="*", default=[], metavar="FILTER", help="only flows that match")
    parser.add_argument(
        "-n", "--limit", type=_count, default=limit, metavar="N", help=f"at most so many ({limit}); 0: all"
    )
    parser.add_argument("--columns", metavar="NAMES", help=f"names with commas between, of {', '.join(COLUMNS)}")
    parser.add_argument("--json", action="store_true", help="print a JSON object a line")


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("write 0 or more")
    return value
