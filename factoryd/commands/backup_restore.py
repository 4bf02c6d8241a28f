"""`factoryd backup restore` and `factoryd backup drill`: the way back, and the proof that there is one."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from config.loading import ConfigError
from config.settings import Settings
from factoryd.commands.durations import read_moment
from factoryd.commands.invocation import settings_of
from factoryd.commands.tables import Output, OutputOption, print_one
from storage.backup import PgBackRest, restore_arguments
from storage.backup_answers import BackupError
from storage.backup_drill import DrillReport
from storage.backup_drill import drill as run_drill
from storage.command_connection import database_name
from storage.job_runs import job_run
from storage.refusals import InvalidInput

Target = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Moment to recover to (2h ago, or ISO, UTC unless it says); default: the end."),
]
Repository = Annotated[
    int | None, typer.Option(min=1, max=2, help="1: the local one, 2: off-site; default: the first that has it.")
]


def restore(
    ctx: typer.Context,
    into: Annotated[Path, typer.Option(metavar="DIRECTORY", help="The new data directory; empty or missing.")],
    target: Target = None,
    standby: Annotated[bool, typer.Option("--standby", help="It shall follow a primary.")] = False,
    primary: Annotated[
        str | None, typer.Option(metavar="CONNINFO", help="With --standby: where to stream from, without a password.")
    ] = None,
    delta: Annotated[bool, typer.Option("--delta", help="Overwrite what differs in a directory that is not empty.")] = False,
    repository: Repository = None,
    only_print: Annotated[bool, typer.Option("--print", help="Print pgBackRest's command, and do nothing.")] = False,
) -> None:
    """Restores the cluster's files; PostgreSQL is then started by you. The five steps around it: docs/backup.md.

    Into the cluster's own directory it is the cluster again, and archives; anywhere else it is a copy that never does.
    """
    if primary is not None and not standby:
        raise InvalidInput("--primary goes with --standby")
    if standby and target is not None:
        raise InvalidInput("--standby: follows its primary to the end; it has no --target")
    settings, moment, data = settings_of(ctx), _moment(target), into.absolute()
    tool = PgBackRest(settings.backup)
    in_place = str(data) == tool.cluster().data_directory
    arguments = restore_arguments(
        settings.backup,
        data,
        target=moment,
        standby=standby,
        primary=primary,
        in_place=in_place,
        delta=delta,
        repository=repository,
    )
    if only_print:
        typer.echo(shlex.join(tool.words("restore", *arguments)))
        return
    tool.make_directory(data)
    typer.echo(f"{data}: restored from {tool.restore(arguments)}")
    archiving = "archives WAL, as before" if in_place else "archives WAL once it is promoted" if standby else "archives no WAL"
    typer.echo(f"next: start PostgreSQL on it ({archiving}); then docs/backup.md, step 3", err=True)


def drill(
    ctx: typer.Context,
    directory: Annotated[
        Path | None, typer.Option(help="Where there is room for the whole cluster; default: temporary.")
    ] = None,
    target: Target = None,
    repository: Repository = None,
    binaries: Annotated[Path | None, typer.Option(help="Directory of PostgreSQL's programs; default: found.")] = None,
    record: Annotated[bool, typer.Option("--record/--no-record", help="Whether to note it in the database.")] = True,
    output: OutputOption = Output.TABLE,
) -> None:
    """Restores the last backup beside the running cluster, starts and checks it, and removes it. Exit code 1: a finding."""
    settings, moment = settings_of(ctx), _moment(target)
    if settings.backup.mode != "managed":
        raise ConfigError('backup.mode: is external: others restore; set it to "managed" for pgBackRest')
    if directory is not None and not directory.is_dir():
        raise InvalidInput(f"--directory: {directory} does not exist")
    with _noted(settings, wanted=record) as detail:
        database = database_name(settings.database)
        report = run_drill(
            settings.backup, database, directory=directory, target=moment, repository=repository, binaries=binaries
        )
        detail.update(report.detail())
        print_one(_facts(report), output)
        if report.checked.findings:
            raise BackupError("the restored copy is not good:\n" + "\n".join(report.checked.findings))


def _moment(target: str | None) -> datetime | None:
    now = datetime.now(UTC)
    moment = read_moment(target, now) if target else None
    if moment is not None and moment > now:
        raise InvalidInput("--target: is in the future")
    return moment


@contextmanager
def _noted(settings: Settings, *, wanted: bool) -> Iterator[dict[str, Any]]:
    if not wanted:
        yield {}
        return
    with job_run(settings.database, "drill") as detail:
        yield detail


def _facts(report: DrillReport) -> dict[str, Any]:
    checked = report.checked
    return {
        "backup": report.backup,
        "recovered_to": report.recovered_to,
        "restore_s": round(report.restore_s, 1),
        "rto_s": round(report.rto_s, 1),
        "verify_s": round(report.verify_s, 1),
        "schema": checked.revision,
        "rows": sum(checked.rows.values()),
        "tables_checked": checked.heaps,
        "indexes_checked": checked.indexes,
        "manifests_checked": checked.manifests,
        "checksums": report.checksums,
        "notes": checked.notes,
        "findings": checked.findings,
    }
