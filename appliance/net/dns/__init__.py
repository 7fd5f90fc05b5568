"""The DNS wire format (RFC 1035 and what came after): names, numbers, record data, whole messages. No I/O."""

from __future__ import annotations


class DNSError(ValueError):
    """These bytes are not what they should be, or this value cannot be put on the wire; the text says why."""
