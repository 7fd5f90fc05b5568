"""appliance/cli/options.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from appliance import config
from appliance.cli.main import main
from appliance.cli.options import literal, table_text, yaml_text
from appliance.options import COMMAND_LINE, Options
from appliance.optiontable import BUILTIN


def test_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("connect_timeout: 3\ncert_passphrase: hush\n")
    assert main(["options", "--set", f"confdir={tmp_path}", "--set", "tcp_timeout=5"]) == 0
    out = capsys.readouterr().out
    assert "tcp_timeout  (int, default 600)\n    = 5   from command line\n" in out
    assert f"    = 3   from {tmp_path}/config.yaml:1\n" in out
    assert "connection_strategy  (eager | lazy, default eager)\n" in out
    assert "hush" not in out
    assert all(f"{name}  (" in out for name in BUILTIN)


def test_table_wraps() -> None:
    assert max(len(line) for line in table_text(Options(), 60).splitlines() if line.startswith("    ")) <= 60


def test_yaml_of_defaults_says_everything_and_sets_nothing(tmp_path: Path) -> None:
    text = yaml_text(Options())
    assert YAML().load(text) is None
    (tmp_path / "config.yaml").write_text(
        "\n".join(line.removeprefix("#") if line[:2] > "# " else line for line in text.splitlines())
    )
    options = Options(confdir=str(tmp_path))
    config.start(options)
    assert all(options.is_default(name) for name in options if name != "confdir")
    assert {name for name in options if options.source(name).rank == 2} == BUILTIN.keys() - {"confdir"}


def test_yaml_reads_back(tmp_path: Path) -> None:
    options = Options()
    options.set("mode=transparent@1", r"ignore_hosts=a\.b:443$", "ignore_hosts=: #", "listen_host=::1", "rawtcp=false",
                "body_size_limit=3m", "listen_port=5", "cert_passphrase=hush", source=COMMAND_LINE)  # fmt: skip
    text = yaml_text(options)
    assert "hush" not in text
    (tmp_path / "config.yaml").write_text(text)
    read = Options(confdir=str(tmp_path))
    config.start(read)
    for name in ("mode", "ignore_hosts", "listen_host", "rawtcp", "body_size_limit", "listen_port"):
        assert getattr(read, name) == getattr(options, name)


@given(st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.lists(st.text(max_size=5), max_size=3)))
def test_literals_are_yaml(value: object) -> None:
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return
    assert YAML(typ="safe").load(f"a: {literal(value)}") == {"a": value}
