"""Thresholds as people read them, and what the devices they are for have ever sent."""

from collections.abc import Iterable
from typing import NamedTuple

from config.settings import DatabaseSettings
from ingest.reading import METRICS
from storage.command_connection import command_connection
from storage.threshold_rows import COLUMNS, OF_CLASSES, OF_DEVICES, Stored, load_stored, stored_of

FIRST_EXTRA = 5 + len(COLUMNS)

# Where a rule stands, as the daemon last wrote it: no row is normal.
THRESHOLDS = OF_DEVICES.format(
    more=""", CASE WHEN NOT t.enabled THEN 'off' WHEN d.retired_at IS NOT NULL THEN 'retired'
            WHEN s.latent THEN 'latent' ELSE coalesce(s.phase, 'normal') END,
        (SELECT a.id FROM alerts a WHERE a.threshold_id = t.id AND a.device_id = t.device_id AND a.kind = 'threshold'
            AND a.status <> 'resolved')"""
)
PAGE = f"""{THRESHOLDS} LEFT JOIN rule_state s ON s.threshold_id = t.id
    WHERE t.id > %(after)s AND (%(device)s::text IS NULL OR d.device_id = %(device)s)
        AND (%(metric)s::text IS NULL OR t.metric_type = %(metric)s)
        AND (%(class)s::int8 IS NULL OR t.class_id = %(class)s)
    ORDER BY t.id LIMIT %(limit)s"""
CLASSES = f"""{OF_CLASSES.format(more=", (SELECT count(*) FROM alert_thresholds m WHERE m.class_id = t.id)")}
    WHERE t.id > %(after)s AND (%(metric)s::text IS NULL OR t.metric_type = %(metric)s)
    ORDER BY t.id LIMIT %(limit)s"""  # noqa: S608 - our constants

_columns = ", ".join(f"('{name}', l.{name} IS NOT NULL)" for name in METRICS)
SENT = f"""
    SELECT d.device_id, d.interval_s,
        ARRAY(SELECT name FROM (VALUES {_columns}) AS m (name, sent) WHERE sent
            UNION SELECT key FROM jsonb_each(l.extra) WHERE jsonb_typeof(value) IN ('number', 'boolean') ORDER BY 1)
    FROM alert_thresholds t JOIN devices d ON d.id = t.device_id LEFT JOIN device_latest l ON l.device_id = d.id
    WHERE t.id = %s OR t.class_id = %s ORDER BY d.device_id"""  # noqa: S608


class ThresholdView(NamedTuple):
    """A threshold of one device."""

    stored: Stored
    state: str
    """off, retired, normal, pending, active, recovering, or latent: only a backlog has seen the crossing."""
    alert_id: int | None
    """Its open alert."""


class ClassView(NamedTuple):
    """A class of thresholds."""

    stored: Stored
    devices: int
    """How many it matches now."""


class Sender(NamedTuple):
    """A device that a threshold is for."""

    device: str
    interval_s: float | None
    metrics: frozenset[str]
    """All that it has ever sent, by the newest value of each."""


def list_thresholds(
    settings: DatabaseSettings,
    *,
    after: int = 0,
    limit: int = 1000,
    device: str | None = None,
    metric: str | None = None,
    class_id: int | None = None,
) -> list[ThresholdView]:
    """Returns a page by number, those after `after`."""
    values = {"after": after, "limit": limit, "device": device, "metric": metric, "class": class_id}
    with command_connection(settings) as connection:
        rows = connection.execute(PAGE.encode(), values).fetchall()
    return [ThresholdView(stored_of(row), *row[FIRST_EXTRA:]) for row in rows]


def list_classes(
    settings: DatabaseSettings, *, after: int = 0, limit: int = 1000, metric: str | None = None
) -> list[ClassView]:
    """Returns a page by number, those after `after`."""
    values = {"after": after, "limit": limit, "metric": metric}
    with command_connection(settings) as connection:
        rows = connection.execute(CLASSES.encode(), values).fetchall()
    return [ClassView(stored_of(row), *row[FIRST_EXTRA:]) for row in rows]


def list_written(settings: DatabaseSettings) -> list[Stored]:
    """Returns what people have written: all classes, and the thresholds that are no class's."""
    with command_connection(settings) as connection:
        return list(_written(load_stored(connection, classes=True), load_stored(connection, classes=False)))


def _written(*sources: Iterable[Stored]) -> Iterable[Stored]:
    return (stored for source in sources for stored in source if stored.class_id is None)


def list_senders(settings: DatabaseSettings, *, threshold: int | None = None, class_id: int | None = None) -> list[Sender]:
    """Returns the devices that a threshold, or a class of them, is for; no reading is scanned."""
    with command_connection(settings) as connection:
        rows = connection.execute(SENT.encode(), [threshold, class_id]).fetchall()
    return [Sender(device, interval_s, frozenset(metrics)) for device, interval_s, metrics in rows]
