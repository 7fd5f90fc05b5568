"""appliance/cli/parser.py and main.py: what a command line means, and how a wrong one is refused."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from appliance import __version__
from appliance.cli.main import main
from appliance.cli.parser import _PROGRAMS, build
from appliance.notyet import NOT_YET_FLAGS
from appliance.options import Options
from appliance.optiontable import BUILTIN
from appliance.typespec import Typespec


def parse(*argv: str) -> argparse.Namespace:
    return build().parse(argv)


def options_of(*argv: str) -> Options:
    options = Options()
    options.set(*parse("run", *argv).specs)
    return options


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as caught:
        parse(*argv)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err.strip()


def test_all_flags_of_mitmdump_that_exist() -> None:
    options = options_of(
        *[
            "-m",
            "regular@8080",
            "--mode",
            "transparent@8081",
            "-p",
            "9",
            "--listen-host",
            "::1",
            "-s",
            "a.py",
            "--scripts",
            "b.py",
        ],
        *[
            "--ignore-hosts",
            ".*",
            "--ignore-hosts",
            "x",
            "--allow-hosts",
            "y",
            "-k",
            "--certs",
            "a=b.pem",
            "--cert-passphrase",
            "s",
        ],
        *["--flow-detail", "3", "--no-rawtcp", "--show-ignored-hosts", "--showhost", "--set", "tcp_timeout=7"],
    )
    assert options.mode == ("regular@8080", "transparent@8081")
    assert (options.listen_port, options.listen_host) == (9, "::1")
    assert options.scripts == ("a.py", "b.py")
    assert (options.ignore_hosts, options.allow_hosts) == ((".*", "x"), ("y",))
    assert (options.ssl_insecure, options.rawtcp, options.showhost, options.show_ignored_hosts) == (
        True,
        False,
        True,
        True,
    )
    assert (options.certs, options.cert_passphrase) == (("a=b.pem",), "s")
    assert (options.flow_detail, options.tcp_timeout) == (3, 7)


def test_every_flag_sets_its_own_option_and_bools_have_a_no() -> None:
    for name, entry in BUILTIN.items():
        if not entry.flag or name in _PROGRAMS:
            continue
        if Typespec(entry.typespec).base is bool:
            assert getattr(options_of(entry.flag), name) is True
            assert getattr(options_of(entry.flag.replace("--", "--no-")), name) is False
        else:
            example = entry.example or "x"
            assert not options_of(f"{entry.flag}={example}").is_default(name)


def test_flags_of_a_program_are_none_of_the_gateways() -> None:
    for name in _PROGRAMS:
        flag = BUILTIN[name].flag
        assert any(spec.startswith(f"{name}=") for spec in build().parse(["exec", flag, "x", "--", "true"]).specs)
        with pytest.raises(SystemExit):
            options_of(flag)


def test_set_and_flags_are_one_sequence() -> None:
    assert options_of("-p", "1", "--set", "listen_port=2").listen_port == 2
    assert options_of("--set", "listen_port=2", "-p", "1").listen_port == 1
    assert options_of("-s", "a.py", "--set", "scripts=b.py").scripts == ("a.py", "b.py")


def test_quiet_and_verbose_give_way_to_a_flag_of_its_own() -> None:
    quiet, loud, both = options_of("-q"), options_of("-v"), options_of("--flow-detail", "3", "-q")
    assert (quiet.termlog_verbosity, quiet.flow_detail) == ("error", 0)
    assert (loud.termlog_verbosity, loud.flow_detail) == ("debug", 2)
    assert (both.termlog_verbosity, both.flow_detail) == ("error", 3)


def test_a_filter_at_the_end_is_for_what_is_kept_read_and_shown() -> None:
    options = options_of("-q", "~c 500 |", "~e")
    assert options.save_stream_filter == options.readfile_filter == options.dumper_filter == "~c 500 | ~e"
    assert options_of("~e", "--set", "dumper_filter=~c 1").dumper_filter == "~c 1"


def test_n_means_no_server() -> None:
    assert options_of("-n").server is options_of("--no-server").server is False
    assert options_of("-n", "--server").server is True


@pytest.mark.parametrize(
    "line",
    [
        "run -q --mode regular@{port} --set confdir={dir} --set ssl_verify_upstream_trusted_ca={origin_ca}",
        "run -q --mode transparent@{port} --set confdir={dir} --set ssl_verify_upstream_trusted_ca={origin_ca} "
        "--ignore-hosts .*",
    ],
)
def test_command_lines_of_the_benchmark(line: str) -> None:
    words = line.format(port=8080, dir="/tmp/x", origin_ca="/tmp/ca.pem").split()
    options = options_of(*words[1:])
    assert options.mode[0].endswith("@8080")
    assert (options.confdir, options.ssl_verify_upstream_trusted_ca) == ("/tmp/x", "/tmp/ca.pem")
    assert options.bind_host == ""


@pytest.mark.parametrize("flag", [flag for row in NOT_YET_FLAGS for flag in row])
def test_not_yet_flags(capsys: pytest.CaptureFixture[str], flag: str) -> None:
    text = f"lockgate: {flag}: not yet in lockgate {__version__}"
    assert refusal(capsys, "run", flag).startswith(text)
    assert refusal(capsys, "run", "-p", "1", flag, "value").startswith(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run --ignore-host x", "unknown flag --ignore-host; did you mean --ignore-hosts?"),
        ("run --listen", "unknown flag --listen"),
        ("run --flow-detal=1", "did you mean --flow-detail?"),
        ("run transparent@80", "a mode is given with -m"),
        ("run -p", "expected one argument"),
        ("runn", "invalid choice: 'runn'"),
        ("ca", "required"),
        ("ca show x", "one word too many"),
        ("ca export --format pfx", "invalid choice"),
        ("ca import", "required"),
    ],
)
def test_wrong_command_lines(capsys: pytest.CaptureFixture[str], words: str, message: str) -> None:
    assert message in refusal(capsys, *words.split())


@pytest.mark.parametrize(
    "argv", [["run", "--set", "http3=false"], ["run", "--set", "tcp_timout=1"], ["run", "-p", "x"]]
)
def test_wrong_options_end_with_status_2(capsys: pytest.CaptureFixture[str], tmp_path: Path, argv: list[str]) -> None:
    assert main([*argv, "--set", f"confdir={tmp_path}"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("lockgate: ") and err.count("\n") == 1


def test_no_command_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "lockgate run" in capsys.readouterr().out


@pytest.mark.parametrize("words", ["", "run", "ca", "ca show", "ca export", "ca import", "options"])
def test_help(capsys: pytest.CaptureFixture[str], words: str) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(*words.split(), "--help")
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "usage: lockgate" in out and "web-port" not in out  # nor any other that is not there yet


def test_version_needs_nothing_heavy() -> None:
    code = (
        "import sys; from appliance.cli.main import main\n"
        "try: main(['--version'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('asyncio', 'cryptography', 'OpenSSL', 'ruamel.yaml', 'rich', 'uvloop') if "
        "name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    version, modules = done.stdout.splitlines()
    assert version.startswith(f"lockgate {__version__} (Python 3")
    assert modules == "[]"


def test_module_form_and_a_closed_pipe(tmp_path: Path) -> None:
    environment = {**os.environ, "LOCKGATE_CONFDIR": str(tmp_path)}
    command = f"{sys.executable} -m appliance.cli options | head -n 1"
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.startswith("confdir")
    assert done.stderr == ""
