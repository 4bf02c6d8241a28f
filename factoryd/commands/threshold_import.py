"""`factoryd threshold export` and `import`: thresholds and classes as a CSV file."""

import csv
import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from factoryd.commands.invocation import settings_of
from factoryd.commands.threshold_texts import FIELDS, condition_text, read_values, texts_of
from storage.device_fields import check_device_id
from storage.device_import import Problem
from storage.refusals import InvalidInput
from storage.threshold_fields import check_metric, read_selector
from storage.threshold_import import import_thresholds
from storage.threshold_plan import Planned, ThresholdLine
from storage.threshold_rows import Stored
from storage.threshold_views import list_written

HEAD = ("device", "select", "metric")
ALLOWED = ("id", *HEAD, *FIELDS)


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("export")(export)
    app.command("import")(import_)


def export(
    ctx: typer.Context,
    file: Annotated[Path | None, typer.Argument(metavar="[FILE.csv]", help="Default: standard output.")] = None,
    ids: Annotated[bool, typer.Option("--ids", help="With the numbers; a file without them suits other sites, too.")] = False,
) -> None:
    """Writes all thresholds and classes as CSV, for import. What a class keeps is left out: the class is there."""
    text = _csv(list_written(settings_of(ctx).database), ids)
    if file is None:
        typer.echo(text, nl=False)
        return
    file.write_text(text, encoding="utf-8", newline="")
    typer.echo(f"{file}: {text.count(chr(10)) - 1} lines", err=True)


def import_(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", help="UTF-8, with a header.", exists=True, dir_okay=False)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and change nothing.")] = False,
) -> None:
    """Adds the thresholds of a CSV file and changes those that exist: all of them, or none if a line is bad.

    The header names metric, device or select (a class, such as type=press,location=hall-2), and any of id, min, max,
    severity, for, hysteresis, clear, max-gap, no-data, instruction, owner, enabled. A column that is there decides, and an
    empty cell takes the value away; a column that is not there leaves values as they are. Nothing is deleted.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file}: cannot be read: {error}") from error
    lines, problems = read_lines(text.splitlines(keepends=True))
    plan = import_thresholds(settings_of(ctx).database, lines, problems, dry_run=dry_run)
    if dry_run:
        for planned in plan:
            if planned.verb != "keep":
                typer.echo(_planned_text(planned))
    count = Counter(planned.verb for planned in plan)
    done = f"{count['add']} added, {count['change']} changed, {count['keep']} as they were"
    typer.echo(f"dry run, nothing was changed: {done}" if dry_run else done)


def read_lines(source: Iterable[str]) -> tuple[list[ThresholdLine], list[Problem]]:
    """Reads the lines of a CSV text, the header first; bad ones become problems.

    Raises:
        InvalidInput: there is no usable header.
    """
    reader = csv.reader(source, skipinitialspace=True)
    columns = _columns(next(reader, []))
    lines: list[ThresholdLine] = []
    problems: list[Problem] = []
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        try:
            lines.append(_line(reader.line_num, columns, cells))
        except InvalidInput as error:
            problems.append(Problem(reader.line_num, str(error)))
    return lines, problems


def _columns(header: list[str]) -> list[str]:
    columns = [name.strip().lower().replace("_", "-") for name in header]
    unknown = [name for name in columns if name not in ALLOWED]
    usable = "metric" in columns and {"device", "select"} & set(columns) and len(set(columns)) == len(columns)
    if unknown or not usable:
        wrong = f"no column {unknown[0]!r} is known" if unknown else "the header must name metric, device or select, none twice"
        raise InvalidInput(f"{wrong}; columns are {', '.join(ALLOWED)}, divided by commas")
    return columns


def _line(number: int, columns: list[str], cells: list[str]) -> ThresholdLine:
    if len(cells) != len(columns):
        raise InvalidInput(f"{len(cells)} fields under {len(columns)} column names")
    texts = {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}
    id_text, device, select, metric = (texts.pop(name, "") for name in ("id", *HEAD))
    if id_text and not (id_text.isdecimal() and len(id_text) < 19):
        raise InvalidInput(f"id: {id_text[:40]!r} is no number; leave it empty for a new threshold")
    if bool(device) == bool(select):
        raise InvalidInput("device: give a device, or select a class of them in the column select, not both")
    check_metric(metric)
    selector = read_selector(select) if select else None
    if device:
        try:
            check_device_id(device)
        except InvalidInput as error:
            raise InvalidInput(f"device: {error}") from error
    return ThresholdLine(number, int(id_text) if id_text else None, device or None, selector, metric, read_values(texts))


def _csv(thresholds: Iterable[Stored], ids: bool) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*(["id"] if ids else []), *HEAD, *FIELDS])
    for stored in thresholds:
        of = ["", stored.target] if stored.is_class else [stored.target, ""]
        texts = texts_of(stored.threshold).values()
        writer.writerow([*([stored.id] if ids else []), *of, stored.threshold.metric, *texts])
    return buffer.getvalue()


def _planned_text(planned: Planned) -> str:
    line, before, after = planned
    _, target, metric = line.subject
    what = f"line {line.number}: {planned.verb} {before.name if before else 'class' if line.selector else 'threshold'}:"
    now = f"{condition_text(after)}, {after.severity}"
    was = f" (was {condition_text(before.threshold)}, {before.threshold.severity})" if before else ""
    return f"{what} {target} {metric} {now}{was}"
