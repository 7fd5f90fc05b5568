"""User-Agent texts of some programs, by name and by a letter, for scripts that pretend to be another client."""

from __future__ import annotations

_WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"
_SAFARI = "AppleWebKit/605.1.15 (KHTML, like Gecko)"

#: (name, letter, User-Agent)
UASTRINGS: list[tuple[str, str, str]] = [
    ("android", "a", f"Mozilla/5.0 (Linux; Android 10; K) {_WEBKIT} Chrome/131.0.0.0 Mobile Safari/537.36"),
    ("blackberry", "l", "Mozilla/5.0 (BB10; Touch) AppleWebKit/537.35+ (KHTML, like Gecko) Version/10.3 Mobile"),
    ("bingbot", "b", "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)"),
    ("chrome", "c", f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {_WEBKIT} Chrome/131.0.0.0 Safari/537.36"),
    ("firefox", "f", "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:133.0) Gecko/20100101 Firefox/133.0"),
    ("googlebot", "g", "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"),
    ("ie9", "i", "Mozilla/5.0 (compatible; MSIE 9.0; Windows NT 6.1; Trident/5.0)"),
    ("ipad", "p", f"Mozilla/5.0 (iPad; CPU OS 17_6 like Mac OS X) {_SAFARI} Version/17.6 Mobile/15E148 Safari/604.1"),
    ("iphone", "h", f"Mozilla/5.0 (iPhone; CPU iPhone OS 17_6 like Mac OS X) {_SAFARI} Mobile/15E148 Safari/604.1"),
    ("safari", "s", f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {_SAFARI} Version/17.6 Safari/605.1.15"),
]  # fmt: skip


def get_by_shortcut(shortcut: str) -> tuple[str, str, str] | None:
    """The entry with this letter, None if there is none."""
    return next((entry for entry in UASTRINGS if entry[1] == shortcut), None)
