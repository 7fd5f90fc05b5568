"""TLS secrets in NSS key log format, for Wireshark."""

from __future__ import annotations

import os
from collections.abc import Mapping

from OpenSSL import SSL

from appliance.exceptions import OptionsError
from appliance.home import expanded


class KeyLog:
    """Appends whole lines to a file of mode 0600, each with one write, so that several processes may share it.

    :raises OptionsError: the file cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        file = expanded(path, "tls_keylog_file")
        try:
            self._fd = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise OptionsError(f"tls_keylog_file: cannot write {path}: {e.strerror}") from None

    def __call__(self, conn: SSL.Connection, line: bytes) -> None:
        # Called by OpenSSL in the middle of a handshake: a full disk must not end it.
        if self._fd >= 0:
            try:
                os.write(self._fd, line + b"\n")
            except OSError:
                self.close()

    def close(self) -> None:
        """Contexts still in use may go on calling: their lines are dropped."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            self.close()


def path_from(option: str | None, environment: Mapping[str, str]) -> str | None:
    """Where to log: the option, else the gateway's own variable, else the one that browsers and curl know too."""
    return option or environment.get("LOCKGATE_SSLKEYLOGFILE") or environment.get("SSLKEYLOGFILE") or None
