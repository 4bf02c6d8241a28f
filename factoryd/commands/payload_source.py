"""PURE. Which device a message belongs to and how it is laid out, by the daemon's own rules."""

from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo

from config.settings import Settings
from ingest.clocks import TimeWindow
from ingest.decoding import Decoded, decode
from ingest.layouts import NATIVE, layout_of
from ingest.routes import Route, Routes
from mqtt import topics
from storage.refusals import InvalidInput


def route_of(settings: Settings, *, device: str | None, topic: str | None, source: str | None) -> Route:
    """Returns the route that a topic, or the name of a source, says.

    Raises:
        InvalidInput: neither is known, or the topic names another device.
    """
    if topic is not None:
        route = Routes(settings.mqtt.root, settings.ingest.source).find(topic)
        if route is None:
            native = topics.telemetry(settings.mqtt.root, "ID")
            raise InvalidInput(f"topic {topic!r} is neither {native} nor of an [[ingest.source]]: the daemon does not read it")
        if device is not None and route.device not in {"", device}:
            raise InvalidInput(f"topic {topic!r} names device {route.device}, not {device}; leave --device away")
        return Route(route.device or device or "", route.layout)
    if source is not None:
        found = next((item for item in settings.ingest.source if item.name == source), None)
        if found is None:
            names = ", ".join(item.name for item in settings.ingest.source) or "there are none"
            raise InvalidInput(f"no [[ingest.source]] is named {source!r} ({names})")
        return Route(device or "", layout_of(found))
    return Route(device or "", NATIVE)


def topics_of(settings: Settings, device: str) -> Iterator[str]:
    """Yields the topic filters below which messages of a device may come."""
    yield topics.telemetry(settings.mqtt.root, device)
    for source in settings.ingest.source:
        yield topics.source_filter(source.filter.replace("{device}", device))


def decode_as_daemon(
    settings: Settings, route: Route, payload: bytes, content_type: str | None, zone: tzinfo | None, received_at: datetime
) -> Decoded:
    """Decodes with the daemon's limits, as a message received at that moment."""
    retention = timedelta(days=settings.retention.readings_days)
    skew = timedelta(seconds=settings.ingest.max_clock_skew_s)
    return decode(
        payload,
        content_type,
        device=route.device,
        window=TimeWindow.around(received_at, retention, skew),
        received_at=received_at,
        limits=settings.ingest,
        layout=route.layout,
        zone=zone,
    )
