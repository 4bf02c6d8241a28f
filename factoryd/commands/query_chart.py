"""`factoryd query readings --chart`: a metric over time, on the terminal or as points."""

import shutil
import sys
from dataclasses import asdict
from datetime import UTC, datetime

import typer

from config.settings import Settings
from factoryd.commands.tables import Output, print_rows
from factoryd.commands.terminal_chart import ASCII, BLOCKS, draw
from factoryd.safe_text import printable
from storage.chart_bins import MAX_POINTS
from storage.charts import Chart, chart
from storage.command_connection import command_connection

POINTS = 120
MARGIN = 12
"""Columns for the labels of values."""
POINT_COLUMNS = {name: name.upper() for name in ("at", "count", "avg", "min", "max", "first", "last")}


def show(
    settings: Settings, device: str, metric: str, since: datetime, until: datetime, points: int | None, output: Output
) -> None:
    """Prints a chart.

    Args:
        settings: for the database.
        device: its id.
        metric: a column, or a name in `extra`.
        since: aware UTC.
        until: aware UTC.
        points: at most so many; None: one for each column of the terminal, 120 in other outputs.
        output: a table is a drawing.
    """
    columns = shutil.get_terminal_size().columns
    fitting = min(MAX_POINTS, max(20, columns - MARGIN)) if output is Output.TABLE else POINTS
    with command_connection(settings.database) as connection:
        found = chart(connection, device, metric, since=since, until=until, points=fitting if points is None else points)
    if output is not Output.TABLE:
        print_rows([asdict(each) for each in found.bins], POINT_COLUMNS, output)
        return
    signs = BLOCKS if can_write("▀░┤", sys.stdout.encoding) else ASCII
    typer.echo(_heading(device, metric, found))
    for line in draw(found.bins, found.since, found.until, found.width, width=columns, signs=signs):
        typer.echo(line)


def can_write(text: str, encoding: str | None) -> bool:
    """Tells whether an output of this encoding can show a text."""
    try:
        text.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _heading(device: str, metric: str, found: Chart) -> str:
    begin, end = (f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}" for moment in (found.since, found.until))
    count = sum(each.count for each in found.bins)
    return f"{printable(metric, 60)} of {device}, {begin} to {end} UTC: {count} values, one point per {found.width}"
