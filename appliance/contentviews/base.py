"""The older interface under its older path."""

from appliance.contentviews.legacy import KEY_MAX as KEY_MAX
from appliance.contentviews.legacy import View, format_dict, format_pairs, format_text

__all__ = ["View", "format_dict", "format_pairs", "format_text"]
