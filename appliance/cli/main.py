"""Entry of the command `lockgate`. Heavy imports are left to the subcommands, so that `--version` and `--help` answer
at once.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Sequence

from appliance.exceptions import LockgateError, OptionsError

REMOTE = frozenset({"status", "tail", "log", "modes", "intercepted", "command", "reload", "stop"})
"""Subcommands that speak to a running gateway."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a disk says that is full."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code: 0 done, 1 failed, 2 asked for in the wrong way, 130 stopped by force."""
    from appliance.cli.parser import build

    _occupy_standard_descriptors()
    _spell_out_what_cannot_be_encoded()
    parser = build()
    command = ""
    try:
        try:
            args = parser.parse(sys.argv[1:] if argv is None else argv)
        except SystemExit:  # --help and --version
            sys.stdout.flush()
            raise
        command = args.command
        code = _run(args, parser)
        try:
            sys.stdout.flush()  # not at exit, where nobody could tell what has become of it
        except OSError:
            if command not in ("run", "exec"):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # there was more to do than to write
        return code
    except OptionsError as error:
        return _fail(error, 2)
    except LockgateError as error:
        return _fail(error, 1)
    except BrokenPipeError:
        # `lockgate options | head`: nothing is wrong, and the interpreter must not complain about stdout either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if error.errno not in FULL or command in ("run", "exec"):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _fail(LockgateError(f"{error.filename or 'what was asked for'}: cannot be written: {error.strerror}"), 1)


def _run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if args.command == "run":
        from appliance.cli.run import run

        return run(args.specs)
    if args.command == "exec":
        from appliance.cli.exec import run as run_program

        return run_program(args.specs, args.program, args.join)
    if args.command == "ca":
        from appliance.cli.ca import main as ca

        return ca(args)
    if args.command == "wireguard":
        from appliance.cli.wireguard import main as wireguard

        return wireguard(args)
    if args.command == "firewall":
        from appliance.cli.firewall import main as firewall

        return firewall(args)
    if args.command == "addons":
        from appliance.cli.addons import main as addons

        return addons(args.addons_command, args.files)
    if args.command == "convert":
        from appliance.cli.convert import main as convert

        return convert(args.source, args.target, args.to, args.filter, args.secrets)
    if args.command in REMOTE or getattr(args, "todo", None):
        from appliance.cli.remote import main as remote

        return remote(args)
    if args.command == "flows":
        from appliance.cli.flows import main as flows

        return flows(args)
    if args.command == "options":
        from appliance.cli.options import show

        return show(args.specs, as_yaml=args.yaml)
    if args.command == "doctor":
        from appliance.cli.doctor import main as doctor

        return doctor(args)
    parser.print_help()
    return 2


def _occupy_standard_descriptors() -> None:
    """Whoever starts us may have closed 0, 1 or 2 (`<&-`). A socket or the store's file must not get such a number: all
    that is meant for the terminal would go there, and libuv aborts when it closes one.
    """
    for number, name, mode in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_WRONLY), (2, "stderr", os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, mode)  # the lowest number that is free: this one
            os.set_inheritable(opened, True)
            if getattr(sys, name) is None:
                setattr(sys, name, os.fdopen(number, "r" if mode == os.O_RDONLY else "w", closefd=False))


def _spell_out_what_cannot_be_encoded() -> None:
    """A terminal of another encoding than UTF-8, or a path that is none, must not end in a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(error: LockgateError, code: int) -> int:
    from appliance.log import escape

    print("lockgate: " + "\n".join(map(escape, str(error).split("\n"))), file=sys.stderr)  # a URL may be in it
    return code
