"""What people are told of a new threshold: its number, whether the metric ever came, and what it would have raised lately."""

from collections.abc import Iterable

import typer

from config.settings import Settings
from factoryd.commands.threshold_texts import condition_text
from factoryd.commands.threshold_try import last_days_report
from storage.threshold_fields import Selector, Threshold, rule_of, selector_text
from storage.threshold_views import Sender, list_senders

DAYS = 7
NAMED = 5
"""Devices or metrics named; the rest is counted."""


def tell_of_threshold(settings: Settings, number: int, device: str, threshold: Threshold) -> None:
    """Says what became of a threshold of one device."""
    typer.echo(f"threshold {number} added: {device} {_says(threshold)}")
    (sender,) = list_senders(settings.database, threshold=number)
    if not sender.metrics:
        typer.echo(f"note: {device} has not sent anything yet", err=True)
    elif threshold.metric not in sender.metrics:
        typer.echo(f"note: {device} has never sent {threshold.metric}; it sends {_named(sender.metrics)}", err=True)
    else:
        _tell_of_the_past(settings, sender, threshold)


def tell_of_class(settings: Settings, number: int, selector: Selector, threshold: Threshold) -> None:
    """Says what became of a threshold of a class of devices; the past is that of its first device that sends the metric."""
    senders = list_senders(settings.database, class_id=number)
    typer.echo(f"class {number} added: {selector_text(selector)} {_says(threshold)}")
    if not senders:
        typer.echo("note: no device matches now; factoryd device list shows type, location and all else", err=True)
        return
    typer.echo(f"{len(senders)} device{'s' * (len(senders) > 1)} now: {_named([sender.device for sender in senders])}")
    silent = [sender.device for sender in senders if threshold.metric not in sender.metrics]
    if len(silent) == len(senders):
        sent = _named(frozenset[str]().union(*(sender.metrics for sender in senders))) or "nothing yet"
        typer.echo(f"note: none of them has ever sent {threshold.metric}; what they send is {sent}", err=True)
        return
    if silent:
        typer.echo(f"note: {threshold.metric} was never sent by {_named(silent)}", err=True)
    first = next(sender for sender in senders if threshold.metric in sender.metrics)
    _tell_of_the_past(settings, first, threshold)


def _tell_of_the_past(settings: Settings, sender: Sender, threshold: Threshold) -> None:
    if threshold.min_value is None and threshold.max_value is None:
        return
    try:
        report = last_days_report(settings, sender.device, rule_of(threshold, sender.interval_s), DAYS)
    except ConnectionError as error:  # the threshold is there all the same: nothing is to be tried again
        typer.echo(f"note: the last {DAYS} days of {sender.device} could not be read: {error}", err=True)
        return
    typer.echo(report if report is not None else f"{sender.device}, the last {DAYS} days: no readings")


def _says(threshold: Threshold) -> str:
    off = "" if threshold.enabled else ", disabled"
    return f"{threshold.metric} {condition_text(threshold)}, {threshold.severity}{off}"


def _named(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return ", ".join(listed[:NAMED]) + more
