"""HAR 1.2 as its specification has it: which members there must be, of which type; others need a leading "_"."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

NUMBER = (int, float)
_PAIR = {"name": str, "value": str, "comment?": str}
_SCHEMA: dict[str, Any] = {
    "log": {
        "version": str, "creator": {"name": str, "version": str, "comment?": str}, "browser?": dict, "comment?": str,
        "pages?": [dict],
        "entries": [{
            "pageref?": str, "startedDateTime": "time", "time": NUMBER, "cache": {}, "comment?": str,
            "serverIPAddress?": str, "connection?": str,
            "request": {
                "method": str, "url": str, "httpVersion": str, "headers": [_PAIR], "queryString": [_PAIR],
                "cookies": ["cookie"], "headersSize": int, "bodySize": int, "comment?": str,
                "postData?": {"mimeType": str, "params": [{"name": str, "value?": str, "fileName?": str}], "text": str},
            },
            "response": {
                "status": int, "statusText": str, "httpVersion": str, "headers": [_PAIR], "cookies": ["cookie"],
                "redirectURL": str, "headersSize": int, "bodySize": int, "comment?": str,
                "content": {"size": int, "compression?": int, "mimeType": str, "text?": str, "encoding?": str},
            },
            "timings": {
                "blocked?": NUMBER, "dns?": NUMBER, "connect?": NUMBER, "ssl?": NUMBER, "send": NUMBER, "wait": NUMBER,
                "receive": NUMBER,
            },
        }],
    },
}  # fmt: skip
_COOKIE = {"name": str, "value": str, "path?": str, "domain?": str, "expires?": "time", "httpOnly?": bool,
           "secure?": bool, "sameSite?": str, "comment?": str}  # fmt: skip


def check(text: str) -> dict[str, Any]:
    """The parsed HAR. Raises AssertionError naming what is wrong with it."""
    har: dict[str, Any] = json.loads(text)
    _check(har, _SCHEMA, "har")
    for entry in har["log"]["entries"]:
        timings = {k: v for k, v in entry["timings"].items() if k != "ssl" and v > 0}
        assert abs(entry["time"] - sum(timings.values())) < 0.01
        assert all(entry["timings"][name] >= 0 for name in ("send", "wait", "receive"))
    return har


def _check(value: Any, wanted: Any, where: str) -> None:
    if wanted == "time":
        assert datetime.fromisoformat(value).tzinfo is not None, where
    elif wanted == "cookie":
        _check(value, _COOKIE, where)
    elif isinstance(wanted, dict):
        assert isinstance(value, dict), where
        known = {name.removesuffix("?") for name in wanted}
        assert {name for name in wanted if not name.endswith("?")} <= value.keys(), f"{where}: {sorted(value)}"
        assert all(name in known or name.startswith("_") for name in value), f"{where}: {sorted(value)}"
        for name, inner in wanted.items():
            if (plain := name.removesuffix("?")) in value:
                _check(value[plain], inner, f"{where}.{plain}")
    elif isinstance(wanted, list):
        assert isinstance(value, list), where
        for at, item in enumerate(value):
            _check(item, wanted[0], f"{where}[{at}]")
    else:
        assert isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool)), f"{where}: {value!r}"
