"""The command `lockgate`."""

from __future__ import annotations
