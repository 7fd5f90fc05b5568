"""How messages that we send are delimited."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.headers import Headers
from appliance.layers.http.h1_fields import Refused
from appliance.layers.http.h1_outgoing import outgoing, unframed

Pairs = list[tuple[bytes, bytes]]
LENGTH, CHUNKED = (b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked")
X = (b"X", b"1")


@pytest.mark.parametrize(
    ("fields", "length", "trailers", "http10", "optional", "wire", "chunked", "until_close"),
    [
        # a whole body
        ([X, LENGTH], 5, False, False, False, [X, LENGTH], False, False),
        ([LENGTH, X], 7, False, False, False, [(b"Content-Length", b"7"), X], False, False),
        ([X], 7, False, False, False, [X, (b"Content-Length", b"7")], False, False),
        ([X], 0, False, False, False, [X, (b"Content-Length", b"0")], False, False),
        ([X], 0, False, False, True, [X], False, False),
        ([LENGTH], 0, False, False, True, [(b"Content-Length", b"0")], False, False),
        ([CHUNKED], 5, False, False, False, [CHUNKED], True, False),
        ([CHUNKED], 0, False, False, True, [CHUNKED], True, False),
        ([CHUNKED], 5, False, True, False, [(b"Content-Length", b"5")], False, False),
        ([LENGTH], 5, True, False, False, [CHUNKED], True, False),
        ([X], 0, True, False, True, [X, CHUNKED], True, False),
        # one that follows in pieces
        ([LENGTH], -1, False, False, False, [LENGTH], False, False),
        ([LENGTH], -1, True, False, False, [CHUNKED], True, False),
        ([CHUNKED], -1, False, False, False, [CHUNKED], True, False),
        ([X], -1, False, False, False, [X, CHUNKED], True, False),
        ([X], -1, False, True, False, [X], False, True),
        ([CHUNKED], -1, False, True, False, [], False, True),
        ([LENGTH], -1, False, True, False, [LENGTH], False, False),
        # none, but the fields speak of one
        ([LENGTH], None, False, False, False, [LENGTH], False, False),
        ([CHUNKED], None, False, False, False, [CHUNKED], False, False),
        ([X], None, False, False, False, [X], False, False),
    ],
)
def test_framing(
    fields: Pairs,
    length: int | None,
    trailers: bool,
    http10: bool,
    optional: bool,
    wire: Pairs,
    chunked: bool,
    until_close: bool,
) -> None:
    made = outgoing(Headers(fields), length, trailers, http10, optional)
    assert made == (tuple(wire), chunked, until_close)


def test_hop_by_hop() -> None:
    fields = Headers(
        [
            (b"Connection", b"close, X-Mine, Keep-Alive, host, content-length"),
            (b"X-Mine", b"1"),
            (b"Keep-Alive", b"5"),
            (b"Proxy-Connection", b"keep-alive"),
            (b"Host", b"a"),
            (b"Upgrade", b"h2c"),
            (b"TE", b"trailers, deflate"),
            LENGTH,
        ]
    )
    sent = dict(outgoing(fields, 5, False, False).fields)
    assert sent == {b"Host": b"a", b"TE": b"trailers", b"Content-Length": b"5"}


@pytest.mark.parametrize(
    "fields",
    [
        [LENGTH, LENGTH],
        [LENGTH, CHUNKED],
        [(b"Content-Length", b"+5")],
        [(b"Transfer-Encoding", b"gzip, chunked")],
        [(b"", b"1")],
        [(b"X ", b"1")],
        [(b" X", b"1")],
        [(b"X:", b"1")],
        [(b"X\r\nY", b"1")],
        [(b"X\0", b"1")],
        [(b"\xffX", b"1")],
        [X, (b"Content-Length ", b"1")],
    ],
)
@pytest.mark.parametrize("length", [5, -1, None])
def test_refused(fields: Pairs, length: int | None) -> None:
    with pytest.raises(Refused):
        outgoing(Headers(fields), length, False, False)


def test_unframed() -> None:
    assert unframed((LENGTH, X, (b"TRANSFER-ENCODING", b"chunked"))) == (X,)


TOKEN = st.sampled_from(
    [b"X", b"host", b"Content-Length", b"content-LENGTH", b"Transfer-Encoding", b"Connection", b"TE"]
)
VALUE = st.sampled_from([b"5", b"0", b"7", b"chunked", b"close", b"x-a, te", b"trailers", b"upgrade", b""])


@given(
    st.lists(st.tuples(TOKEN, VALUE), max_size=5),
    st.sampled_from([None, -1, 0, 5, 123]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_what_is_sent_never_contradicts_itself(
    fields: Pairs, length: int | None, trailers: bool, http10: bool, optional: bool
) -> None:
    try:
        made = outgoing(Headers(fields), length, trailers, http10, optional)
    except Refused:
        return
    names = [name.lower() for name, _ in made.fields]
    lengths = [value for name, value in made.fields if name.lower() == b"content-length"]
    coded = names.count(b"transfer-encoding")
    assert len(lengths) + coded <= 1
    if length is None:
        assert not made.chunked
        return
    assert made.chunked == bool(coded)
    assert not (http10 and coded)
    if length >= 0:
        assert made.chunked or lengths == [b"%d" % length] or (optional and not length and not lengths)
        assert not made.until_close
    else:
        assert made.chunked or lengths or made.until_close
    assert not {b"keep-alive", b"proxy-connection"} & set(names)
