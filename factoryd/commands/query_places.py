"""PURE. Where a page ended, as a word for the command line: `critical,2026-11-22T10:00:00Z,17`."""

from datetime import UTC, datetime

from storage.queries import AlertPlace, DeploymentPlace
from storage.refusals import InvalidInput


def written(place: object) -> str:
    """Returns a place as a word."""
    if isinstance(place, AlertPlace):
        moment = place.triggered_at.astimezone(UTC).isoformat().replace("+00:00", "Z")
        return f"{place.severity},{moment},{place.id}"
    return f"{place.status},{place.id}" if isinstance(place, DeploymentPlace) else str(place)


def read_alert_place(text: str) -> AlertPlace:
    """Returns what `written` has made of a place.

    Raises:
        InvalidInput: it is none.
    """
    try:
        severity, moment, number = text.split(",")
        place = AlertPlace(severity, datetime.fromisoformat(moment), int(number))
    except ValueError as error:
        raise _no_place(text) from error
    if place.triggered_at.tzinfo is None or severity not in {"critical", "warning", "info"}:
        raise _no_place(text)
    return place


def read_deployment_place(text: str) -> DeploymentPlace:
    """Returns what `written` has made of a place.

    Raises:
        InvalidInput: it is none.
    """
    status, _, number = text.partition(",")
    if status not in {"pending", "in_progress", "completed", "failed"} or not (number.isascii() and number.isdigit()):
        raise _no_place(text)
    return DeploymentPlace(status, int(number))


def _no_place(text: str) -> InvalidInput:
    return InvalidInput(f"--after {text[:60]!r}: take it from the line 'more:' of the page before")
