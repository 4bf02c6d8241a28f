"""PURE. The outcome of a back-test as people read it."""

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from alerting.alert import Rule
from factoryd.commands.threshold_texts import duration_text, number_text

if TYPE_CHECKING:  # numpy, only where a back-test is made
    from alerting.backtest import Outcome

COLUMNS = {"raised": "RAISED", "resolved": "RESOLVED", "lasted": "LASTED", "side": "SIDE", "peak": "PEAK", "notes": "NOTES"}
FACTS = ("triggered_at", "resolved_at", "side", "peak", "flapping")
"""What programs are told of each alert."""


def table_rows(outcome: "Outcome", count: int | None) -> list[dict[str, Any]]:
    """Returns the last alerts for a table by COLUMNS, or all."""
    alerts = outcome.alerts if count is None else outcome.alerts[-count:]
    return [
        {
            "raised": alert.triggered_at,
            "resolved": alert.resolved_at,
            "lasted": _lasted((alert.resolved_at or outcome.last or alert.triggered_at) - alert.triggered_at),
            "side": alert.side.value,
            "peak": alert.peak,
            "notes": ", ".join(["open"] * (alert.resolved_at is None) + ["flapping"] * alert.flapping),
        }
        for alert in alerts
    ]


def facts(outcome: "Outcome") -> dict[str, Any]:
    """Returns an outcome for programs: times, seconds and numbers."""
    suggestions = {"dead_band": outcome.dead_band, "on_delay_s": outcome.on_delay}
    return {
        "readings": outcome.readings,
        "first": outcome.first,
        "last": outcome.last,
        "alerts": len(outcome.alerts),
        "in_alarm_s": outcome.in_alarm.total_seconds(),
        "share_in_alarm": _share(outcome),
        "flaps": outcome.flaps,
        "halved_by": {name: tried and {"value": tried.value, "alerts": tried.alerts} for name, tried in suggestions.items()},
        "raised": [{name: getattr(alert, name) for name in FACTS} for alert in outcome.alerts],
    }


def summary(outcome: "Outcome") -> str:
    """Returns how much there would have been, e.g. `12 alerts, 34 minutes in alarm (0.3 % of the time)`."""
    if not outcome.alerts:
        return "no alert"
    minutes = outcome.in_alarm / timedelta(minutes=1)
    text = f"{_alerts(len(outcome.alerts))}, {minutes:,.{0 if minutes >= 10 else 1}f} minutes in alarm"
    if (share := _share(outcome)) is not None:
        text += f" ({100 * share:.2g} % of the time)" if share < 0.995 else " (all the time)"
    return f"{text}, {outcome.flaps:,} raised again within 10 minutes" if outcome.flaps else text


def advice(outcome: "Outcome") -> Iterator[str]:
    """Yields what would halve the alerts, a sentence each; nothing for less than two."""
    if (band := outcome.dead_band) is not None:
        number = number_text(band.value)
        yield f"A dead band of {number} (--hysteresis {number}) would leave {_alerts(band.alerts)}."
    if (delay := outcome.on_delay) is not None:
        text = duration_text(delay.value)
        yield f"An on-delay of {text} (--for {text}) would leave {_alerts(delay.alerts)}."
    if len(outcome.alerts) > 1 and band is None and delay is None:
        yield "No dead band and no on-delay that was tried would halve the alerts."


def gap_note(outcome: "Outcome", rule: Rule) -> str | None:
    """Returns a warning where readings come too seldom for any delay to end."""
    if rule.max_gap is None or 2 * outcome.gaps < outcome.readings or not outcome.gaps:
        return None
    gap = duration_text(rule.max_gap.total_seconds())
    return f"note: most readings come more than {gap} after the one before, so delays begin anew all the time: see --max-gap"


def _share(outcome: "Outcome") -> float | None:
    if outcome.first is None or outcome.last is None or outcome.first == outcome.last:
        return None
    return outcome.in_alarm / (outcome.last - outcome.first)


def _alerts(count: int) -> str:
    return {0: "no alert", 1: "1 alert"}.get(count, f"{count:,} alerts")


def _lasted(time: timedelta) -> str:
    """Returns a duration in its two largest units."""
    seconds = time.total_seconds()
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if seconds >= size:
            return f"{seconds // size:.0f}{unit} {seconds % size // part:.0f}{smaller}"
    return f"{seconds:.3g}s"
