"""The version, under the names that scripts read."""

from appliance import __version__
from appliance.flow import FORMAT_VERSION

VERSION = __version__
MITMPROXY = LOCKGATE = f"lockgate {__version__}"
FLOW_FORMAT_VERSION = FORMAT_VERSION
