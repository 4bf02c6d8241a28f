"""Devices as people read them: one, or a page of the list."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row

from config.settings import DatabaseSettings
from storage.command_connection import command_connection
from storage.refusals import NotFound


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A device as people see it. Times are aware UTC; `last_reading` is by the device's clock."""

    device_id: str
    name: str
    type: str
    location: str
    status: str
    status_reason: str | None
    last_seen: datetime | None
    last_reading: datetime | None
    interval_s: float | None
    timezone: str | None
    clock: str
    qos0_seen: bool
    via: str | None
    owner: str | None
    version: str | None
    has_credentials: bool
    missing_messages: int
    """Gaps in its sequence numbers: messages that never reached us."""
    metadata: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime
    retired_at: datetime | None


# Of missing messages as many as a bigint counts: a device may leap over as many numbers, at each start.
VIEW = """
    SELECT d.device_id, d.name, d.type, d.location, d.status::text, d.status_reason, d.last_seen, l.recorded_at AS last_reading,
        d.interval_s, d.timezone, d.clock, d.qos0_seen, g.device_id AS via, u.login AS owner, d.reported_version AS version,
        EXISTS (SELECT FROM device_credentials c WHERE c.device_id = d.id) AS has_credentials,
        (SELECT least(coalesce(sum(upper(r) - lower(r)), 0), 9223372036854775807)::int8
            FROM device_sequences s, unnest(s.missing) AS r WHERE s.device_id = d.id) AS missing_messages,
        d.metadata, d.created_at, d.updated_at, d.retired_at
    FROM devices d
        LEFT JOIN device_latest l ON l.device_id = d.id
        LEFT JOIN devices g ON g.id = d.via_id
        LEFT JOIN users u ON u.id = d.user_id"""

PAGE = f"""{VIEW}
    WHERE d.device_id > %(after)s AND (%(retired)s OR d.retired_at IS NULL)
        AND (%(status)s::text IS NULL OR d.status::text = %(status)s) AND (%(type)s::text IS NULL OR d.type = %(type)s)
        AND (%(via)s::text IS NULL OR g.device_id = %(via)s) AND (%(owner)s::text IS NULL OR u.login = %(owner)s)
    ORDER BY d.device_id LIMIT %(limit)s"""

SEEN_IN_QUARANTINE = "SELECT EXISTS (SELECT FROM quarantine WHERE device = %s)"


def list_devices(
    settings: DatabaseSettings,
    *,
    after: str = "",
    limit: int = 1000,
    status: str | None = None,
    kind: str | None = None,
    via: str | None = None,
    owner: str | None = None,
    retired: bool = False,
) -> list[DeviceView]:
    """Returns a page of devices in the order of their ids, those after `after`; `retired` adds the retired ones."""
    values = {"after": after, "limit": limit, "status": status, "type": kind, "via": via, "owner": owner, "retired": retired}
    with command_connection(settings) as connection, connection.cursor(row_factory=class_row(DeviceView)) as cursor:
        return cursor.execute(PAGE, values).fetchall()


def get_device(settings: DatabaseSettings, device: str) -> DeviceView:
    """Returns one device, retired or not.

    Raises:
        NotFound: it is not registered.
    """
    with command_connection(settings) as connection, connection.cursor(row_factory=class_row(DeviceView)) as cursor:
        view = cursor.execute(f"{VIEW} WHERE d.device_id = %s", [device]).fetchone()
        if view is None:
            raise not_registered(connection, device)
        return view


def not_registered(connection: psycopg.Connection, device: str) -> NotFound:
    """Returns the error for an unknown device, with the next step."""
    row = connection.execute(SEEN_IN_QUARANTINE, [device.replace("\0", "")]).fetchone()
    step = "approve" if row and row[0] else "add"
    return NotFound(f"device {device} is not registered; factoryd device {step} {device} registers it")
