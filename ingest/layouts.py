"""PURE. Layouts: how a source's payload maps onto ours. The native one, and one per `[[ingest.source]]`.

Tasmota, Telegraf and ThingsBoard devices need no re-flashing: docs/mqtt.md has a tested recipe for each.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from config.settings import SourceSettings

TIME_FIELDS = ("recorded_at", "ts", "timestamp", "time")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the time, the device and the metrics are. The default is the native layout."""

    name: str = "native"
    format: str = "json"
    time_fields: tuple[str, ...] = TIME_FIELDS
    device_field: str | None = None
    zone: tzinfo | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    scale: Mapping[str, float] = field(default_factory=dict)


NATIVE = Layout()


def layout_of(source: SourceSettings) -> Layout:
    """Returns the layout of one `[[ingest.source]]`."""
    return Layout(
        name=source.name,
        format=source.format,
        time_fields=(source.time_field,) if source.time_field else TIME_FIELDS,
        device_field=source.device_field,
        zone=ZoneInfo(source.timezone) if source.timezone else None,
        rename=source.rename,
        scale=source.scale,
    )


def unwrap(layout: Layout, value: Any) -> Iterator[tuple[Any, str | None]]:
    """Yields the objects of one element in the native shape, each with the device it names, if the layout says where.

    Telegraf: `{"metrics": [{"name", "tags", "fields", "timestamp"}]}` or one metric. All else stays as it is.
    """
    if layout.format == "telegraf" and isinstance(value, dict):
        metrics = value.get("metrics", [value])
        for metric in metrics if isinstance(metrics, list) else [metrics]:
            yield _telegraf(layout, metric)
    elif layout.device_field is not None and isinstance(value, dict):
        rest = dict(value)
        yield rest, _text(rest.pop(layout.device_field, None))
    else:
        yield value, None


def _telegraf(layout: Layout, metric: Any) -> tuple[Any, str | None]:
    if not isinstance(metric, dict) or not isinstance(metric.get("fields"), dict):
        return metric, None
    tags = metric.get("tags")
    device = tags.get(layout.device_field) if isinstance(tags, dict) and layout.device_field else None
    return {layout.time_fields[0]: metric.get("timestamp"), "values": metric["fields"]}, _text(device)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
