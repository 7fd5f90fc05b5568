"""Operation codes (RFC 6895 §2.2)."""

from __future__ import annotations

from appliance.net.dns.codes import named

QUERY = 0
IQUERY = 1
STATUS = 2
NOTIFY = 4
UPDATE = 5
DSO = 6

to_str, from_str = named(
    "OPCODE", {"QUERY": QUERY, "IQUERY": IQUERY, "STATUS": STATUS, "NOTIFY": NOTIFY, "UPDATE": UPDATE, "DSO": DSO}, 15
)
