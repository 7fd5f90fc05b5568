"""Response codes (RFC 6895 §2.3)."""

from __future__ import annotations

from appliance.net.dns.codes import named

NOERROR = 0
FORMERR = 1
SERVFAIL = 2
NXDOMAIN = 3
NOTIMP = 4
REFUSED = 5
YXDOMAIN = 6
YXRRSET = 7
NXRRSET = 8
NOTAUTH = 9
NOTZONE = 10
DSOTYPENI = 11

to_str, from_str = named(
    "RCODE", {k: v for k, v in list(globals().items()) if k.isupper() and isinstance(v, int)}, 4095
)
