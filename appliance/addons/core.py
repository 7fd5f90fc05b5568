"""Commands of the gateway itself: options, and what can be done to a flow."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from appliance import command, config, ctx, types
from appliance.exceptions import CommandError, ControlException
from appliance.flow import Flow
from appliance.http import HTTPFlow, Message
from appliance.log import ALERT
from appliance.url import parse
from appliance.websocket import Opcode, WebSocketMessage

logger = logging.getLogger(__name__)

CODINGS = ("gzip", "deflate", "br", "zstd")
PARTS = ("request", "response")
ATTRIBUTES = ("host", "status_code", "method", "path", "url", "reason")


class Core:
    """Has no hooks: it costs nothing."""

    name = "core"

    # -- options -------------------------------------------------------------------------------------------------------

    @command.command("set")
    def set(self, option: str, *value: str) -> None:
        """Set an option, as `--set` does. Without a value: true, or none, or an empty list."""
        specs = [f"{option}={text}" for text in value] or [option]
        if option not in ctx.options:
            ctx.options.entry(option)  # names the nearest
        ctx.options.set(*specs)

    @command.command("options.load")
    def options_load(self, path: types.Path) -> None:
        """Set what a YAML file of options says."""
        from pathlib import Path

        settings = config.read(Path(path))
        ctx.options.update(**{name: setting.value for name, setting in settings.items()})

    @command.command("options.save")
    def options_save(self, path: types.Path) -> None:
        """Write the options that are not at their defaults as YAML. What else the file held is lost."""
        from ruamel.yaml import YAML

        values = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in ctx.options.items()
            if name != "confdir" and not ctx.options.is_default(name)
        }
        try:
            with open(path, "w", encoding="utf-8") as file:
                YAML(typ="safe", pure=True).dump(values, file)
        except OSError as error:
            raise CommandError(f"{path}: cannot be written: {error.strerror}") from None

    @command.command("options.reset")
    def options_reset(self) -> None:
        """Put all options back to their defaults."""
        ctx.options.reset(*(name for name in ctx.options if name != "confdir"))

    @command.command("options.reset.one")
    def options_reset_one(self, name: str) -> None:
        """Put one option back to its default."""
        ctx.options.reset(name)

    # -- control -------------------------------------------------------------------------------------------------------

    @command.command("flow.resume")
    def resume(self, flows: Sequence[Flow]) -> None:
        """Let intercepted flows go on."""
        held = [flow for flow in flows if flow.intercepted]
        for flow in held:
            flow.resume()
        ctx.master.addons.trigger("update", held)

    @command.command("flow.kill")
    def kill(self, flows: Sequence[Flow]) -> None:
        """End flows that are going on."""
        ended = []
        for flow in flows:
            if flow.killable:
                try:
                    flow.kill()
                except ControlException:
                    continue
                ended.append(flow)
        logger.log(ALERT, "killed %d of %d flows", len(ended), len(flows))
        ctx.master.addons.trigger("update", ended)

    @command.command("flow.mark")
    def mark(self, flows: Sequence[Flow], marker: types.Marker) -> None:
        """Mark flows; an empty marker takes the mark away."""
        for flow in flows:
            flow.marked = marker
        ctx.master.addons.trigger("update", flows)

    @command.command("flow.mark.toggle")
    def mark_toggle(self, flows: Sequence[Flow]) -> None:
        """Mark flows that are not marked, and the other way round."""
        for flow in flows:
            flow.marked = "" if flow.marked else ":default:"
        ctx.master.addons.trigger("update", flows)

    @command.command("flow.revert")
    def revert(self, flows: Sequence[Flow]) -> None:
        """Undo the edits of flows."""
        edited = [flow for flow in flows if flow.modified()]
        for flow in edited:
            flow.revert()
        logger.log(ALERT, "reverted %d flows", len(edited))
        ctx.master.addons.trigger("update", edited)

    # -- edits ---------------------------------------------------------------------------------------------------------

    @command.command("flow.set.options")
    def set_options(self) -> Sequence[str]:
        """What `flow.set` can set."""
        return list(ATTRIBUTES)

    @command.command("flow.set")
    @command.argument("attr", type=types.Choice("flow.set.options"))
    def flow_set(self, flows: Sequence[Flow], attr: str, value: str) -> None:
        """Set an attribute of requests or responses."""
        edited: list[Flow] = []
        for flow in flows:
            if not isinstance(flow, HTTPFlow):
                continue
            response = flow.response
            if attr in ("status_code", "reason"):
                if response is None:
                    continue
                flow.backup()
                if attr == "reason":
                    response.reason = value
                else:
                    response.status_code = _status(value)
            else:
                try:
                    if attr == "url":
                        parse(value)
                    flow.backup()
                    setattr(flow.request, attr, value)
                except ValueError as error:
                    raise CommandError(f"flow.set {attr}: {error}") from None
            edited.append(flow)
        ctx.master.addons.trigger("update", edited)
        logger.log(ALERT, "set %s on %d flows", attr, len(edited))

    @command.command("flow.decode")
    def decode(self, flows: Sequence[Flow], part: str) -> None:
        """Take the content codings off the request's or response's body."""
        for flow, message in _messages(flows, part):
            flow.backup()
            try:
                message.decode()
            except ValueError as error:
                raise CommandError(f"flow.decode: {error}") from None
        ctx.master.addons.trigger("update", flows)

    @command.command("flow.encode.options")
    def encode_options(self) -> Sequence[str]:
        """The content codings of `flow.encode`."""
        return list(CODINGS)

    @command.command("flow.encode")
    @command.argument("encoding", type=types.Choice("flow.encode.options"))
    def encode(self, flows: Sequence[Flow], part: str, encoding: str) -> None:
        """Apply a content coding to bodies that have none."""
        for flow, message in _messages(flows, part):
            if message.headers.get("content-encoding", "identity") == "identity":
                flow.backup()
                message.encode(encoding)
        ctx.master.addons.trigger("update", flows)

    @command.command("flow.encode.toggle")
    def encode_toggle(self, flows: Sequence[Flow], part: str) -> None:
        """Decode what has a content coding, deflate what has none."""
        for flow, message in _messages(flows, part):
            flow.backup()
            if message.headers.get("content-encoding", "identity") == "identity":
                message.encode("deflate")
            else:
                try:
                    message.decode()
                except ValueError as error:
                    raise CommandError(f"flow.encode.toggle: {error}") from None
        ctx.master.addons.trigger("update", flows)

    # -- injection -----------------------------------------------------------------------------------------------------

    @command.command("inject.tcp")
    def inject_tcp(self, flow: Flow, to_client: bool, message: bytes) -> None:
        """Send bytes into a raw TCP conversation; `tcp_message` sees them."""
        _inject(flow, "tcp", to_client, message)

    @command.command("inject.udp")
    def inject_udp(self, flow: Flow, to_client: bool, message: bytes) -> None:
        """Send a datagram into a UDP conversation; `udp_message` sees it."""
        _inject(flow, "udp", to_client, message)

    @command.command("inject.websocket")
    def inject_websocket(self, flow: Flow, to_client: bool, message: bytes, is_text: bool = True) -> None:
        """Send a message into a WebSocket connection; `websocket_message` sees it."""
        data = getattr(flow, "websocket", None)
        if data is None:
            raise CommandError("inject.websocket: this flow is no WebSocket")
        if is_text:
            try:
                message.decode()
            except UnicodeDecodeError:
                raise CommandError("inject.websocket: text that is not UTF-8; send it as binary") from None
        inject: Any = getattr(flow._live, "inject", None)
        if inject is None or data.close_code is not None:
            logger.warning("inject.websocket: the WebSocket is not open, nothing was sent")
            return
        kind = Opcode.TEXT if is_text else Opcode.BINARY
        inject(to_client, WebSocketMessage(kind, not to_client, message, injected=True))

    # -- what hooks cost -----------------------------------------------------------------------------------------------

    @command.command("hooks.profile")
    def hook_profile(self) -> str:
        """Loop time held by each hook so far, as a table."""
        from appliance.hookprofile import table

        return table(ctx.master.addons.hooks)


def _status(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 100 <= int(text[:6]) <= 999:
        raise CommandError(f"flow.set status_code: {text!r} is not a status code, such as 404")
    return int(text)


def _messages(flows: Sequence[Flow], part: str) -> list[tuple[Flow, Message]]:
    if part not in PARTS:
        raise CommandError(f"{part!r} is neither request nor response")
    found = [(flow, getattr(flow, part)) for flow in flows if isinstance(flow, HTTPFlow)]
    return [(flow, message) for flow, message in found if message is not None]


def _inject(flow: Flow, kind: str, to_client: bool, message: bytes) -> None:
    if flow.type != kind:
        raise CommandError(f"inject.{kind}: this is a flow of {flow.type}")
    inject: Any = getattr(flow, "inject", None)
    if inject is None:
        raise CommandError(f"inject.{kind}: not yet in this release")
    if not flow.live:
        logger.warning("inject.%s: the flow has ended, nothing was sent", kind)
        return
    inject(to_client, message)
