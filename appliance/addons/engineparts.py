"""What are add-ons elsewhere and parts of the engine here, by the names that embedders put into a chain.

They have no hooks (`is_engine`): adding or removing one changes nothing. `TlsConfig` may be called by hand.
"""

from __future__ import annotations

from typing import Final

from appliance import ctx
from appliance.tls import TlsData

__all__ = ["DnsResolver", "ErrorCheck", "NextLayer", "TermLog", "TlsConfig"]


class _Part:
    is_engine: Final = True


class TlsConfig(_Part):
    """TLS of both sides: `net/tls_context.py`."""

    name = "tlsconfig"

    def tls_start_server(self, data: TlsData) -> None:
        """Put there the connection that the gateway would make, so that a hook can change it. It is verified as ever,
        unless the hook calls its `set_verify`.
        """
        if data.ssl_conn is None:
            conn = data.conn
            data.ssl_conn = ctx.master.worker.tls.connect(
                conn,  # type: ignore[arg-type]
                sni=conn.sni,
                alpn_offers=conn.alpn_offers,
            )


class NextLayer(_Part):
    """What comes next in a connection: `layers/decide.py`."""

    name = "nextlayer"


class DnsResolver(_Part):
    """The dns mode: `layers/dns.py`."""

    name = "dnsresolver"


class TermLog(_Part):
    """The log on the terminal: `log.py`, set up before add-ons load."""

    name = "termlog"


class ErrorCheck(_Part):
    """What cannot start raises, and the program exits with 1: `cli/run.py`."""

    name = "errorcheck"

    def __init__(self, repeat_errors_on_stderr: bool = False) -> None:
        pass

    def finish(self) -> None:
        """There is nothing to take back."""
