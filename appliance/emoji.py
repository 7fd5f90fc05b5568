"""Markers of flows as pictures: `emoji[":red_circle:"]`."""

from __future__ import annotations

from rich._emoji_codes import EMOJI

emoji: dict[str, str] = {f":{name}:": picture for name, picture in EMOJI.items()}
emoji[":default:"] = "●"
