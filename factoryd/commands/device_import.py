"""`factoryd device import`: a CSV file of devices."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from factoryd.commands.invocation import settings_of
from factoryd.commands.reserved_names import reserved_names
from storage.device_fields import FIELDS, check_device_id, read_fields
from storage.device_import import Line, Problem, import_devices
from storage.refusals import InvalidInput

ID_COLUMN = "device_id"


def import_(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", help="UTF-8, with a header.", exists=True, dir_okay=False)],
) -> None:
    """Registers the devices of a CSV file and updates those that exist: all of them, or none if a line is bad.

    The header names device_id and any of name, type, location, interval, timezone, via, owner, metadata. A column that
    is there decides, and an empty cell takes the value away; a column that is not there leaves values as they are.
    """
    settings = settings_of(ctx)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file}: cannot be read: {error}") from error
    lines, problems = read_devices(text.splitlines(keepends=True), reserved_names(settings))
    done = import_devices(settings.database, lines, problems)
    typer.echo(f"{done.created} registered, {done.updated} changed, {done.unchanged} as they were")


def read_devices(source: Iterable[str], reserved: frozenset[str] = frozenset()) -> tuple[list[Line], list[Problem]]:
    """Reads the lines of a CSV text, the header first; bad ones become problems.

    Raises:
        InvalidInput: there is no usable header.
    """
    reader = csv.reader(source, skipinitialspace=True)
    columns = _columns(next(reader, []))
    lines: list[Line] = []
    problems: list[Problem] = []
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        try:
            lines.append(_line(reader.line_num, columns, cells, reserved))
        except InvalidInput as error:
            problems.append(Problem(reader.line_num, str(error)))
    return lines, problems


def _columns(header: list[str]) -> list[str]:
    columns = [name.strip().lower() for name in header]
    allowed = (ID_COLUMN, *FIELDS)
    unknown = [name for name in columns if name not in allowed]
    if ID_COLUMN not in columns or unknown or len(set(columns)) < len(columns):
        wrong = f"no column {unknown[0]!r} is known" if unknown else f"the header must name {ID_COLUMN}, and no column twice"
        raise InvalidInput(f"{wrong}; columns are {', '.join(allowed)}, divided by commas")
    return columns


def _line(number: int, columns: list[str], cells: list[str], reserved: frozenset[str]) -> Line:
    if len(cells) != len(columns):
        raise InvalidInput(f"{len(cells)} fields under {len(columns)} column names")
    texts: dict[str, str | None] = {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}
    device = check_device_id(texts.pop(ID_COLUMN) or "")
    if device in reserved:
        raise InvalidInput(f"a device must not be named {device}: that is an account of factoryd at the broker")
    if texts.get("name") == "":
        texts["name"] = device
    if texts.get("type") == "":
        texts["type"] = "unknown"
    return Line(number, device, read_fields(texts))
