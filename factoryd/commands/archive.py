"""`factoryd archive`: what left the database is found, checked and brought back."""

from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Annotated

import typer

from factoryd.commands.durations import read_moment
from factoryd.commands.firmware_progress import shown_progress
from factoryd.commands.invocation import settings_of
from factoryd.commands.row_progress import shown_rows
from factoryd.commands.schema import owner_url
from factoryd.commands.tables import Output, OutputOption, print_rows
from factoryd.exit_codes import ExitCode
from storage.archive_access import archived_files, restore_files, verify_files
from storage.archive_restore import side_table
from storage.archive_tables import TABLES

app = typer.Typer(no_args_is_help=True, help="Look at what was archived, and bring it back.")

Table = Annotated[str | None, typer.Option("--table", metavar="NAME", help=f"One of: {', '.join(TABLES)}.")]
From = Annotated[str | None, typer.Option("--from", metavar="DAY", help="First UTC day, e.g. 2026-02-01 or 120d (ago).")]
To = Annotated[str | None, typer.Option("--to", metavar="DAY", help="Last UTC day, included.")]

COLUMNS = {
    "table_name": "TABLE",
    "day": "DAY",
    "row_count": "ROWS",
    "size_bytes": "BYTES",
    "from_at": "FIRST",
    "to_at": "LAST",
    "state": "STATE",
    "url": "URL",
}


@app.command("list")
def list_(
    ctx: typer.Context,
    table: Table = None,
    since: From = None,
    until: To = None,
    everything: Annotated[bool, typer.Option("--all", help="Also files that are still on their way.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Lists the archive's files by day. STATE complete: their rows are no longer in the database."""
    files = archived_files(settings_of(ctx).database, table, _day(since), _day(until), everything=everything)
    print_rows([asdict(file) for file in files], COLUMNS, output, nothing="nothing was archived yet")
    if files and output is Output.TABLE:
        rows, size = sum(file.row_count for file in files), sum(file.size_bytes for file in files)
        typer.echo(f"{len(files)} files, {rows} rows, {size} bytes", err=True)


@app.command()
def verify(ctx: typer.Context, table: Table = None, since: From = None, until: To = None) -> None:
    """Reads files back, holds them against the manifest, and names files that it lacks. Exit code 1 if not all is well."""
    settings = settings_of(ctx)
    good = bad = 0
    with shown_progress("reading back", None) as progress:
        for found in verify_files(owner_url(settings), settings.archive, table, _day(since), _day(until), progress):
            if found.problem is None:
                good += 1
            else:
                bad += 1
                typer.echo(found.problem)
    typer.echo(f"{good} files are what was put there" + (f", {bad} problems" if bad else ""))
    if bad:
        raise typer.Exit(ExitCode.FAILED)


@app.command("restore")
def restore_(
    ctx: typer.Context,
    table: Annotated[str, typer.Option("--table", metavar="NAME", help=f"One of: {', '.join(TABLES)}.")],
    since: Annotated[str, typer.Option("--from", metavar="DAY", help="First UTC day.")],
    until: Annotated[str | None, typer.Option("--to", metavar="DAY", help="Last UTC day, included; default: --from.")] = None,
    device: Annotated[str | None, typer.Option(metavar="ID", help="Only rows of this device.")] = None,
    into: Annotated[str | None, typer.Option(metavar="TABLE", help="Side table; default: restored_NAME.")] = None,
) -> None:
    """Brings days back into a side table, made if it is missing.

    Again is no harm: a file's rows take the place of those it brought before.
    """
    settings = settings_of(ctx)
    first = _day(since)
    assert first is not None, "required"
    last = _day(until) or first
    count = files = 0
    with shown_rows("restoring", None) as progress:
        for restored in restore_files(owner_url(settings), settings.archive, table, first, last, device, into, progress):
            files, count = files + 1, count + restored.rows
            typer.echo(f"{restored.file.day}  {restored.rows} rows  {restored.file.url}")
    typer.echo(f"{count} rows of {files} files are in {side_table(TABLES[table], into)}; drop it when it has served")


def _day(text: str | None) -> date | None:
    return read_moment(text, datetime.now(UTC)).date() if text else None
