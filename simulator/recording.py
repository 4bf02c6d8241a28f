"""PURE. A recording (a CSV file with any columns) to readings, row by row, never the whole file.

Bad rows are values, not exceptions: the replay counts them and goes on. What would make every row bad (a mapping of a column
that is not there, local times without a time zone) is a RecordingError before the first reading.
"""

import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from mqtt.topics import is_device_id
from simulator.timestamps import BadTime, Clock, NaiveTime

DELIMITERS = ",;\t|"
TIME_COLUMNS = ("recorded_at", "timestamp", "time", "ts", "datetime", "date")
"""Looked for, in this order and in any case, when no time column is named."""
METRICS = frozenset({"temperature", "humidity", "pressure", "vibration", "power_consumption", "rpm"})
RESERVED = frozenset({"recorded_at", "ts", "timestamp", "time", "seq", "boot_id", "device_id"})
METRIC_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
ABSENT = frozenset({"", "-", "na", "n/a", "nan", "nil", "none", "null"})
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
COMMA_NUMBER = re.compile(r"[+-]?(\d{1,3}(\.\d{3})+|\d+)(,\d*)?([eE][+-]?\d+)?")


class RecordingError(ValueError):
    """The recording cannot be played as asked; the text says why and what to change."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How to read the file."""

    mapping: Mapping[str, str]
    """Column → metric."""
    device: str | None = None
    """All rows belong to this device …"""
    device_column: str | None = None
    """… or the row says so here. One of the two."""
    time_columns: tuple[str, ...] = ()
    """Joined by a space (a date and a time column); empty = the first of TIME_COLUMNS there is."""
    time_format: str | None = None
    """A strptime format; None = ISO 8601, or an epoch number whose size tells its unit."""
    timezone: str | None = None
    """IANA name, or an offset such as +02:00, of local times."""
    delimiter: str | None = None
    """None = the one of DELIMITERS that splits the header most."""
    decimal_comma: bool = False
    """1.234,5 is one thousand two hundred …; a point is then accepted before groups of three digits only."""


@dataclass(frozen=True, slots=True)
class Row:
    """A good row."""

    line: int
    device: str
    recorded_at: datetime
    values: Mapping[str, float | bool]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be a reading, and why."""

    line: int
    reason: str


def parse_mappings(texts: Iterable[str]) -> dict[str, str]:
    """Returns column → metric of texts such as "Oil temp=temperature"; the last `=` divides.

    Raises:
        RecordingError: no `=`, an impossible metric name, or a column or metric named twice.
    """
    mapping: dict[str, str] = {}
    for text in texts:
        column, divider, metric = (part.strip() for part in text.rpartition("="))
        if not divider or not column:
            raise RecordingError(f"mapping {text!r}: write it as column=metric")
        if METRIC_NAME.fullmatch(metric) is None or metric in RESERVED:
            raise RecordingError(f"mapping {text!r}: {metric!r} cannot be a metric's name; use letters, digits and _.:-")
        if column in mapping or metric in mapping.values():
            raise RecordingError(f"mapping {text!r}: column {column!r} or metric {metric!r} is mapped twice")
        mapping[column] = metric
    return mapping


def read_rows(lines: Iterable[str], layout: Layout) -> Iterator[Row | BadRow]:
    """Yields each data row of a CSV text as a Row or a BadRow; blank lines are passed over.

    Args:
        lines: the text's lines, the header first, opened with newline="" so that quoted line breaks survive.
        layout: how to read them.

    Raises:
        RecordingError: see the module's head.
    """
    source = iter(lines)
    above = 0
    for line in source:
        above += 1
        if header := line.lstrip("\ufeff").strip("\r\n"):  # the byte order mark of some spreadsheets
            break
    else:
        raise RecordingError("the recording is empty: it needs a line of column names and rows below it")
    delimiter = layout.delimiter or _guess_delimiter(header)
    columns = [name.strip() for name in _split(header, delimiter)]
    yield from _Table(columns, layout).rows(source, delimiter, above)


def parse_number(text: str, *, decimal_comma: bool) -> float | None:
    """Returns the number in a cell, or None if it is none; infinities and NaN are none."""
    bare = text.replace("\u00a0", "").replace("\u202f", "").replace(" ", "")
    if (COMMA_NUMBER if decimal_comma else NUMBER).fullmatch(bare) is None:
        return None
    number = float(bare.replace(".", "").replace(",", ".") if decimal_comma else bare)
    return number if math.isfinite(number) else None


class _BadCell(ValueError):
    """A field makes its row useless."""


class _Table:
    """The header, checked against the layout, and with it the meaning of each field."""

    def __init__(self, columns: list[str], layout: Layout) -> None:
        if (layout.device is None) == (layout.device_column is None):
            raise RecordingError("name either one device for all rows or the column that holds it")
        if not layout.mapping:
            raise RecordingError(f"nothing to replay: map at least one column to a metric; {_listed(columns)}")
        if layout.device is not None and not is_device_id(layout.device):
            raise RecordingError(f"{layout.device!r} cannot be a device id: use 1 to 255 letters, digits and ._:-")
        self._columns = columns
        self._layout = layout
        self._metrics = {self._find(column): metric for column, metric in layout.mapping.items()}
        self._times = [self._find(column) for column in layout.time_columns or (self._default_time(),)]
        self._device = None if layout.device_column is None else self._find(layout.device_column)
        self._clock = _clock(layout)
        self._had_a_time = False

    def rows(self, lines: Iterator[str], delimiter: str, above: int) -> Iterator[Row | BadRow]:
        """Yields the rows below the header; `above` lines came before them."""
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield BadRow(above + reader.line_num, str(error))
                continue
            if any(field.strip() for field in fields):
                yield self._row(above + reader.line_num, fields)

    def _row(self, line: int, fields: Sequence[str]) -> Row | BadRow:
        surplus = fields[len(self._columns) :]
        if len(fields) < len(self._columns) or any(field.strip() for field in surplus):
            return BadRow(line, f"{len(fields)} fields under {len(self._columns)} column names")
        try:
            device = self._device_of(fields)
            values = self._values(fields)
            recorded_at = self._time(line, device, " ".join(fields[place].strip() for place in self._times))
        except (_BadCell, BadTime) as error:
            return BadRow(line, str(error))
        return Row(line, device, recorded_at, values)

    def _device_of(self, fields: Sequence[str]) -> str:
        device = self._layout.device if self._device is None else fields[self._device].strip()
        if device is None or not is_device_id(device):
            raise _BadCell(f"{device!r} cannot be a device id")
        return device

    def _time(self, line: int, device: str, text: str) -> datetime:
        try:
            at = self._clock.read(device, text)
        except NaiveTime as error:
            if not self._had_a_time:
                raise RecordingError(f"line {line}: {error}; name its time zone with --timezone") from error
            raise
        self._had_a_time = True
        return at

    def _values(self, fields: Sequence[str]) -> dict[str, float | bool]:
        values: dict[str, float | bool] = {}
        for place, metric in self._metrics.items():
            text = fields[place].strip()
            if text.lower() in ABSENT:
                continue
            value = self._value(metric, text)
            if value is None:
                raise _BadCell(f"column {self._columns[place]!r}: {text[:40]!r} is not a number")
            values[metric] = value
        if not values:
            raise _BadCell("no value in any mapped column")
        return values

    def _value(self, metric: str, text: str) -> float | bool | None:
        if metric not in METRICS and text.lower() in {"true", "false"}:
            return text.lower() == "true"
        return parse_number(text, decimal_comma=self._layout.decimal_comma)

    def _find(self, column: str) -> int:
        places = [place for place, name in enumerate(self._columns) if name == column.strip()]
        if len(places) == 1:
            return places[0]
        fault = "stands twice in" if places else "is not in"
        raise RecordingError(f"column {column!r} {fault} the recording; {_listed(self._columns)}")

    def _default_time(self) -> str:
        lowered = {name.lower(): name for name in reversed(self._columns)}
        for candidate in TIME_COLUMNS:
            if candidate in lowered:
                return lowered[candidate]
        raise RecordingError(f"no time column found: name it with --time-column; {_listed(self._columns)}")


def _guess_delimiter(header: str) -> str:
    return max(DELIMITERS, key=lambda delimiter: len(_split(header, delimiter)))


def _split(header: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([header], delimiter=delimiter, skipinitialspace=True))
    except (csv.Error, TypeError) as error:
        raise RecordingError(f"the line of column names cannot be read: {error}") from error


def _clock(layout: Layout) -> Clock:
    try:
        return Clock(layout.time_format, layout.timezone)
    except BadTime as error:
        raise RecordingError(str(error)) from error


def _listed(columns: Sequence[str]) -> str:
    hint = " (unreadable letters: name the file's encoding with --encoding)" if "\ufffd" in "".join(columns) else ""
    return f"its columns are {', '.join(repr(name) for name in columns)}{hint}"
