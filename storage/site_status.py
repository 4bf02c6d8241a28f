"""How things stand, for `factoryd status`: a handful of cheap queries on one connection; readings are not scanned."""

from dataclasses import dataclass
from datetime import datetime

import psycopg

from config.settings import DatabaseSettings
from storage.command_connection import command_connection
from storage.leader import LOCK
from storage.partitions import PARTITION_NAMES_SQL, partition_days_ahead

WORST = 10
"""Devices named for their gaps."""


@dataclass(frozen=True, slots=True)
class Leader:
    """The session that holds the leader's lock."""

    address: str | None
    """Client address; None over a local socket."""
    since: datetime | None


@dataclass(frozen=True, slots=True)
class SiteStatus:
    """Times are aware UTC."""

    revision: str | None
    devices: dict[str, int]
    """Devices in service by status, and `retired`."""
    last_reading: datetime | None
    """Newest by the devices' clocks."""
    last_received: datetime | None
    """Newest by ours."""
    quarantined: dict[str, int]
    """By reason, received in the last 24 h, floods counted whole."""
    replays_waiting: int
    missing_messages: int
    """Gaps in sequence numbers: messages that never reached us."""
    missing_by_device: dict[str, int]
    """The worst of them."""
    alerts: dict[str, int]
    """Open ones by severity, the most severe first."""
    updates: dict[str, int]
    """Deployments that are not over, by phase."""
    rollouts: dict[str, int]
    """Those that are not over, by status."""
    partitions_ahead: int
    """Days after today that have a partition; -1 if today itself has none."""
    leader: Leader | None


REVISION = "SELECT version_num FROM alembic_version"
DEVICES = """
    SELECT CASE WHEN retired_at IS NULL THEN status::text ELSE 'retired' END AS standing, count(*)
    FROM devices GROUP BY standing"""
LATEST = "SELECT max(recorded_at), max(received_at) FROM device_latest"
QUARANTINED = """
    SELECT reason, sum(repeats)::int8 FROM quarantine WHERE received_at > now() - interval '24 hours'
    GROUP BY reason ORDER BY 2 DESC, reason"""
REPLAYS = "SELECT count(*) FROM quarantine WHERE replay_requested_at IS NOT NULL"
# As many as a bigint counts: a device may leap over as many numbers, at each start.
MISSING = """
    SELECT d.device_id, least(sum(upper(r) - lower(r)), 9223372036854775807)::int8
    FROM device_sequences s JOIN devices d ON d.id = s.device_id, unnest(s.missing) AS r
    GROUP BY d.device_id ORDER BY 2 DESC, 1"""
ALERTS = """
    SELECT a.severity::text, count(*) FROM alerts a WHERE a.status <> 'resolved' GROUP BY a.severity ORDER BY a.severity DESC"""
UPDATES = "SELECT phase, count(*) FROM ota_deployments WHERE status IN ('pending', 'in_progress') GROUP BY phase ORDER BY phase"
ROLLOUTS = """
    SELECT status, count(*) FROM ota_rollouts WHERE status NOT IN ('completed', 'aborted') GROUP BY status ORDER BY status"""
# An advisory lock of one 64-bit number shows as two halves, with objsubid 1.
LEADER = """
    SELECT host(a.client_addr), a.backend_start
    FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (l.classid::int8 << 32 | l.objid::int8) = %s"""


def load_site_status(settings: DatabaseSettings, now: datetime) -> SiteStatus:
    """Returns how things stand at `now`."""
    with command_connection(settings) as connection:
        missing = _counts(connection, MISSING)
        leader = connection.execute(LEADER, [LOCK]).fetchone()
        last = connection.execute(LATEST).fetchone() or (None, None)
        names = [name for (name,) in connection.execute(PARTITION_NAMES_SQL)]
        return SiteStatus(
            revision=_single(connection, REVISION),
            devices=_counts(connection, DEVICES),
            last_reading=last[0],
            last_received=last[1],
            quarantined=_counts(connection, QUARANTINED),
            replays_waiting=int(_single(connection, REPLAYS) or 0),
            missing_messages=sum(missing.values()),
            missing_by_device=dict(list(missing.items())[:WORST]),
            alerts=_counts(connection, ALERTS),
            updates=_counts(connection, UPDATES),
            rollouts=_counts(connection, ROLLOUTS),
            partitions_ahead=partition_days_ahead(names, now.date()),
            leader=Leader(*leader) if leader else None,
        )


def _single(connection: psycopg.Connection, query: str) -> str | None:
    row = connection.execute(query.encode()).fetchone()
    return None if row is None else str(row[0])


def _counts(connection: psycopg.Connection, query: str) -> dict[str, int]:
    return {name: int(count) for name, count in connection.execute(query.encode())}
