"""PURE. Whether backups and drills are recent enough, from the runs of jobs and from what is in the repositories."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from config.storage_settings import BackupSettings
from storage.backup_answers import StoredBackup
from storage.job_runs import LatestRuns


@dataclass(frozen=True, slots=True)
class Standing:
    """How one job stands."""

    job: str
    done_at: datetime | None
    """When it last went well; None: never."""
    limit: timedelta
    state: str
    """good, too old or never."""
    note: str
    """What is to be said of its last run."""

    @property
    def is_good(self) -> bool:
        """Whether nobody has to act."""
        return self.state == "good"


def judge(
    settings: BackupSettings, runs: Mapping[str, LatestRuns], stored: Iterable[StoredBackup], now: datetime
) -> list[Standing]:
    """Returns how full backups, backups of any kind, and drills stand.

    Args:
        settings: of backups; the limits.
        runs: of jobs, by name.
        stored: what is in the repositories, whoever put it there.
        now: aware UTC.
    """
    full = _newest(runs, "backup_full", (backup.stopped_at for backup in stored if backup.kind == "full"))
    incr = _newest(runs, "backup_incr", (backup.stopped_at for backup in stored))
    any_kind = max((moment for moment in (full, incr) if moment is not None), default=None)
    drilled = _newest(runs, "drill", ())
    found = [
        ("backup_full", full, timedelta(hours=settings.full_max_age_h)),
        ("backup_incr", any_kind, timedelta(hours=settings.incr_max_age_h)),
        ("drill", drilled, timedelta(days=settings.drill_max_age_days)),
    ]
    return [Standing(job, at, limit, _state(at, limit, now), _note(runs.get(job))) for job, at, limit in found]


def _newest(runs: Mapping[str, LatestRuns], job: str, others: Iterable[datetime]) -> datetime | None:
    recorded = runs[job].done_at if job in runs else None
    return max((moment for moment in (recorded, *others) if moment is not None), default=None)


def _state(at: datetime | None, limit: timedelta, now: datetime) -> str:
    if at is None:
        return "never"
    return "good" if now - at <= limit else "too old"


def _note(run: LatestRuns | None) -> str:
    if run is None or run.outcome == "done":
        return ""
    return (
        f"the last one failed: {run.error}" if run.outcome == "failed" else f"one runs since {run.started_at:%Y-%m-%d %H:%M}Z"
    )
