"""The command line, made from the option table: every flag is another spelling of `--set name=value`.

What mitmdump has and this release has not is recognised and refused, never ignored.
"""

from __future__ import annotations

import argparse
import difflib
import platform
from collections.abc import Sequence
from typing import Any, NoReturn

from appliance import __version__
from appliance.cli import flows_parser
from appliance.notyet import NOT_YET_FLAGS
from appliance.optiontable import BUILTIN, Option
from appliance.typespec import Typespec

NOT_YET_TEXT = f"not yet in lockgate {__version__}"

_MODES = frozenset({"regular", "transparent", "upstream", "reverse", "socks5", "dns", "wireguard", "local"})

_FILTERED = ("save_stream_filter", "readfile_filter", "dumper_filter")
"""Options that the filter at the end of the command line stands for."""

_LISTENING = ("mode", "listen_host", "listen_port", "server", "rfile")
"""Options that mean nothing to `lockgate exec`."""

_PROGRAMS = ("exec_pcap",)
"""Options that mean nothing without a program."""

_EXAMPLES = """\
examples:
  lockgate run                                    a proxy for this computer on 127.0.0.1:8080
  lockgate run -m regular@8080                    a proxy for the network, on every address
  lockgate run -m transparent:lan0                whatever comes in on lan0; lays and removes the rules itself
  lockgate run -m transparent@8081                connections redirected here by the firewall
  lockgate run -s addon.py                        with your own hooks, reloaded when the file changes
  lockgate run --ignore-hosts '\\.bank\\.example:443$'  pass these untouched, decrypt the rest
  lockgate run -w flows '~d device.example'       keep and show what matches this filter (docs/filters.md)
  lockgate run -n -r flows '~c 500'               show flows from a file, here those with status 500
  lockgate run --set body_size_limit=10m          any option; `lockgate options` lists them
"""

_TOP = """\
start here:
  lockgate run            start the gateway; its first screen says how a client is attached
  lockgate exec CMD ...   run a program and see all its traffic, with nothing set up and no root
  lockgate ca show        where the CA certificate is and how devices are made to trust it
  lockgate options        every option, its value and where that came from
  lockgate doctor lan0    what on this machine keeps transparent interception from working
  lockgate status         how the running gateway is; `tail` shows its flows, `stop` ends it
  lockgate run --help     flags and examples
"""

_CA = """\
examples:
  lockgate ca show
  lockgate ca export -o lockgate.crt --format der      for Android and Windows
  lockgate ca import corporate-ca.pem corporate-ca.key  use a CA that devices trust already
"""

_FIREWALL = """\
`lockgate run -m transparent:lan0` lays its rules itself and removes them at its end, however it ends.
examples:
  lockgate firewall plan --set mode=transparent:lan0      the rules as text, to read or to lay by hand
  lockgate firewall plan --set mode=transparent:lan0 --set firewall=iptables --set firewall_method=redirect
  lockgate firewall show
  lockgate firewall clean                                 forwarding and masquerade that a killed gateway left
"""

_OPTIONS = """\
examples:
  lockgate options                                  a table: name, type, default, value, where it came from
  lockgate options --yaml > ~/.lockgate/config.yaml  a file to start from, every option with its help
  lockgate options set tcp_timeout=30               in the gateway that runs; see `lockgate options set --help`
"""


_DOCTOR = """\
examples:
  lockgate doctor                     kernel, programs, other firewalls, the CA
  lockgate doctor lan0 --wan eth0     the interfaces as well
  lockgate doctor --json | jq -r '.findings[] | select(.level == "fault") | .remedy'
Exit code 0: no fault, 1: there are some. What this user may not look at is said; sudo shows all.
"""

_CONVERT = """\
examples:
  lockgate convert flows flows.pcapng               what was said, as packets in the clear: Wireshark, Zeek, Suricata
  lockgate convert flows api.har --filter '~d api'  some of it as HAR; a HAR can be read too
  lockgate convert flows - --to pcapng | tshark -r -
  lockgate convert lan.pcap lan.pcapng --secrets keys.log
                                                    a capture of tcpdump with what decrypts it (tls_keylog_file) inside
"""


_WIREGUARD = """\
examples:
  lockgate wireguard add phone --label "Anna's" --expires 30d
  lockgate wireguard add laptop --route 192.168.7.0/24     only this goes through the tunnel (and DNS)
  lockgate wireguard qr phone -o phone.png
  lockgate run -m wireguard
A running gateway has new and removed peers within a second.
"""

_EXEC = """\
examples:
  lockgate exec -- curl https://example.com/           all TCP and UDP of curl is intercepted, without root
  lockgate exec -q -w flows -- python3 app.py          quiet; keep the flows
  lockgate exec --pcap app.pcapng -- ./app             its packets, which Wireshark can decrypt
  lockgate exec -s addon.py -- bash                    a shell, and whatever is started in it
  lockgate exec --join -- ./app                        by the gateway that runs: `lockgate tail` shows its flows
  lockgate exec --set exec_host_ports=5432 -- ./tests  a database on this machine's loopback stays reachable
The terminal, the exit code, signals, user and folder are the program's own; our lines go to standard error.
"""


class _Set(argparse.Action):
    """Appends `name=value` to `specs`, in the order of the command line."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if self.nargs == 0:
            # -n is short for --no-server, as it is elsewhere
            off = option_string is not None and (option_string.startswith("--no-") or option_string == "-n")
            values = "false" if off else "true"
        _specs(namespace).append(values if self.dest == "set" else f"{self.dest}={values}")


class _Several(argparse.Action):
    """-q and -v: several options at once, put first so that a flag of its own beats them."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        _specs(namespace)[:0] = self.const


def _specs(namespace: argparse.Namespace) -> list[str]:
    # A subcommand parses into a namespace of its own, without what the top level has put into its.
    if not hasattr(namespace, "specs"):
        namespace.specs = []
    specs: list[str] = namespace.specs
    return specs


class _NotYet(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        hint = {"--options": "; `lockgate options` lists them", "--commands": ""}.get(option_string or "", "")
        refuse(parser, f"{option_string}: {NOT_YET_TEXT}{hint}")


class Parser(argparse.ArgumentParser):
    """One-line errors; the nearest flag is named for an unknown one."""

    def error(self, message: str) -> NoReturn:
        refuse(self, f"{message} (see `{self.prog} --help`)")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse or exit with status 2. `specs` of the result: texts for `Options.set`, in order."""
        args, rest = self.parse_known_args(argv)
        _specs(args)
        chosen: argparse.ArgumentParser = getattr(args, "parser", self)
        for word in rest:
            if word.startswith("-") and word != "--":
                flag = word.partition("=")[0]
                known = [text for action in chosen._actions for text in action.option_strings]
                close = difflib.get_close_matches(flag, known, n=1)
                refuse(chosen, f"unknown flag {flag}" + (f"; did you mean {close[0]}?" if close else ""))
        if isinstance(words := getattr(args, "filter", None), list) and args.command not in ("run", "exec"):
            words += rest  # argparse takes no more of a list once flags have come in between
            return args
        if args.command == "run" and (words := [*args.filter, *rest]):
            if words[0].partition("@")[0].partition(":")[0].lower() in _MODES:
                refuse(chosen, f"{words[0]}: a mode is given with -m, as in `lockgate run -m {words[0]}`")
            text = " ".join(words)
            _specs(args)[:0] = [f"{name}={text}" for name in _FILTERED]
        if rest:
            refuse(chosen, f"{rest[0]!r} is one word too many")
        return args


def refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    parser.exit(2, f"lockgate: {message}\n")


_SCRIPT = "a script, a package or a folder of them, as for `run -s`"


def build() -> Parser:
    """The parser of the whole command. Costs no import beyond argparse and the option table."""
    from appliance.cli import remote_parser  # which takes what is above

    parser = Parser(
        prog="lockgate",
        description="An interception gateway: decrypts, passes or blocks every connection, with Python hooks.",
        epilog=_TOP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _version(parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=Parser)
    _run(_command(commands, "run", "start the gateway", _EXAMPLES))
    program = _command(commands, "exec", "run a program and intercept all it sends, without root", _EXEC)
    _run(program, program=True)
    ca = _command(commands, "ca", "show, export or import the CA that clients must trust", _CA)
    todo = ca.add_subparsers(dest="ca_command", metavar="COMMAND", title="commands", parser_class=Parser, required=True)
    _settable(_command(todo, "show", "path, fingerprint, validity, and how to install it on devices"))
    export = _command(todo, "export", "write the CA certificate (never its key)")
    export.add_argument("--format", choices=("pem", "der"), default="pem", help="pem (text, the default) or der")
    export.add_argument("-o", "--output", metavar="FILE", help="where to; default: standard output")
    _settable(export)
    take = _command(todo, "import", "make an existing CA ours: certificate and key, in one PEM file or several")
    take.add_argument("files", nargs="+", metavar="PEM", help="file with the certificate, the key, or both")
    take.add_argument("--passphrase-file", metavar="FILE", help="file whose first line is the key's passphrase")
    _settable(take)
    _wireguard(_command(commands, "wireguard", "peers of the mode wireguard: files and QR codes", _WIREGUARD))
    firewall = _command(commands, "firewall", "show or remove the rules that bring traffic here", _FIREWALL)
    todo = firewall.add_subparsers(
        dest="firewall_command", metavar="COMMAND", title="commands", parser_class=Parser, required=True
    )
    _settable(_command(todo, "plan", "print what would be laid for the modes of the configuration; change nothing"))
    _settable(_command(todo, "show", "what gateways have laid here, and whether they still run"))
    _settable(_command(todo, "clean", "remove what a gateway that no longer runs has left"))
    flows = _command(commands, "flows", "list, show and export what was recorded", flows_parser.EXAMPLES)
    flows_parser.add(
        flows.add_subparsers(
            dest="flows_command", metavar="COMMAND", title="commands", parser_class=Parser, required=True
        ),
        _command,
        _settable,
    )
    addons = _command(commands, "addons", "what add-ons a file has, and what is wrong with them")
    todo = addons.add_subparsers(
        dest="addons_command", metavar="COMMAND", title="commands", parser_class=Parser, required=True
    )
    for name, help in (("list", "hooks, options and commands"), ("check", "faults, with their lines, before traffic")):
        _command(todo, name, help).add_argument("files", nargs="+", metavar="FILE", help=_SCRIPT)
    _convert(_command(commands, "convert", "turn flow files, HAR and captures into each other", _CONVERT))
    options = _command(commands, "options", "list all options; get and set those of a running gateway", _OPTIONS)
    options.add_argument("--yaml", action="store_true", help="print a commented config.yaml")
    _settable(options)
    remote_parser.add_options(options)
    remote_parser.add(commands)
    _doctor(_command(commands, "doctor", "say what here keeps transparent interception from working", _DOCTOR))
    return parser


def _convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN", help="flow file, HAR, pcap or pcapng; -: standard input")
    parser.add_argument("target", metavar="OUT", help="what to write: .har, .zhar, .pcapng, else a flow file")
    parser.add_argument("--to", choices=("flows", "har", "pcapng"), help="what kind, where the name does not tell")
    parser.add_argument("--filter", default="", metavar="FILTER", help="only flows that match")
    parser.add_argument("--secrets", metavar="KEYLOG", help="TLS key log file to put into a capture")


def _wireguard(parser: argparse.ArgumentParser) -> None:
    todo = parser.add_subparsers(
        dest="wireguard_command", metavar="COMMAND", title="commands", parser_class=Parser, required=True
    )
    init = _command(todo, "init", "make the server's file (add does it, too)")
    add = _command(todo, "add", "a new peer: print its file and, on a terminal, its QR code")
    peers = _command(todo, "peers", "list them: addresses, last handshake, bytes, expiry")
    remove = _command(todo, "remove", "cut a peer off")
    show = _command(todo, "show", "print a peer's file again")
    qr = _command(todo, "qr", "show a peer's QR code in the terminal, or write a picture")
    check = _command(todo, "check", "try whether the mode works here, without root or with")
    for each in (add, remove, show, qr):
        each.add_argument("name", metavar="NAME")
    for each in (init, add):
        each.add_argument("--endpoint", metavar="HOST[:PORT]", help="where clients find this machine")
    init.add_argument("--port", type=int, metavar="PORT", help="UDP port; default 51820")
    add.add_argument("--label", metavar="TEXT", help="shown beside the name")
    add.add_argument("--expires", metavar="WHEN", help="30d, 12h, or a date such as 2027-01-31")
    add.add_argument(
        "--route", action="append", metavar="NETWORK", help="send only this through the tunnel; repeatable"
    )
    add.add_argument("--public-key", metavar="KEY", help="the client has made its own key")
    add.add_argument("--no-psk", action="store_true", help="without a preshared key")
    qr.add_argument("-o", "--output", metavar="FILE", help="FILE.png or FILE.svg")
    for each in (init, add, peers, remove, show, qr, check):
        each.add_argument("--conf", metavar="FILE", help="the server's file; default: wireguard.conf in confdir")
        _settable(each)


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("interfaces", nargs="*", metavar="LAN", help="interface whose clients are to be intercepted")
    parser.add_argument("--wan", default="", metavar="IFACE", help="interface towards the servers")
    parser.add_argument("--port", type=int, metavar="PORT", help="port to listen on; default: as `lockgate run` would")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--no-self-test", action="store_true", help="try nothing in namespaces (it takes a second)")
    parser.add_argument("-v", "--verbose", action="store_true", help="also show what is well")
    _settable(parser)


def _command(commands: Any, name: str, help: str, epilog: str | None = None) -> Parser:
    parser: Parser = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(parser=parser)
    return parser


def _version(parser: argparse.ArgumentParser) -> None:
    text = f"lockgate {__version__} (Python {platform.python_version()}, {platform.system()} {platform.release()})"
    parser.add_argument("--version", action="version", version=text, help="Print the version.")


def _settable(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", action=_Set, metavar="NAME=VALUE", help="Set an option, such as confdir=DIR.")


def _run(parser: argparse.ArgumentParser, program: bool = False) -> None:
    _version(parser)
    for entry in BUILTIN.values():
        if entry.flag and entry.name not in (_LISTENING if program else _PROGRAMS):
            _flag(parser, entry)
    parser.add_argument(
        "--set", action=_Set, metavar="NAME=VALUE", help="Set any option (see `lockgate options`). Repeatable."
    )
    quiet, loud = ["termlog_verbosity=error", "flow_detail=0"], ["termlog_verbosity=debug", "flow_detail=2"]
    parser.add_argument("-q", "--quiet", action=_Several, nargs=0, const=quiet, help="Print errors only.")
    parser.add_argument("-v", "--verbose", action=_Several, nargs=0, const=loud, help="Print everything the log has.")
    for flags in NOT_YET_FLAGS:
        parser.add_argument(*flags, action=_NotYet, nargs="?", help=argparse.SUPPRESS)
    if program:
        text = "Have the gateway that runs take its traffic, by its options and add-ons, instead of starting one."
        parser.add_argument("--join", action="store_true", help=text)
        parser.add_argument("program", nargs=argparse.REMAINDER, metavar="COMMAND", help="The program, its arguments.")
    else:
        parser.add_argument("filter", nargs="*", metavar="FILTER", help="Show, keep and read only flows that match.")


def _flag(parser: argparse.ArgumentParser, entry: Option) -> None:
    typespec = Typespec(entry.typespec)
    names = [name for name in (entry.short, entry.flag) if name]
    help = entry.help.replace("%", "%%")
    if typespec.base is bool:
        default = "on" if entry.default else "off"
        names.append(entry.flag.replace("--", "--no-", 1))
        parser.add_argument(*names, action=_Set, nargs=0, dest=entry.name, help=f"{help} Default: {default}.")
        return
    metavar = {
        "mode": "MODE",
        "scripts": "FILE",
        "certs": "[DOMAIN=]PEM",
        "listen_port": "PORT",
        "listen_host": "HOST",
        "rfile": "FILE",
        "client_replay": "FILE",
        "server_replay": "FILE",
        "server_replay_extra": "WHAT",
        "proxyauth": "WHO",
        "upstream_auth": "NAME:PASSWORD",
        "save_stream_file": "[+]FILE",
        "exec_pcap": "FILE",
        "intercept": "FILTER",
        "view_filter": "FILTER",
        "stickyauth": "FILTER",
        "stickycookie": "FILTER",
        "map_remote": "SPEC",
        "map_local": "SPEC",
        "modify_body": "SPEC",
        "modify_headers": "SPEC",
    }.get(entry.name, "REGEX" if typespec.sequence else "LEVEL" if typespec.base is int else "TEXT")
    parser.add_argument(*names, action=_Set, dest=entry.name, metavar=metavar, help=help)
