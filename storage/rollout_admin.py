"""Rollouts as people plan, make, pause, resume and abort them. The daemon notices within a second (triggers, NOTIFY)."""

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple
from uuid import uuid4

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from config.settings import DatabaseSettings
from ota import rollout_steps
from ota.rollout import Rollout
from ota.rollout_steps import NotPossible
from storage.command_connection import command_connection, registry_change
from storage.refusals import Conflict, NotFound
from storage.rollout_fields import TERM_COLUMNS, Terms, check_terms
from storage.rollout_plan import Plan, make_plan
from storage.rollout_rows import COUNTS, ROLLOUT, STAGES, changes, counted, rollout_of
from storage.threshold_fields import selector_text
from storage.users import refuse_stranger

STAGE = """
    INSERT INTO ota_rollout_stages (rollout_id, stage_no, name, selector, cum_percent, planned_count)
    VALUES (%s, %s, %s, %s, %s, %s)"""
# In the order of the stage: whose turn it is goes by the number.
DEPLOYMENTS = """
    INSERT INTO ota_deployments (device_id, version_id, rollout_id, stage_no, verify_mode, max_attempts, queue_expires_at,
        requested_by)
    SELECT id, %s, %s, %s, %s, %s, %s, %s FROM unnest(%s::int8[]) WITH ORDINALITY AS device (id, place) ORDER BY place"""


class Created(NamedTuple):
    """A rollout that is stored."""

    id: int
    name: str
    plan: Plan


def plan_rollout(settings: DatabaseSettings, terms: Terms, now: datetime, salt: str | None = None) -> Plan:
    """Returns what a rollout would be, and writes nothing.

    Args:
        settings: the database.
        terms: what it says.
        now: our clock.
        salt: orders the devices; create_rollout with the same one makes the same stages.

    Raises:
        InvalidInput: it cannot be so.
        NotFound: no such version or person.
        Conflict: the version cannot be sent, or there is no device for it.
    """
    check_terms(terms, now)
    with command_connection(settings) as connection:
        refuse_stranger(connection, terms.actor)
        return make_plan(connection, terms, salt or str(uuid4()))


def create_rollout(
    settings: DatabaseSettings, terms: Terms, now: datetime, *, max_attempts: int, salt: str | None = None
) -> Created:
    """Stores a rollout with a deployment for each eligible device; the daemon begins it.

    Raises:
        As `plan_rollout`.
    """
    check_terms(terms, now)
    with registry_change(settings) as connection:
        refuse_stranger(connection, terms.actor)
        plan = make_plan(connection, terms, salt or str(uuid4()))
        name = terms.name or f"{terms.version} to {selector_text(terms.selector)}"
        number = _insert(connection, terms, plan, name)
        for stage in plan.stages:
            selector = Jsonb(dict(terms.canary)) if stage.cum_percent is None and terms.canary is not None else None
            values = [number, stage.stage_no, stage.name, selector, stage.cum_percent, len(stage.devices)]
            connection.execute(STAGE, values)
            devices = [plan.eligibility.eligible[device].number for device in stage.devices]
            how = [terms.verify_mode, max_attempts, terms.end_at, terms.actor]
            connection.execute(DEPLOYMENTS, [plan.target.id, number, stage.stage_no, *how, devices])
    return Created(number, name, plan)


def pause_rollout(settings: DatabaseSettings, number: int, reason: str, now: datetime) -> Rollout:
    """Sends nothing new of a rollout; what is under way goes on.

    Raises:
        NotFound: there is none of that number.
        Conflict: there is nothing to pause.
    """
    return _change(settings, number, now, lambda rollout: rollout_steps.pause(rollout, reason))


def resume_rollout(settings: DatabaseSettings, number: int, now: datetime, *, accept_failures: bool) -> Rollout:
    """Goes on with a paused rollout, if its gate lets it.

    Raises:
        NotFound: there is none of that number.
        Conflict: it is not paused, or its stage has failed.
    """
    return _change(settings, number, now, lambda rollout: rollout_steps.resume(rollout, now, accept_failures=accept_failures))


def abort_rollout(settings: DatabaseSettings, number: int, reason: str, now: datetime) -> Rollout:
    """Ends a rollout: cancels what waits or has not begun to install.

    Raises:
        NotFound: there is none of that number.
        Conflict: it is over already.
    """
    return _change(settings, number, now, lambda rollout: rollout_steps.abort(rollout, reason))


def start_rollout(settings: DatabaseSettings, number: int, now: datetime) -> Rollout:
    """Begins a scheduled rollout now.

    Raises:
        NotFound: there is none of that number.
        Conflict: it is not scheduled.
    """
    return _change(settings, number, now, lambda rollout: rollout_steps.start(rollout, now))


def _insert(connection: psycopg.Connection, terms: Terms, plan: Plan, name: str) -> int:
    values = {column: getattr(terms, column) for column in TERM_COLUMNS} | {
        "name": name,
        "version_id": plan.target.id,
        "selector": Jsonb(dict(terms.selector)),
        "salt": plan.salt,
        "excluded": Jsonb(dict(plan.eligibility.excluded)),
        "created_by": terms.actor,
    }
    statement = sql.SQL("INSERT INTO ota_rollouts ({}) VALUES ({}) RETURNING id").format(
        sql.SQL(", ").join(map(sql.Identifier, values)), sql.SQL(", ").join(sql.Placeholder() * len(values))
    )
    row = connection.execute(statement, list(values.values())).fetchone()
    assert row is not None, "RETURNING"
    return int(row[0])


def _change(settings: DatabaseSettings, number: int, now: datetime, change: Callable[[Rollout], Rollout]) -> Rollout:
    """Locks a rollout as the daemon does, and writes what has become of it."""
    with command_connection(settings) as connection, connection.transaction():
        before = _load(connection, {"rollout": number, "now": now})
        if before is None:
            raise NotFound(f"there is no rollout {number}; factoryd rollout list shows all")
        try:
            after = change(before)
        except NotPossible as error:
            raise Conflict(str(error)) from error
        for statement, parameters in changes(before, after, now):
            connection.execute(statement.encode(), parameters)
    return after


def _load(connection: psycopg.Connection, values: dict[str, object]) -> Rollout | None:
    row = connection.execute(ROLLOUT.encode(), values).fetchone()
    if row is None:
        return None
    rollout = rollout_of(row, connection.execute(STAGES, values).fetchall())
    if (stage := rollout.current) is None:
        return rollout
    counts = connection.execute(COUNTS, values | {"stage": stage.stage_no}).fetchone()
    assert counts is not None, "an aggregate"
    return counted(rollout, counts)
