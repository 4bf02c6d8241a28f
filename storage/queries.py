"""What is read most, by name: readings of a device, active alerts, the overview of devices, deployments of a version.

Each function takes an open connection, so that pages and several questions share one. Pages go on after the last row of the
one before (keyset): however deep, a page costs the same, and rows that come meanwhile shift nothing. docs/queries.md shows
the same in SQL.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg.rows import class_row

from ingest.reading import METRICS
from storage.device_views import not_registered
from storage.refusals import InvalidInput, NotFound

MAX_PAGE = 100_001
"""Rows of one answer: what a command shows at most, and one more that tells it to go on."""

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Reading:
    """A stored reading. `recorded_at` is by the device's clock, `received_at` by ours; both aware UTC."""

    recorded_at: datetime
    temperature: float | None
    humidity: float | None
    pressure: float | None
    vibration: float | None
    power_consumption: float | None
    rpm: float | None
    extra: dict[str, Any] | None
    received_at: datetime


@dataclass(frozen=True, slots=True)
class ActiveAlert:
    """An alert that waits for somebody."""

    id: int
    severity: str
    status: str
    triggered_at: datetime
    device: str
    device_name: str
    location: str
    owner: str | None
    owner_email: str | None
    metric: str | None
    value: float | None
    message: str


class AlertPlace(NamedTuple):
    """Where a page of alerts ended."""

    severity: str
    triggered_at: datetime
    id: int


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """How a device is. `last_reading_at` is by its own clock."""

    device: str
    name: str
    type: str
    location: str
    status: str
    owner: str | None
    last_seen: datetime | None
    last_reading_at: datetime | None
    active_alerts: int
    worst: str | None
    """Severity of its worst alert that is not resolved."""


@dataclass(frozen=True, slots=True)
class VersionDeployment:
    """One device's deployment of a version."""

    id: int
    device: str
    device_name: str
    status: str
    outcome: str | None
    phase: str
    progress_percent: int | None
    error_code: str | None
    error_message: str | None
    rollout_id: int | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None


class DeploymentPlace(NamedTuple):
    """Where a page of deployments ended."""

    status: str
    id: int


# The number of a device or version is looked up first, as a value: a join would have to sort all rows that it finds.
READINGS = f"""
    SELECT recorded_at, {", ".join(METRICS)}, extra, received_at FROM sensor_readings
    WHERE device_id = (SELECT id FROM devices WHERE device_id = %(device)s)
        AND recorded_at >= %(since)s AND recorded_at < coalesce(%(until)s::timestamptz, 'infinity'){{having}}
    ORDER BY recorded_at DESC LIMIT %(limit)s"""  # noqa: S608 - our constants
ALERTS = f"""
    SELECT {", ".join(ActiveAlert.__slots__)} FROM open_alerts WHERE {{selected}}
    ORDER BY severity DESC, triggered_at DESC, id DESC LIMIT %(limit)s"""  # noqa: S608
# Of open ones. By `= 'active'` the planner would be lured to another index, and would sort all of them for each page.
ACTIVE = "status <> 'acknowledged'"
DEVICES = f"""
    SELECT {", ".join(DeviceStatus.__slots__)} FROM device_overview WHERE device > %(after)s{{selected}}
    ORDER BY device LIMIT %(limit)s"""  # noqa: S608
# Not by `=`: then the order is by number alone, and the planner likes to walk all deployments by their numbers.
OF_STATUS = " AND status BETWEEN %(status)s::ota_deployment_status AND %(status)s::ota_deployment_status"
DEPLOYMENTS = f"""
    SELECT {", ".join(VersionDeployment.__slots__)} FROM version_deployments
    WHERE version_id = (SELECT id FROM ota_versions WHERE version = %(version)s){{selected}}
    ORDER BY status, id LIMIT %(limit)s"""  # noqa: S608


def recent_readings(
    connection: psycopg.Connection,
    device: str,
    *,
    since: datetime,
    until: datetime | None = None,
    before: datetime | None = None,
    metric: str | None = None,
    limit: int = 100,
) -> list[Reading]:
    """Returns readings of a device, the newest first.

    Args:
        connection: of any identity that may read.
        device: its id, as in its topics.
        since: aware; the first moment.
        until: aware; the first moment after; None: whatever there is.
        before: go on with readings before this moment, the last page's last `recorded_at`.
        metric: only readings that have it: one of METRICS, or a key of `extra`.
        limit: 1 to MAX_PAGE.

    Raises:
        NotFound: no such device.
        InvalidInput: a moment without offset, an empty span, or a limit out of range.
    """
    check_span(since, until)
    if before is not None:
        check_span(before, None)
    until = min((moment for moment in (until, before) if moment is not None), default=None)
    having = "" if metric is None else f" AND {metric if metric in METRICS else 'extra->%(metric)s'} IS NOT NULL"
    values = {"device": device, "since": since, "until": until, "metric": metric}
    found = _page(connection, Reading, READINGS.format(having=having), values, limit)
    if not found and not _exists(connection, "SELECT FROM devices WHERE device_id = %s", device):
        raise not_registered(connection, device)
    return found


def active_alerts(
    connection: psycopg.Connection, *, after: AlertPlace | None = None, acknowledged: bool = False, limit: int = 100
) -> list[ActiveAlert]:
    """Returns active alerts with their device and owner: critical first, then the newest.

    Args:
        connection: of any identity that may read.
        after: the last alert of the page before.
        acknowledged: those that somebody has acknowledged, too.
        limit: 1 to MAX_PAGE.

    Raises:
        InvalidInput: a limit out of range.
    """
    selected = ["true" if acknowledged else ACTIVE]
    if after is not None:
        selected.append("(severity, triggered_at, id) < (%(severity)s::alert_severity, %(triggered_at)s, %(id)s)")
    values = after._asdict() if after else {}
    return _page(connection, ActiveAlert, ALERTS.format(selected=" AND ".join(selected)), values, limit)


def device_overview(
    connection: psycopg.Connection, *, after: str = "", owner: str | None = None, limit: int = 1000
) -> list[DeviceStatus]:
    """Returns devices in service with status, active alerts and time of the last reading, by device id.

    Args:
        connection: of any identity that may read.
        after: go on after this device.
        owner: login of a user: only this user's devices.
        limit: 1 to MAX_PAGE.

    Raises:
        NotFound: no such user.
        InvalidInput: a limit out of range.
    """
    if owner is not None and not _exists(connection, "SELECT FROM users WHERE login = %s", owner):
        raise NotFound(f"user {owner} does not exist; factoryd user list shows all")
    selected = "" if owner is None else " AND owner = %(owner)s"
    return _page(connection, DeviceStatus, DEVICES.format(selected=selected), {"after": after, "owner": owner}, limit)


def deployments_of(
    connection: psycopg.Connection,
    version: str,
    *,
    status: str | None = None,
    after: DeploymentPlace | None = None,
    limit: int = 100,
) -> list[VersionDeployment]:
    """Returns a version's deployments by status (pending, in_progress, completed, failed), then number.

    Args:
        connection: of any identity that may read.
        version: as `factoryd firmware list` shows it.
        status: only these.
        after: the last deployment of the page before.
        limit: 1 to MAX_PAGE.

    Raises:
        NotFound: no such version.
        InvalidInput: a limit out of range.
    """
    selected = "" if status is None else OF_STATUS
    if after is not None:
        selected += " AND (status, id) > (%(after)s::ota_deployment_status, %(number)s)"
    values: dict[str, Any] = {"version": version, "status": status}
    if after is not None:
        values |= {"after": after.status, "number": after.id}
    found = _page(connection, VersionDeployment, DEPLOYMENTS.format(selected=selected), values, limit)
    if not found and not _exists(connection, "SELECT FROM ota_versions WHERE version = %s", version):
        raise NotFound(f"there is no version {version}; factoryd firmware list shows all")
    return found


def check_span(since: datetime, until: datetime | None) -> None:
    """Raises InvalidInput for moments without an offset, or if nothing can lie between them."""
    if since.tzinfo is None or (until is not None and until.tzinfo is None):
        raise InvalidInput("a time needs an offset, as in 2026-11-22T10:00Z")
    if until is not None and since >= until:
        raise InvalidInput(f"nothing lies between {since.isoformat()} and {until.isoformat()}: the end must be later")


def _page(connection: psycopg.Connection, row: type[Row], statement: str, values: dict[str, Any], limit: int) -> list[Row]:
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInput(f"limit: {limit} is not from 1 to {MAX_PAGE}")
    with connection.cursor(row_factory=class_row(row)) as cursor:
        return cursor.execute(statement.encode(), {**values, "limit": limit}).fetchall()


def _exists(connection: psycopg.Connection, query: str, name: str) -> bool:
    return connection.execute(query.encode(), [name]).fetchone() is not None
