"""Paths as people write them, with `~`."""

from __future__ import annotations

from pathlib import Path

from appliance.exceptions import OptionsError


def expanded(path: str | Path, option: str = "") -> Path:
    """`~` and `~NAME` expanded. option: what it was written for. Raises OptionsError where there is no such home: a
    container's user need not be in /etc/passwd, nor have HOME.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        unset = " (HOME is not set)" if str(path).partition("/")[0] == "~" else ""
        whose = f"{option}: " if option else ""
        raise OptionsError(f"{whose}{path}: there is no such home folder{unset}; write the whole path") from None


def absolute(path: str | Path, option: str = "") -> Path:
    """`expanded`, from the working folder on. Raises OptionsError, too, where that has been deleted."""
    try:
        return expanded(path, option).absolute()
    except FileNotFoundError:
        whose = f"{option}: " if option else ""
        raise OptionsError(f"{whose}{path}: the working folder is gone; write the whole path") from None
