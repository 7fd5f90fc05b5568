"""Options: what is kept, and what is shown."""

from __future__ import annotations

from collections.abc import Sequence

from appliance.optiontables.entry import age, detail, one_or_all, option, positive


class Kept:
    """See optiontable.py."""

    # -- what is kept
    store: bool = option(True, "Record every flow in the flow store (`lockgate flows`).", flag="--store")
    store_dir: str | None = option(
        None, "Folder of the flow store; unset: flows in confdir.", kind="path", example="/var/lib/lockgate/flows"
    )
    store_max_bytes: str | None = option(
        "10g", "Bytes on disk that the flow store may have; the oldest flows go first.", kind="size", example="10g"
    )
    store_max_age: str | None = option(
        "30d", "Age at which flows are deleted from the flow store: a number and s, m, h, d or w.", check=age,
        example="12h",
    )  # fmt: skip
    store_body_limit: str = option(
        "8m", "Bytes of each body that the flow store keeps; of larger ones also length and SHA-256.", kind="size",
        example="64m",
    )  # fmt: skip
    store_messages_limit: str = option(
        "16m", "Bytes of messages that the flow store keeps of one TCP, UDP or WebSocket conversation.", kind="size",
        example="64m",
    )  # fmt: skip
    store_redact: Sequence[str] = option(
        (),
        "Header field, parameter of a URL or form, or member of a JSON object, whose value `lockgate flows export` "
        "leaves out. Repeatable.",
        example="Authorization",
    )  # fmt: skip
    save_stream_file: str | None = option(
        None,
        "Write flows to this file as they end: + in front appends, %Y%m%d and the like (strftime) rotate.",
        flag="--save-stream-file",
        short="-w",
        kind="path",
        example="flows-%Y%m%d",
    )
    save_stream_filter: str | None = option(None, "Write only flows that match this filter.", example="~d device")
    hardump: str = option(
        "", "Write HTTP flows as HAR to this file; .zhar: deflated, -: standard output.", example="traffic.har"
    )
    pcap_over_ip: str = option(
        "",
        "Feed finished flows, decrypted, as pcapng to whoever connects to this [ADDRESS:]PORT, such as Wireshark; "
        "127.0.0.1 unless an address is named.",
        example="57012",
    )
    rfile: str | None = option(
        None,
        "Read flows from this flow file or HAR (-: standard input), then end.",
        flag="--rfile",
        short="-r",
        kind="path",
        example="flows",
    )
    readfile_filter: str | None = option(None, "Read only flows that match this filter.", example="~d device")
    keepserving: bool = option(False, "Go on after rfile is read, or all of client_replay or server_replay was used.")
    server: bool = option(True, "Listen; off (with rfile): only read.", flag="--server", short="-n")
    client_replay: Sequence[str] = option(
        (),
        "Send the requests of this flow file or HAR, or of the store (store:FILTER), again, then end. Repeatable.",
        flag="--client-replay",
        short="-C",
        kind="recording",
        example="flows",
    )
    client_replay_concurrency: int = option(
        1, "Replays at once: 1, one after another, or -1, side by side.", check=one_or_all
    )
    server_replay: Sequence[str] = option(
        (),
        "Answer requests with the responses of this flow file or HAR, or of the store (store:FILTER). Repeatable.",
        flag="--server-replay",
        short="-S",
        kind="recording",
        example="flows",
    )
    server_replay_extra: str = option(
        "forward",
        "What happens to requests that have no recorded response (any more).",
        choices=("forward", "kill", "204", "400", "404", "500"),
        flag="--server-replay-extra",
        example="404",
    )
    server_replay_kill_extra: bool = option(
        False, "The older way to say server_replay_extra=kill.", flag="--server-replay-kill-extra"
    )
    server_replay_reuse: bool = option(False, "Use a recorded response more than once.", flag="--server-replay-reuse")
    server_replay_nopop: bool = option(False, "The older name of server_replay_reuse.")
    server_replay_refresh: bool = option(
        True,
        "Move dates and cookies of replayed responses as if they were sent now.",
        flag="--server-replay-refresh",
    )
    server_replay_use_headers: Sequence[str] = option(
        (), "Header field that must be the same as in the recorded request. Repeatable.", example="accept"
    )
    server_replay_ignore_content: bool = option(False, "The request's body may be another than the recorded one.")
    server_replay_ignore_params: Sequence[str] = option(
        (), "Parameter of the query that may be another. Repeatable.", example="nonce"
    )
    server_replay_ignore_payload_params: Sequence[str] = option(
        (), "Field of a form in the request's body that may be another. Repeatable.", example="token"
    )
    server_replay_ignore_host: bool = option(False, "The request's host may be another.")
    server_replay_ignore_port: bool = option(False, "The request's port may be another.")
    export_preserve_original_ip: bool = option(False, "Exports for curl name the address the server had.")

    # -- what is shown
    dumper_filter: str | None = option(None, "Show only flows that match this filter.", example="~d device")
    onboarding: bool = option(True, "Serve the page with the CA certificate at onboarding_host.")
    onboarding_host: str = option("lockgate.internal", "Name of that page; only reachable through the gateway.")
    flow_detail: int = option(
        1,
        "0 nothing, 1 a line a flow, 2 headers, 3 bodies cut short, 4 bodies in full.",
        flag="--flow-detail",
        check=detail,
        example="2",
    )
    content_view_lines_cutoff: int = option(
        512, "Lines of a body shown with flow_detail 3.", check=positive, example="40"
    )
    dumper_default_contentview: str = option("auto", "Content view for bodies and messages shown.", example="raw")
    showhost: bool = option(False, "Show URLs with the name in the Host header.", flag="--showhost")
    termlog_verbosity: str = option(
        "info", "Least level shown on the terminal.", choices=("error", "warn", "info", "alert", "debug")
    )
