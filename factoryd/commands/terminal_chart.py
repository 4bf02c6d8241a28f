"""PURE. A chart in characters: averages as a line of half blocks, a shaded band from least to greatest, labelled axes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

MIN_PLOT = 10
"""Columns; below that there is nothing to see."""


class Drawn(Protocol):
    """What a chart knows of one stretch of time."""

    @property
    def at(self) -> datetime:
        """Its first moment."""

    @property
    def count(self) -> int:
        """Values."""

    @property
    def avg(self) -> float:
        """Their mean."""

    @property
    def min(self) -> float:
        """The least."""

    @property
    def max(self) -> float:
        """The greatest."""


@dataclass(frozen=True, slots=True)
class Signs:
    """The characters to draw with."""

    upper: str
    """An average in the upper half of its cell."""
    lower: str
    band: str
    tick: str
    side: str
    corner: str
    floor: str


BLOCKS = Signs("▀", "▄", "░", "┤", "│", "└", "─")
ASCII = Signs("*", "*", ":", "+", "|", "+", "-")
BROKEN = "!"
"""A value that is no finite number, at the top of its column."""


@dataclass(slots=True)
class _Column:
    least: float = math.inf
    greatest: float = -math.inf
    sum: float = 0.0
    count: int = 0
    broken: bool = False

    def add(self, drawn: Drawn) -> None:
        if not _is_finite(drawn):
            self.broken = True
            return
        self.least, self.greatest = min(self.least, drawn.min), max(self.greatest, drawn.max)
        self.sum, self.count = self.sum + drawn.avg * drawn.count, self.count + drawn.count

    @property
    def average(self) -> float:
        return self.sum / self.count


def _is_finite(drawn: Drawn) -> bool:
    return math.isfinite(drawn.min) and math.isfinite(drawn.max) and math.isfinite(drawn.avg)


def draw(
    bins: Sequence[Drawn],
    since: datetime,
    until: datetime,
    step: timedelta,
    *,
    width: int,
    height: int = 12,
    signs: Signs = BLOCKS,
) -> list[str]:
    """Returns the lines of a chart.

    Args:
        bins: in order of time; what is missing stays empty.
        since: begin of the first bin's place.
        until: end of the last one's.
        step: length of a bin.
        width: columns of the terminal; what is drawn is never wider, but for MIN_PLOT and the labels.
        height: rows of the plot, at least 3.
        signs: BLOCKS or ASCII.
    """
    finite = [value for each in bins if _is_finite(each) for value in (each.min, each.max)]
    if not finite:
        return ["no finite values" if bins else "no values"]
    low, high = min(finite), max(finite)
    labels = _value_labels(low, high, height)
    margin = max(map(len, labels))
    columns = _columns(bins, since, round((until - since) / step), step, max(MIN_PLOT, width - margin - 2))
    cells = [_cells(column, low, high, height, signs) for column in columns]
    lines = [
        f"{label:>{margin}} {signs.tick if label else signs.side}{''.join(cell[row] for cell in cells)}".rstrip()
        for row, label in enumerate(labels)
    ]
    times = _time_labels(since, until, len(columns))
    return [*lines, f"{'':{margin}} {signs.corner}{signs.floor * len(columns)}", f"{'':{margin + 2}}{times}"]


def _columns(bins: Sequence[Drawn], since: datetime, places: int, step: timedelta, room: int) -> list[_Column]:
    """Each place takes as many columns as fit, or each column as many places as it must."""
    together = -(-places // room)
    wide = max(1, room // places)
    columns = [_Column() for _ in range(-(-places // together))]
    for each in bins:
        columns[(each.at - since) // step // together].add(each)
    return [column for column in columns for _ in range(wide)]


def _cells(column: _Column, low: float, high: float, height: int, signs: Signs) -> list[str]:
    """From top to bottom."""
    cells = [" "] * height
    if column.count:
        top, bottom = (height - 1 - _halves(value, low, high, height) // 2 for value in (column.greatest, column.least))
        cells[top : bottom + 1] = signs.band * (bottom + 1 - top)
        place = _halves(column.average, low, high, height)
        cells[height - 1 - place // 2] = signs.upper if place % 2 else signs.lower
    if column.broken:
        cells[0] = BROKEN
    return cells


def _halves(value: float, low: float, high: float, height: int) -> int:
    """Half rows from the bottom; the middle if all values are the same. Halved, so that no difference overflows."""
    span = high / 2 - low / 2
    return height if span <= 0 else min(2 * height - 1, max(0, round((value / 2 - low / 2) / span * (2 * height - 1))))


def _value_labels(low: float, high: float, height: int) -> list[str]:
    labels = [""] * height
    if low == high:
        labels[height - 1 - height // 2] = f"{low:g}"
        return labels
    span = high / 2 - low / 2
    decimals = 2 - math.floor(math.log10(span)) if span > 0 else 0
    for row, value in ((0, high), (height - 1, low)):
        labels[row] = f"{value:.{max(0, decimals)}f}" if -9 < decimals < 9 else f"{value:.3g}"
    return labels


def _time_labels(since: datetime, until: datetime, columns: int) -> str:
    span = until - since
    form = "%H:%M:%S" if span < timedelta(hours=1) else "%m-%d %H:%M" if span <= timedelta(days=7) else "%Y-%m-%d"
    first, middle, last = (f"{moment:{form}}" for moment in (since, since + span / 2, until))
    if columns < len(first) + len(last) + 1:
        return f"{first} {last}"
    gap = columns - len(first) - len(last)
    return first + (f"{middle:^{gap}}" if gap > len(middle) + 1 else " " * gap) + last
