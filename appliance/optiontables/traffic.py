"""Options: limits and clocks, who may come, what is changed, what commands and add-ons can name."""

from __future__ import annotations

from collections.abc import Sequence

from appliance.optiontables.entry import name_servers, not_negative, option, positive


class Traffic:
    """See optiontable.py."""

    # -- bodies, limits, time
    connection_strategy: str = option(
        "eager", "Dial the server at once, or only when there is something to send.", choices=("eager", "lazy")
    )
    connect_addr: str | None = option(
        None, "Local address that connections to servers come from.", example="192.168.1.1"
    )
    spoof_source_address: bool = option(
        False,
        "Come to servers from the client's own address instead of the gateway's. The firewall must hand the answers to "
        "the gateway: see docs/decisions/spoofing.md.",
    )
    stream_large_bodies: str | None = option(
        "1m", "Bodies over this size are not held for add-ons but streamed.", kind="size", example="10m"
    )
    body_size_limit: str | None = option(
        None, "Refuse bodies, and WebSocket messages, over this size.", kind="size", example="100m"
    )
    websocket: bool = option(True, "Show the messages of WebSocket connections; off: relay them as raw TCP.")
    stream_large_messages: str | None = option(
        "4m", "WebSocket messages over this size pass without hooks as they arrive.", kind="size", example="16m"
    )
    max_header_size: str = option(
        "64k", "Refuse heads of requests and responses over this size.", kind="size", example="64k"
    )
    http2: bool = option(True, "Speak HTTP/2 with clients and servers that offer it.", flag="--http2")
    http2_codec: str = option(
        "lean", "What does HTTP/2's framing: our own, or python-hyper's h2 at thrice the cost.", choices=("lean", "h2")
    )
    http2_ping_keepalive: int = option(
        58,
        "Seconds of silence after which an HTTP/2 server is asked whether it is still there; 0: never.",
        check=not_negative,
    )
    validate_inbound_headers: bool = option(
        True, "Refuse headers that different programs read differently (request smuggling)."
    )
    tcp_timeout: int = option(
        600, "Seconds without traffic in either direction after which a connection is closed.", check=positive
    )
    udp_timeout: int = option(
        30, "Seconds without a datagram in either direction after which a UDP flow is over.", check=positive
    )
    dns_name_servers: Sequence[str] = option(
        (),
        "Name servers that the dns mode asks, one after another; none: those of this machine.",
        check=name_servers,
        example="192.0.2.53",
    )
    strip_ech: bool = option(
        True,
        "Take out of DNS answers what hides names from the gateway or leads past it: ECH and HTTP/3 in HTTPS records.",
    )
    keep_alt_svc_header: bool = option(
        False, "Leave Alt-Svc as it is, where devices may follow it to HTTP/3 (modes such as transparent)."
    )
    dns_use_hosts_file: bool = option(True, "Let the dns mode answer from this machine's hosts file first.")
    connect_timeout: int = option(10, "Seconds a server may take to accept a connection.", check=positive)
    tls_handshake_timeout: int = option(30, "Seconds a TLS handshake may take.", check=positive)
    client_header_timeout: int = option(
        60, "Seconds a client may take to send a request's head once begun.", check=positive
    )
    max_connections: int | None = option(
        None,
        "Client connections open at once; more wait. Unset: what the limit of open files allows.",
        check=positive,
        example="2000",
    )
    hook_budget_ms: int = option(
        100, "Milliseconds after which a hook that holds up everything is named in the log.", check=positive
    )
    hook_profile: bool = option(False, "Count calls and time of every hook; a table is logged at the end.")
    uvloop: bool = option(True, "Use uvloop's event loop when it is installed.")

    # -- who may come
    block_global: bool = option(
        True,
        "Refuse clients with a public address (not in modes where routing brings them, such as transparent).",
    )
    block_private: bool = option(False, "Refuse clients with a private address.")
    proxyauth: str | None = option(
        None,
        "Ask clients for a name and a password: any, NAME:PASSWORD (better in config.yaml), or @FILE of htpasswd.",
        flag="--proxyauth",
        example="@htpasswd",
    )
    upstream_auth: str | None = option(
        None,
        "NAME:PASSWORD for the upstream proxy, or the target, of a mode that has one (better in config.yaml).",
        flag="--upstream-auth",
        example="name:password",
    )

    # -- what is changed
    block_list: Sequence[str] = option(
        (),
        "/FILTER/STATUS: answer matching requests with this status, 444: with nothing. Repeatable.",
        example="/~u tracker/404",
    )
    anticache: bool = option(False, "Strip what could make servers answer 304 Not Modified.", flag="--anticache")
    anticomp: bool = option(False, "Ask servers for bodies without compression.", flag="--anticomp")
    map_remote: Sequence[str] = option(
        (),
        "[/FILTER]/URL-REGEX/REPLACEMENT: send requests elsewhere. Any separator. Repeatable.",
        flag="--map-remote",
        short="-M",
        example="|//cloud.example/|//lab.example/",
    )
    map_local: Sequence[str] = option(
        (),
        "[/FILTER]/URL-REGEX/PATH: answer requests from a file or folder. Any separator. Repeatable.",
        flag="--map-local",
        example="|example.com/js|~/js",
    )
    modify_body: Sequence[str] = option(
        (),
        "[/FILTER]/REGEX/[@]REPLACEMENT: replace in bodies; @ names a file. Any separator. Repeatable.",
        flag="--modify-body",
        short="-B",
        example="/~q/foo/bar",
    )
    modify_headers: Sequence[str] = option(
        (),
        "[/FILTER]/NAME/[@]VALUE: set a header field, remove it if VALUE is empty. Any separator. Repeatable.",
        flag="--modify-headers",
        short="-H",
        example="/~q/Host/example.org",
    )
    stickyauth: str | None = option(
        None, "Repeat Authorization in requests that match this filter.", flag="--stickyauth", example="~d api.example"
    )
    stickycookie: str | None = option(
        None, "Repeat cookies in requests that match this filter.", flag="--stickycookie", example="~d api.example"
    )
    intercept: str | None = option(
        None, "Hold flows that match this filter until they are resumed.", flag="--intercept", example="~m POST"
    )
    intercept_active: bool = option(False, "Whether intercept does anything; setting intercept turns it on.")

    # -- what commands and add-ons can name
    view_limit: int | None = option(
        None,
        "Flows kept in memory, so that commands can name them; the oldest leave first. None: 1000 while intercept"
        " is on, else 0.",
        check=not_negative,
        example="1000",
    )
    view_memory: str = option("64m", "Bytes of bodies and messages kept there.", kind="size", example="1g")
    view_filter: str | None = option(
        None, "Of the flows kept, show those that match this filter.", flag="--view-filter", example="~d device"
    )
    view_order: str = option("time", "Order of the flows shown.", choices=("time", "method", "url", "size"))
    view_order_reversed: bool = option(False, "Show the last first.")

    command_history: bool = option(True, "Keep command lines, of a console's prompt, in confdir.")
