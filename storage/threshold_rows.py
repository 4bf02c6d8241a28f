"""Thresholds and classes of thresholds as rows: two tables that say the same, of one device or of a selector."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from storage.device_admin import resolved
from storage.device_views import not_registered
from storage.refusals import Conflict
from storage.threshold_fields import Selector, Threshold, selector_text

COLUMNS = (
    "metric_type",
    "min_value",
    "max_value",
    "severity",
    "enabled",
    "for_seconds",
    "hysteresis",
    "clear_seconds",
    "max_gap_seconds",
    "no_data_seconds",
    "instruction",
)
"""In the order of the fields of Threshold; its last one, the owner, is user_id."""

_terms = ", ".join(f"t.{name}::text" if name == "severity" else f"t.{name}" for name in COLUMNS)
OF_DEVICES = f"""
    SELECT t.id, d.device_id, NULL::jsonb, t.class_id, {_terms}, u.login{{more}}
    FROM alert_thresholds t JOIN devices d ON d.id = t.device_id JOIN users u ON u.id = t.user_id"""  # noqa: S608 - our constants
OF_CLASSES = f"""
    SELECT t.id, NULL, t.selector, NULL, {_terms}, u.login{{more}}
    FROM threshold_classes t LEFT JOIN users u ON u.id = t.user_id"""  # noqa: S608
DEVICE = """
    SELECT d.id, coalesce(u.login, 'system'), d.retired_at IS NOT NULL
    FROM devices d LEFT JOIN users u ON u.id = d.user_id WHERE d.device_id = %s"""


class Stored(NamedTuple):
    """A row: of one device, or of a selector."""

    id: int
    device: str | None
    selector: Selector | None
    class_id: int | None
    """The class that keeps this row of a device."""
    threshold: Threshold

    @property
    def is_class(self) -> bool:
        """Of a selector."""
        return self.selector is not None

    @property
    def target(self) -> str:
        """For which devices."""
        return selector_text(self.selector) if self.selector is not None else str(self.device)

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{'class' if self.is_class else 'threshold'} {self.id}"


def stored_of(row: tuple[Any, ...]) -> Stored:
    """Returns what a row of OF_DEVICES or OF_CLASSES says; further columns are left out."""
    number, device, selector, class_id = row[:4]
    return Stored(number, device, selector, class_id, Threshold(*row[4 : 5 + len(COLUMNS)]))


def load_stored(
    connection: psycopg.Connection, *, classes: bool, where: str = "true", values: tuple[object, ...] = ()
) -> Iterator[Stored]:
    """Yields rows of one of the two tables (`t`), by id."""
    statement = f"{(OF_CLASSES if classes else OF_DEVICES).format(more='')} WHERE {where} ORDER BY t.id"
    return map(stored_of, connection.execute(statement.encode(), values or None))


def insert_for_device(connection: psycopg.Connection, device: str, threshold: Threshold) -> int:
    """Inserts a threshold of one device in the caller's transaction, and returns its number.

    Raises:
        NotFound: no such device or owner.
        Conflict: the device is retired.
    """
    row = connection.execute(DEVICE, [device]).fetchone()
    if row is None:
        raise not_registered(connection, device)
    number, owner, retired = row
    if retired:
        raise Conflict(f"device {device} is retired; factoryd device edit {device} --active takes it back")
    terms = replace(threshold, owner=threshold.owner or owner)
    return _insert(connection, "alert_thresholds", {"device_id": number, **values_of(connection, terms)})


def insert_class(connection: psycopg.Connection, selector: Selector, threshold: Threshold) -> int:
    """Inserts a class; a trigger makes the threshold of each device that it matches.

    Raises:
        NotFound: no such owner.
    """
    return _insert(connection, "threshold_classes", {"selector": Jsonb(dict(selector)), **values_of(connection, threshold)})


def update_stored(connection: psycopg.Connection, before: Stored, threshold: Threshold) -> bool:
    """Writes what a threshold or class says now; tells whether that is anything new.

    Raises:
        NotFound: no such owner.
    """
    if before.device is not None and threshold.owner is None:
        row = connection.execute(DEVICE, [before.device]).fetchone()
        assert row is not None, "devices are never deleted"
        threshold = replace(threshold, owner=row[1])
    if threshold == before.threshold:
        return False
    values = values_of(connection, threshold)
    changes = sql.SQL(", ").join(sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder()) for name in values)
    statement = sql.SQL("UPDATE {} SET {} WHERE id = {}").format(table_of(before), changes, sql.Placeholder())
    connection.execute(statement, [*values.values(), before.id])
    return True


def table_of(stored: Stored) -> sql.Identifier:
    """Returns the table that it is in."""
    return sql.Identifier("threshold_classes" if stored.is_class else "alert_thresholds")


def values_of(connection: psycopg.Connection, threshold: Threshold) -> dict[str, Any]:
    """Returns values by column.

    Raises:
        NotFound: no such owner.
    """
    terms = [getattr(threshold, name) for name in ("metric", *COLUMNS[1:])]
    owner = resolved(connection, {"owner": threshold.owner})["user_id"]
    return {**dict(zip(COLUMNS, terms, strict=True)), "user_id": owner}


def _insert(connection: psycopg.Connection, table: str, values: dict[str, Any]) -> int:
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING id").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, values)),
        sql.SQL(", ").join(sql.Placeholder() * len(values)),
    )
    row = connection.execute(statement, list(values.values())).fetchone()
    assert row is not None, "RETURNING"
    return int(row[0])
