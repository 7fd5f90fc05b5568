"""Certificates that we show to servers which ask for one (option `client_certs`): one for all, or one a host."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from appliance.exceptions import CertificateError, OptionsError
from appliance.net import names
from appliance.net.custom_certs import load
from appliance.net.leaf import Leaf

_KEPT = 64
_Mark = tuple[int, int, int]


class ClientCerts:
    """A PEM file of certificate, chain and key, or a folder with HOST.pem.

    Files are read again when they have changed; those of a folder for the first time when their host is dialled.

    :raises OptionsError: the path is not there, or the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = path.is_dir()
        self._kept: OrderedDict[Path, tuple[_Mark, Leaf]] = OrderedDict()
        if not self._folder:
            try:
                self._the_one()
            except CertificateError as error:
                raise OptionsError(f"client_certs: {error}") from None

    def find(self, host: str) -> Leaf | None:
        """For a server's SNI, or its address where none is sent. The same object as long as the file is the same.

        :raises CertificateError: there is a file for it that cannot be used; names file and cause.
        """
        if not self._folder:
            return self._the_one()
        name = names.canonical(host)  # it may be a client's word: nothing that leads out of the folder
        if name is None:
            return None
        return self._read(self._path / f"{name}.pem")

    def _the_one(self) -> Leaf:
        leaf = self._read(self._path)
        if leaf is None:
            raise CertificateError(f"There is no {self._path}.")
        return leaf

    def _read(self, path: Path) -> Leaf | None:
        try:
            status = path.stat()
        except FileNotFoundError:
            self._kept.pop(path, None)
            return None
        except OSError as error:
            raise CertificateError(f"Cannot read {path}: {error.strerror}.") from None
        mark = (status.st_ino, status.st_size, status.st_mtime_ns)
        kept = self._kept.get(path)
        if kept is not None and kept[0] == mark:
            self._kept.move_to_end(path)
            return kept[1]
        leaf = load(path)
        self._kept[path] = mark, leaf
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return leaf
