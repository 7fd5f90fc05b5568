"""docs/addons.md: its table is current, and its programs run."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from appliance import compat, contentviews
from appliance.contentviews import registry

DOCS = Path(__file__).parents[2] / "docs"


def test_the_table_is_current() -> None:
    spec = importlib.util.spec_from_file_location("events_table", DOCS / "events_table.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.PAGE.read_text()
    assert module.page(text) == text, "run `python docs/events_table.py`"


def test_programs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    addon, view, test = re.findall(r"```python\n(.*?)```", (DOCS / "addons.md").read_text(), re.DOTALL)
    (tmp_path / "teapot.py").write_text(addon)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_views", dict(registry._views))
    compat.install()
    try:
        names: dict[str, object] = {}
        exec(test, names)
        names["test_refuses"]()  # type: ignore[operator]
        exec(view, {})
        assert "upper" in contentviews.registry.available_views()
    finally:
        compat.uninstall()
        sys.modules.pop("teapot", None)
