"""Classes (RFC 1035 §3.2.4, RFC 2136)."""

from __future__ import annotations

from appliance.net.dns.codes import named

IN = 1
CH = 3
HS = 4
NONE = 254
ANY = 255

to_str, from_str = named("CLASS", {"IN": IN, "CH": CH, "HS": HS, "NONE": NONE, "ANY": ANY})
