"""A filter gives the same flows whether the index is asked or every flow is looked at."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance import flowfilter
from appliance.dns import DNSFlow, DNSMessage, Question
from appliance.flow import Error, Flow
from appliance.flowfilter.tree import Node
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
        path = random.choice(["/", "/com.api", f"/v1/items?id={number}", "/a_b", "/" + "long" * 200, "/\udcff", "/%41"])
        flow = flowkit.http(
            f"https://{host}{path}", random.choice(["GET", "POST"]), b"body %d" % number,
            random.choice([200, 404, 500, None]), b"answer %d" % (number % 10),
            content_type=random.choice(["text/css", "application/json; charset=utf-8", "x" * 400, "text/gr\u00fcn"]),
        )  # fmt: skip
        flow.request.headers["host"] = host
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
