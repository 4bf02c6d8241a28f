"""Runs of jobs (table `job_runs`): maintenance, backups, drills, verifications. Who asks when one last went well asks here."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Literal

import structlog
from psycopg.types.json import Jsonb

from config.settings import DatabaseSettings
from storage.command_connection import command_connection
from storage.database import DatabaseUnavailable, Pool, one_line, translated

log = structlog.get_logger(__name__)

Job = Literal["maintenance", "backup_full", "backup_incr", "drill", "verify"]
Detail = dict[str, Any]

LOST = "was killed or lost"
MAX_ERROR = 2_000
"""Characters of an error that are kept."""

MARK_LOST = "UPDATE job_runs SET outcome = 'failed', finished_at = now(), error = %s WHERE job = %s AND outcome = 'running'"
START = "INSERT INTO job_runs (job) VALUES (%s) RETURNING id"
END = "UPDATE job_runs SET outcome = %s, finished_at = clock_timestamp(), error = %s, detail = %s WHERE id = %s"
RECORD = """
    INSERT INTO job_runs (job, started_at, finished_at, outcome, error, detail)
    SELECT %(job)s, at, at, %(outcome)s, %(error)s, %(detail)s FROM (SELECT coalesce(%(at)s::timestamptz, now())) AS t (at)"""
LATEST = """
    SELECT last.job, last.started_at, last.outcome, last.error, good.finished_at, good.detail
    FROM (SELECT DISTINCT ON (job) * FROM job_runs ORDER BY job, started_at DESC, id DESC) last
        LEFT JOIN (SELECT DISTINCT ON (job) * FROM job_runs WHERE outcome = 'done' ORDER BY job, finished_at DESC, id DESC) good
        ON good.job = last.job"""


@dataclass(frozen=True, slots=True)
class LatestRuns:
    """What is known of one job: its last run, and the last that went well."""

    job: str
    started_at: datetime
    """Of the last run."""
    outcome: str
    """Of the last run: running, done or failed."""
    error: str | None
    """Of the last run."""
    done_at: datetime | None
    """End of the last run that went well; None: none did."""
    detail: Detail | None
    """Of the last run that went well."""


@contextmanager
def job_run(settings: DatabaseSettings, job: Job) -> Iterator[Detail]:
    """Records a run of `job` with database.url: it is `running` within the block, and `done` or `failed` after it.

    Yields a dict for what is worth knowing later (kept as JSON, whatever the outcome). Runs that were left running, because
    their process was killed, are marked failed first. No connection is held in between.

    Raises:
        ConfigError, DatabaseUnavailable, SchemaError: as `command_connection`, before the block; after it only if the block
            itself went well.
    """
    with command_connection(settings) as connection, connection.transaction():
        connection.execute(MARK_LOST, [LOST, job])
        row = connection.execute(START, [job]).fetchone()
    assert row is not None, "INSERT … RETURNING"
    detail: Detail = {}
    try:
        yield detail
    except BaseException as error:
        text = one_line(error)[:MAX_ERROR]
        try:
            _end(settings, row[0], "failed", text, detail)
        except DatabaseUnavailable as unavailable:  # the error that counts is the block's; the next run marks this one lost
            log.warning("job_end_not_recorded", job=job, error=str(unavailable))
        raise
    _end(settings, row[0], "done", None, detail)


def record_run(settings: DatabaseSettings, job: Job, *, at: datetime | None, error: str | None, detail: Detail) -> None:
    """Records a run that somebody else made.

    Args:
        settings: database.url.
        job: which.
        at: when it ended (aware); None: now.
        error: why it failed; None: it went well.
        detail: what is worth knowing later.

    Raises:
        As `command_connection`.
    """
    outcome = "done" if error is None else "failed"
    values = {"job": job, "at": at, "outcome": outcome, "error": error, "detail": _json(detail)}
    with command_connection(settings) as connection:
        connection.execute(RECORD, values)


def latest_runs(settings: DatabaseSettings) -> dict[str, LatestRuns]:
    """Returns what is known of each job that ever ran, by its name.

    Raises:
        As `command_connection`.
    """
    with command_connection(settings) as connection:
        return {row[0]: LatestRuns(*row) for row in connection.execute(LATEST)}


async def load_latest_runs(pool: Pool) -> dict[str, LatestRuns]:
    """As `latest_runs`, for the daemon.

    Raises:
        DatabaseUnavailable: try again.
    """
    with translated("reading the runs of jobs"):
        async with pool.connection() as connection:
            return {row[0]: LatestRuns(*row) for row in await (await connection.execute(LATEST)).fetchall()}


def _end(settings: DatabaseSettings, run: int, outcome: str, error: str | None, detail: Detail) -> None:
    with command_connection(settings) as connection:
        connection.execute(END, [outcome, error, _json(detail), run])


def _json(detail: Detail) -> Jsonb:
    return Jsonb(detail, dumps=partial(json.dumps, default=str))
