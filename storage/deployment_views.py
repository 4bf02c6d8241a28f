"""Deployments as people read them: the list, one of them with its history, and what happens as it happens."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg.rows import class_row

from config.settings import DatabaseSettings
from storage.command_connection import command_connection
from storage.refusals import NotFound


@dataclass(frozen=True, slots=True)
class DeploymentView:
    """A deployment. Times are aware UTC, by our clock."""

    id: int
    device: str
    version: str
    status: str
    phase: str
    progress_percent: int | None
    attempt: int
    max_attempts: int
    outcome: str | None
    error_code: str | None
    error_message: str | None
    verify_mode: str
    from_version: str | None
    reported_version: str | None
    rollout_id: int | None
    stage_no: int | None
    priority: int
    not_before: datetime | None
    queue_expires_at: datetime | None
    requested_by: str | None
    created_at: datetime
    dispatched_at: datetime | None
    started_at: datetime | None
    last_report_at: datetime | None
    next_action_at: datetime | None
    completed_at: datetime | None


@dataclass(frozen=True, slots=True)
class EventView:
    """One line of a deployment's history."""

    id: int
    deployment_id: int
    device: str
    version: str
    happened_at: datetime
    kind: str
    verdict: str
    attempt: int
    seq: int | None
    status: str
    phase: str
    progress_percent: int | None
    error_code: str | None
    detail: str | None


@dataclass(frozen=True, slots=True)
class DeploymentSelection:
    """Which deployments; what is None does not narrow."""

    ended: bool = False
    """Ended ones, too."""
    device: str | None = None
    version: str | None = None
    rollout_id: int | None = None
    outcome: str | None = None


VIEW = """
    SELECT d.id, v.device_id AS device, f.version, d.status::text, d.phase, d.progress_percent, d.attempt, d.max_attempts,
        d.outcome, d.error_code, d.error_message, d.verify_mode, d.from_version, d.reported_version, d.rollout_id, d.stage_no,
        d.priority, d.not_before, d.queue_expires_at, d.requested_by, d.created_at, d.dispatched_at, d.started_at,
        d.last_report_at, d.next_action_at, d.completed_at
    FROM ota_deployments d JOIN devices v ON v.id = d.device_id JOIN ota_versions f ON f.id = d.version_id"""
LIST = f"""{VIEW}
    WHERE (%(ended)s OR d.status IN ('pending', 'in_progress')) AND (%(device)s::text IS NULL OR v.device_id = %(device)s)
        AND (%(version)s::text IS NULL OR f.version = %(version)s)
        AND (%(rollout)s::int8 IS NULL OR d.rollout_id = %(rollout)s)
        AND (%(outcome)s::text IS NULL OR d.outcome = %(outcome)s) AND (%(after)s::int8 IS NULL OR d.id < %(after)s)
    ORDER BY d.id DESC LIMIT %(limit)s"""
EVENTS = """
    SELECT e.id, e.deployment_id, v.device_id AS device, f.version, e.happened_at, e.kind, e.verdict, e.attempt, e.seq,
        e.status::text, e.phase, e.progress_percent, e.error_code, e.detail
    FROM ota_deployment_events e JOIN ota_deployments d ON d.id = e.deployment_id JOIN devices v ON v.id = d.device_id
        JOIN ota_versions f ON f.id = d.version_id"""


def list_deployments(
    settings: DatabaseSettings, selection: DeploymentSelection, *, limit: int = 100, after: int | None = None
) -> list[DeploymentView]:
    """Returns a page, the newest first; `after`: go on below that number."""
    values = {
        "ended": selection.ended,
        "device": selection.device,
        "version": selection.version,
        "rollout": selection.rollout_id,
        "outcome": selection.outcome,
        "after": after,
        "limit": limit,
    }
    with command_connection(settings) as connection, connection.cursor(row_factory=class_row(DeploymentView)) as cursor:
        return cursor.execute(LIST.encode(), values).fetchall()


def get_deployment(settings: DatabaseSettings, number: int) -> tuple[DeploymentView, list[EventView]]:
    """Returns one deployment and its history, oldest first.

    Raises:
        NotFound: there is none of that number.
    """
    with command_connection(settings) as connection:
        with connection.cursor(row_factory=class_row(DeploymentView)) as cursor:
            view = cursor.execute(f"{VIEW} WHERE d.id = %s".encode(), [number]).fetchone()
        if view is None:
            raise NotFound(f"there is no deployment {number}; factoryd deployment list --all shows all")
        with connection.cursor(row_factory=class_row(EventView)) as cursor:
            where = " WHERE e.deployment_id = %s ORDER BY e.id"
            return view, cursor.execute(f"{EVENTS}{where}".encode(), [number]).fetchall()


def views_of(connection: psycopg.Connection, numbers: Sequence[int]) -> list[DeploymentView]:
    """Returns these deployments, in order.

    Raises:
        NotFound: one is missing.
    """
    with connection.cursor(row_factory=class_row(DeploymentView)) as cursor:
        views = cursor.execute(f"{VIEW} WHERE d.id = ANY(%s) ORDER BY d.id".encode(), [list(numbers)]).fetchall()
    if missing := sorted(set(numbers) - {view.id for view in views}):
        raise NotFound(f"there is no deployment {', '.join(map(str, missing))}; factoryd deployment list --all shows all")
    return views


def last_event(connection: psycopg.Connection) -> int:
    """Returns the number of the newest event of any deployment."""
    row = connection.execute("SELECT coalesce(max(id), 0) FROM ota_deployment_events").fetchone()
    assert row is not None, "an aggregate"
    return int(row[0])


def events_after(connection: psycopg.Connection, number: int, limit: int = 1000) -> list[EventView]:
    """Returns events that came after that one, in order."""
    with connection.cursor(row_factory=class_row(EventView)) as cursor:
        return cursor.execute(f"{EVENTS} WHERE e.id > %s ORDER BY e.id LIMIT %s".encode(), [number, limit]).fetchall()
