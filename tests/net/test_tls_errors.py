"""The words themselves; that OpenSSL really says these is tested by the handshakes of test_tls_context."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.net.tls_errors import Fault, explain, fault


@pytest.mark.parametrize(
    ("text", "kind", "distrust"),
    [
        ("tlsv1 alert unknown ca", "unknown_ca", True),
        ("sslv3 alert bad certificate", "bad_certificate", True),
        ("ssl/tls alert certificate unknown", "certificate_unknown", True),
        ("ssl/tls alert certificate expired", "bad_certificate", True),
        ("tlsv1 alert protocol version", "version", False),
        ("ssl/tls alert handshake failure", "handshake_failure", False),
        ("tlsv1 alert no application protocol", "no_application_protocol", False),
        ("tlsv13 alert certificate required", "client_certificate", False),
        ("tlsv1 unrecognized name", "unrecognized_name", False),
        ("tlsv1 alert access denied", "protocol", False),
        ("http request", "not_tls", False),
        ("wrong version number", "not_tls", False),
        ("packet length too long", "not_tls", False),
        ("unsupported protocol", "version", False),
        ("no shared cipher", "no_shared_cipher", False),
        ("unexpected eof while reading", "eof", False),
        ("certificate verify failed", "verify", False),
        ("something new", "protocol", False),
    ],
)
def test_kinds(text: str, kind: str, distrust: bool) -> None:
    error = explain((text,), handshake=True)
    assert (error.kind, error.distrust) == (kind, distrust)
    assert error.reason() == ("tls", error.text, error.kind)


def test_the_fault_is_named() -> None:
    error = explain(("certificate verify failed",), handshake=True, fault=Fault("expired", "has expired"))
    assert error.text == "the peer's certificate has expired"


def test_after_the_handshake_it_sounds_different() -> None:
    assert explain(("wrong version number",), handshake=False).kind == "protocol"
    assert "handshake" in explain((), handshake=True).text
    assert "handshake" not in explain((), handshake=False).text
    assert "access_denied" in explain(("tlsv1 alert access denied",), handshake=False).text


@given(st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40), max_size=4), st.booleans())
def test_one_line_whatever_openssl_says(reasons: list[str], handshake: bool) -> None:
    assert explain(reasons, handshake=handshake).text.isprintable()


def test_faults() -> None:
    assert fault(0) is None
    found = fault(10)
    assert found is not None and found.kind == "expired"
    unknown = fault(9999)
    assert unknown is not None and unknown.kind == "bad" and "9999" in unknown.text
