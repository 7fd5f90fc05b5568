from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.multipart import boundary_of, decode_multipart, encode_multipart, new_boundary

TYPE = "multipart/form-data; boundary=XX"


@given(st.lists(st.tuples(st.from_regex(rb"[a-z ;=\[\]]{1,8}", fullmatch=True), st.binary(max_size=30))))
def test_round_trip(pairs: list[tuple[bytes, bytes]]) -> None:
    content_type = f"multipart/form-data; boundary={new_boundary()}"
    assert decode_multipart(content_type, encode_multipart(content_type, pairs)) == pairs


def test_what_browsers_send() -> None:
    body = (
        b"preamble\r\n--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n"
        b"--XX \r\ncontent-disposition: form-data; filename=\"name.txt\"; name=f\r\nContent-Type: text/plain\r\n\r\n"
        b"--XXY\r\n--XX\r\nX-Other: 1\r\n\r\nnameless\r\n--XX--\r\nepilogue\r\n--XX\r\n"
    )  # fmt: skip
    assert decode_multipart(TYPE, body) == [(b"a", b"1"), (b"f", b"--XXY")]
    assert decode_multipart('multipart/form-data; boundary="XX"', body)[0] == (b"a", b"1")


@given(st.binary(max_size=80))
def test_any_bytes(junk: bytes) -> None:
    assert isinstance(decode_multipart(TYPE, b"--XX\r\n" + junk), list)


def test_boundaries() -> None:
    assert boundary_of("text/plain; boundary=x") is None
    assert boundary_of("multipart/form-data") is None
    assert decode_multipart("multipart/form-data", b"--") == []
    with pytest.raises(ValueError, match="no boundary"):
        encode_multipart("multipart/form-data", [])
    with pytest.raises(ValueError, match="contains the boundary"):
        encode_multipart(TYPE, [(b"a", b"x\r\n--XX")])


def test_names_cannot_break_out() -> None:
    body = encode_multipart(TYPE, [(b'a"\r\nX: y', b"1")])
    assert b'name="a%22%0D%0AX: y"' in body
