"""What scripts import from `mitmproxy.proxy`, gathered from where it lives here."""
