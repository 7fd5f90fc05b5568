"""The table of built-in options: name, type, default, help, and how each appears on the command line. Nothing else
names an option.

`OptionTable` is read twice: by people and type checkers as a class with typed attributes, by `Options` as a list of
`Option` entries (`BUILTIN`).
Names follow mitmproxy where the meaning is the same; what this release has not got of them is in notyet.py.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, cast

T = TypeVar("T")
Kind = Literal["plain", "size", "path", "certs", "recording"]


@dataclass(frozen=True, slots=True)
class Option:
    """One option. `typespec` is bool, int, float, str, an Optional of these, or Sequence[str]; `default` is of that
    type.
    """

    name: str
    typespec: Any
    default: Any
    help: str
    choices: tuple[str, ...] | None = None
    kind: Kind = "plain"
    """size: text such as 64k, read by `Options.size`. path, certs, recording (a path, or store:FILTER): relative to
    config.yaml when it stands there.
    """
    check: Callable[[Any], None] | None = None
    """Raises ValueError saying what is wrong with a value of the right type."""
    flag: str = ""
    """Long flag of `lockgate run` ("" = only --set)."""
    short: str = ""
    example: str = ""


def parse_size(text: str) -> int:
    """Bytes of `text`: a whole number with an optional suffix b, k, m, g or t (powers of 1024, any case). Raises
    ValueError.
    """
    match = re.fullmatch(r"(\d{1,15})([bkmgt]?)", text.strip(), re.IGNORECASE | re.ASCII)
    if match is None:
        raise ValueError(
            f"{text!r} is not a size: write a whole number of bytes, or with a suffix, such as 500k, 1m or 2g"
        )
    return int(match[1]) << {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}[match[2].lower()]


def _port(value: int | None) -> None:
    if value is not None and not 0 <= value <= 65535:
        raise ValueError(f"{value} is not a port: write 0 to 65535 (0 = any free one)")


def _positive(value: int | None) -> None:
    if value is not None and value <= 0:
        raise ValueError(f"{value} is too small: write 1 or more")


def _rsa_bits(value: int | None) -> None:
    if value is not None and not 2048 <= value <= 8192:
        raise ValueError(f"{value} bits: write 2048 (clients take no less) to 8192")


def _not_negative(value: int | None) -> None:
    if value is not None and value < 0:
        raise ValueError(f"{value} is negative: write 0 or more")


def _detail(value: int) -> None:
    if not 0 <= value <= 4:
        raise ValueError(f"{value} is not a level: write 0 (nothing) to 4 (everything)")


def _one_or_all(value: int) -> None:
    if value not in (1, -1):
        raise ValueError(f"{value} is neither 1 (one after another) nor -1 (side by side)")


def _regexes(value: Iterable[str]) -> None:
    for pattern in value:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None


def _name_servers(value: Sequence[str]) -> None:
    from appliance.net.hosts import parse_server

    for text in value:
        parse_server(text)


def _interface(value: str) -> None:
    if value and re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,14}", value) is None:
        raise ValueError(f"{value!r} is not the name of an interface, such as wan0 (`ip link` lists them)")


def _port_ranges(value: Sequence[str]) -> None:
    if value:
        from modes.firewall.plan import ports

        ports(value)


def _single_ports(value: Sequence[str]) -> None:
    for text in value:
        if not text.isdecimal() or not 1 <= int(text) <= 65535:
            raise ValueError(f"{text!r} is no port: write one from 1 to 65535, such as 5432")


def _age(value: str | None) -> None:
    from appliance.human import parse_age

    parse_age(value)


def _some_mode(value: Sequence[str]) -> None:
    if not value:
        raise ValueError("no mode is left: name at least one, such as regular@8080")


def option(default: T, help: str, **extra: Any) -> T:
    """Entry of the table below; to a type checker it is the value itself."""
    return cast(T, Option("", None, default, help, **extra))


_TLS_VERSIONS = ("UNBOUNDED", "SSL3", "TLS1", "TLS1_1", "TLS1_2", "TLS1_3")


class OptionTable:
    """Every built-in option; on an instance of `Options` these are plain attributes holding the values."""

    # -- where and how we listen
    confdir: str = option("~/.lockgate", "Folder of config.yaml and of the CA.", kind="path", example="/etc/lockgate")
    control_socket: str = option(
        "",
        "Unix socket through which `lockgate status` and the like reach a running gateway; empty: control.sock in "
        "confdir; none: there is none.",
        kind="path",
        example="/run/lockgate/control.sock",
    )
    control_group: str = option(
        "",
        "Group whose members may use the control socket; they can do what the gateway's own user can.",
        example="lockgate",
    )
    mode: Sequence[str] = option(
        ("regular",),
        "How traffic arrives: NAME[:DATA][@[HOST:]PORT]. Repeatable.",
        flag="--mode",
        short="-m",
        check=_some_mode,
        example="transparent@8080",
    )
    listen_host: str = option(
        "",
        "Address for modes that name none; empty: every address (127.0.0.1 as long as no mode is named either).",
        flag="--listen-host",
        example="192.168.1.1",
    )
    listen_port: int | None = option(
        None,
        "Port for modes that name none; unset: the mode's own.",
        flag="--listen-port",
        short="-p",
        check=_port,
        example="8080",
    )
    firewall: str = option(
        "auto",
        "What lays the redirect of transparent:IFACE; none: you do.",
        choices=("auto", "nftables", "iptables", "iptables-nft", "iptables-legacy", "none"),
    )
    firewall_method: str = option(
        "auto",
        "tproxy keeps destinations in the packets; redirect, for kernels without it, asks connection tracking.",
        choices=("auto", "tproxy", "redirect"),
    )
    firewall_fail: str = option(
        "open",
        "When the gateway is down or hangs: open, traffic flows by as the box routes it; closed, nothing passes until "
        "one runs again, or `lockgate firewall clean`.",
        choices=("open", "closed"),
    )
    firewall_owner: str = option(
        "process",
        "process: the redirect goes with the process. unit, for a service that restarts: it stays 2 s longer, in which "
        "nothing passes unseen and the next start takes over.",
        choices=("process", "unit"),
    )
    firewall_exclude_ports: Sequence[str] = option(
        (),
        "Destination port or range that transparent:IFACE does not redirect. Repeatable.",
        check=_port_ranges,
        example="5000-5010",
    )
    masquerade: str = option(
        "",
        "Interface towards the servers: forward what is not intercepted, and hide the clients behind its address.",
        check=_interface,
        example="wan0",
    )
    wireguard_backend: str = option(
        "auto",
        "Who does the WireGuard protocol: the kernel (needs CAP_NET_ADMIN and its module), or this process; auto: the "
        "kernel if it can be had.",
        choices=("auto", "kernel", "userspace"),
    )
    wireguard_host_ports: Sequence[str] = option(
        (),
        "Port of this machine's own addresses (not of its loopback) that WireGuard peers may reach, TCP and UDP. "
        "Repeatable.",
        check=_single_ports,
        example="8000",
    )
    exec_host_ports: Sequence[str] = option(
        (),
        "Port of this machine's loopback that a program under `lockgate exec` finds at its own. Repeatable.",
        check=_single_ports,
        example="5432",
    )
    exec_pcap: str = option(
        "",
        "Write a pcapng file of all packets of a program under `lockgate exec`, with the TLS secrets that open them.",
        flag="--pcap",
        kind="path",
        example="app.pcapng",
    )
    exec_trust_store: bool = option(
        True, "Show a program under `lockgate exec` a system trust store with our CA in it, where that can be done."
    )
    scripts: Sequence[str] = option(
        (),
        "Python file with an add-on, a package, or a folder of both; reloaded when it changes. Repeatable.",
        flag="--scripts",
        short="-s",
        kind="path",
        example="addon.py",
    )

    # -- decrypt or pass
    ignore_hosts: Sequence[str] = option(
        (),
        "Pass connections untouched whose HOST:PORT (address, SNI or Host) matches this regular expression. "
        "Repeatable.",
        flag="--ignore-hosts",
        check=_regexes,
        example=r"\.bank\.example:443$",
    )
    allow_hosts: Sequence[str] = option(
        (),
        "Decrypt only what matches this regular expression, pass everything else. Repeatable.",
        flag="--allow-hosts",
        check=_regexes,
        example=r"\.device\.example:443$",
    )
    show_ignored_hosts: bool = option(False, "Make flows of passed connections too.", flag="--show-ignored-hosts")
    tcp_hosts: Sequence[str] = option(
        (),
        "Decrypt TLS, but relay as raw TCP what is inside, with hosts (address or SNI) that match this regular "
        "expression. Repeatable.",
        flag="--tcp-hosts",
        check=_regexes,
        example=r"^mqtt\.example$",
    )
    udp_hosts: Sequence[str] = option(
        (),
        "Relay as raw UDP what goes to addresses that match this regular expression, DNS too. Repeatable.",
        flag="--udp-hosts",
        check=_regexes,
        example=r"^192\.0\.2\.",
    )
    rawtcp: bool = option(True, "Relay what is neither TLS nor HTTP as raw TCP; off: close it.", flag="--rawtcp")
    server_greeting_wait_ms: int = option(
        200,
        "Milliseconds a client may be silent before the server is dialled to see whether it speaks first.",
        check=_not_negative,
    )
    allow_metadata_addresses: bool = option(
        False, "Let clients reach link-local metadata addresses such as 169.254.169.254."
    )

    # -- certificates and TLS
    ca_key: str = option("rsa", "Kind of key of a CA made at the first start.", choices=("rsa", "ec"))
    key_size: int | None = option(
        None,
        "Bits of RSA keys made from the next start on: of a CA (unset: 3072), and of certificates for clients without "
        "ECDSA (2048).",
        check=_rsa_bits,
        example="2048",
    )
    certs: Sequence[str] = option(
        (),
        "[DOMAIN=]PATH of a PEM file with certificate, chain and key to show instead of a made one. Repeatable.",
        flag="--certs",
        kind="certs",
        example="*.device.example=device.pem",
    )
    cert_passphrase: str | None = option(
        None,
        "Passphrase of the keys in certs (better in config.yaml: command lines can be seen by every user).",
        flag="--cert-passphrase",
    )
    upstream_cert: bool = option(True, "Look at the server's certificate first, to copy its names.")
    add_upstream_certs_to_client_chain: bool = option(
        False, "Send clients the server's certificates, too, behind our own (needs upstream_cert)."
    )
    client_certs: str | None = option(
        None,
        "Certificate that servers which ask for one are shown: a PEM file of certificate, chain and key, or a folder "
        "with HOST.pem.",
        kind="path",
        example="client-certs",
    )
    request_client_cert: bool = option(
        False, "Ask clients for a certificate; any is taken, none too (`client_conn.certificate_list`)."
    )
    upstream_cert_invalid: str = option(
        "page",
        "What the client gets when the server's certificate does not verify: a page naming the fault, a certificate "
        "with the same fault (when it is seen in time: connection_strategy eager), or a failed handshake.",
        choices=("page", "mirror", "reset"),
    )
    ssl_insecure: bool = option(False, "Do not verify servers' certificates.", flag="--ssl-insecure", short="-k")
    ssl_verify_upstream_trusted_ca: str | None = option(
        None,
        "PEM file of the roots that servers are verified against, instead of the system's.",
        kind="path",
        example="lab-roots.pem",
    )
    ssl_verify_upstream_trusted_confdir: str | None = option(
        None, "Folder of such roots, hashed by `openssl rehash`.", kind="path", example="/etc/ssl/certs"
    )
    tls_version_client_min: str = option("TLS1_2", "Lowest TLS version towards clients.", choices=_TLS_VERSIONS)
    tls_version_client_max: str = option("UNBOUNDED", "Highest TLS version towards clients.", choices=_TLS_VERSIONS)
    tls_version_server_min: str = option("TLS1_2", "Lowest TLS version towards servers.", choices=_TLS_VERSIONS)
    tls_version_server_max: str = option("UNBOUNDED", "Highest TLS version towards servers.", choices=_TLS_VERSIONS)
    ciphers_client: str | None = option(None, "Ciphers towards clients, in OpenSSL's syntax.", example="ECDHE+AESGCM")
    ciphers_server: str | None = option(None, "Ciphers towards servers, in OpenSSL's syntax.", example="ECDHE+AESGCM")
    tls_ecdh_curve_client: str | None = option(None, "Key exchange groups towards clients.", example="X25519:P-256")
    tls_ecdh_curve_server: str | None = option(
        None, "Key exchange groups towards servers; unset: X25519:P-256.", example="P-256"
    )
    tls_keylog_file: str | None = option(
        None,
        "Append TLS secrets to this file, for Wireshark (or LOCKGATE_SSLKEYLOGFILE, SSLKEYLOGFILE).",
        kind="path",
        example="keys.log",
    )
    leaf_cache_size: int = option(1000, "Made certificates kept in memory.", check=_positive)

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
        check=_not_negative,
    )
    validate_inbound_headers: bool = option(
        True, "Refuse headers that different programs read differently (request smuggling)."
    )
    tcp_timeout: int = option(
        600, "Seconds without traffic in either direction after which a connection is closed.", check=_positive
    )
    udp_timeout: int = option(
        30, "Seconds without a datagram in either direction after which a UDP flow is over.", check=_positive
    )
    dns_name_servers: Sequence[str] = option(
        (),
        "Name servers that the dns mode asks, one after another; none: those of this machine.",
        check=_name_servers,
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
    connect_timeout: int = option(10, "Seconds a server may take to accept a connection.", check=_positive)
    tls_handshake_timeout: int = option(30, "Seconds a TLS handshake may take.", check=_positive)
    client_header_timeout: int = option(
        60, "Seconds a client may take to send a request's head once begun.", check=_positive
    )
    max_connections: int | None = option(
        None,
        "Client connections open at once; more wait. Unset: what the limit of open files allows.",
        check=_positive,
        example="2000",
    )
    hook_budget_ms: int = option(
        100, "Milliseconds after which a hook that holds up everything is named in the log.", check=_positive
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
        check=_not_negative,
        example="1000",
    )
    view_memory: str = option("64m", "Bytes of bodies and messages kept there.", kind="size", example="1g")
    view_filter: str | None = option(
        None, "Of the flows kept, show those that match this filter.", flag="--view-filter", example="~d device"
    )
    view_order: str = option("time", "Order of the flows shown.", choices=("time", "method", "url", "size"))
    view_order_reversed: bool = option(False, "Show the last first.")

    command_history: bool = option(True, "Keep command lines, of a console's prompt, in confdir.")

    # -- what is kept
    store: bool = option(True, "Record every flow in the flow store (`lockgate flows`).", flag="--store")
    store_dir: str | None = option(
        None, "Folder of the flow store; unset: flows in confdir.", kind="path", example="/var/lib/lockgate/flows"
    )
    store_max_bytes: str | None = option(
        "10g", "Bytes on disk that the flow store may have; the oldest flows go first.", kind="size", example="10g"
    )
    store_max_age: str | None = option(
        "30d", "Age at which flows are deleted from the flow store: a number and s, m, h, d or w.", check=_age,
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
        1, "Replays at once: 1, one after another, or -1, side by side.", check=_one_or_all
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
        check=_detail,
        example="2",
    )
    content_view_lines_cutoff: int = option(
        512, "Lines of a body shown with flow_detail 3.", check=_positive, example="40"
    )
    dumper_default_contentview: str = option("auto", "Content view for bodies and messages shown.", example="raw")
    showhost: bool = option(False, "Show URLs with the name in the Host header.", flag="--showhost")
    termlog_verbosity: str = option(
        "info", "Least level shown on the terminal.", choices=("error", "warn", "info", "alert", "debug")
    )


def _entries() -> dict[str, Option]:
    hints = typing.get_type_hints(OptionTable)
    return {name: replace(cast(Option, vars(OptionTable)[name]), name=name, typespec=hints[name]) for name in hints}


BUILTIN: dict[str, Option] = _entries()
