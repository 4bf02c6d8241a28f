"""Alerts as people read them: the list, one of them with its history, and every new version as it comes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row

from config.settings import DatabaseSettings
from storage.command_connection import command_connection
from storage.refusals import NotFound


@dataclass(frozen=True, slots=True)
class AlertView:
    """An alert. Times are aware UTC; `triggered_at` is by the device's clock, and never ahead of ours."""

    id: int
    version: int
    severity: str
    status: str
    kind: str
    device: str
    device_name: str
    location: str
    metric: str
    side: str | None
    value: float | None
    peak_value: float | None
    min_value: float | None
    max_value: float | None
    message: str
    instruction: str | None
    threshold_id: int | None
    owner: str | None
    triggered_at: datetime
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    resolved_at: datetime | None
    resolved_by: str | None
    resolution: str | None
    shelved_until: datetime | None
    inhibited_by: int | None
    stale: bool
    flapping: bool
    origin: str


@dataclass(frozen=True, slots=True)
class ChangeView:
    """One version of an alert, as its history has it."""

    id: int
    alert_id: int
    version: int
    change: str
    status: str
    value: float | None
    by: str | None
    """Login, if a person did it."""
    note: str | None
    happened_at: datetime


@dataclass(frozen=True, slots=True)
class LiveChangeView(ChangeView):
    """The same with what it is about."""

    severity: str
    device: str
    metric: str
    message: str


@dataclass(frozen=True, slots=True)
class AlertSelection:
    """Which alerts; what is None does not narrow."""

    resolved: bool = False
    """Resolved ones, too."""
    device: str | None = None
    severity: str | None = None
    since: datetime | None = None


# Of an alert that plain SQL has made, and that the daemon has not seen, the metric is its threshold's.
METRIC = "coalesce(a.metric, t.metric_type, '_' || a.kind)"
VIEW = f"""
    SELECT a.id, a.version, a.severity::text, a.status::text, a.kind, d.device_id AS device, d.name AS device_name, d.location,
        {METRIC} AS metric, a.side, a.value, a.peak_value, a.min_value, a.max_value, a.message, t.instruction, a.threshold_id,
        u.login AS owner, a.triggered_at, a.acknowledged_at, k.login AS acknowledged_by, a.resolved_at, r.login AS resolved_by,
        a.resolution, a.shelved_until, a.inhibited_by, a.stale, a.flapping, a.origin
    FROM alerts a JOIN devices d ON d.id = a.device_id LEFT JOIN alert_thresholds t ON t.id = a.threshold_id
        LEFT JOIN users u ON u.id = a.user_id LEFT JOIN users k ON k.id = a.acknowledged_by
        LEFT JOIN users r ON r.id = a.resolved_by"""  # noqa: S608 - our constants
SELECTED = """
    WHERE (%(device)s::text IS NULL OR d.device_id = %(device)s)
        AND (%(severity)s::text IS NULL OR a.severity = %(severity)s::alert_severity)
        AND (%(since)s::timestamptz IS NULL OR a.triggered_at >= %(since)s)"""
OPEN = f"""{VIEW}{SELECTED} AND a.status IN ('active', 'acknowledged')
        AND (%(after)s::int8 IS NULL OR (a.severity, a.triggered_at, a.id) <
            (SELECT severity, triggered_at, id FROM alerts WHERE id = %(after)s))
    ORDER BY a.severity DESC, a.triggered_at DESC, a.id DESC LIMIT %(limit)s"""  # noqa: S608
ALL = f"""{VIEW}{SELECTED}
        AND (%(after)s::int8 IS NULL OR (a.triggered_at, a.id) < (SELECT triggered_at, id FROM alerts WHERE id = %(after)s))
    ORDER BY a.triggered_at DESC, a.id DESC LIMIT %(limit)s"""  # noqa: S608

_change = "h.id, h.alert_id, h.version, h.change, h.status::text, h.value, u.login AS by, h.note, h.happened_at"
HISTORY = f"""
    SELECT {_change} FROM alert_history h LEFT JOIN users u ON u.id = h.user_id WHERE h.alert_id = %s ORDER BY h.id"""  # noqa: S608
LIVE = f"""
    SELECT {_change}, a.severity::text, d.device_id AS device, {METRIC} AS metric, a.message
    FROM alert_history h JOIN alerts a ON a.id = h.alert_id JOIN devices d ON d.id = a.device_id
        LEFT JOIN alert_thresholds t ON t.id = a.threshold_id LEFT JOIN users u ON u.id = h.user_id
    WHERE h.id > %s ORDER BY h.id LIMIT %s"""  # noqa: S608


def list_alerts(
    settings: DatabaseSettings, selection: AlertSelection, *, limit: int = 100, after: int | None = None
) -> list[AlertView]:
    """Returns a page: open ones the most severe first, then the newest; with resolved ones simply the newest first.

    Raises:
        NotFound: there is no alert `after`.
    """
    values: dict[str, Any] = {"device": selection.device, "severity": selection.severity, "since": selection.since}
    with command_connection(settings) as connection, connection.cursor(row_factory=class_row(AlertView)) as cursor:
        if after is not None:
            refuse_unknown(connection, [after])
        statement = ALL if selection.resolved else OPEN
        return cursor.execute(statement.encode(), {**values, "after": after, "limit": limit}).fetchall()


def get_alert(settings: DatabaseSettings, number: int) -> tuple[AlertView, list[ChangeView]]:
    """Returns one alert and its history, oldest first.

    Raises:
        NotFound: there is none of that number.
    """
    with command_connection(settings) as connection:
        refuse_unknown(connection, [number])
        with connection.cursor(row_factory=class_row(AlertView)) as cursor:
            (view,) = cursor.execute(f"{VIEW} WHERE a.id = %s".encode(), [number]).fetchall()
        with connection.cursor(row_factory=class_row(ChangeView)) as cursor:
            return view, cursor.execute(HISTORY.encode(), [number]).fetchall()


def last_change(connection: psycopg.Connection) -> int:
    """Returns the number of the newest version of any alert. They rise with the commits: one connection writes them all."""
    row = connection.execute("SELECT coalesce(max(id), 0) FROM alert_history").fetchone()
    assert row is not None, "an aggregate"
    return int(row[0])


def changes_after(connection: psycopg.Connection, number: int, limit: int = 1000) -> list[LiveChangeView]:
    """Returns versions that came after that one, in order."""
    with connection.cursor(row_factory=class_row(LiveChangeView)) as cursor:
        return cursor.execute(LIVE.encode(), [number, limit]).fetchall()


def refuse_unknown(connection: psycopg.Connection, numbers: Sequence[int]) -> None:
    """Raises NotFound if there is an alert missing."""
    found = {number for (number,) in connection.execute("SELECT id FROM alerts WHERE id = ANY(%s)", [list(numbers)])}
    if missing := [str(number) for number in numbers if number not in found]:
        raise NotFound(f"there is no alert {', '.join(missing)}; factoryd alert list --all shows all")
