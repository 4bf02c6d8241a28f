"""Many thresholds at once: all of a list, or nothing of it. A second run with the same list changes nothing."""

from collections.abc import Sequence

import psycopg

from config.settings import DatabaseSettings
from storage.command_connection import registry_change
from storage.device_import import BadLines, Problem
from storage.threshold_plan import Planned, Site, ThresholdLine, plan_import
from storage.threshold_rows import insert_class, insert_for_device, load_stored, update_stored

DEVICES = """
    SELECT d.device_id, coalesce(u.login, 'system'), d.retired_at IS NOT NULL
    FROM devices d LEFT JOIN users u ON u.id = d.user_id"""


def import_thresholds(
    settings: DatabaseSettings, lines: Sequence[ThresholdLine], problems: Sequence[Problem] = (), *, dry_run: bool = False
) -> list[Planned]:
    """Does what the lines say, in one transaction, and returns what that was.

    Args:
        settings: the database.
        lines: the good lines.
        problems: what was found wrong before; reported together with what is found here.
        dry_run: do it all, and take it back.

    Raises:
        BadLines: a line is bad, and nothing was changed.
    """
    plan: list[Planned] = []
    with registry_change(settings) as connection:
        plan, found = plan_import(lines, _load_site(connection))
        if problems or found:
            raise BadLines([*problems, *found])
        for planned in plan:
            _write(connection, planned)
        if dry_run:
            raise psycopg.Rollback
    return plan


def _load_site(connection: psycopg.Connection) -> Site:
    devices = connection.execute(DEVICES).fetchall()
    classes = load_stored(connection, classes=True)
    thresholds = load_stored(connection, classes=False, where="t.class_id IS NULL")
    return Site(
        stored=[*classes, *thresholds],
        owners={name: owner for name, owner, _ in devices},
        retired=frozenset(name for name, _, retired in devices if retired),
        logins=frozenset(login for (login,) in connection.execute("SELECT login FROM users")),
    )


def _write(connection: psycopg.Connection, planned: Planned) -> None:
    line, before, after = planned
    if before is not None:
        update_stored(connection, before, after)
    elif line.selector is not None:
        insert_class(connection, line.selector, after)
    elif line.device is not None:
        insert_for_device(connection, line.device, after)
