"""What mitmproxy has and this release has not: refused by name with "not yet", never ignored, never taken for an
add-on's.
"""

from __future__ import annotations

NOT_YET: frozenset[str] = frozenset(
    (
        "console_default_contentview",
        "console_eventlog_verbosity",
        "console_flowlist_layout",
        "console_focus_follow",
        "console_layout",
        "console_layout_headers",
        "console_mouse",
        "console_palette",
        "console_palette_transparent",
        "console_quickhelp_visible",
        "console_strip_trailing_newlines",
        "http3",
        "http_connect_send_host_header",
        "keep_host_header",
        "normalize_outbound_headers",
        "protobuf_definitions",
        "proxy_debug",
        "store_streamed_bodies",
        "web_columns",
        "web_debug",
        "web_host",
        "web_open_browser",
        "web_password",
        "web_port",
        "web_static_viewer",
        "web_theme",
    )
)
"""Options."""

NOT_YET_FLAGS: tuple[tuple[str, ...], ...] = (
    ("--options",),
    ("--commands",),
    ("--store-streamed-bodies", "--no-store-streamed-bodies"),
    ("--web-open-browser", "--no-web-open-browser"),
    ("--web-port",),
    ("--web-host",),
    ("--console-layout",),
    ("--console-layout-headers", "--no-console-layout-headers"),
)
"""Flags of mitmdump, mitmweb and mitmproxy; those of one row are one feature."""

ELSEWHERE: tuple[tuple[str, str], ...] = (
    ("browser.", "a gateway has no desktop"),
    ("console.", "it belongs to mitmproxy's console"),
    ("eventstore.", "put mitmproxy.addons.eventstore.EventStore() into `addons`"),
)
"""How commands begin that mitmproxy has and a gateway has not, and why."""


def why_not(command: str) -> str:
    """Why there is no such command, or ""."""
    return next((why for head, why in ELSEWHERE if command.startswith(head)), "")
