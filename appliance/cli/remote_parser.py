"""The command line of subcommands that speak to a running gateway. As light to import as the rest of the parser."""

from __future__ import annotations

import argparse
from typing import Any

from appliance.cli.parser import Parser, _command, _settable

_WHICH = """
The gateway is the one whose configuration folder is ~/.lockgate, or LOCKGATE_CONFDIR, or given by --set confdir=DIR.
"""

_STATUS = """\
examples:
  lockgate status
  lockgate status --json | jq .connections.open
  lockgate status --set confdir=/etc/lockgate       of another gateway
Exit code 0: one runs, 1: none does.
"""

_TAIL = """\
examples:
  lockgate tail                          a line for each flow that ends, as `lockgate run` shows them
  lockgate tail '~d device.example'      those that match (docs/filters.md)
  lockgate tail --json '~c 500' | jq -r .url
"""

_SET = """\
examples:
  lockgate options get tcp_timeout mode
  lockgate options set tcp_timeout=30 ignore_hosts='\\.bank\\.example:443$'   all of them, or none
  lockgate options set intercept='~d device.example'                        hold these: `lockgate intercepted`
  lockgate options reset intercept
"""

_MODES = """\
examples:
  lockgate modes
  lockgate modes add transparent:lan0       listens, then lays its redirect
  lockgate modes remove transparent:lan0    takes it away; connections that it had brought end
"""

_COMMANDS = """\
examples:
  lockgate command                          all commands of built-in add-ons and scripts
  lockgate command hooks.profile
  lockgate command flow.comment '~c 500' 'seen on the bench'      of flows in memory: the option view_limit
"""

_INTERCEPTED = """\
examples:
  lockgate options set intercept='~m POST'           hold these requests, and their responses
  lockgate intercepted                               what is held, with short ids
  lockgate intercepted show 1a7
  lockgate intercepted edit 1a7 --path /v2 --header 'X-Lab: 1' --body '{"on": true}' --resume
  lockgate intercepted edit 1a7 --status 404 --resume       answer without asking the server
  lockgate intercepted resume --all
"""


def add(commands: Any) -> None:
    """Add them to the subcommands of `lockgate`."""
    status = _remote(commands, "status", "say how the running gateway is", _STATUS)
    status.add_argument("--json", action="store_true", help="print JSON")
    tail = _remote(commands, "tail", "show the running gateway's flows as they end", _TAIL)
    tail.add_argument("--json", action="store_true", help="print a JSON object a line")
    tail.add_argument("filter", nargs="*", metavar="FILTER", help="show only flows that match")
    log = _remote(commands, "log", "show the running gateway's log from now on")
    log.add_argument("--level", default="info", choices=("error", "warn", "alert", "info", "debug"), help="and above")
    log.add_argument("--json", action="store_true", help="print a JSON object a line")
    _modes(_remote(commands, "modes", "list, add and remove modes of the running gateway", _MODES))
    _intercepted(_remote(commands, "intercepted", "see, edit and release what `intercept` holds", _INTERCEPTED))
    command = _remote(commands, "command", "call a command of an add-on in the running gateway", _COMMANDS)
    command.add_argument("name", nargs="?", metavar="NAME", help="none: list all")
    command.add_argument("args", nargs=argparse.REMAINDER, metavar="ARG", help="as the command's signature says")
    _remote(commands, "reload", "have the running gateway read config.yaml and scripts again")
    _remote(commands, "stop", "end the running gateway in good order, and wait for it")


def add_options(parser: Parser) -> None:
    """`lockgate options get|set|reset`."""
    todo = _todo(parser)
    one = _remote(todo, "get", "print options as they are in the running gateway", _SET)
    one.add_argument("names", nargs="*", metavar="NAME", help="none: all")
    one = _remote(todo, "set", "set options of the running gateway", _SET)
    one.add_argument("values", nargs="+", metavar="NAME=VALUE", help="a name given several times makes a list")
    one = _remote(todo, "reset", "put options of the running gateway back to their defaults", _SET)
    one.add_argument("names", nargs="+", metavar="NAME")


def _modes(parser: Parser) -> None:
    todo = _todo(parser)
    _remote(todo, "list", "modes and where they listen")
    for name, help in (("add", "listen in one more way"), ("remove", "listen there no more")):
        _remote(todo, name, help).add_argument("mode", metavar="MODE", help="NAME[:DATA][@[HOST:]PORT], as for run -m")


def _intercepted(parser: Parser) -> None:
    todo = _todo(parser)
    _remote(todo, "list", "flows that are held").add_argument("--json", action="store_true", help="print JSON")
    show = _remote(todo, "show", "all of one flow")
    show.add_argument("id", metavar="ID")
    show.add_argument("--json", action="store_true", help="print JSON")
    edit = _remote(todo, "edit", "change one flow: all that is said, or nothing", _INTERCEPTED)
    edit.add_argument("id", metavar="ID")
    edit.add_argument("--part", choices=("request", "response"), help="of headers and body; default: what is held")
    for flag in ("method", "url", "host", "path"):
        edit.add_argument(f"--{flag}", metavar=flag.upper(), help="of the request")
    edit.add_argument("--port", type=int, metavar="PORT", help="of the request")
    edit.add_argument("--status", type=int, metavar="CODE", help="of the response; one is made if there is none")
    edit.add_argument("--header", action="append", default=[], metavar="'NAME: VALUE'", help="set it; repeatable")
    edit.add_argument("--no-header", action="append", default=[], metavar="NAME", help="remove it; repeatable")
    edit.add_argument("--body", metavar="TEXT", help="of the request or response, or the message that is held")
    edit.add_argument("--body-file", metavar="FILE", help="the same, from a file; - is standard input")
    edit.add_argument("--resume", action="store_true", help="and let it go on")
    for name, help in (("resume", "let flows go on"), ("kill", "end flows, both sides")):
        one = _remote(todo, name, help)
        one.add_argument("ids", nargs="*", metavar="ID")
        one.add_argument("--all", action="store_true", help="all that are held")


def _remote(commands: Any, name: str, help: str, epilog: str = "") -> Parser:
    parser = _command(commands, name, help, epilog or None)
    parser.description = f"{parser.description or ''}\n{_WHICH.strip()}"
    _settable(parser)
    return parser


def _todo(parser: Parser) -> Any:
    return parser.add_subparsers(dest="todo", metavar="COMMAND", title="commands", parser_class=Parser)
