"""`factoryd maintenance`: what is past its time goes into the archive and out of the database."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from factoryd.commands.archive_setting import require_archive
from factoryd.commands.invocation import settings_of
from factoryd.commands.row_progress import shown_rows
from factoryd.commands.schema import owner_url
from factoryd.commands.tables import Output, OutputOption, print_one
from storage.job_runs import latest_runs
from storage.maintenance_run import MaintenanceFailed
from storage.maintenance_status import maintenance_status
from storage.recorded_maintenance import run_recorded

app = typer.Typer(no_args_is_help=True, help="Archive and remove what is past its time.")


@app.command()
def run(
    ctx: typer.Context,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar, and a word only about errors.")] = False,
) -> None:
    """Makes partitions ahead; archives readings, alerts and deployments past their time, and removes them.

    Nothing is removed that was not uploaded, read back and found the same. It may be stopped at any moment and run again.
    Uses database.owner_url; one run at a time.
    """
    settings = settings_of(ctx)
    require_archive(settings)
    owner_url(settings)
    with shown_rows("archiving", None, quiet=quiet) as progress:
        report = run_recorded(settings, progress)
    if not quiet:
        for day, rows, url in report.days:
            typer.echo(f"{day}  {rows} readings  {url or 'removed'}")
        removed = f"{report.rows} readings of {len(report.days)} days, {report.alerts} alerts, {report.deployments} deployments"
        typer.echo(f"{removed} removed")
    if report.errors:
        raise MaintenanceFailed("\n".join(report.errors))


@app.command()
def status(ctx: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Shows what is due, what the archive holds, how far the roll-ups are, and when the disk will be full."""
    settings = settings_of(ctx)
    now = datetime.now(UTC)
    found = maintenance_status(settings, now)
    last = latest_runs(settings.database).get("maintenance")
    told = {
        **{name: value for name, value in asdict(found).items() if name != "disk"},
        "database_bytes": found.disk.database_bytes,
        "grows_by_day": found.disk.grows_by_day,
        "free_bytes": found.disk.free_bytes,
        "days_until_full": found.disk.days_until_full,
        "last_run": last.started_at if last else None,
        "last_outcome": last.outcome if last else None,
        "last_error": last.error if last else None,
        "last_good_run": last.done_at if last else None,
    }
    print_one(told, output)
