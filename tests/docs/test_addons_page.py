"""docs/addons.md: its table is current, and its programs run."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance import compat, contentviews, ctx
from appliance.contentviews import registry
from appliance.embedding import DumpMaster
from appliance.test import tflow

DOCS = Path(__file__).parents[2] / "docs"


def test_the_table_is_current() -> None:
    spec = importlib.util.spec_from_file_location("events_table", DOCS / "events_table.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.PAGE.read_text()
    assert module.page(text) == text, "run `python docs/events_table.py`"


def test_programs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[DumpMaster] = []

    async def run(self: DumpMaster) -> int:
        ran.append(self)
        return 0

    addon, socket, embed, view, test = re.findall(r"```python\n(.*?)```", (DOCS / "addons.md").read_text(), re.DOTALL)
    (tmp_path / "teapot.py").write_text(addon)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_views", dict(registry._views))
    compat.install()
    try:
        names: dict[str, object] = {}
        exec(test, names)
        names["test_refuses"]()  # type: ignore[operator]
        exec(view, {})
        exec(socket, names)
        flow: Any = tflow.twebsocketflow()
        flow.websocket.messages[-1].from_client, flow.websocket.messages[-1].text = True, "lights on"
        said: list[Any] = []
        commands = SimpleNamespace(call=lambda *words: said.append(words))
        monkeypatch.setattr(ctx, "master", SimpleNamespace(commands=commands), raising=False)
        names["websocket_message"](flow)  # type: ignore[operator]
        assert flow.websocket.messages[-1].text == "lights off" and said[0][0] == "inject.websocket"
        monkeypatch.setattr(DumpMaster, "run", run)
        monkeypatch.setattr("appliance.embedding.setup", lambda verbosity: None)
        monkeypatch.setattr(ctx, "options", None, raising=False)
        monkeypatch.setattr(ctx, "master", None, raising=False)
        exec(embed, {})
        assert ran and "teapot" in ran[0].addons and ran[0].options.listen_port == 8080
        assert "upper" in contentviews.registry.available_views()
    finally:
        compat.uninstall()
        sys.modules.pop("teapot", None)
