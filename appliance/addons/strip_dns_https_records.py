"""Keeps clients from hiding a server's name (ECH) or going past the gateway (HTTP/3) by what DNS says of it.

The engine does this itself while the option `strip_ech` is on, without a look at answers of other types; the class is
for those who want it by hand.
"""

from __future__ import annotations

from appliance.dns import DNSFlow
from appliance.dnsrecord import strip_https


class StripDnsHttpsRecords:
    name = "stripdnshttpsrecords"

    def dns_response(self, flow: DNSFlow) -> None:
        if (message := flow.response) is not None:
            for part in (message.answers, message.authorities, message.additionals):
                strip_https(part)
