"""Options: where connections come in and go out, what is decrypted, and how."""

from __future__ import annotations

from collections.abc import Sequence

from appliance.optiontables.entry import (
    interface,
    not_negative,
    option,
    port,
    port_ranges,
    positive,
    regexes,
    rsa_bits,
    single_ports,
    some_mode,
)

_TLS_VERSIONS = ("UNBOUNDED", "SSL3", "TLS1", "TLS1_1", "TLS1_2", "TLS1_3")


class Ways:
    """See optiontable.py."""

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
        check=some_mode,
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
        check=port,
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
        check=port_ranges,
        example="5000-5010",
    )
    masquerade: str = option(
        "",
        "Interface towards the servers: forward what is not intercepted, and hide the clients behind its address.",
        check=interface,
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
        check=single_ports,
        example="8000",
    )
    exec_host_ports: Sequence[str] = option(
        (),
        "Port of this machine's loopback that a program under `lockgate exec` finds at its own. Repeatable.",
        check=single_ports,
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
        check=regexes,
        example=r"\.bank\.example:443$",
    )
    allow_hosts: Sequence[str] = option(
        (),
        "Decrypt only what matches this regular expression, pass everything else. Repeatable.",
        flag="--allow-hosts",
        check=regexes,
        example=r"\.device\.example:443$",
    )
    show_ignored_hosts: bool = option(False, "Make flows of passed connections too.", flag="--show-ignored-hosts")
    tcp_hosts: Sequence[str] = option(
        (),
        "Decrypt TLS, but relay as raw TCP what is inside, with hosts (address or SNI) that match this regular "
        "expression. Repeatable.",
        flag="--tcp-hosts",
        check=regexes,
        example=r"^mqtt\.example$",
    )
    udp_hosts: Sequence[str] = option(
        (),
        "Relay as raw UDP what goes to addresses that match this regular expression, DNS too. Repeatable.",
        flag="--udp-hosts",
        check=regexes,
        example=r"^192\.0\.2\.",
    )
    rawtcp: bool = option(True, "Relay what is neither TLS nor HTTP as raw TCP; off: close it.", flag="--rawtcp")
    server_greeting_wait_ms: int = option(
        200,
        "Milliseconds a client may be silent before the server is dialled to see whether it speaks first.",
        check=not_negative,
    )
    allow_metadata_addresses: bool = option(
        False, "Let clients reach link-local IPv4 and the metadata addresses of clouds, such as 169.254.169.254."
    )

    # -- certificates and TLS
    ca_key: str = option("rsa", "Kind of key of a CA made at the first start.", choices=("rsa", "ec"))
    key_size: int | None = option(
        None,
        "Bits of RSA keys made from the next start on: of a CA (unset: 3072), and of certificates for clients without "
        "ECDSA (2048).",
        check=rsa_bits,
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
    leaf_cache_size: int = option(1000, "Made certificates kept in memory.", check=positive)
