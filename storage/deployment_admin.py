"""What people at the command line want done with single deployments and devices: rows, which the daemon acts on."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import psycopg

from config.settings import DatabaseSettings
from ota.candidates import REASONS, Candidate, why_waiting
from storage.command_connection import command_connection
from storage.deployment_views import DeploymentView, views_of
from storage.refusals import Conflict, NotFound
from storage.users import refuse_stranger

ADD = """
    INSERT INTO ota_deployments (device_id, version_id, priority, not_before, queue_expires_at, max_attempts, verify_mode,
        requested_by)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s) RETURNING id"""
TARGET = """
    SELECT v.id, f.id, f.version, f.min_version, f.downgrade, s.version,
        CASE WHEN v.retired_at IS NOT NULL THEN 'retired' WHEN f.recalled_at IS NOT NULL THEN 'recalled'
            WHEN f.status = 'deprecated' THEN 'deprecated'
            WHEN f.hardware <> '{}' AND s.hardware <> ALL (f.hardware) THEN 'wrong_hardware' END
    FROM devices v CROSS JOIN ota_versions f LEFT JOIN ota_device_state s ON s.device_id = v.id
    WHERE v.device_id = %s AND f.version = %s"""
CANCEL = """
    UPDATE ota_deployments SET cancel_requested_at = coalesce(cancel_requested_at, now()), cancel_force = cancel_force OR %s,
        cancel_reason = coalesce(%s, cancel_reason)
    WHERE id = ANY(%s) AND status IN ('pending', 'in_progress')"""
AGAIN = """
    INSERT INTO ota_deployments (device_id, version_id, priority, max_attempts, verify_mode, requested_by)
    SELECT device_id, version_id, priority, max_attempts, verify_mode, %s FROM ota_deployments WHERE id = %s RETURNING id"""
HOLD = """
    INSERT INTO ota_device_state (device_id, hold_reason) SELECT id, %s FROM devices WHERE device_id = %s
    ON CONFLICT (device_id) DO UPDATE SET hold_reason = excluded.hold_reason"""


@dataclass(frozen=True, slots=True)
class NewDeployment:
    """A version for a device."""

    device: str
    version: str
    actor: str
    priority: int = 0
    not_before: datetime | None = None
    queue_expires_at: datetime | None = None
    max_attempts: int = 3
    verify_mode: str = "report"


class Again(NamedTuple):
    """A deployment that failed, and the new one, if it needed one."""

    old: int
    new: int


def add_deployment(settings: DatabaseSettings, new: NewDeployment) -> int:
    """Stores a deployment and returns its number; the daemon sends it when it is the device's turn.

    Raises:
        NotFound: no such device, version or person.
        Conflict: it could never be sent.
    """
    with command_connection(settings) as connection, connection.transaction():
        refuse_stranger(connection, new.actor)
        row = connection.execute(TARGET, [new.device, new.version]).fetchone()
        if row is None:
            raise _not_found(connection, new)
        device_id, version_id, *facts = row
        version, min_version, downgrade, runs, reason = facts
        against = why_waiting(Candidate(0, device_id, None, 0, version, min_version, downgrade, runs, reason))
        if against is not None:
            raise Conflict(f"{new.version} for {new.device}: {REASONS[against]}")
        values = [new.priority, new.not_before, new.queue_expires_at, new.max_attempts, new.verify_mode, new.actor]
        added = connection.execute(ADD, [device_id, version_id, *values]).fetchone()
        assert added is not None, "INSERT RETURNING"
        return int(added[0])


def cancel_deployments(
    settings: DatabaseSettings, numbers: Sequence[int], reason: str | None, *, force: bool
) -> list[DeploymentView]:
    """Asks for the end of deployments and returns how they stood; the daemon ends them.

    Raises:
        NotFound: one is missing; nothing was asked for.
    """
    with command_connection(settings) as connection, connection.transaction():
        views = views_of(connection, numbers)
        connection.execute(CANCEL, [force, reason, list(numbers)])
        return views


def retry_deployment(settings: DatabaseSettings, number: int, actor: str) -> Again:
    """Begins a failed deployment anew, as a new one; of one that pauses between attempts, ends the pause.

    Raises:
        NotFound: there is none of that number.
        Conflict: there is nothing to try again.
    """
    with command_connection(settings) as connection, connection.transaction():
        refuse_stranger(connection, actor)
        (view,) = views_of(connection, [number])
        if view.phase == "backoff":
            connection.execute("UPDATE ota_deployments SET next_action_at = now() WHERE id = %s", [number])
            return Again(number, number)
        if view.status != "failed":
            raise Conflict(f"deployment {number} is {view.status}: only a failed one can be tried again")
        row = connection.execute(AGAIN, [actor, number]).fetchone()
        assert row is not None, "views_of has seen it"
        return Again(number, int(row[0]))


def hold_device(settings: DatabaseSettings, device: str, reason: str | None) -> None:
    """Keeps a device from being sent firmware, or lets it go again (None).

    Raises:
        NotFound: no such device.
    """
    with command_connection(settings) as connection:
        if connection.execute(HOLD, [reason, device]).rowcount == 0:
            raise _no_device(device)


def end_quarantine(settings: DatabaseSettings, device: str) -> bool:
    """Forgets a device's failures; returns False if there were none.

    Raises:
        NotFound: no such device.
    """
    with command_connection(settings) as connection, connection.transaction():
        row = connection.execute("SELECT id FROM devices WHERE device_id = %s", [device]).fetchone()
        if row is None:
            raise _no_device(device)
        statement = "UPDATE ota_device_state SET faults = 0, faulty_version_id = NULL WHERE device_id = %s AND faults > 0"
        return connection.execute(statement, [row[0]]).rowcount > 0


def _not_found(connection: psycopg.Connection, new: NewDeployment) -> NotFound:
    if connection.execute("SELECT FROM devices WHERE device_id = %s", [new.device]).fetchone() is None:
        return _no_device(new.device)
    return NotFound(f"there is no firmware {new.version}; factoryd firmware list shows all, factoryd firmware add makes one")


def _no_device(device: str) -> NotFound:
    return NotFound(f"device {device} is not registered; factoryd device list shows all")
