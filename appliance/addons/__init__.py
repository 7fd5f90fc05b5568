"""Built-in add-ons, one idea a file, in the order of the chain."""

from __future__ import annotations

from appliance.addons.anticache import AntiCache
from appliance.addons.anticomp import AntiComp
from appliance.addons.block import Block
from appliance.addons.blocklist import BlockList
from appliance.addons.clientplayback import ClientPlayback
from appliance.addons.command_history import CommandHistory
from appliance.addons.comment import Comment
from appliance.addons.core import Core
from appliance.addons.cut import Cut
from appliance.addons.dumper import Dumper
from appliance.addons.engineparts import NextLayer, TlsConfig
from appliance.addons.export import Export
from appliance.addons.flowfeed import FlowFeed
from appliance.addons.intercept import Intercept
from appliance.addons.keepserving import KeepServing
from appliance.addons.maplocal import MapLocal
from appliance.addons.mapremote import MapRemote
from appliance.addons.modifybody import ModifyBody
from appliance.addons.modifyheaders import ModifyHeaders
from appliance.addons.pcapoverip import PcapOverIp
from appliance.addons.portal import Portal
from appliance.addons.proxyauth import ProxyAuth
from appliance.addons.proxyserver import Proxyserver
from appliance.addons.readfile import ReadFile
from appliance.addons.save import Save
from appliance.addons.savehar import SaveHar
from appliance.addons.savepcapng import SavePcapng
from appliance.addons.script import ScriptLoader
from appliance.addons.serverplayback import ServerPlayback
from appliance.addons.stickyauth import StickyAuth
from appliance.addons.stickycookie import StickyCookie
from appliance.addons.update_alt_svc import UpdateAltSvc
from appliance.addons.upstream_auth import UpstreamAuth
from appliance.addons.view import View


def default_addons() -> list[object]:
    """A new instance of each, in mitmproxy's order. Those that are off have no hooks, and cost nothing."""
    return [
        Core(),
        Block(),
        BlockList(),
        AntiCache(),
        AntiComp(),
        ClientPlayback(),
        CommandHistory(),
        Comment(),
        Cut(),
        Export(),
        Portal(),
        ProxyAuth(),
        Proxyserver(),
        ScriptLoader(),
        NextLayer(),
        ServerPlayback(),
        MapRemote(),
        MapLocal(),
        ModifyBody(),
        ModifyHeaders(),
        StickyAuth(),
        StickyCookie(),
        Save(),
        SaveHar(),
        SavePcapng(),
        PcapOverIp(),
        TlsConfig(),
        UpstreamAuth(),
        UpdateAltSvc(),
        # What users see is what all of them did.
        Dumper(),
        KeepServing(),
        FlowFeed(),
        ReadFile(),
        View(),
        Intercept(),
    ]
