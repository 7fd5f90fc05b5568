"""Every name that scripts for mitmproxy reach for, under its own path: one table, each name asserted.

A line of `CALLABLES` is a path and its parameters, in order: ours may have more, all with a default. `name=` may be
given by that name, the others by position; `*` takes more of them, `**` keywords.
A line of `ATTRIBUTES` is a class (or what makes an instance of it) and what its instances have.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from appliance import compat

CALLABLES = """
http.Headers                              fields= **
http.Headers.get_all                      name
http.Headers.set_all                      name values
http.Headers.add                          name value
http.Headers.insert                       index name value
http.Headers.items                        multi=
http.Headers.keys                         multi=
http.Headers.values                       multi=
http.Headers.copy
http.Headers.clear
http.Headers.get_state
http.Headers.from_state                   state
http.Message.get_content                  strict=
http.Message.set_content                  value
http.Message.get_text                     strict=
http.Message.set_text                     text
http.Message.decode                       strict=
http.Message.encode                       encoding
http.Message.json                         **
http.Message.copy
http.Request                              host= port= method= scheme= authority= path= http_version= headers= content=
                                          trailers= timestamp_start= timestamp_end=
http.Request.make                         method= url= content= headers=
http.Request.anticache
http.Request.anticomp
http.Request.constrain_encoding
http.Response                             http_version= status_code= reason= headers= content= trailers=
                                          timestamp_start= timestamp_end=
http.Response.make                        status_code= content= headers=
http.Response.refresh                     now=
http.HTTPFlow                             client_conn= server_conn= live=
http.HTTPFlow.copy
http.parse_content_type                   value
flow.Error                                msg= timestamp=
flow.Flow.copy
flow.Flow.modified
flow.Flow.backup                          force=
flow.Flow.revert
flow.Flow.kill
flow.Flow.intercept
flow.Flow.resume
flow.Flow.wait_for_resume
flow.Flow.get_state
flow.Flow.set_state                       state
flow.Flow.from_state                      state
tcp.TCPMessage                            from_client= content= timestamp=
udp.UDPMessage                            from_client= content= timestamp=
websocket.WebSocketMessage                type= from_client= content= timestamp= dropped= injected=
websocket.WebSocketMessage.drop
websocket.WebSocketMessage.kill
websocket.WebSocketData                   messages= closed_by_client= close_code= close_reason= timestamp_end=
dns.Question                              name= type= class_=
dns.ResourceRecord                        name= type= class_= ttl= data=
dns.ResourceRecord.A                      name ip
dns.ResourceRecord.AAAA                   name ip
dns.ResourceRecord.CNAME                  alias canonical
dns.ResourceRecord.PTR                    inaddr ptr
dns.ResourceRecord.TXT                    name text
dns.ResourceRecord.HTTPS                  name record
dns.DNSMessage                            id= query= op_code= authoritative_answer= truncation= recursion_desired=
                                          recursion_available= reserved= response_code= questions= answers=
                                          authorities= additionals= timestamp=
dns.DNSMessage.fail                       response_code
dns.DNSMessage.succeed                    answers
dns.DNSMessage.unpack                     buffer
dns.DNSMessage.unpack_from                buffer offset
dns.DNSMessage.to_json
dns.DNSMessage.from_json                  data
dns.DNSMessage.copy
dns.types.to_str                          type
dns.types.from_str                        name
dns.classes.to_str                        class_
dns.classes.from_str                      name
dns.op_codes.to_str                       op_code
dns.op_codes.from_str                     name
dns.response_codes.to_str                 response_code
dns.response_codes.from_str               name
tls.ClientHello                           raw= dtls=
tls.ClientHello.raw_bytes                 wrap_in_record=
tls.ClientHelloData                       context= client_hello= ignore_connection= establish_server_tls_first=
tls.TlsData                               conn= context= ssl_conn= is_dtls=
proxy.layers.quic.QuicTlsData             conn= context= ssl_conn= is_dtls= settings=
proxy.layers.quic.QuicTlsSettings         alpn_protocols= certificate= certificate_chain= certificate_private_key=
                                          cipher_suites= ca_path= ca_file= verify_mode=
addonmanager.Loader.add_option            name= typespec= default= help= choices=
addonmanager.Loader.add_command           path= func=
addonmanager.AddonManager.get             name
addonmanager.AddonManager.add             *
addonmanager.AddonManager.remove          addon
addonmanager.AddonManager.register        addon
addonmanager.AddonManager.trigger         event *
addonmanager.AddonManager.trigger_event   event *
command.command                           name=
command.argument                          name= type=
command.CommandManager.call               name *
command.CommandManager.call_strings       name args
command.CommandManager.execute            text
tools.dump.DumpMaster                     options= loop= with_termlog= with_dumper=
tools.dump.DumpMaster.run
tools.dump.DumpMaster.shutdown
tools.dump.DumpMaster.load_flow           f
tools.main.mitmdump                       args
options.Options                           **
script.concurrent                         hook
types.Choice                              options_command
io.FlowWriter                             fo
io.FlowWriter.add                         f
io.FlowReader                             fo
io.FlowReader.stream
io.FilteredFlowWriter                     fo flt
io.FilteredFlowWriter.add                 f
io.read_flows_from_paths                  paths
flowfilter.parse                          s
flowfilter.match                          flt flow
contentviews.add                          view
contentviews.remove                       view
contentviews.get                          name
contentviews.prettify_message             message flow view_name
contentviews.reencode_message             prettified message flow view_name
contentviews.registry.get_view            data metadata view_name
contentviews.registry.available_views
contentviews.registry.register            view
contentviews.Contentview.prettify         data= metadata=
contentviews.Contentview.render_priority  data= metadata=
contentviews.InteractiveContentview.reencode prettified metadata
contentviews.base.format_text             text
contentviews.base.format_dict             d
certs.Cert                                cert
certs.Cert.from_pem                       data
certs.Cert.to_pem
certs.Cert.from_pyopenssl                 x509
certs.Cert.to_cryptography
certs.Cert.public_key
certs.Cert.fingerprint
certs.Cert.has_expired
certs.CertStore                           default_privatekey default_ca default_chain_file default_crl dhparams
certs.CertStore.from_store                path= basename= key_size= passphrase=
certs.CertStore.from_files                ca_file dhparam_file passphrase
certs.CertStore.create_store              path basename key_size organization cn
certs.CertStore.get_cert                  commonname= sans= organization= crl_url=
certs.CertStore.add_cert_file             spec path passphrase
certs.CertStore.add_cert                  entry *
certs.CertStoreEntry                      cert= privatekey= chain_file= chain_certs=
certs.dummy_cert                          privkey= cacert= commonname= sans= organization= crl_url=
certs.create_ca                           organization= cn= key_size=
certs.dummy_crl                           privkey cacert
coretypes.multidict.MultiDict             fields
coretypes.multidict.MultiDictView         getter setter
net.server_spec.parse                     server_spec default_scheme
net.encoding.decode                       encoded encoding
net.encoding.encode                       decoded encoding
net.http.cookies.parse_cookie_header      line
net.http.cookies.parse_cookie_headers     lines
net.http.cookies.format_cookie_header     cookies
net.http.cookies.parse_set_cookie_header  line
net.http.cookies.parse_set_cookie_headers lines
net.http.cookies.format_set_cookie_header name value attrs
net.http.cookies.refresh_set_cookie_header line delta
net.http.cookies.is_expired               attrs
net.http.url.parse                        url
net.http.url.unparse                      scheme host port path
net.http.url.encode                       s similar_to=
net.http.url.decode                       s
net.http.url.quote                        b safe
net.http.url.unquote                      s
net.http.url.hostport                     scheme host port
net.http.url.default_port                 scheme
net.http.url.parse_authority              authority check
net.http.multipart.encode_multipart       content_type parts
net.http.multipart.decode_multipart       content_type content
net.http.headers.parse_content_type       value
net.http.headers.assemble_content_type    type subtype parameters
net.http.headers.infer_content_encoding   content_type content
net.http.user_agents.get_by_shortcut      shortcut
net.http.http1.read_request_head          lines
net.http.http1.read_response_head         lines
net.http.http1.connection_close           http_version headers
net.http.http1.expected_http_body_size    request response
net.http.http1.assemble_request           request
net.http.http1.assemble_request_head      request
net.http.http1.assemble_response          response
net.http.http1.assemble_response_head     response
net.http.http1.assemble_body              headers body_chunks trailers
net.tls.starts_like_tls_record            d
net.tls.starts_like_dtls_record           d
utils.strutils.always_bytes               value *
utils.strutils.always_str                 value *
utils.strutils.bytes_to_escaped_str       data= keep_spacing= escape_single_quotes=
utils.strutils.escaped_str_to_bytes       data
utils.strutils.escape_control_characters  text keep_spacing
utils.strutils.is_mostly_bin              s
utils.strutils.is_xml                     s
utils.strutils.clean_hanging_newline      t
utils.strutils.hexdump                    s
utils.strutils.cut_after_n_lines          content n
utils.human.pretty_size                   size
utils.human.parse_size                    s
utils.human.pretty_duration               secs
utils.human.format_timestamp              s
utils.human.format_timestamp_with_milli   s
utils.human.format_address                address
utils.asyncio_utils.create_task           coro name=
proxy.context.Context                     client options
proxy.layer.NextLayer                     context
proxy.layer.NextLayer.data_client
proxy.layer.NextLayer.data_server
proxy.layers.TCPLayer                     context= ignore=
proxy.layers.UDPLayer                     context= ignore=
proxy.layers.HttpLayer                    context mode
proxy.layers.DNSLayer                     context
proxy.layers.ClientTLSLayer               context
proxy.layers.ServerTLSLayer               context
proxy.layers.modes.HttpProxy              context
proxy.layers.modes.TransparentProxy       context
proxy.mode_specs.ProxyMode.parse          spec
proxy.server_hooks.ServerConnectionHookData server= client=
addons.asgiapp.ASGIApp                    asgi_app host port
addons.asgiapp.WSGIApp                    wsgi_app host port
addons.export.curl_command                f
addons.export.httpie_command              f
addons.export.raw                         f
addons.export.raw_request                 f
addons.export.raw_response                f
test.taddons.context                      * options= loadcore=
test.taddons.context.configure            addon **
test.taddons.context.cycle                addon f
test.taddons.context.command              func *
test.taddons.context.script               path
test.tflow.tflow                          client_conn= server_conn= req= resp= err= ws= live=
test.tflow.ttcpflow                       client_conn= server_conn= messages= err=
test.tflow.tudpflow                       client_conn= server_conn= messages= err=
test.tflow.twebsocketflow                 messages= err=
test.tflow.tdnsflow                       req= resp= err=
test.tflow.tdummyflow                     client_conn= server_conn= err=
test.tflow.tclient_conn
test.tflow.tserver_conn
test.tflow.terr                           content
test.tflow.tflows
test.tflow.tdnsreq                        **
test.tflow.tdnsresp                       **
test.tflow.treq                           **
test.tflow.tresp                          **
test.tutils.treq                          **
test.tutils.tresp                         **
eventsequence.iterate                     f
"""

NAMES = """
http.status_codes.RESPONSES http.status_codes.IM_A_TEAPOT http.encoding http.url http.cookies http.multipart
http.cookies.CookieAttrs http.MultiDict http.MultiDictView http.WebSocketData
flow.Error.KILLED_MESSAGE tcp.TCPFlow udp.UDPFlow
dns.DNSFlow dns.types.A dns.types.HTTPS dns.classes.IN dns.op_codes.QUERY dns.response_codes.NXDOMAIN
dns.DEFAULT_TTL net.dns.types.AAAA net.dns.response_codes.SERVFAIL net.dns.classes.IN net.dns.op_codes.QUERY
connection.ConnectionState.CLOSED connection.ConnectionState.CAN_READ connection.ConnectionState.CAN_WRITE
connection.ConnectionState.OPEN connection.Address connection.Connection connection.Client connection.Server
connection.TransportProtocol net.server_spec.ServerSpec
ctx.log ctx.log.debug ctx.log.info ctx.log.alert ctx.log.warn ctx.log.error
addonmanager.Loader addonmanager.AddonManager
types.Path types.Cmd types.CmdArgs types.CutSpec types.Data types.Marker types.Choice types.Space types.Unknown
exceptions.MitmproxyException exceptions.FlowReadException exceptions.ControlException exceptions.CommandError
exceptions.OptionsError exceptions.AddonManagerError exceptions.AddonHalt
flowfilter.TFilter flowfilter.match_all flowfilter.help
contentviews.Contentview contentviews.InteractiveContentview contentviews.Metadata contentviews.SyntaxHighlight
contentviews.registry contentviews.base.View contentviews.View
contentviews.TViewResult contentviews.format_text contentviews.format_dict contentviews.KEY_MAX
coretypes.serializable.Serializable hooks.Hook hooks.UpdateHook hooks.ConfigureHook hooks.RunningHook hooks.DoneHook
proxy.server_hooks.ServerConnectHook proxy.server_hooks.ServerConnectedHook
proxy.server_hooks.ServerDisconnectedHook proxy.server_hooks.ServerConnectErrorHook
net.http.status_codes.NO_RESPONSE net.http.cookies.get_expiration_ts
hooks.all_hooks log.ALERT log.LogEntry version.VERSION version.MITMPROXY version.FLOW_FORMAT_VERSION
optmanager.OptManager master.Master
net.http.user_agents.UASTRINGS net.http.status_codes.RESPONSES
utils.emoji.emoji proxy.layers.http.HTTPMode.regular proxy.layers.http.HTTPMode.transparent
proxy.layers.modes proxy.layers.tls.ClientTLSLayer proxy.layers.tcp.TCPLayer proxy.layers.udp.UDPLayer
proxy.layers.dns.DNSLayer proxy.layers.http.HttpLayer
proxy.mode_specs.RegularMode proxy.mode_specs.UpstreamMode proxy.mode_specs.ReverseMode
proxy.mode_specs.TransparentMode proxy.mode_specs.Socks5Mode proxy.mode_specs.DnsMode
proxy.mode_specs.WireGuardMode proxy.mode_specs.LocalMode proxy.mode_specs.TunMode
addons.default_addons addons.core.Core addons.block.Block addons.anticache.AntiCache addons.anticomp.AntiComp
addons.blocklist.BlockList addons.dumper.Dumper addons.export.formats addons.intercept.Intercept
addons.maplocal.MapLocal addons.mapremote.MapRemote addons.modifybody.ModifyBody
addons.modifyheaders.ModifyHeaders addons.onboarding.Onboarding addons.readfile.ReadFile addons.save.Save
addons.savehar.SaveHar addons.script.ScriptLoader addons.stickyauth.StickyAuth addons.stickycookie.StickyCookie
addons.clientplayback.ClientPlayback addons.serverplayback.ServerPlayback addons.proxyauth.ProxyAuth
addons.view.View addons.cut.Cut addons.comment.Comment
addons.disable_h2c.DisableH2C addons.keepserving.KeepServing addons.upstream_auth.UpstreamAuth
addons.update_alt_svc.UpdateAltSvc addons.strip_dns_https_records.StripDnsHttpsRecords
test.taddons test.tflow test.tutils
"""

ATTRIBUTES = """
test.tutils.treq          data http_version is_http10 is_http11 is_http2 is_http3 headers trailers raw_content content
                          text
test.tutils.treq          timestamp_start timestamp_end stream first_line_format method scheme authority host
                          host_header port
test.tutils.treq          path url pretty_host pretty_url query cookies path_components urlencoded_form multipart_form
test.tutils.tresp         status_code reason cookies stream data
test.tflow.tflow          request response error websocket timestamp_start mode id client_conn server_conn intercepted
                          marked
test.tflow.tflow          is_replay live timestamp_created metadata comment type killable
test.tflow.ttcpflow       messages
test.tflow.tudpflow       messages
test.tflow.tdnsflow       request response
test.tflow.tclient_conn   peername sockname state id transport_protocol error tls certificate_list alpn alpn_offers
                          cipher
test.tflow.tclient_conn   cipher_list tls_version sni timestamp_start timestamp_end timestamp_tls_setup connected
                          tls_established
test.tflow.tclient_conn   mitmcert proxy_mode address cipher_name clientcert alpn_proto_negotiated ja4
test.tflow.tserver_conn   address timestamp_tcp_setup via ip_address cert alpn_proto_negotiated cipher_name
test.tutils.record        text name type class_ ttl data
test.tutils.question      name type class_
test.tutils.query         id query op_code question content packed size questions answers authorities additionals
                          timestamp
test.tutils.message       is_text text type from_client content timestamp dropped injected
test.tutils.hello         cipher_suites sni alpn_protocols extensions ja4
test.tutils.cert          issuer subject cn organization altnames notbefore notafter serial is_ca keyinfo
                          crl_distribution_points
"""


def find(path: str) -> Any:
    """`mitmproxy.` + path, as scripts get at it; a module on the way is imported if need be."""
    parts = path.split(".")
    found: Any = importlib.import_module("mitmproxy." + parts[0])
    for at, name in enumerate(parts[1:], 2):
        if not hasattr(found, name):
            importlib.import_module("mitmproxy." + ".".join(parts[:at]))
        found = getattr(found, name)
    return found


def lines(text: str) -> list[list[str]]:
    """A line that begins with a space goes on with the one before."""
    return [line.split() for line in text.strip().replace("\n ", " ").splitlines()]


@pytest.fixture(autouse=True, scope="module")
def alias() -> Iterator[None]:
    compat.install()
    yield
    compat.uninstall()


@pytest.mark.parametrize("path, wanted", [(line[0], line[1:]) for line in lines(CALLABLES)])
def test_callables(path: str, wanted: list[str]) -> None:
    function = find(path)
    assert callable(function)
    parameters = list(inspect.signature(function).parameters.values())
    if parameters and parameters[0].name == "self":
        del parameters[0]
    by_place = [one for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    by_name = {one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    plain = [name for name in wanted if not name.startswith("*")]
    takes_more = any(one.kind is one.VAR_POSITIONAL for one in parameters)
    for at, name in enumerate(plain):
        if name.endswith("="):
            assert name[:-1] in by_name, f"{path}() takes no {name}"
        if at < len(by_place) and name[:-1] in {one.name for one in by_place}:
            assert by_place[at].name == name[:-1], f"{path}(): {name} is in another place"
        elif not name.endswith("="):
            assert at < len(by_place) or takes_more, f"{path}() takes no {name}"
    if "*" in wanted:
        assert takes_more
    if "**" in wanted:
        assert any(one.kind is one.VAR_KEYWORD for one in parameters)
    left = [one for one in by_place[len(plain) :] if one.default is one.empty and one.name + "=" not in plain]
    assert not left, f"{path}() also wants {left}"


@pytest.mark.parametrize("path", NAMES.split())
def test_names(path: str) -> None:
    find(path)


MAKERS: dict[str, Callable[[], Any]] = {
    "record": lambda: find("dns").ResourceRecord.TXT("a.example", "x"),
    "question": lambda: find("dns").Question("a.example"),
    "query": lambda: find("test.tflow").tdnsflow().request,
    "message": lambda: find("test.tflow").twebsocketflow().websocket.messages[1],
    "hello": lambda: find("tls").ClientHello(bytes(34) + b"\0\0\x02\x13\x01\x01\0"),
    "cert": lambda: find("certs").Cert(find("certs").create_ca("o", "cn", 2048)[1]),
}


@pytest.mark.parametrize("maker, name", [(line[0], name) for line in lines(ATTRIBUTES) for name in line[1:]])
def test_attributes(maker: str, name: str) -> None:
    last = maker.rpartition(".")[2]
    made = _made.get(last) or _made.setdefault(last, (MAKERS.get(last) or find(maker))())
    getattr(made, name)


_made: dict[str, Any] = {}
