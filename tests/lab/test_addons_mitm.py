"""Add-ons in mitmproxy's idiom, loaded with -s against real traffic, seen at the other end."""

from __future__ import annotations

import json
from pathlib import Path

from tests.lab.labkit import Lab
from tests.lab.recorder import Origins

FILE = Path(__file__).parents[1] / "addons_mitm" / "grouped.py"
TLS = 8001


def test_effects_are_seen_at_the_other_end(lab: Lab, origins: Origins) -> None:
    with lab.gateway_proc("-s", str(FILE), "--set", "tag=bench3") as gateway:
        reply = lab.curl(f"https://origin.test:{TLS}/a?b=c", via=gateway)
        posted = lab.curl(f"https://origin.test:{TLS}/form", "-d", "field=old&other=1", via=gateway)
        made = lab.curl(f"https://origin.test:{TLS}/synthetic", via=gateway)
        gateway.wait_output("on purpose")
    assert (reply.status, posted.status, made.status, made.body) == (200, 200, 418, b"short and stout")
    seen = origins.requests(TLS)
    first = seen[0]
    for name, value in (
        ("x-added", "1"),
        ("x-tag", "bench3"),
        ("cookie", "session=s1"),
        ("x-async", "1"),
        ("x-thread", "1"),
        ("x-command", "hello lab"),
    ):
        assert first.values(name) == [value], name
    head = dict(reply.heads[-1].fields) if hasattr(reply.heads[-1], "fields") else str(reply.heads[-1])
    assert "added=by+query" in json.dumps(reply.body.decode())
    assert "GOT" in reply.body.decode()
    assert "True True True origin.test" in str(head)
