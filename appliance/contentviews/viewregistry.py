"""The views by name, and the choice between them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from appliance.contentviews.api import Contentview, Metadata

logger = logging.getLogger(__name__)


class Registry(Mapping[str, Contentview]):
    """Names compare without case."""

    def __init__(self) -> None:
        self._views: dict[str, Contentview] = {}

    def register(self, view: Contentview) -> None:
        """A name that is taken passes over."""
        name = view.name.lower()
        if name in self._views:
            logger.info("content view %s is replaced", name)
        self._views[name] = view

    def unregister(self, name: str) -> None:
        self._views.pop(name.lower(), None)

    def available_views(self) -> list[str]:
        return ["auto", *sorted(self._views)]

    def get_view(self, data: bytes, metadata: Metadata, view_name: str = "auto") -> Contentview:
        """The view of this name, or the fittest. Raises KeyError."""
        if view_name.lower() != "auto":
            return self[view_name]
        best, most = self["raw"], 0.0
        for view in self._views.values():
            try:
                fits = float(view.render_priority(data, metadata))
            except Exception:
                logger.debug("content view %s failed in render_priority", view.name, exc_info=True)
                continue
            if fits > most:
                best, most = view, fits
        return best

    def __getitem__(self, name: str) -> Contentview:
        return self._views[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)
