"""appliance/config.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import config
from appliance.exceptions import OptionsError
from appliance.options import COMMAND_LINE, Options


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCKGATE_CONFDIR", "LOCKGATE_SSLKEYLOGFILE", "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)


def options_in(folder: Path, *specs: str) -> Options:
    options = Options()
    options.set(f"confdir={folder}", *specs, source=COMMAND_LINE)
    return options


def write(folder: Path, text: str, name: str = "config.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_no_file(tmp_path: Path) -> None:
    assert config.start(options_in(tmp_path / "none")) is None


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_empty_file(tmp_path: Path, text: str) -> None:
    write(tmp_path, text)
    options = options_in(tmp_path)
    assert config.start(options) == tmp_path / "config.yaml"
    assert options.tcp_timeout == 600


def test_values_and_where_they_came_from(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "# top\ntcp_timeout: 5\nmode: [regular@1, 'transparent@2']\nbody_size_limit: 10m\nciphers_client: null\n",
    )
    options = options_in(tmp_path)
    config.start(options)
    assert (options.tcp_timeout, options.mode, options.size("body_size_limit")) == (
        5,
        ("regular@1", "transparent@2"),
        10 << 20,
    )
    assert str(options.source("tcp_timeout")) == f"{path}:2"
    assert str(options.source("mode")) == f"{path}:3"


def test_command_line_beats_the_file_which_beats_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", "/from/environment")
    options = options_in(tmp_path, "tcp_timeout=1")
    write(tmp_path, "tcp_timeout: 2\nconnect_timeout: 2\n")
    config.start(options)
    assert (options.tcp_timeout, options.connect_timeout, options.tls_keylog_file) == (1, 2, "/from/environment")
    assert str(options.source("tls_keylog_file")) == "environment SSLKEYLOGFILE"
    write(tmp_path, "tls_keylog_file: /from/file\n")
    config.reload(options)
    assert options.tls_keylog_file == "/from/file"


def test_confdir_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "tcp_timeout: 2\n")
    monkeypatch.setenv("LOCKGATE_CONFDIR", str(tmp_path))
    options = Options()
    config.start(options)
    assert (options.confdir, options.tcp_timeout) == (str(tmp_path), 2)
    told = options_in(tmp_path / "other")
    config.start(told)
    assert told.tcp_timeout == 600


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    write(
        tmp_path,
        "scripts: [a.py, sub/b.py, /abs/c.py, ~/d.py]\ncerts: ['*.x.example=x.pem', "
        "y.pem]\nssl_verify_upstream_trusted_ca: r.pem\nserver_replay: [flows, 'store:~u //a']\n",
    )
    options = options_in(tmp_path)
    config.start(options)
    assert options.scripts == (f"{tmp_path}/a.py", f"{tmp_path}/sub/b.py", "/abs/c.py", "/home/someone/d.py")
    assert options.certs == (f"*.x.example={tmp_path}/x.pem", f"{tmp_path}/y.pem")
    assert options.ssl_verify_upstream_trusted_ca == f"{tmp_path}/r.pem"
    assert options.server_replay == (f"{tmp_path}/flows", "store:~u //a")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("tcp_timeout: soon", 1, "expected a whole number, such as 600, not 'soon'"),
        ("\n\ntcp_timeout: true", 3, "expected a whole number"),
        ("scripts: a.py", 1, r"expected a list of texts, such as \[addon.py\]"),
        ("listen_host: 5", 1, "expected text"),
        ("listen_host:", 1, "but got no value"),
        ("ssl_insecure: yes", 1, "expected true or false"),
        ("a: 1\nconnection_strategy: eagr", 2, "did you mean eager"),
        ("rawtcp: true\nhttp3: false", 2, "http3: not yet in lockgate"),
        ("confdir: /x", 1, "LOCKGATE_CONFDIR"),
        ("tcp_timeout: 1\ntcp_timeout: 2", 2, "set twice"),
        ("tcp_timeout: [", 1, "not YAML"),
        ("rawtcp: true\n  tcp_timeout: 1", 2, "not YAML"),
        ("- a", 1, "name: value"),
        ("just text", 1, "name: value"),
        ("5: 6", 1, "not the name of an option"),
    ],
)
def test_errors_carry_file_and_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = write(tmp_path, text + "\n")
    options = options_in(tmp_path)
    before = dict(options.items())
    with pytest.raises(OptionsError, match=message) as caught:
        config.start(options)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert dict(options.items()) == before


def test_unknown_name_is_kept_for_an_add_on_then_refused_with_line_and_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, "rawtcp: true\ntcp_timout: 5\ncount: 7\n")
    options = options_in(tmp_path)
    config.start(options)
    options.add_option("count", int, 1, "How many.")
    assert options.count == 7
    with pytest.raises(OptionsError) as caught:
        options.apply_deferred()
    assert str(caught.value) == f"{path}:2: unknown option 'tcp_timout'; did you mean tcp_timeout?"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: (folder / "config.yaml").mkdir(), "is not a file"),
        (lambda folder: (folder / "config.yaml").write_bytes(b"\xff\xfe: 1"), "is not UTF-8"),
        (lambda folder: write(folder, "a: 2021-99-99"), "not YAML"),
        (lambda folder: write(folder, "a: " + "[" * 800), "not YAML"),
        (lambda folder: [write(folder, "", name) for name in config.NAMES], "keep one of them"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path)
    with pytest.raises(OptionsError, match=message):
        config.start(options_in(tmp_path))


def test_yml(tmp_path: Path) -> None:
    write(tmp_path, "tcp_timeout: 4", "config.yml")
    options = options_in(tmp_path)
    config.start(options)
    assert options.tcp_timeout == 4


class TestReload:
    def test_changes_apply_and_what_left_the_file_goes_back(self, tmp_path: Path) -> None:
        write(tmp_path, "tcp_timeout: 5\nconnect_timeout: 5\nshowhost: true\n")
        options = options_in(tmp_path, "connect_timeout=3")
        config.start(options)
        options.flow_detail = 3
        heard: list[frozenset[str]] = []
        options.subscribe(lambda _, updated: heard.append(updated))
        write(tmp_path, "tcp_timeout: 6\nconnect_timeout: 6\nflow_detail: 2\n")
        assert config.reload(options) == {"tcp_timeout", "showhost"}
        assert (options.tcp_timeout, options.connect_timeout, options.showhost, options.flow_detail) == (6, 3, False, 3)
        assert heard == [{"tcp_timeout", "showhost"}]

    def test_file_gone(self, tmp_path: Path) -> None:
        path = write(tmp_path, "tcp_timeout: 5\n")
        options = options_in(tmp_path)
        config.start(options)
        path.unlink()
        assert config.reload(options) == {"tcp_timeout"}
        assert options.tcp_timeout == 600

    @pytest.mark.parametrize(
        "text", ["tcp_timeout: x", "tcp_timeout: 9\ntcp_timout: 1", "tcp_timeout: 9\nhttp3: true", "["]
    )
    def test_refused_whole(self, tmp_path: Path, text: str) -> None:
        write(tmp_path, "tcp_timeout: 5\n")
        options = options_in(tmp_path)
        config.start(options)
        write(tmp_path, text)
        with pytest.raises(OptionsError, match=r"config\.yaml:\d"):
            config.reload(options)
        assert options.tcp_timeout == 5

    def test_new_names_may_come_with_a_new_script(self, tmp_path: Path) -> None:
        write(tmp_path, "scripts: [a.py]\n")
        options = options_in(tmp_path)
        config.start(options)
        write(tmp_path, "scripts: [b.py]\ncount: 2\n")
        assert config.reload(options) == {"scripts"}
        options.add_option("count", int, 1, "How many.")
        assert options.count == 2


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.sampled_from("abm :\n-[]{}'\"#&*!|>%@0\t,?ü"), max_size=40) | st.text(max_size=20))
def test_any_text_is_options_or_one_clean_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "config.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    options = options_in(folder)
    try:
        config.start(options)
        options.apply_deferred()
    except OptionsError as error:
        assert "config.yaml" in str(error)
