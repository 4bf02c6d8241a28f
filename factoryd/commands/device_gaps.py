"""`factoryd device gaps`: messages that never reached us, by the numbers that devices give them."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from factoryd.commands.durations import read_moment
from factoryd.commands.invocation import settings_of
from factoryd.commands.tables import Output, OutputOption, print_rows
from storage.gaps import GapSelection, GapTotals, list_gaps

COLUMNS = {
    "id": "ID",
    "device": "DEVICE",
    "boot_id": "BOOT",
    "first_seq": "FIRST",
    "last_seq": "LAST",
    "missing": "MISSING",
    "noticed_at": "NOTICED",
    "closed_at": "CLOSED",
    "lost_at": "LOST",
}


def gaps(
    ctx: typer.Context,
    device: Annotated[str | None, typer.Argument(metavar="[ID]", help="Only of this device.")] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Noticed since, e.g. 7d or 2026-11-22T10:00Z.")] = None,
    closed: Annotated[bool, typer.Option("--all", help="Those that late messages have filled, too.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most this many.")] = 100,
    below: Annotated[int | None, typer.Option(metavar="ID", help="Go on with older ones than this.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Lists what devices sent and we never got, newest first.

    LOST: the device sends no boot_id and began to count anew; what was missing until then can no longer come.
    """
    selection = GapSelection(device, read_moment(since, datetime.now(UTC)) if since else None, closed)
    views, totals = list_gaps(settings_of(ctx).database, selection, limit=limit + 1, below=below)
    print_rows([asdict(view) for view in views[:limit]], COLUMNS, output, nothing="no gaps")
    if views:
        typer.echo(_said(totals), err=True)
    if len(views) > limit:
        typer.echo(f"more: --below {views[limit - 1].id}", err=True)


def _said(totals: GapTotals) -> str:
    lost = f", {totals.lost} of them for good" if totals.lost else ""
    return f"{totals.gaps} gaps of {totals.devices} devices, {totals.missing} messages missing{lost}"
