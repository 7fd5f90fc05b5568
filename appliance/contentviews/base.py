"""The older interface of views, where scripts import it from."""

from appliance.contentviews.legacy import (
    KEY_MAX,
    TTextType,
    TViewLine,
    TViewResult,
    View,
    format_dict,
    format_pairs,
    format_text,
)

__all__ = ["KEY_MAX", "TTextType", "TViewLine", "TViewResult", "View", "format_dict", "format_pairs", "format_text"]
