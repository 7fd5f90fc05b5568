from __future__ import annotations

import ipaddress

import pytest
from cryptography import x509
from hypothesis import example, given, settings
from hypothesis import strategies as st

from appliance.net.names import canonical, dns_name, general_names, ip_address


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("example.com", "example.com"),
        ("Example.COM.", "example.com"),
        ("*.example.com", "*.example.com"),
        ("*.BÜCHER.example", "*.xn--bcher-kva.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("faß.de", "xn--fa-hia.de"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("😀.example", "xn--e28h.example"),
        ("_acme_x.example.com", "_acme_x.example.com"),
        ("localhost", "localhost"),
        ("a" * 63 + ".com", "a" * 63 + ".com"),
        ("-odd-.example", "-odd-.example"),
        ("a\u00ad.example", "a.example"),  # a soft hyphen is ignored by UTS #46
        ("a." * 127, "a." * 126 + "a"),  # 253 characters: as long as it may be
    ],
)
def test_good_names(text, name):
    assert dns_name(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "*",
        "*.",
        "a..b",
        ".a",
        "a b.com",
        "f*.com",
        "a.*.com",
        "*.*.com",
        "a\x00.com",
        "a.com\n",
        "a/b",
        "a:1",
        "a" * 64 + ".com",
        "b" + "a." * 127,
        "ü" * 64,
        "�.com",
        "\xad.com",
        "ａ／ü.com",
        "x" * 10**6,
        "ü" * 10**6,
    ],
)
def test_bad_names(text):
    assert dns_name(text) is None


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8::0001", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
        ("::", "::"),
    ],
)
def test_addresses(text, address):
    assert ip_address(text) == ipaddress.ip_address(address)


@pytest.mark.parametrize(
    "text", ["", "1.2.3", "1.2.3.4.5", "1.2.3.256", "example.com", "[", "[]", "::1::", "1" * 10**6]
)
def test_no_addresses(text):
    assert ip_address(text) is None


def test_order_duplicates_and_bound():
    names = ["b.example", "B.example.", "bad name", "192.0.2.1", "a.example", "192.0.2.1", "c.example"]
    found = [name.value for name in general_names(names, 3)]
    assert found == ["b.example", ipaddress.ip_address("192.0.2.1"), "a.example"]
    assert len(general_names((f"h{i}.example" for i in range(10**9)), 100)) == 100


hostile = st.text(st.characters() | st.sampled_from(".*-_xn\0\ud800\u3002\u00ad%[]:0"), max_size=300)


@settings(max_examples=400)
@given(hostile)
@example("xn--\x80.com")
@example("\u3002")
def test_never_raises_and_is_stable(text):
    name = dns_name(text)
    if name is not None:
        assert name.isascii()
        assert 0 < len(name) <= 253
        assert all(0 < len(label) <= 63 for label in name.split("."))
        assert dns_name(name) == name
    assert canonical(text) is None or canonical(canonical(text)) == canonical(text)
    for general_name in general_names([text], 1):
        x509.SubjectAlternativeName([general_name]).public_bytes()
