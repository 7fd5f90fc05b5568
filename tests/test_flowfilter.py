"""Filters: what each operator looks at, how they bind, and that bad ones are told where."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import flowfilter
from appliance.dns import DNSFlow, DNSMessage, Question, ResourceRecord
from appliance.flow import Flow
from appliance.flowfilter.operators import OPERATORS
from appliance.flowfilter.tree import And, Node, Not, Or, Test
from appliance.http import Headers
from appliance.io import FlowReader, FlowWriter
from tests.flowkit import ends, failed, http, tcp, udp, websocket

GET = http(content_type="text/html")
POST = http(method="POST", body=b"foo\nbody", status=404, content_type="application/json", server="bar/1")
ASSET = http("https://cdn.example/a)b.css", content_type="text/css; charset=utf-8")
ASKED = http(status=None)
REPLAYED, ANSWERED = http(), http()
REPLAYED.is_replay, ANSWERED.is_replay = "request", "response"
GZIPPED = http(answer=b"", content_type="text/plain")
assert GZIPPED.response is not None
GZIPPED.response.content = b"hidden words"
GZIPPED.response.encode("gzip")
FLOWS: dict[str, Flow] = {
    "get": GET, "post": POST, "asset": ASSET, "asked": ASKED, "failed": failed(), "replayed": REPLAYED,
    "answered": ANSWERED, "ws": websocket(), "gzip": GZIPPED, "tcp": tcp(), "udp": udp(),
}  # fmt: skip
HTTP = "get post asset asked failed replayed answered ws gzip"


@pytest.mark.parametrize(("text", "names"), [
    ("~all", HTTP + " tcp udp"),
    ("~http", HTTP), ("~tcp", "tcp"), ("~udp", "udp"), ("~dns", ""), ("~websocket", "ws"),
    ("~e", "failed"), ("~q", "asked failed"), ("~s", "get post asset replayed answered ws gzip"),
    ("~a", "asset"), ("~marked", "failed"), ("~marker RED", "failed"), ("~comment 'foo comment'", "failed"),
    ("~meta '^key: .*plain'", "failed"),
    ("~replay", "replayed answered"), ("~replayq", "replayed"), ("~replays", "answered"),
    ("~c 404", "post"), ("~c 101", "ws"), ("~m post", "post"), ("~m ^ge$", ""),
    ("~d cdn.example", "asset"), ("~d ^pretty.example$", HTTP), ("~dst srv.example:443", HTTP + " tcp udp"),
    ("~src ^10.61.1.2:40000$", HTTP + " tcp udp"), ("~u '/a\\\\)b'", "asset"), ("b.css", "asset"),
    ("~u foo", HTTP.replace("asset ", "")),
    ("~t css", "asset"), ("~ts json", "post"), ("~tq json", ""),
    ("~h ^x-one:.QUUX", HTTP), ("~hq x-one", HTTP), ("~hs ^server", "post"),
    ("~b 'foo.body'", "post"), ("~bq body", "post"), ("~bs hidden", "gzip"), ("~bs bar", "tcp"), ("~bq grüße", "ws"),
    ("~b ping", "udp"), ("~verdict decrypt", HTTP + " tcp udp"), ("~reason tls", HTTP + " tcp udp"), ("~device x", ""),
    # how they bind
    ("~e | ~s & ~c 404", "failed post"), ("!~s & ~http", "asked failed"), ("!(~s | ~e)", "asked tcp udp"),
    ("~q | ~s ~c 404", "post"),  # side by side binds looser than |
    ("~q ~e", "failed"), ("~c 404|~tcp", "post tcp"), ("!!~tcp", "tcp"), ("css|nowhere", "asset"),
    ("~u foo(bar)", ""), ("~s !foo", "asset"), ("  ~tcp  ", "tcp"), ('~comment "foo\\x20?comment|a fo\\o"', "failed"),
])  # fmt: skip
def test_matches(text: str, names: str) -> None:
    flt = flowfilter.parse(text)
    assert [name for name, flow in FLOWS.items() if flt(flow)] == [n for n in FLOWS if n in names.split()]
    assert flt.pattern == text


def test_device_is_asked_by_its_name_or_label() -> None:
    flow = http()
    flow.client_conn.device = type("Device", (), {"name": "cam-1", "label": "Porch"})()  # type: ignore[attr-defined]
    assert [flowfilter.match(f"~device {word}", flow) for word in ("cam-1", "porch", "tv")] == [True, True, False]


def test_dns() -> None:
    flow = ends(DNSFlow)
    question = Question("dns.example", 1, 1)
    flow.request = DNSMessage(1, True, 0, False, False, True, False, 0, 0, [question], [], [], [], 1.0)
    wanted = {"~dns": True, "~q": True, "~s": False, "dns.example": True, "~u other": False, "~http": False,
              "~d dns": False, "~m get": False, "~c 200": False, "~bs 192.0.2.1": False}  # fmt: skip
    assert {text: flowfilter.match(text, flow) for text in wanted} == wanted
    flow.response = flow.request.succeed([ResourceRecord.A("dns.example", "192.0.2.1")])
    assert flowfilter.match("~s & ~bs 192.0.2.1 & !~bq 192.0.2.1", flow)
    file = io.BytesIO()
    FlowWriter(file).add(flow)
    (again,) = FlowReader(io.BytesIO(file.getvalue())).stream()
    assert isinstance(again, DNSFlow) and again.response is not None and flowfilter.match("~bs 192.0.2.1", again)


@pytest.mark.parametrize(("text", "mark", "why"), [
    ("~q &", 4, "an expression is missing"), ("(~q", 0, "not closed"), ("~q)", 2, "an expression is missing"),
    ("~zz", 0, "no operator ~zz"), ("~c x", 3, "needs a number"), ("~u", 2, "needs a regular expression"),
    ("~b 'foo", 3, "quote is not closed"), ("~u [a", 3, "no regular expression"), ("~q&~s", 2, "space is missing"),
    ("(~q ~s)", 4, "& or | is missing"), ("~q | | ~s", 5, "an expression is missing"),
    ("a ~u *", 5, "nothing to repeat"),
    ("()", 1, "an expression is missing"), ("!", 1, "an expression is missing"),
])  # fmt: skip
def test_bad_ones_are_told_where(text: str, mark: int, why: str) -> None:
    with pytest.raises(ValueError, match=r"filter: ") as raised:
        flowfilter.parse(text)
    message = str(raised.value)
    assert why in message and f"at character {mark + 1}\n" in message
    shown, below = message.splitlines()[-2:]
    assert shown.strip() == text.strip() and below.index("^") - 2 == mark


@pytest.mark.parametrize("text", ["", "  \n ", "!" * 5000 + "~q", "(" * 5000, "a" * 70000])
def test_empty_and_endless_ones_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        flowfilter.parse(text)


def test_case_matters_when_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert flowfilter.match("~m post & ~u FOO", POST)
    monkeypatch.setenv("LOCKGATE_CASE_SENSITIVE_FILTERS", "1")
    assert not flowfilter.match("~u FOO", POST) and not flowfilter.match("~m post", POST)
    assert flowfilter.match("~u foo", POST)


def test_match_dump_and_help() -> None:
    assert flowfilter.match(None, GET) and flowfilter.match("~s", GET) and flowfilter.match_all(GET)
    out = io.StringIO()
    flowfilter.parse("~q | !(~c 404 & foo)").dump(fp=out)
    assert out.getvalue().splitlines() == [
        "or", "  ~q (requests without a response)", "  not", "    and",
        "      ~c (the response's status code): 404", "      ~u (the URL; of DNS the name asked for): foo",
    ]  # fmt: skip
    assert {text.split()[0] for text, _ in flowfilter.help} >= {f"~{code}" for code in OPERATORS}


def test_heads_suffice_unless_a_body_is_asked_for() -> None:
    assert flowfilter.parse("~m post & !(~h x | ~t y)").heads
    assert not flowfilter.parse("~m post & !(~h x | ~bs y)").heads


def test_it_searches_a_bounded_part_of_a_compressed_body() -> None:
    flow = http(answer=None)
    assert flow.response is not None
    flow.response.headers = Headers(content_encoding="gzip")
    flow.response.raw_content = b"broken gzip"
    assert flowfilter.match("~bs broken", flow)


_words = st.text("abc.|&!é\\t *\"'()~", min_size=1).filter(lambda word: bool(word.strip()))
_codes = sorted(code for code, op in OPERATORS.items())


def _test(code: str, word: str, number: int) -> Test:
    operator = OPERATORS[code]
    argument = {"INT": number, "REGEX": word.replace("\\", "").translate({ord(c): "x" for c in "*()|"})}
    return Test(operator, argument.get(operator.argument or ""))


_trees = st.recursive(
    st.builds(_test, st.sampled_from(_codes), _words, st.integers(0, 999)),
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(lambda parts: And(tuple(parts)), st.lists(inner, min_size=2, max_size=3)),
        st.builds(lambda parts: Or(tuple(parts)), st.lists(inner, min_size=2, max_size=3)),
    ),
    max_leaves=12,
)


@given(_trees)
def test_what_a_tree_is_written_as_reads_as_that_tree(tree: Node) -> None:
    assert str(flowfilter.parse(str(tree)).tree) == str(tree)
    again = flowfilter.parse(str(tree))
    assert [again(flow) for flow in FLOWS.values()] == [tree.compile()(flow) for flow in FLOWS.values()]


@given(st.text("~qsbcu !&|()'\"\\04fo[é\n"))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        flt = flowfilter.parse(text)
    except ValueError:
        return
    assert all(isinstance(flt(flow), bool) for flow in FLOWS.values())
    list(flt.tree.lines())


def test_how_a_filter_shows_itself() -> None:
    found = flowfilter.parse("~m post  &  !~c 200")
    assert found.pattern == "~m post  &  !~c 200"
    assert repr(found) == "FlowFilter('~m post  &  !~c 200')"
    assert flowfilter.parse(str(found)).tree == found.tree
