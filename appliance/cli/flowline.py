"""Flows for people, from what the control socket says of them (appliance/control/summary.py)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TextIO

from appliance.human import pretty_duration, pretty_size
from appliance.ids import short_id
from appliance.log import escape

Style = Callable[[str, str], str]
_DIM, _RED, _GREEN, _YELLOW = "2", "31", "32", "33"
_MAX_URL = 300


def styler(out: TextIO) -> Style:
    """Colours on a terminal, unless NO_COLOR is set."""
    if out.isatty() and not os.environ.get("NO_COLOR"):
        return lambda text, style: f"\x1b[{style}m{text}\x1b[0m"
    return lambda text, style: text


def line(flow: dict[str, Any], style: Style = lambda text, _: text) -> str:
    """One line: who, what, how it ended, and what was decided about the connection."""
    kind, verdict = flow.get("type"), flow["verdict"]
    words = [escape((flow["client"] or "-").rpartition(":")[0].strip("[]")) or "-"]
    if flow.get("is_replay"):
        words.insert(0, "[replay]")
    if kind is None:
        words += [style(verdict["action"], _YELLOW), escape(flow["server"] or ""), _why(verdict)]
        if verdict["action"] == "pass":
            words.append(_amount(flow))
        return _joined(words)
    if kind == "http":
        url = escape(flow["url"])
        words += [escape(flow["method"]), url if len(url) <= _MAX_URL else url[:_MAX_URL] + "…"]
        if flow["status"]:
            status = flow["status"]
            words.append(style(str(status), _GREEN if status < 400 else _YELLOW if status < 500 else _RED))
            size = flow["response_size"]
            words.append("size unknown" if size is None else pretty_size(size))
    elif kind == "dns":
        words += ["dns", *(f"{one['type']} {escape(one['name'] or '.')}" for one in flow["questions"])]
        if flow["code"]:
            words.append(style(flow["code"], _GREEN if flow["code"] == "NOERROR" else _YELLOW))
        words += [", ".join(map(escape, flow["answers"]))] if flow["answers"] else []
    else:
        words += [kind, escape(flow["server"] or ""), _amount(flow)]
    if flow["error"]:
        words.append(style(f"error: {escape(flow['error'])}", _RED))
    if kind in ("http", "dns") and flow["duration"] is not None:
        words.append(pretty_duration(flow["duration"]))
    if verdict is not None:
        words.append(style(f" {verdict['action']} {_why(verdict)}", _DIM))
    return _joined(words)


def _joined(words: list[str]) -> str:
    return " ".join(filter(None, words))


def held(flow: dict[str, Any]) -> str:
    """A line of `lockgate intercepted list`."""
    state = "held" if flow["intercepted"] else "going on" if flow["live"] else "over"
    return f"{short_id(flow['id']):<6}  {state:<8}  {line({**flow, 'verdict': None})}"


def whole(flow: dict[str, Any]) -> str:
    """All of a flow, as text."""
    lines = [f"{flow['id']}  {line(flow)}"]
    for part in ("request", "response"):
        message = flow.get(part)
        if message:
            first = (
                f"{message['method']} {message['url']} {message['http_version']}"
                if part == "request"
                else f"{message['http_version']} {message['status_code']} {message['reason']}"
            )
            lines += ["", escape(first), *(escape(f"{name}: {value}") for name, value in message["headers"])]
            lines += ["", *_content(message["content"])]
    for message in flow.get("last_messages", ()):
        lines += ["> " if message["from_client"] else "< ", *_content(message)]
    return "\n".join(lines)


def _content(content: dict[str, Any]) -> list[str]:
    if content["size"] is None:
        return ["(streams past, not held)"]
    if "base64" in content:
        return [f"({pretty_size(content['size'])} of binary; --json has them in base64)"]
    lines = [escape(one) for one in content["text"].split("\n")] if content["size"] else []
    return lines + ([f"(cut here, {pretty_size(content['size'])} in all)"] if "next" in content else [])


def _amount(flow: dict[str, Any]) -> str:
    return f"{pretty_size(flow['up'])} up {pretty_size(flow['down'])} down"


def _why(verdict: dict[str, Any]) -> str:
    reason = verdict["reason"]
    if verdict["rule"]:
        option, _, value = verdict["rule"].partition(" ")
        rule = value if option in reason else verdict["rule"]
        reason = f"{reason}, {rule}" if rule else reason
    return f"({escape(reason)})"
