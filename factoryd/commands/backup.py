"""`factoryd backup`: backups of the whole database cluster, and the proof that they can be restored."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from time import monotonic
from typing import Annotated, Any

import typer

from config.loading import ConfigError
from config.settings import Settings
from factoryd.commands import backup_init, backup_restore
from factoryd.commands.durations import read_moment
from factoryd.commands.invocation import settings_of
from factoryd.commands.tables import Output, OutputOption, plain, print_rows, shown
from factoryd.exit_codes import ExitCode
from storage.backup import Kind, PgBackRest
from storage.backup_answers import BackupError, StoredBackup
from storage.backup_config import repositories
from storage.backup_standing import Standing, judge
from storage.database import DatabaseUnavailable
from storage.job_runs import Job, LatestRuns, job_run, latest_runs, record_run
from storage.refusals import InvalidInput
from storage.wal_archiving import WalArchiving, wal_archiving

app = typer.Typer(no_args_is_help=True, help="Back the database up, restore it, and prove that it works.")
app.command()(backup_init.init)


class BackupKind(StrEnum):
    """What a backup holds."""

    FULL = "full"
    INCR = "incr"


JOBS: Mapping[BackupKind, tuple[Job, Kind]] = {
    BackupKind.FULL: ("backup_full", "full"),
    BackupKind.INCR: ("backup_incr", "incr"),
}
KindArgument = Annotated[
    BackupKind, typer.Argument(metavar="full|incr", help="Everything, or what has changed since the last.")
]
COLUMNS = {"job": "JOB", "done_at": "LAST DONE", "age": "AGE", "limit": "LIMIT", "state": "STATE", "note": "NOTE"}
BACKUP_COLUMNS = {
    "repository": "REPOSITORY",
    "label": "BACKUP",
    "kind": "KIND",
    "stopped_at": "RESTORES FROM",
    "size_bytes": "BYTES",
    "stored_bytes": "STORED",
    "damaged": "DAMAGED",
}


@app.command()
def run(ctx: typer.Context, kind: KindArgument) -> None:
    """Makes a backup in each repository, and removes what is past its time there (backup.mode = managed)."""
    settings = settings_of(ctx)
    require_managed(settings)
    job, what = JOBS[kind]
    with job_run(settings.database, job) as detail:
        _back_up(PgBackRest(settings.backup), what, repositories(settings.backup), detail)


@app.command()
def record(
    ctx: typer.Context,
    kind: KindArgument,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="When it ended; default: now.")] = None,
    failed: Annotated[str | None, typer.Option(metavar="TEXT", help="It failed, and why.")] = None,
    size: Annotated[int | None, typer.Option(min=0, metavar="BYTES", help="How large it is.")] = None,
) -> None:
    """Notes a backup that another tool has made (backup.mode = external): call it at the end of that tool's script."""
    now = datetime.now(UTC)
    moment = read_moment(at, now) if at else None
    if moment is not None and moment > now:
        raise InvalidInput("--at: is in the future")
    detail = {} if size is None else {"size_bytes": size}
    record_run(settings_of(ctx).database, JOBS[kind][0], at=moment, error=failed, detail=detail)


@app.command()
def status(ctx: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Shows how old the backups and the last drill are, and whether WAL is archived. Exit code 1: something needs attention."""
    if output is Output.CSV:
        raise InvalidInput("-o csv: status is no list; use table or json")
    settings, now = settings_of(ctx), datetime.now(UTC)
    stored = _stored(settings)
    runs, wal = _recorded(settings)
    standing = judge(settings.backup, runs, stored, now)
    if output is Output.JSON:
        jobs = [_job(each, now) for each in standing]
        everything = {"at": now, "mode": settings.backup.mode, "jobs": jobs, "wal": asdict(wal) if wal else None}
        everything["backups"] = [asdict(backup) for backup in stored]
        typer.echo(json.dumps(everything, default=plain, indent=2))
    else:
        print_rows([_line(each, now) for each in standing], COLUMNS, output)
        typer.echo(f"\nWAL  {describe_wal(wal, managed=settings.backup.mode == 'managed')}")
        if stored:
            typer.echo()
            print_rows([asdict(backup) for backup in stored], BACKUP_COLUMNS, output)
    if not all(each.is_good for each in standing) or wal_is_bad(wal, managed=settings.backup.mode == "managed"):
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def check(ctx: typer.Context) -> None:
    """Ends the present segment of WAL, and waits until every repository has it. After a restore: before any replica is made."""
    settings = settings_of(ctx)
    require_managed(settings)
    PgBackRest(settings.backup).check()
    typer.echo("WAL arrives in every repository")


@app.command()
def verify(ctx: typer.Context) -> None:
    """Reads every file of the repositories (all of them, also off-site), and holds it against its checksum.

    It cannot see WAL that is missing at the end: only a drill can.
    """
    settings = settings_of(ctx)
    require_managed(settings)
    faults = PgBackRest(settings.backup).verify()
    if faults:
        raise BackupError("\n".join(faults))
    typer.echo("every file is as it was written")


app.command()(backup_restore.restore)
app.command()(backup_restore.drill)


def require_managed(settings: Settings) -> None:
    """Raises ConfigError unless backups are ours to make."""
    if settings.backup.mode != "managed":
        raise ConfigError('backup.mode: is external: others make the backups; set it to "managed" for pgBackRest')


def wal_is_bad(wal: WalArchiving | None, *, managed: bool) -> bool:
    """Tells whether the archiving of WAL needs attention."""
    return wal is None or wal.is_failing or (managed and not wal.is_on)


def describe_wal(wal: WalArchiving | None, *, managed: bool) -> str:
    """Returns how the archiving of WAL stands, in one line."""
    if wal is None:
        return "not known"
    if not wal.is_on:
        return f"archive_mode is off{': run factoryd backup init' if managed else ''}"
    last = (
        f"last archived {shown(wal.last_archived_at)} ({wal.age_s:.0f} s ago)"
        if wal.last_archived_at
        else "nothing archived yet"
    )
    waiting = f", {wal.waiting_bytes} bytes written since" if wal.waiting_bytes is not None else ""
    failing = f"; THE LAST ATTEMPT FAILED at {shown(wal.last_failed_at)}: see PostgreSQL's log" if wal.is_failing else ""
    return f"{last}{waiting}{failing}"


def _back_up(tool: PgBackRest, kind: Kind, numbers: list[int], detail: dict[str, Any]) -> None:
    """A repository that fails does not keep the others from theirs."""
    failures = []
    for number in numbers:
        started = monotonic()
        try:
            tool.backup(kind, number)
        except BackupError as error:
            failures.append(f"repository {number}: {error}")
            continue
        made = [backup for backup in tool.backups() if backup.repository == number][-1]
        detail[f"repository_{number}"] = {**asdict(made), "seconds": round(monotonic() - started, 1)}
        typer.echo(f"repository {number}: {made.label}, {made.stored_bytes} bytes stored, {monotonic() - started:.1f} s")
    if failures:
        raise BackupError("\n".join(failures))


def _stored(settings: Settings) -> list[StoredBackup]:
    if settings.backup.mode != "managed":
        return []
    try:
        return PgBackRest(settings.backup).backups()
    except BackupError as error:
        typer.echo(f"note: the repositories were not looked at: {error}", err=True)
        return []


def _recorded(settings: Settings) -> tuple[dict[str, LatestRuns], WalArchiving | None]:
    """What the database says; when it is gone, the repositories are what there is to look at."""
    try:
        return latest_runs(settings.database), wal_archiving(settings.database)
    except DatabaseUnavailable as error:
        typer.echo(f"note: only the repositories were looked at: {error}", err=True)
        return {}, None


def _line(standing: Standing, now: datetime) -> dict[str, Any]:
    age = f"{(now - standing.done_at).total_seconds() / 3600:.1f} h" if standing.done_at else None
    limit = f"{standing.limit.total_seconds() / 3600:g} h"
    return {**asdict(standing), "age": age, "limit": limit}


def _job(standing: Standing, now: datetime) -> dict[str, Any]:
    age_s = (now - standing.done_at).total_seconds() if standing.done_at else None
    return {**asdict(standing), "age_s": age_s, "limit": standing.limit.total_seconds()}
