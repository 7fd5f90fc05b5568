"""What the machine is made of is asked for by name."""

from __future__ import annotations

import os

import pytest

from tests.vm import image


def test_missing_programs_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(image, "PROGRAMS", ("sh", "no-such-qemu"))
    assert image.missing() == "not installed: no-such-qemu (apt install qemu-system-x86 mmdebstrap e2fsprogs)"


def test_the_image_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "root" in image.missing()
