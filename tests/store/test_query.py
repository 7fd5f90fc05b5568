"""A filter gives the same flows whether the index is asked or every flow is looked at."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance import flowfilter
from appliance.dns import DNSFlow, DNSMessage, Question
from appliance.flow import Error, Flow
from appliance.flowfilter.tree import Node
from appliance.http import HTTPFlow
from appliance.store.query import Translator
from appliance.store.store import Store, StoreError
from appliance.verdict import Verdict
from tests import flowkit
from tests.store.storekit import fill


def _flows() -> list[Flow]:
    random.seed(7)
    made: list[Flow] = flowkit.several()
    hosts = ["a.example", "b.example", "api.a.example:8443", "xn--mnchen-3ya.test", "[2001:db8::7]:81", "ex_ample"]
    for number in range(120):
        host = random.choice(hosts)
        path = random.choice(
            [
                "/",
                "/com.api",
                f"/v1/items?id={number}",
                "/a_b",
                "/" + "long" * 200,
                "/\udcff",
                "/%41",
                "/\u212aelvin/ta\u017fk",
            ]
        )
        flow = flowkit.http(
            f"https://{host}{path}", random.choice(["GET", "POST"]), b"body %d" % number,
            random.choice([200, 404, 500, None]), b"answer %d" % (number % 10),
            content_type=random.choice(["text/css", "application/json; charset=utf-8", "x" * 400, "text/gr\u00fcn"]),
        )  # fmt: skip
        flow.request.headers["host"] = host
        if number % 9 == 0:
            odd = ["/\u212aelvin/ta\u017fk".encode(), b"/\xffitems", b"v1/x", b"/a\nb", b"/items?id=\xc3\xbc"]
            flow.request.raw_path = odd[number // 9 % 5]
        if number % 7 == 0:
            flow.request.headers["content-type"] = "text/plain"
        if number % 11 == 0:
            flow.error = Error("lost")
        if number % 13 == 0:
            flow.marked, flow.comment, flow.metadata = ":red:", "see here", {"k": "v"}
        if number % 17 == 0:
            flow.is_replay = random.choice(["request", "response"])
        flow.client_conn = flow.client_conn.copy()
        flow.client_conn.peername = (random.choice(["10.0.0.1", "10.0.0.12", "2001:db8::1"]), 1000 + number)
        flow.client_conn.verdict = random.choice(
            [Verdict("decrypt", "TLS"), Verdict("pass", "a rule", "ignore_hosts x"), None]
        )
        made.append(flow)
    for name in ("a.example", "other.test"):
        query = flowkit.ends(DNSFlow)
        query.request = DNSMessage(1, True, questions=[Question(name, 28, 1)])
        if name == "a.example":
            query.response = query.request.fail(3)
        made.append(query)
    return made


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, list[Flow]]]:
    folder, flows = tmp_path_factory.mktemp("store") / "s", _flows()
    fill(folder, flows)
    with Store(folder) as store:
        yield store, flows


TESTS = r"""
~all
~http
~tcp
~udp
~dns
~websocket
~e
~q
~s
~replay
~replayq
~replays
~marked
~a
~c 200
~c 404
~comment here
~comment .
~comment ''
~marker red
~meta k
~src 10.0.0.1
~src 10.0.0.1:
~src :1001$
~dst srv
~dst 443$
~verdict pass
~verdict .
~reason rule
~reason ^$
~d a.example
~d '^a'
~d pretty
~u v1
~u ^https
~u com.api
~u example.com
~u a_b
~u 'e/c'
~u '\.example'
~u longlong$
~u '[0-9]{3}'
~u 'ü'
~u kelvin
~u 'task$'
~u 'ta.k'
~u 'id=\d+7$'
~u 'items.id=1'
~u 'items.id=[12]$'
~u 'a.example(:8443)?/v1'
~u 'example/com'
~u 'mple:8443/v1'
~u '^https?://[^/]+/com'
~u '(?:v1|com)[./]'
~u '(ab)?c'
~u '(?-i:API)'
~u '%41'
~u '(?=.*items)v1'
~u '(?<!x)items'
~src '10.0.0.1:10'
~src '0.12:1'
~src '\d:1003'
~src 2001
~src 10.0.0.1
~src '0.0.1.10'
~src '0.0.1.1000'
~src '0.0.1.10000'
~src '0.0.1.100000'
~src ':1:10'
~src '1:1\d\d4'
~src '^1004$'
a.example
~m post
~m ^P
~t css
~t json
~tq plain
~ts ^text
~t 'gr.n'
~t x$
~h quux
~hs css
~b 'answer 3'
~bq body
~bs foo
~device x
""".strip().splitlines()


@pytest.mark.parametrize("text", [*TESTS, *[f"!{text}" for text in TESTS]])
def test_one_operator(filled: tuple[Store, list[Flow]], text: str) -> None:
    _compare(filled, text)


def _compare(filled: tuple[Store, list[Flow]], text: str) -> None:
    store, flows = filled
    flt = flowfilter.parse(text)
    wanted = [flow.id for flow in flows if flt(flow)]
    assert [row.id for row in store.rows(flt, newest=False)] == wanted
    assert [flow.id for flow in store.flows(flt, newest=True)] == wanted[::-1]


trees = st.recursive(
    st.sampled_from(TESTS),
    lambda inner: (
        st.builds("!({})".format, inner)
        | st.builds("({}) & ({})".format, inner, inner)
        | st.builds("({}) | ({})".format, inner, inner)
    ),
    max_leaves=5,
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trees)
def test_any_filter(filled: tuple[Store, list[Flow]], text: str) -> None:
    _compare(filled, text)


@pytest.mark.parametrize(
    "text", ["~c 200", "~d a.example", "~m post", "~u api", "~t css & !~e", "~verdict pass", "~src 10.0.0.1", "~a | ~q"]
)
def test_what_the_index_can_answer_it_answers(filled: tuple[Store, list[Flow]], text: str) -> None:
    """Up to the few texts that are too long for it."""
    store, _ = filled
    tree: Node = flowfilter.parse(text).tree
    made = Translator(store._db).condition(tree)
    loaded = store._ask(f"SELECT count(*) FROM flow WHERE {made.may.text} AND NOT {made.must.text}",
                        (*made.may.params, *made.must.params))[0][0]  # fmt: skip
    assert loaded <= 60


def test_an_expression_is_asked_where_its_text_is(
    filled: tuple[Store, list[Flow]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function is called for few rows; for all where every text could match."""
    _, flows = filled
    calls = 0
    register = Translator._function

    def counted(self: Translator, columns: int, function: Callable[..., Any]) -> str:
        def count(*values: Any) -> Any:
            nonlocal calls
            calls += 1
            return function(*values)

        return register(self, columns, count)

    monkeypatch.setattr(Translator, "_function", counted)
    strange = re.compile(rb"[^!-~]|.{500}")
    odd = sum(strange.search(flow.request.raw_path) is not None for flow in flows if isinstance(flow, HTTPFlow))
    assert 0 < odd < 40
    for text, most in ((r"~u nonesuch\d", odd), (r"~u 'items.id=1\d\d$'", odd + 25), ("~u v1", odd), (r"~src 10\.9", 0),
                       ("~src 10.9.0.7", 0)):  # fmt: skip
        calls = 0
        _compare(filled, text)
        assert calls <= 3 * most, text  # three questions, one of them for rows
    calls = 0
    _compare(filled, "~u '[0-9]{3}'")
    assert calls > len(flows)


def test_a_search_tells_how_far_it_is(filled: tuple[Store, list[Flow]], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found is there before the rest has been looked at."""
    monkeypatch.setattr("appliance.store.store.CHUNK", 10)
    store, flows = filled
    told: list[tuple[int, int]] = []
    assert not list(store.rows("~u nonesuch", progress=lambda done, of: told.append((done, of))))
    assert len(told) >= len(flows) // 10 and told == sorted(told) and told[-1] == (len(flows), len(flows))
    told.clear()
    found = store.rows("~http", progress=lambda done, of: told.append((done, of)))
    next(found)
    assert len(told) <= 2


def test_pages(filled: tuple[Store, list[Flow]]) -> None:
    store, flows = filled
    seen: list[str] = []
    before = None
    while page := list(store.rows("~http", before=before, limit=7)):
        seen += [row.id for row in page]
        before = page[-1].n
    assert seen == [flow.id for flow in reversed(flows) if flow.type == "http"]
    last = store.last()
    assert [row.n for row in store.rows(after=last - 3, newest=False)] == [last - 2, last - 1, last]


@pytest.mark.parametrize("text", ["~all", "~c 200", "~b foo", "~hs css", "!~http", "~d nobody"])
@pytest.mark.parametrize("page", [1, 2, 7])
def test_a_few_rows_at_a_time(
    filled: tuple[Store, list[Flow]], text: str, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.store.store.PAGE", page)
    monkeypatch.setattr("appliance.store.store.CHUNK", 10)
    _compare(filled, text)
    store, _ = filled
    rows = list(store.rows(text))
    for limit in (0, 1, 3, len(rows), 1000):
        assert list(store.rows(text, limit=limit)) == rows[:limit]
        assert list(store.rows(text, limit=limit, newest=False)) == rows[::-1][:limit]


def test_a_flow_that_was_replayed_is_its_newest(tmp_path: Path) -> None:
    flow = flowkit.http()
    fill(tmp_path, [flow, flowkit.http(), flow])
    with Store(tmp_path) as store:
        assert store.row(flow.id).n == 3 and store.row(1).id == flow.id


def test_one_flow_by_number_or_id(filled: tuple[Store, list[Flow]]) -> None:
    store, flows = filled
    assert store.row(3).id == flows[2].id == store.row(flows[2].id).id
    for reference, why in (
        ("999999", "no such flow"),
        ("abcdef0", "no such flow"),
        (flows[0].id[:8], "several"),
        ("x%", "no"),
    ):
        with pytest.raises(StoreError, match=why):
            store.row(reference)


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no flows have been recorded"):
        Store(tmp_path / "nothing")


def test_numbers(filled: tuple[Store, list[Flow]]) -> None:
    store, flows = filled
    found = store.stats()
    assert found["flows"] == len(flows) and sum(found["kinds"].values()) == len(flows)
    assert store.top("client")[0][1] > 30


@pytest.mark.slow
def test_a_large_store_is_searched_in_little_time(tmp_path: Path) -> None:
    """50,000 rows, with seconds to spare: whoever looks at each flow takes far longer."""
    flow = flowkit.http("http://a.example/v1/devices?seq=1234")
    fill(tmp_path, (flow for _ in range(50_000)))
    with Store(tmp_path) as store:
        for text in ("nonesuch", r"~u 'seq=\d+77777$'", "~c 404", "~d nowhere", "~src 10.9."):
            begun = time.perf_counter()
            assert not list(store.rows(text, limit=100))
            assert time.perf_counter() - begun < 2, text
