"""From a topic to the device and the layout of its payload."""

from collections.abc import Callable
from typing import NamedTuple

from config.settings import SourceSettings
from ingest.layouts import NATIVE, Layout, layout_of
from mqtt import topics


class Route(NamedTuple):
    """Which device a topic names ("" if the payload does), and how its payload is laid out."""

    device: str
    layout: Layout


class Routes:
    """The native topics and every `[[ingest.source]]`, in this order."""

    def __init__(self, root: str, sources: tuple[SourceSettings, ...]) -> None:
        self._root = root
        self._sources: list[tuple[Callable[[str], str | None], Layout]] = [
            (topics.source_matcher(source.filter), layout_of(source)) for source in sources
        ]
        self.filters = (topics.telemetry_filter(root), *(topics.source_filter(source.filter) for source in sources))
        """What the telemetry session subscribes to."""

    def find(self, topic: str) -> Route | None:
        """Returns the route of a topic, or None if no layout knows it."""
        device = topics.device_of(self._root, topic, "telemetry")
        if device is not None:
            return Route(device, NATIVE)
        for match, layout in self._sources:
            if (device := match(topic)) is not None:
                return Route(device, layout)
        return None
