"""The main job: HTTP and HTTPS through the gateway, decrypted, with hooks."""

from __future__ import annotations

from tests.lab.labkit import HTTPS, Lab
from tests.lab.recorder import Origins


def test_https_through_connect_with_hooks(lab: Lab, origins: Origins) -> None:
    addon = """
def request(flow):
    flow.request.headers["x-lab"] = "1"
def response(flow):
    flow.response.headers["x-seen"] = str(flow.response.status_code)
"""
    with lab.gateway_proc(addon=addon) as gw:
        reply = lab.curl(f"https://origin.test:{HTTPS}/bytes/100", via=gw)
        assert reply.status == 200
        assert reply.size == 100
    assert origins.requests()[0].values("x-lab") == ["1"]


def test_http(lab: Lab, origins: Origins) -> None:
    with lab.gateway_proc() as gw:
        assert lab.curl("http://origin.test:8000/bytes/1000", via=gw).size == 1000


def test_transparent(lab: Lab, origins: Origins) -> None:
    for capture in ("redirect", "tproxy"):
        with lab.gateway_proc("-m", "transparent@8081") as gw, lab.redirect(8081, capture):
            for family in ("-4", "-6"):
                assert lab.curl("https://origin.test/100k", family, ca=gw.ca).size == 102400
                assert lab.curl("http://origin.test/100k", family).size == 102400
