"""nginx as the ordinary origin: HTTP, HTTPS, HTTP/2, files of known sizes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.lab.netns import Host, wait_for
from tests.lab.origins import pattern
from tests.lab.pki import Pair

HTTP, HTTPS, H2 = 80, 443, 8443
PATTERNED = {"1k": 1024, "100k": 100 * 1024, "10m": 10 * 1024 * 1024}
SPARSE = {"1g": 1024**3}
"""All zeros, and no blocks on the disk."""


def start(server: Host, directory: Path, pair: Pair) -> subprocess.Popen[bytes]:
    """Start it in the server's namespace and wait until it listens. Its logs lie in `directory`."""
    files = directory / "www"
    files.mkdir(parents=True)
    for name, size in PATTERNED.items():
        (files / name).write_bytes(pattern(size))
    for name, size in SPARSE.items():
        (files / name).touch()
        os.truncate(files / name, size)
    configuration = directory / "nginx.conf"
    configuration.write_text(_configuration(directory, pair))
    with (directory / "output").open("wb") as output:
        process = server.popen(["nginx", "-c", configuration, "-e", directory / "error.log"], output=output)

    def ready() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"nginx: {(directory / 'output').read_text()}")
        return server.listening() >= {HTTP, HTTPS, H2}

    wait_for(ready, 10, "nginx listens")
    return process


def _configuration(directory: Path, pair: Pair) -> str:
    temporary = "".join(f"{kind}_temp_path {directory}/tmp-{kind};\n" for kind in
                        ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))  # fmt: skip
    return f"""
daemon off;
master_process off;
pid {directory}/pid;
error_log {directory}/error.log warn;
events {{ worker_connections 8192; }}
http {{
    access_log {directory}/access.log;
    {temporary}
    default_type application/octet-stream;
    sendfile on;
    tcp_nodelay on;
    keepalive_requests 1000000;
    client_max_body_size 0;
    root {directory}/www;
    ssl_certificate {pair.cert};
    ssl_certificate_key {pair.key};
    server {{
        listen {HTTP} backlog=1024;
        listen [::]:{HTTP} backlog=1024;
        listen {HTTPS} ssl backlog=1024;
        listen [::]:{HTTPS} ssl backlog=1024;
        listen {H2} ssl http2;
        listen [::]:{H2} ssl http2;
        location = / {{
            default_type text/html;
            return 200 "<title>lab</title><p id=lab>over $server_protocol</p>";
        }}
    }}
}}
"""
