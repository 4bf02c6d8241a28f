"""Lists on standard output: a table for people; JSON, JSON lines or CSV for programs."""

import csv
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from factoryd.safe_text import printable
from storage.refusals import InvalidInput

MAX_CELL = 10_000


class Output(StrEnum):
    """How a list is printed."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


JSON_FORMS = (Output.JSON, Output.JSONL)
OUTPUT_HELP = "table, json (one array), jsonl (one object per line) or csv (with a header)."
OutputOption = Annotated[Output, typer.Option("-o", "--output", help=OUTPUT_HELP)]

Row = Mapping[str, Any]


def print_rows(rows: Sequence[Row], columns: Mapping[str, str], output: Output, nothing: str = "nothing found") -> None:
    """Prints a list.

    Args:
        rows: values by name; JSON and CSV get all of them under these names.
        columns: which of them the table shows, and under which headings.
        output: how.
        nothing: said on standard error in place of an empty table.
    """
    match output:
        case Output.JSON:
            print_json([dict(row) for row in rows], output)
        case Output.JSONL:
            _print_lines(rows)
        case Output.CSV:
            _print_csv(rows, list(rows[0]) if rows else list(columns))
        case Output.TABLE if not rows:
            typer.echo(nothing, err=True)
        case Output.TABLE:
            _print_table([[shown(row[name]) for name in columns] for row in rows], list(columns.values()))


def print_one(row: Row, output: Output) -> None:
    """Prints one thing: `name  value` lines, a JSON object, or CSV of one row."""
    match output:
        case Output.JSON | Output.JSONL:
            print_json(dict(row), output)
        case Output.CSV:
            _print_csv([row], list(row))
        case Output.TABLE:
            width = max(map(len, row))
            for name, value in row.items():
                typer.echo(f"{name.replace('_', ' '):{width}}  {shown(value)}".rstrip())


def print_pages(pages: Iterable[Sequence[Row]], columns: Mapping[str, str], output: Output) -> None:
    """Prints a list of any length, a page at a time; a reader that goes away (`| head`) ends it.

    Raises:
        InvalidInput: the output must be known as a whole (table, json).
    """
    if output not in {Output.CSV, Output.JSONL}:
        raise InvalidInput("--all prints page by page: choose -o csv or -o jsonl")
    begun = False
    try:
        for rows in pages:
            if output is Output.JSONL:
                _print_lines(rows)
            else:
                _print_csv(rows, list(rows[0]) if rows else list(columns), heading=not begun)
            begun = True
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        raise typer.Exit(1) from None


def print_json(value: object, output: Output) -> None:
    """Prints JSON: indented for people, or in one line (jsonl)."""
    typer.echo(json.dumps(value, default=plain, indent=None if output is Output.JSONL else 2, ensure_ascii=False))


def shown(value: object) -> str:
    """Returns a value as a table's cell; what a terminal would obey instead of print is escaped."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%S}Z"
        case float():
            return f"{value:g}"
        case dict() | list():
            return json.dumps(value, default=plain, ensure_ascii=False)
        case _:
            return printable(str(value), MAX_CELL)


def plain(value: object) -> object:
    """Returns a value as JSON and CSV hold it: times in RFC 3339, bytes in hex."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return value.hex() if isinstance(value, bytes) else str(value)


def _print_lines(rows: Iterable[Row]) -> None:
    for row in rows:
        sys.stdout.write(json.dumps(dict(row), default=plain, ensure_ascii=False) + "\n")


def _print_csv(rows: Iterable[Row], names: list[str], *, heading: bool = True) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if heading:
        writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(row[name]) for name in names])


def _cell(value: object) -> object:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case dict() | list():
            return json.dumps(value, default=plain, ensure_ascii=False)
        case datetime() | bytes():
            return plain(value)
        case _:
            return value


def _print_table(cells: list[list[str]], headings: list[str]) -> None:
    if sys.stdout.isatty():
        _print_rich(cells, headings)
        return
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    for row in [headings, *cells]:
        typer.echo("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_rich(cells: list[list[str]], headings: list[str]) -> None:
    from rich.console import Console  # noqa: PLC0415 - only where a person looks
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    Console().print(table)
