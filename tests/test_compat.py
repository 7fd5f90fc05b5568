"""The import alias: the same objects under both names, and an error that names what is missing."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import compat

IMPORTS = """
from mitmproxy import addonmanager, certs, command, connection, contentviews, ctx, exceptions, flow, hooks, http, log
from mitmproxy import options, tcp, tls, types, udp, version
from mitmproxy.addonmanager import AddonManager, Loader
from mitmproxy.certs import Cert
from mitmproxy.command import argument, command as decorator
from mitmproxy.connection import Address, Client, Connection, ConnectionState, Server
from mitmproxy.contentviews import Contentview, InteractiveContentview, Metadata, SyntaxHighlight, add
from mitmproxy.contentviews.base import View, format_dict, format_text
from mitmproxy.coretypes.multidict import MultiDict, MultiDictView
from mitmproxy.exceptions import AddonHalt, AddonManagerError, CommandError, ControlException, FlowReadException
from mitmproxy.exceptions import MitmproxyException, OptionsError
from mitmproxy.flow import Error, Flow
from mitmproxy.hooks import all_hooks
from mitmproxy.http import Headers, HTTPFlow, Message, Request, Response
from mitmproxy.http import cookies, encoding, multipart, parse_content_type, status_codes, url
from mitmproxy.log import ALERT, LogEntry
from mitmproxy.net import encoding as net_encoding, server_spec
from mitmproxy.net.http import cookies, headers, multipart, status_codes, url
from mitmproxy.net.http.headers import assemble_content_type, parse_content_type
from mitmproxy.net.http.url import parse, unparse
from mitmproxy.net.server_spec import ServerSpec
from mitmproxy.options import Options
from mitmproxy.optmanager import OptManager
from mitmproxy.proxy import layer, layers, mode_specs, server_hooks
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import Layer, NextLayer
from mitmproxy.proxy.layers import ClientTLSLayer, HttpLayer, ServerTLSLayer, TCPLayer, UDPLayer, modes
from mitmproxy.proxy.layers.http import HTTPMode
from mitmproxy.proxy.mode_specs import ProxyMode, RegularMode, ReverseMode, TransparentMode
from mitmproxy.proxy.server_hooks import ServerConnectionHookData
from mitmproxy.script import concurrent
from mitmproxy.tcp import TCPFlow, TCPMessage
from mitmproxy.test import taddons, tflow, tutils
from mitmproxy.tls import ClientHello, ClientHelloData, TlsData
from mitmproxy.tools.dump import DumpMaster
from mitmproxy.types import Choice, Cmd, CmdArgs, CutSpec, Data, Marker, Path, Space, Unknown
from mitmproxy.udp import UDPFlow, UDPMessage
from mitmproxy.utils import human, strutils
from mitmproxy.utils.human import format_address, parse_size, pretty_duration, pretty_size
from mitmproxy.utils.strutils import always_bytes, always_str, bytes_to_escaped_str, escaped_str_to_bytes
from mitmproxy.version import VERSION
from mitmproxy.addons.script import ScriptLoader
from mitmproxy.addons.dumper import Dumper
from mitmproxy.dns import DNSFlow, DNSMessage, Question, ResourceRecord
from mitmproxy.net.dns import classes, op_codes, response_codes, types as dns_types
from mitmproxy.addons import asgiapp, dns_resolver, errorcheck, eventstore, next_layer, onboarding, proxyserver, termlog
from mitmproxy.addons.errorcheck import ErrorCheck
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.addons.termlog import TermLog
from mitmproxy.addons.tlsconfig import TlsConfig
from mitmproxy.contentviews import _api
from mitmproxy.http import HTTPRequest, HTTPResponse
from mitmproxy.io import io
from mitmproxy.io.io import FlowReader
from mitmproxy.net.http.http1 import assemble
from mitmproxy.net.http.http1.assemble import assemble_request
from mitmproxy.net.http.http1.read import read_request_head
from mitmproxy.proxy.layer import NextLayerHook
from mitmproxy.proxy.layers.dns import DnsRequestHook
from mitmproxy.proxy.layers.http import HttpErrorHook, HttpRequestHeadersHook, HttpRequestHook
from mitmproxy.proxy.layers.modes import Socks5AuthHook
from mitmproxy.proxy.layers.tcp import TcpMessageHook
from mitmproxy.proxy.layers.tls import HTTP_ALPNS, ClientHelloData, TlsClienthelloHook, TlsData, parse_client_hello
from mitmproxy.proxy.layers.udp import UdpStartHook
from mitmproxy.proxy.layers.websocket import WebsocketMessageHook
import mitmproxy.http
import mitmproxy
"""


@pytest.fixture(autouse=True)
def alias() -> Iterator[None]:
    compat.install()
    yield
    compat.uninstall()


@pytest.mark.parametrize("line", IMPORTS.strip().splitlines())
def test_imports(line: str) -> None:
    exec(line, {})


@pytest.mark.parametrize(
    "older, ours",
    [
        ("mitmproxy.http", "appliance.http"),
        ("mitmproxy.net.http.url", "appliance.url"),
        ("mitmproxy.proxy.layers.http", "appliance.layers.http"),
        ("mitmproxy.coretypes.multidict", "appliance.multidict"),
        ("mitmproxy.addons.script", "appliance.addons.script"),
    ],
)
def test_same_module(older: str, ours: str) -> None:
    module = importlib.import_module(ours)
    spec = module.__spec__
    assert importlib.import_module(older) is module
    assert module.__spec__ is spec and module.__name__ == ours


def test_attributes_of_holders_are_imported_when_asked_for() -> None:
    import appliance.http

    assert importlib.import_module("mitmproxy").net.http.url.parse("http://a/") == ("http", "a", 80, "/")
    assert importlib.import_module("mitmproxy").http is appliance.http


@pytest.mark.parametrize(
    "line, told",
    [
        ("import mitmproxy.nosuch", "mitmproxy.nosuch is not in lockgate"),
        ("from mitmproxy import nosuch", "mitmproxy.nosuch is not in lockgate"),
        ("from mitmproxy.tools import web", "mitmproxy.tools.web is not in lockgate"),
        ("from mitmproxy.tools.web.master import WebMaster", "mitmproxy.tools.web is not in lockgate"),
        ("from mitmproxy.proxy import commands", "write `run()`"),
        ("from mitmproxy.http import Nosuch", "Nosuch"),
        ("import mitmproxy.net.http.nosuch", "mitmproxy.net.http.nosuch is not in lockgate"),
        ("from mitmproxy.addons import nosuch", "nosuch"),
        ("from mitmproxy.proxy.layers.tcp import NosuchHook", "NosuchHook"),
        ("import mitmproxy.net.http.http1.nosuch", "mitmproxy.net.http.http1.nosuch is not in lockgate"),
        ("import mitmproxy.gateway", "mitmproxy.gateway is not in lockgate"),
    ],
)
def test_what_is_missing_is_named(line: str, told: str) -> None:
    with pytest.raises(ImportError) as caught:
        exec(line, {})
    assert told in str(caught.value)


def test_an_installed_one_does_not_win(tmp_path: Path) -> None:
    package = tmp_path / "mitmproxy"
    package.mkdir()
    (package / "__init__.py").write_text("real = True")
    (package / "http.py").write_text("real = True")
    program = (
        "import mitmproxy.http; assert mitmproxy.real\n"
        "from appliance import compat; compat.install()\n"
        "import mitmproxy.http; assert not hasattr(mitmproxy, 'real')\n"
        "assert mitmproxy.http.Headers.__module__ == 'appliance.headers'\n"
    )
    subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}, check=True)


def test_costs_nothing_until_a_script_is_read() -> None:
    program = (
        "import sys, appliance.gateway\n"
        "assert not any('mitmproxy' in repr(type(f)).lower() or f.__class__.__module__ == 'appliance.compat'"
        " for f in sys.meta_path)\n"
        "assert 'appliance.contentviews' not in sys.modules and 'appliance.certs' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": str(Path.cwd())}, check=True)


def test_modes_by_class() -> None:
    from appliance.connection import ModeName
    from appliance.proxy import mode_specs

    assert isinstance(ModeName("reverse:http://a@80"), mode_specs.ReverseMode)
    assert isinstance(ModeName("regular"), mode_specs.ProxyMode)
    assert not isinstance(ModeName("regular"), mode_specs.ReverseMode)
    assert mode_specs.ProxyMode.parse("transparent").type_name == "transparent"
    with pytest.raises(ValueError, match="not a reverse mode"):
        mode_specs.ReverseMode.parse("regular")


def test_events_as_classes_in_their_layers() -> None:
    from appliance import layers

    assert layers.http.HttpResponseHeadersHook.name == "responseheaders"  # type: ignore[attr-defined]
    assert layers.tls.TlsEstablishedClientHook("data").args() == ["data"]  # type: ignore[attr-defined]


def test_a_client_hello_by_hand() -> None:
    from appliance.layers.tls import parse_client_hello
    from tests import hellos

    content = hellos.body((0x1301,), hellos.name())
    message = b"\1" + len(content).to_bytes(3) + content
    hello = b"\x16\3\1" + len(message).to_bytes(2) + message
    found = parse_client_hello(hello)
    assert found is not None and found.sni == "a.example"
    assert parse_client_hello(hello[:-1]) is None
    with pytest.raises(ValueError, match="no ClientHello"):
        parse_client_hello(b"GET / HTTP/1.1")
