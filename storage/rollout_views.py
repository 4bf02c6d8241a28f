"""Rollouts as people read them: how far each is, stage by stage, counted from the rows of its deployments."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from config.settings import DatabaseSettings
from storage.command_connection import command_connection
from storage.refusals import NotFound

ROLLOUTS = """
    SELECT r.id, r.name, f.version, r.status, r.selector, r.pause_reason, r.created_by, r.created_at, r.start_at, r.end_at,
        r.started_at, r.finished_at, r.max_in_progress, r.max_per_minute, r.success_threshold_pct, r.error_threshold_pct,
        r.min_sample, r.max_failures, r.soak_seconds, r.unreachable_after_seconds, r.on_error, r.on_stage_success,
        r.verify_mode, r.allow_downgrade, r."window", r.excluded
    FROM ota_rollouts r JOIN ota_versions f ON f.id = r.version_id"""
PAGE = f"""{ROLLOUTS} WHERE r.id > %(after)s AND (NOT %(live)s OR r.status NOT IN ('aborted', 'completed'))
    ORDER BY r.id LIMIT %(limit)s"""
ONE = f"{ROLLOUTS} WHERE r.id = %s"
STAGES = """
    SELECT t.rollout_id, t.stage_no, t.name, t.status, t.planned_count, t.started_at, t.soak_until, t.decided_at, t.decision,
        coalesce(c.eligible, 0), coalesce(c.pending, 0), coalesce(c.in_progress, 0), coalesce(c.succeeded, 0),
        coalesce(c.faults, 0), coalesce(c.rejected, 0), coalesce(c.never_reached, 0), coalesce(c.excluded, 0),
        coalesce((SELECT avg(coalesce(d.progress_percent, 0)) FROM ota_deployments d WHERE d.rollout_id = t.rollout_id
            AND d.stage_no = t.stage_no AND d.status = 'in_progress'), 0)::float8
    FROM unnest(%s::int8[]) AS wanted (id) JOIN ota_rollout_stages t ON t.rollout_id = wanted.id
        LEFT JOIN LATERAL (SELECT * FROM ota_rollout_counts c WHERE c.rollout_id = t.rollout_id
            AND c.stage_no = t.stage_no) c ON true
    ORDER BY t.rollout_id, t.stage_no"""
ERRORS = """
    SELECT coalesce(error_code, outcome), count(*), min(error_message) FROM ota_deployments
    WHERE rollout_id = %s AND status = 'failed' AND outcome NOT IN ('skipped', 'superseded', 'cancelled', 'removed')
    GROUP BY 1 ORDER BY 2 DESC, 1"""


class StageView(NamedTuple):
    """A stage, and its deployments counted."""

    stage_no: int
    name: str
    status: str
    planned: int
    started_at: datetime | None
    soak_until: datetime | None
    decided_at: datetime | None
    decision: Mapping[str, Any] | None
    eligible: int
    pending: int
    in_progress: int
    succeeded: int
    faults: int
    rejected: int
    never_reached: int
    excluded: int
    progress: float
    """Mean percentage of those in progress."""

    @property
    def ended(self) -> int:
        """How many deployments have ended, one way or another."""
        return self.succeeded + self.faults + self.rejected + self.never_reached + self.excluded


class RolloutView(NamedTuple):
    """A rollout with its stages."""

    id: int
    name: str
    version: str
    status: str
    selector: Mapping[str, str]
    pause_reason: str | None
    created_by: str | None
    created_at: datetime
    start_at: datetime | None
    end_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    terms: Mapping[str, Any]
    """Limits and the like, by column."""
    excluded: Mapping[str, Sequence[str]]
    """Selected devices that were left out, by reason."""
    stages: Sequence[StageView]

    @property
    def over(self) -> bool:
        """True: nothing will change."""
        return self.status in {"aborted", "completed"}

    def total(self, field: str) -> int:
        """Returns the sum of one of the counts of the stages."""
        return sum(getattr(stage, field) for stage in self.stages)


class ErrorView(NamedTuple):
    """Why deployments have failed."""

    code: str
    devices: int
    example: str | None


TERMS = (
    "max_in_progress", "max_per_minute", "success_threshold_pct", "error_threshold_pct", "min_sample", "max_failures",
    "soak_seconds", "unreachable_after_seconds", "on_error", "on_stage_success", "verify_mode", "allow_downgrade", "window",
)  # fmt: skip


def list_rollouts(settings: DatabaseSettings, *, after: int = 0, limit: int = 1000, live: bool = False) -> list[RolloutView]:
    """Returns a page by number, those after `after`; `live`: only those that are not over."""
    with command_connection(settings) as connection:
        rows = connection.execute(PAGE.encode(), {"after": after, "limit": limit, "live": live}).fetchall()
        return _views(connection, rows)


def load_rollout(connection: psycopg.Connection, number: int) -> RolloutView:
    """Returns one rollout as it is now.

    Raises:
        NotFound: there is none of that number.
    """
    views = _views(connection, connection.execute(ONE.encode(), [number]).fetchall())
    if not views:
        raise NotFound(f"there is no rollout {number}; factoryd rollout list shows all")
    return views[0]


def show_rollout(settings: DatabaseSettings, number: int) -> tuple[RolloutView, list[ErrorView]]:
    """Returns one rollout, and why its deployments have failed.

    Raises:
        NotFound: there is none of that number.
    """
    with command_connection(settings) as connection:
        view = load_rollout(connection, number)
        return view, [ErrorView(*row) for row in connection.execute(ERRORS, [number])]


def _views(connection: psycopg.Connection, rows: Sequence[tuple[Any, ...]]) -> list[RolloutView]:
    stages: dict[int, list[StageView]] = {row[0]: [] for row in rows}
    for number, *values in connection.execute(STAGES, [list(stages)]):
        stages[number].append(StageView(*values))
    return [
        RolloutView(*row[:12], dict(zip(TERMS, row[12:25], strict=True)), row[25], stages[row[0]])  # type: ignore[call-arg]
        for row in rows
    ]
