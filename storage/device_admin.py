"""The registry as people change it. The daemon notices every change within a second (triggers, NOTIFY)."""

from typing import Any, NamedTuple

import psycopg
from psycopg import errors, sql
from psycopg.types.json import Jsonb

from config.settings import DatabaseSettings
from storage.command_connection import registry_change
from storage.device_fields import DeviceFields, check_device_id
from storage.device_views import SEEN_IN_QUARANTINE, not_registered
from storage.refusals import Conflict, NotFound

COLUMNS = {
    "name": "name",
    "type": "type",
    "location": "location",
    "interval_s": "interval_s",
    "timezone": "timezone",
    "via": "via_id",
    "owner": "user_id",
    "metadata": "metadata",
}


WOULD_CIRCLE = """
    WITH RECURSIVE above AS (
        SELECT id, via_id FROM devices WHERE id = %(gateway)s
        UNION SELECT d.id, d.via_id FROM devices d JOIN above ON d.id = above.via_id
    ) SELECT EXISTS (SELECT FROM above WHERE id = %(device)s)"""

RETIRE = """
    WITH gone AS (DELETE FROM device_credentials USING devices d WHERE d.id = device_credentials.device_id
        AND d.device_id = %(id)s RETURNING 1)
    UPDATE devices SET retired_at = coalesce(retired_at, now()) WHERE device_id = %(id)s
    RETURNING (SELECT count(*) FROM devices child WHERE child.via_id = devices.id AND child.retired_at IS NULL)"""

COUNTED_ONLY = """
    SELECT coalesce(sum(repeats - 1), 0) FROM quarantine
    WHERE device = %s AND reason = 'unknown_device' AND flood_hour IS NOT NULL"""

REPLAY_UNKNOWN = """
    UPDATE quarantine SET replay_requested_at = now(), replay_reason = 'approved'
    WHERE device = %s AND reason = 'unknown_device' AND replay_requested_at IS NULL"""


def add_device(settings: DatabaseSettings, device: str, fields: DeviceFields) -> None:
    """Registers a device; name defaults to its id, type to `unknown`, location to nothing.

    Raises:
        InvalidInput: no device id, or a value that no column takes.
        Conflict: it is registered already.
        NotFound: no such gateway or owner.
    """
    check_device_id(device)
    with registry_change(settings) as connection:
        insert_device(connection, device, fields)


def edit_device(settings: DatabaseSettings, device: str, fields: DeviceFields, *, active: bool = False) -> None:
    """Changes what `fields` names; `active` takes a retired device back (it needs new credentials).

    Raises:
        NotFound: no such device, gateway or owner.
        Conflict: the gateway would be behind the device itself, or is retired.
    """
    with registry_change(settings) as connection:
        row = connection.execute("SELECT id FROM devices WHERE device_id = %s", [device]).fetchone()
        if row is None:
            raise not_registered(connection, device)
        values = resolved(connection, fields)
        if values.get("via_id") is not None:
            refuse_circle(connection, device, row[0], values["via_id"])
        if active:
            values["retired_at"] = None
        update_device(connection, row[0], values)


def retire_device(settings: DatabaseSettings, device: str) -> int:
    """Retires a device: its readings stay, its credentials go, and what it still sends is quarantined.

    Returns:
        How many devices that are not retired have it as their gateway.

    Raises:
        NotFound: it is not registered.
    """
    with registry_change(settings) as connection:
        row = connection.execute(RETIRE, {"id": device}).fetchone()
        if row is None:
            raise not_registered(connection, device)
        return int(row[0])


class Approved(NamedTuple):
    """What came of an approval: registered now or found there, messages to be replayed, and those only counted."""

    registered: bool
    replayed: int
    counted_only: int


def approve_device(settings: DatabaseSettings, device: str, fields: DeviceFields) -> Approved:
    """Registers a device that was seen in the quarantine, and asks for its quarantined messages to be replayed.

    Raises:
        NotFound: it was never seen, or no such gateway or owner.
        Conflict: it is retired.
    """
    check_device_id(device)
    with registry_change(settings) as connection:
        known = connection.execute("SELECT retired_at FROM devices WHERE device_id = %s", [device]).fetchone()
        if known is None:
            _refuse_unseen(connection, device)
            insert_device(connection, device, fields)
        elif known[0] is not None:
            raise Conflict(f"device {device} is retired; factoryd device edit {device} --active takes it back")
        counted = connection.execute(COUNTED_ONLY, [device]).fetchone()
        replayed = connection.execute(REPLAY_UNKNOWN, [device]).rowcount
        return Approved(known is None, replayed, int(counted[0]) if counted else 0)


def insert_device(connection: psycopg.Connection, device: str, fields: DeviceFields) -> int:
    """Inserts one device inside the caller's transaction, and returns its number."""
    if fields.get("via") == device:
        raise Conflict(f"device {device} cannot be its own gateway; name another one with --via")
    defaults = {"device_id": device, "name": device, "type": "unknown", "location": ""}
    values = {**defaults, **resolved(connection, fields)}
    statement = sql.SQL("INSERT INTO devices ({}) VALUES ({}) RETURNING id").format(
        sql.SQL(", ").join(map(sql.Identifier, values)), sql.SQL(", ").join(sql.Placeholder() * len(values))
    )
    try:
        row = connection.execute(statement, list(values.values())).fetchone()
    except errors.UniqueViolation as error:
        raise Conflict(f"device {device} is registered already; factoryd device edit {device} changes it") from error
    assert row is not None, "RETURNING"
    return int(row[0])


def update_device(connection: psycopg.Connection, number: int, values: dict[str, Any]) -> bool:
    """Updates columns of one device inside the caller's transaction; tells whether that changed anything."""
    if not values:
        return False
    names = [sql.Identifier(name) for name in values]
    changes = sql.SQL(", ").join(sql.SQL("{} = {}").format(name, sql.Placeholder()) for name in names)
    differs = sql.SQL(" OR ").join(sql.SQL("{} IS DISTINCT FROM {}").format(name, sql.Placeholder()) for name in names)
    statement = sql.SQL("UPDATE devices SET {} WHERE id = {} AND ({})").format(changes, sql.Placeholder(), differs)
    return connection.execute(statement, [*values.values(), number, *values.values()]).rowcount > 0


def resolved(connection: psycopg.Connection, fields: DeviceFields) -> dict[str, Any]:
    """Returns values by column: gateway and owner as their numbers, metadata as jsonb.

    Raises:
        NotFound: no such gateway or owner.
        Conflict: the gateway is retired.
    """
    values: dict[str, Any] = {COLUMNS[name]: value for name, value in fields.items()}
    if via := fields.get("via"):
        values["via_id"] = _gateway(connection, via)
    if owner := fields.get("owner"):
        values["user_id"] = _owner(connection, owner)
    if (metadata := fields.get("metadata")) is not None:
        values["metadata"] = Jsonb(metadata)
    return values


def refuse_circle(connection: psycopg.Connection, device: str, number: int, gateway: int) -> None:
    """Raises Conflict if the gateway is the device itself or stands behind it."""
    row = connection.execute(WOULD_CIRCLE, {"device": number, "gateway": gateway}).fetchone()
    if row and row[0]:
        raise Conflict(f"device {device} cannot have a gateway that is behind itself; name another one with --via")


def _gateway(connection: psycopg.Connection, name: str) -> int:
    row = connection.execute("SELECT id, retired_at IS NOT NULL FROM devices WHERE device_id = %s", [name]).fetchone()
    if row is None:
        raise NotFound(f"gateway {name} is not registered; add it first: factoryd device add {name} --type gateway")
    if row[1]:
        raise Conflict(f"gateway {name} is retired; factoryd device edit {name} --active takes it back")
    return int(row[0])


def _owner(connection: psycopg.Connection, login: str) -> int:
    row = connection.execute("SELECT id FROM users WHERE login = %s", [login]).fetchone()
    if row is None:
        raise NotFound(f"user {login} does not exist; factoryd user list shows all, factoryd user add makes one")
    return int(row[0])


def _refuse_unseen(connection: psycopg.Connection, device: str) -> None:
    row = connection.execute(SEEN_IN_QUARANTINE, [device]).fetchone()
    if not (row and row[0]):
        raise NotFound(f"device {device} was not seen in the quarantine; factoryd device add {device} registers it unseen")
