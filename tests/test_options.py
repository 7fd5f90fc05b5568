"""appliance/options.py, optiontable.py and typespec.py."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.exceptions import OptionsError
from appliance.notyet import NOT_YET, NOT_YET_FLAGS
from appliance.options import COMMAND_LINE, DEFAULT, RUN_TIME, Options
from appliance.optiontable import BUILTIN, parse_size
from appliance.typespec import Typespec


def refused(match: str) -> Any:
    return pytest.raises(OptionsError, match=match)


class TestTable:
    def test_every_entry_is_complete(self) -> None:
        options = Options()
        for name, entry in BUILTIN.items():
            assert entry.name == name
            assert entry.help.endswith(".")
            assert getattr(options, name) == entry.default
            if entry.example:
                options.set(f"{name}={entry.example}")
                assert not options.is_default(name) or entry.example == str(entry.default)

    def test_flags_are_unique(self) -> None:
        flags = [flag for entry in BUILTIN.values() for flag in (entry.flag, entry.short) if flag]
        flags += [flag for row in NOT_YET_FLAGS for flag in row]
        assert len(flags) == len(set(flags))

    def test_nothing_is_both_there_and_not_yet(self) -> None:
        assert not NOT_YET & BUILTIN.keys()

    def test_no_option_hides_a_method(self) -> None:
        assert not [name for name in BUILTIN if callable(getattr(Options, name, None))]


class TestSize:
    @pytest.mark.parametrize(
        ("text", "size"),
        [
            ("0", 0),
            ("1", 1),
            ("12b", 12),
            ("64k", 65536),
            ("1M", 1 << 20),
            ("2g", 2 << 30),
            ("1t", 1 << 40),
            (" 5k ", 5120),
        ],
    )
    def test_good(self, text: str, size: int) -> None:
        assert parse_size(text) == size

    @pytest.mark.parametrize("text", ["", "k", "-1", "+1", "1.5m", "1kb", "1 k", "0x10", "٣", "1_000", "9" * 16])
    def test_bad(self, text: str) -> None:
        with pytest.raises(ValueError, match="is not a size"):
            parse_size(text)

    @given(st.integers(0, 10**14), st.sampled_from("bkmgt"))
    def test_powers_of_1024(self, number: int, suffix: str) -> None:
        assert parse_size(f"{number}{suffix}") == number * 1024 ** "bkmgt".index(suffix)

    @given(st.text(max_size=20))
    def test_anything_else_is_a_value_error(self, text: str) -> None:
        with contextlib.suppress(ValueError):
            assert parse_size(text) >= 0

    def test_option(self) -> None:
        options = Options(body_size_limit="3k")
        assert options.size("body_size_limit") == 3072
        assert options.size("stream_large_bodies") == 1 << 20
        assert options.size("max_header_size") == 65536
        options.body_size_limit = None
        assert options.size("body_size_limit") is None
        with refused("tcp_timeout is not a size"):
            options.size("tcp_timeout")

    def test_plain_number_as_in_yaml(self) -> None:
        options = Options()
        options.update(body_size_limit=1000)
        assert (options.body_size_limit, options.size("body_size_limit")) == ("1000", 1000)


class TestTypespec:
    @pytest.mark.parametrize(
        "typespec",
        [bool, int, float, str, bool | None, int | None, str | None, Sequence[str], list[str], tuple[str, ...]],
    )
    def test_allowed(self, typespec: Any) -> None:
        assert Typespec(typespec).expected()

    @pytest.mark.parametrize("typespec", [bytes, dict, int | str, int | str | None, Sequence[int], list, None, "str"])
    def test_not_allowed(self, typespec: Any) -> None:
        with pytest.raises(TypeError):
            Typespec(typespec)

    @pytest.mark.parametrize(
        ("typespec", "value"),
        [(int, True), (int, 1.0), (int, "1"), (bool, 1), (str, 1), (str, None), (float, "1"), (float, True),
         (Sequence[str], "abc"), (Sequence[str], [1]), (Sequence[str], None), (int | None, False)],
    )  # fmt: skip
    def test_other_types_are_refused(self, typespec: Any, value: Any) -> None:
        with pytest.raises(TypeError):
            Typespec(typespec).accept(value)

    def test_kept_as(self) -> None:
        assert Typespec(Sequence[str]).accept(["a", "b"]) == ("a", "b")
        accepted = Typespec(float).accept(3)
        assert accepted == 3.0 and type(accepted) is float

        class Fancy(str):
            pass

        assert type(Typespec(str).accept(Fancy("x"))) is str

    @given(
        st.sampled_from([bool, int, float, str, int | None, str | None, bool | None, Sequence[str]]),
        st.lists(st.none() | st.text(max_size=8), min_size=1, max_size=3),
    )
    def test_what_is_read_is_accepted(self, typespec: Any, raw: list[str | None]) -> None:
        spec = Typespec(typespec)
        try:
            value = spec.read(raw, False)
        except TypeError:
            return
        assert spec.accept(value) == value or value != value


class TestSet:
    @pytest.mark.parametrize(
        ("spec", "name", "value"),
        [
            ("tcp_timeout=5", "tcp_timeout", 5),
            ("rawtcp=false", "rawtcp", False),
            ("ssl_insecure", "ssl_insecure", True),
            ("ssl_insecure=TRUE", "ssl_insecure", True),
            ("ssl_insecure=toggle", "ssl_insecure", True),
            ("rawtcp=toggle", "rawtcp", False),
            ("stream_large_bodies", "stream_large_bodies", None),
            ("stream_large_bodies=", "stream_large_bodies", None),
            ("listen_host=", "listen_host", ""),
            ("listen_port=0", "listen_port", 0),
            ("ciphers_client=A=B", "ciphers_client", "A=B"),
            ("ignore_hosts=.*", "ignore_hosts", (".*",)),
            ("ignore_hosts", "ignore_hosts", ()),
        ],
    )
    def test_grammar(self, spec: str, name: str, value: Any) -> None:
        options = Options()
        options.set(spec)
        assert getattr(options, name) == value

    def test_repetition_makes_a_list_and_the_last_scalar_wins(self) -> None:
        options = Options(scripts=["old.py"])
        options.set("scripts=a.py", "tcp_timeout=1", "scripts=b.py", "tcp_timeout=2")
        assert options.scripts == ("a.py", "b.py")
        assert options.tcp_timeout == 2

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("tcp_timeout=soon", "^tcp_timeout: expected a whole number, such as 600, not 'soon'$"),
            ("tcp_timeout", "expected a whole number, such as 600, but got no value"),
            ("tcp_timeout=", "expected a whole number"),
            ("tcp_timeout=0", "write 1 or more"),
            ("rawtcp=maybe", "expected true or false, such as true, not 'maybe'"),
            ("key_size=1024", "1024 bits: write 2048 .* to 8192"),
            ("listen_port=70000", "70000 is not a port"),
            ("body_size_limit=big", "'big' is not a size"),
            ("connection_strategy=eagre", "is not one of eager, lazy; did you mean eager"),
            ("ignore_hosts=(", r"'\(' is not a regular expression"),
            ("mode", "name at least one"),
            ("flow_detail=5", "0 .* to 4"),
            ("http3=false", r"^http3: not yet in lockgate \d"),
        ],
    )
    def test_refused(self, spec: str, message: str) -> None:
        options = Options()
        with refused(message):
            options.set("showhost=true", spec)
        assert options.showhost is False

    def test_unknown_waits_for_an_add_on_then_is_refused_with_the_nearest(self) -> None:
        options = Options()
        options.set("tcp_timout=5", source=COMMAND_LINE)
        with refused("unknown option 'tcp_timout'; did you mean tcp_timeout"):
            options.apply_deferred()

    def test_update_and_reading_unknown(self) -> None:
        options = Options()
        with refused("did you mean tcp_timeout"):
            options.update(tcp_timout=5)
        with refused("unknown option 'qqqqq'; `lockgate options` lists all"):
            options.qqqqq = 1
        with pytest.raises(AttributeError, match="did you mean tcp_timeout"):
            _ = options.tcp_timout
        with pytest.raises(AttributeError, match="not yet in lockgate"):
            _ = options.http3

    def test_scripts_catch_what_mitmproxy_raises(self) -> None:
        options = Options()
        for wrong in (
            lambda: setattr(options, "nosuch", 1),
            lambda: options.update(nosuch=1),
            lambda: options.default("nosuch"),
            lambda: options.has_changed("nosuch"),
        ):
            with pytest.raises(KeyError) as caught:
                wrong()
            assert isinstance(caught.value, OptionsError)
            assert str(caught.value) == "unknown option 'nosuch'; `lockgate options` lists all"
        with pytest.raises(TypeError, match="listen_port: expected"):
            options.listen_port = "x"  # type: ignore[assignment]
        assert getattr(options, "nosuch", 5) == 5
        assert not hasattr(options, "nosuch")


class TestSubscribers:
    def test_told_what_changed_and_only_that(self) -> None:
        options = Options()
        heard: list[frozenset[str]] = []
        end = options.subscribe(lambda _, updated: heard.append(updated))
        options.update(tcp_timeout=1, rawtcp=True, showhost=True)
        options.tcp_timeout = 1
        assert heard == [{"tcp_timeout", "showhost"}]
        end()
        end()
        options.tcp_timeout = 2
        assert len(heard) == 1

    def test_only_names_asked_for(self) -> None:
        options = Options()
        heard: list[frozenset[str]] = []
        options.subscribe(lambda _, updated: heard.append(updated), ["mode"])
        options.tcp_timeout = 1
        options.mode = ["transparent"]
        assert heard == [{"mode"}]

    @pytest.mark.parametrize("error", [OptionsError, ZeroDivisionError])
    def test_one_refusal_puts_everything_back(self, error: type[Exception]) -> None:
        options = Options()
        seen: list[int] = []

        def refuse(options: Options, updated: frozenset[str]) -> None:
            if options.tcp_timeout == 7:
                raise error("no sevens")

        options.subscribe(lambda options, _: seen.append(options.tcp_timeout))
        options.subscribe(refuse)
        with pytest.raises(error, match="no sevens"):
            options.update(tcp_timeout=7, body_size_limit="9k")
        assert (options.tcp_timeout, options.body_size_limit, options.size("body_size_limit")) == (600, None, None)
        assert options.source("tcp_timeout") is DEFAULT
        assert seen == [7, 600]


class TestAddOnOptions:
    def test_registered_and_read(self) -> None:
        options = Options()
        options.add_option("greeting", str, "hello", "What to say.", ["hello", "goodbye"])
        assert options.greeting == "hello" and "greeting" in options and options.keys()[-1] == "greeting"
        assert options.help("greeting") == "What to say." and options.typespec("greeting") is str
        with refused("is not one of hello, goodbye"):
            options.greeting = "hallo"

    def test_deferred_value_is_its_first(self) -> None:
        options = Options()
        options.set("words=a", "words=b", source=COMMAND_LINE)
        options.add_option("words", Sequence[str], [], "Words.")
        options.apply_deferred()
        assert options.words == ("a", "b") and options.words == ["a", "b"] and options.words != ["a"]
        assert options.words + ["c"] == ["a", "b", "c"] and ["c"] + options.words == ["c", "a", "b"]  # noqa: RUF005
        assert type(options.words.copy()) is list and options.words + ("c",) == ("a", "b", "c")  # noqa: RUF005
        assert hash(options.words) == hash(("a", "b"))
        assert options.source("words") is COMMAND_LINE

    def test_deferred_value_of_the_wrong_type(self) -> None:
        options = Options()
        options.set("count=many")
        with refused("count: expected a whole number, such as 3, not 'many'"):
            options.add_option("count", int, 3, "How many.")
        assert "count" not in options

    def test_command_line_beats_the_file_when_deferred(self) -> None:
        options = Options()
        options.set("count=1", source=COMMAND_LINE)
        options.defer("count", value=2, source=DEFAULT)
        options.add_option("count", int, 3, "How many.")
        assert options.count == 1

    def test_registered_again_by_a_reloaded_script(self) -> None:
        options = Options()
        options.add_option("count", int, 3, "How many.")
        options.count = 8
        options.add_option("count", int, 4, "How many, really.")
        assert (options.count, options.default("count"), options.source("count")) == (8, 4, RUN_TIME)
        options.add_option("count", str, "few", "How many, in words.")
        assert options.count == "few"

    @pytest.mark.parametrize("name", ["tcp_timeout", "update", "a-b", "", "_x", "keys"])
    def test_names_that_cannot_be(self, name: str) -> None:
        with refused("cannot have this name"):
            Options().add_option(name, int, 1, "x")

    def test_bad_default_and_type(self) -> None:
        options = Options()
        with refused("expected a whole number"):
            options.add_option("x", int, "1", "x")
        with refused("options are bool, int"):
            options.add_option("x", bytes, b"", "x")
        assert "x" not in options

    def test_name_of_mitmproxy_may_be_an_add_ons(self) -> None:
        options = Options()
        options.add_option("web_port", int, 8081, "Port.")
        options.set("web_port=1")
        assert options.web_port == 1


def test_bind_host() -> None:
    options = Options()
    assert options.bind_host == "127.0.0.1"
    options.listen_host = "10.0.0.1"
    assert options.bind_host == "10.0.0.1"
    options.reset("listen_host")
    options.set("mode=regular")
    assert options.bind_host == ""


def test_reset() -> None:
    options = Options(tcp_timeout=1)
    options.reset("tcp_timeout")
    assert (options.tcp_timeout, options.source("tcp_timeout")) == (600, DEFAULT)


def test_what_is_known_and_what_may_come() -> None:
    options = Options()
    assert not options.has_changed("tcp_timeout")
    assert options.update_known(tcp_timeout=5, mine=6) == {"mine": 6}
    assert options.has_changed("tcp_timeout") and options.tcp_timeout == 5
    options.update_defer(tcp_timeout=7, mine=8)
    options.add_option("mine", int, 1, "")
    assert (options.tcp_timeout, options.mine) == (7, 8)
