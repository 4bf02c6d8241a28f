"""`factoryd threshold try`: what a threshold would have raised, by readings that are stored.

numpy is loaded when a back-test is made, and nowhere else.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alerting.alert import Rule
from config.settings import Settings
from factoryd.commands.backtest_texts import COLUMNS, FACTS, advice, facts, gap_note, summary, table_rows
from factoryd.commands.durations import read_moment
from factoryd.commands.invocation import settings_of
from factoryd.commands.tables import JSON_FORMS, Output, OutputOption, print_one, print_rows, shown
from factoryd.commands.threshold_options import Clear, For, Hysteresis, Max, MaxGap, Min, values_of
from factoryd.commands.threshold_texts import condition_text
from storage.device_fields import check_device_id
from storage.device_views import get_device
from storage.refusals import InvalidInput, NotFound
from storage.threshold_fields import Threshold, check_threshold, rule_of
from storage.threshold_views import list_thresholds

if TYPE_CHECKING:
    from alerting.backtest import Outcome
    from storage.history import Past

SHOWN = 20
"""Alerts in a table, unless all are wanted."""

Told = Callable[[datetime], None]
"""Hears how far a back-test has come."""


def try_(
    ctx: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="[DEVICE METRIC]", help="Device id and metric.")] = None,
    threshold: Annotated[
        int | None, typer.Option("--threshold", metavar="ID", help="This one, but for what else is said.")
    ] = None,
    low: Min = None,
    high: Max = None,
    for_: For = None,
    hysteresis: Hysteresis = None,
    clear: Clear = None,
    max_gap: MaxGap = None,
    since: Annotated[str, typer.Option(metavar="TIME", help="From when: 30d (ago), 2026-11-22 or 2026-11-22T10:00Z.")] = "30d",
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Until when; default: now.")] = None,
    all_: Annotated[bool, typer.Option("--all", help=f"All alerts, not the last {SHOWN} alone.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Shows what a threshold would have raised, and what would halve that. Nothing is changed, nobody is told.

    factoryd threshold try press-1 temperature --max 80 --for 30s --since 30d

    factoryd threshold try --threshold 12 --hysteresis 2
    """
    settings, now = settings_of(ctx), datetime.now(UTC)
    changes = values_of(low, high, None, for_, hysteresis, clear, max_gap, None, None, None)
    device, tried = _named(settings, names or [], threshold, changes)
    begin, end = read_moment(since, now), read_moment(until, now) if until is not None else now
    if begin >= end:
        raise InvalidInput(f"--since {since}: must be before {'now' if until is None else until}")
    rule = rule_of(tried, get_device(settings.database, device).interval_s)
    with show_progress(begin, end) as told:
        outcome = _back_test(settings, device, rule, begin, end, told)
    _print(outcome, rule, f"{device} {tried.metric} {condition_text(tried)}", None if all_ else SHOWN, output)


def last_days_report(settings: Settings, device: str, rule: Rule, days: int = 7) -> str | None:
    """Returns what a rule would have raised lately, in a few lines; None: there are no readings.

    Raises:
        NotFound: no such device.
    """
    now = datetime.now(UTC)
    outcome = _back_test(settings, device, rule, now - timedelta(days=days), now, lambda _: None)
    if not outcome.readings:
        return None
    return "\n".join([f"{device}, the last {days} days: {summary(outcome)}", *advice(outcome)])


def _named(settings: Settings, names: Sequence[str], number: int | None, changes: Mapping[str, Any]) -> tuple[str, Threshold]:
    if number is None and len(names) == 2:
        device, threshold = check_device_id(names[0]), Threshold(names[1], **changes)
    elif number is not None and not names:
        found = list_thresholds(settings.database, after=number - 1, limit=1)
        if not found or found[0].stored.id != number:
            raise NotFound(f"there is no threshold {number}; factoryd threshold list shows all")
        device, threshold = found[0].stored.target, replace(found[0].stored.threshold, **changes)
    else:
        raise InvalidInput("say what to try: DEVICE METRIC --max 80, or --threshold ID")
    if threshold.min_value is None and threshold.max_value is None:
        raise InvalidInput("there is no limit to try: give --min or --max")
    check_threshold(threshold)
    return device, threshold


def _back_test(settings: Settings, device: str, rule: Rule, begin: datetime, end: datetime, told: Told) -> "Outcome":
    from alerting.backtest import BackTest  # noqa: PLC0415 - numpy
    from storage.history import read_history  # noqa: PLC0415

    test, lead = BackTest(rule), timedelta(seconds=settings.ingest.max_clock_skew_s)
    for piece in _one_ahead(read_history(settings.database, device, rule.metric, begin, end, lead)):
        test.feed(piece.times, piece.values)
        told(piece.reached)
    return test.outcome()


def _one_ahead(pieces: Iterator["Past"]) -> Iterator["Past"]:
    """Yields the same; the database is at work on the next one meanwhile."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, pieces, None)
        while (piece := coming.result()) is not None:
            coming = reader.submit(next, pieces, None)
            yield piece


@contextmanager
def show_progress(begin: datetime, end: datetime) -> Iterator[Told]:
    """Shows a bar where a person looks; tell it how far the search has come."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading the past", total=(end - begin).total_seconds())
        yield lambda reached: progress.update(task, completed=(min(reached, end) - begin).total_seconds())


def _print(outcome: "Outcome", rule: Rule, what: str, count: int | None, output: Output) -> None:
    if (note := gap_note(outcome, rule)) is not None:
        typer.echo(note, err=True)
    if output in JSON_FORMS:
        print_one({"tried": what, **facts(outcome)}, output)
    elif output is Output.CSV:
        print_rows(facts(outcome)["raised"], dict.fromkeys(FACTS, ""), output)
    elif not outcome.readings:
        typer.echo(f"no readings of {rule.metric} in that time", err=True)
    else:
        typer.echo(f"{what}: {outcome.readings:,} readings, {shown(outcome.first)} to {shown(outcome.last)}")
        if rows := table_rows(outcome, count):
            typer.echo()
            print_rows(rows, COLUMNS, output)
            typer.echo()
        if len(rows) < len(outcome.alerts):
            typer.echo(f"the last {len(rows)} of {len(outcome.alerts):,} alerts; --all shows all")
        for line in (summary(outcome), *advice(outcome)):
            typer.echo(line)
