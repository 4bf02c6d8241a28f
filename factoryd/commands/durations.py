"""PURE. Durations and moments as people write them: 90s, 15m, 12h, 30d; 2026-11-22, 2026-11-22T10:00Z."""

import re
from datetime import UTC, datetime, timedelta

from storage.refusals import InvalidInput

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
DURATION = re.compile(r"(\d{1,6})([smhdw])", re.ASCII)


def read_duration(text: str) -> timedelta:
    """Returns a duration.

    Raises:
        InvalidInput: it is none.
    """
    found = DURATION.fullmatch(text.strip().lower())
    if found is None:
        raise InvalidInput(f"{text[:40]!r} is no duration; write it like 90s, 15m, 12h, 30d or 2w")
    return timedelta(seconds=int(found[1]) * SECONDS[found[2]])


def read_moment(text: str, now: datetime) -> datetime:
    """Returns a moment, aware UTC: a duration before `now`, or an ISO date or time (UTC unless it has an offset).

    Raises:
        InvalidInput: it is neither.
    """
    try:
        if DURATION.fullmatch(text.strip().lower()):
            return now - read_duration(text)
        moment = datetime.fromisoformat(text.strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"{text[:40]!r} is no time; write it like 2h (ago), 2026-11-22 or 2026-11-22T10:00Z") from error
