"""Alerting's memory as it is loaded: thresholds and devices, where each rule stands, open alerts, what is not yet published.

All of it before CONNECT; thresholds and devices again whenever they change. Rows come in chunks with a breath in between: a
reload of 50,000 thresholds must not hold up the readings.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

from psycopg.rows import TupleRow

from alerting.alert import Alert, Place, Rule, Severity, Side, Status
from alerting.book import Snapshot
from alerting.monitor import LastValues
from alerting.rules import Phase, RuleState
from ingest.reading import METRICS
from storage.database import Connection, Pool, translated

CHUNK = 500

RULES = """
    SELECT t.id, t.device_id, t.metric_type, t.min_value, t.max_value, t.severity::text, t.user_id, t.for_seconds, t.hysteresis,
        t.clear_seconds, coalesce(t.max_gap_seconds, 3 * d.interval_s), t.no_data_seconds, t.instruction, t.enabled
    FROM alert_thresholds t JOIN devices d ON d.id = t.device_id WHERE d.retired_at IS NULL ORDER BY t.id"""

PLACES = """
    SELECT id, device_id, name, location, user_id, via_id, interval_s, retired_at IS NOT NULL, metadata->'units' FROM devices"""

STATES = """
    SELECT threshold_id, phase, since, evaluated_at, value, peak_value, side, crossed_at, latent, changes, doublings, flapping,
        shelved_until
    FROM rule_state"""

ALERT_COLUMNS = """a.id, a.device_id, a.threshold_id, a.user_id, a.severity::text, a.message, a.status::text, a.triggered_at,
    a.acknowledged_at, a.resolved_at, a.kind, a.version, a.metric, a.side, a.topic, a.value, a.peak_value, a.min_value,
    a.max_value, a.acknowledged_by, a.resolution, a.resolved_by, a.inhibited_by, a.announced, a.shelved_until, a.stale,
    a.flapping, a.origin, t.instruction, d.device_id, t.metric_type"""
ALERTS = f"""
    SELECT {ALERT_COLUMNS} FROM alerts a JOIN devices d ON d.id = a.device_id
        LEFT JOIN alert_thresholds t ON t.id = a.threshold_id"""  # noqa: S608 - our constants


class AlertTables:
    """Reads; the writing is in `storage.alerts`, on the connection that holds the lock."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def snapshot(self) -> Snapshot:
        """Returns thresholds of devices in service, and all devices.

        Raises:
            DatabaseUnavailable: try again.
        """
        rules: dict[int, Rule] = {}
        disabled: set[int] = set()
        async with self._reading("thresholds") as connection, connection.transaction():
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            async for row in _rows(connection, RULES):
                if row[-1]:
                    rules[row[0]] = _rule(row)
                else:
                    disabled.add(row[0])
            places = {row[0]: _place(row) async for row in _rows(connection, PLACES)}
            logins: dict[int, str] = dict([row async for row in _rows(connection, "SELECT id, login FROM users")])
        return Snapshot(rules, frozenset(disabled), places, logins)

    async def states(self) -> dict[int, RuleState]:
        """Returns where each rule stands that ever left normal."""
        async with self._reading("rule states") as connection:
            return {row[0]: _state(row) async for row in _rows(connection, STATES)}

    async def open_alerts(self) -> list[Alert]:
        """Returns all that are not resolved and are the daemon's own by now."""
        async with self._reading("open alerts") as connection:
            statement = f"{ALERTS} WHERE a.status <> 'resolved' AND a.topic IS NOT NULL"
            return [alert_of(row) async for row in _rows(connection, statement)]

    async def marks(self) -> dict[int, datetime]:
        """Returns by device the evaluation time of its last evaluated reading."""
        statement = "SELECT device_id, coalesce(evaluated_at, least(recorded_at, received_at)) FROM device_latest"
        async with self._reading("latest readings") as connection:
            return dict([row async for row in _rows(connection, statement)])

    async def last_received(self) -> datetime | None:
        """Returns when the newest stored reading was received: until then we were there."""
        async with self._reading("latest readings") as connection:
            row = await (await connection.execute("SELECT max(received_at) FROM device_latest")).fetchone()
        return row[0] if row else None

    async def last_values(self, device_ids: Iterable[int]) -> LastValues:
        """Returns the newest value of each metric of these devices, and its evaluation time."""
        names = ", ".join(METRICS)
        statement = (
            f"SELECT device_id, coalesce(evaluated_at, least(recorded_at, received_at)), extra, {names}"  # noqa: S608
            " FROM device_latest WHERE device_id = ANY(%s)"
        )
        found: dict[tuple[int, str], tuple[float, datetime]] = {}
        async with self._reading("latest readings") as connection:
            async for device_id, at, extra, *values in _rows(connection, statement, [sorted(set(device_ids))]):
                for metric, value in (*zip(METRICS, values, strict=True), *(extra or {}).items()):
                    if isinstance(value, (int, float)):
                        found[device_id, metric] = (float(value), at)
        return found

    async def changed_since(self, moment: datetime) -> list[int]:
        """Returns thresholds that were written after that moment: changed while nobody was there to see it."""
        async with self._reading("thresholds") as connection:
            cursor = await connection.execute("SELECT id FROM alert_thresholds WHERE updated_at > %s", [moment])
            return [row[0] for row in await cursor.fetchall()]

    async def now(self) -> datetime:
        """Returns the database's clock."""
        async with self._reading("the clock") as connection:
            row = await (await connection.execute("SELECT now()")).fetchone()
        assert row is not None, "SELECT now()"
        moment: datetime = row[0]
        return moment

    async def last_absences(self, kind: str) -> dict[int, datetime]:
        """Returns by device when its last alert of this kind was raised."""
        statement = "SELECT device_id, max(triggered_at) FROM alerts WHERE kind = %s GROUP BY device_id"
        async with self._reading("alerts about absence") as connection:
            return dict([row async for row in _rows(connection, statement, [kind])])

    async def system_id(self) -> int:
        """Returns the built-in user."""
        async with self._reading("users") as connection:
            row = await (await connection.execute("SELECT id FROM users WHERE login = 'system'")).fetchone()
        assert row is not None, "made by the migration"
        return int(row[0])

    @asynccontextmanager
    async def _reading(self, what: str) -> AsyncIterator[Connection]:
        with translated(f"reading {what}"):
            async with self._pool.connection() as connection:
                yield connection


def alert_of(row: TupleRow) -> Alert:
    """Returns the alert of a row of ALERTS; of one made by plain SQL what only the daemon knows is filled in."""
    (number, device_id, threshold_id, owner, severity, message, status, triggered, acknowledged, resolved, kind, version) = row[
        :12
    ]
    metric, side, topic, value, peak, low, high, acknowledged_by, resolution, resolved_by, inhibited_by = row[12:23]
    announced, shelved_until, stale, flapping, origin, instruction, device, threshold_metric = row[23:31]
    metric = metric or threshold_metric or f"_{kind}"
    return Alert(
        id=number,
        device_id=device_id,
        kind=kind,
        severity=Severity(severity),
        metric=metric,
        topic=topic or f"{device}/{metric}/{threshold_id or 0}",
        triggered_at=triggered,
        message=message,
        threshold_id=threshold_id,
        owner_id=owner,
        side=Side(side) if side else None,
        value=value,
        peak_value=peak,
        min_value=low,
        max_value=high,
        version=version,
        status=Status(status),
        acknowledged_at=acknowledged,
        acknowledged_by=acknowledged_by,
        resolved_at=resolved,
        resolved_by=resolved_by,
        resolution=resolution,
        inhibited_by=inhibited_by,
        announced=announced,
        shelved_until=shelved_until,
        stale=stale,
        flapping=flapping,
        origin=origin,
        instruction=instruction,
    )


async def _rows(connection: Connection, statement: str, values: list[Any] | None = None) -> AsyncIterator[TupleRow]:
    cursor = await connection.execute(statement.encode(), values)
    while rows := await cursor.fetchmany(CHUNK):
        for row in rows:
            yield row
        await asyncio.sleep(0)


def _rule(row: TupleRow) -> Rule:
    return Rule(
        threshold_id=row[0],
        device_id=row[1],
        metric=row[2],
        low=row[3],
        high=row[4],
        severity=Severity(row[5]),
        owner_id=row[6],
        on_delay=timedelta(seconds=row[7]),
        hysteresis=row[8],
        off_delay=timedelta(seconds=row[9]),
        max_gap=timedelta(seconds=row[10]) if row[10] is not None else None,
        no_data_s=row[11],
        instruction=row[12],
    )


def _state(row: TupleRow) -> RuleState:
    _, phase, since, at, value, peak, side, crossed_at, latent, changes, doublings, flapping, shelved_until = row
    return RuleState(
        Phase(phase),
        since,
        at,
        value,
        peak,
        Side(side) if side else None,
        crossed_at,
        latent,
        tuple(changes),
        doublings,
        flapping,
        shelved_until,
    )


def _place(row: TupleRow) -> Place:
    number, device, name, location, owner_id, via_id, interval_s, retired, units = row
    return Place(number, device, name, location, owner_id, via_id, interval_s, retired, _units(units))


def _units(units: object) -> dict[str, str] | None:
    """Any writer can put anything into metadata."""
    if not isinstance(units, dict):
        return None
    return {str(metric): str(unit)[:20] for metric, unit in units.items()}
