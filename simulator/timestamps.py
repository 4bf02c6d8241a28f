"""PURE. Times in a recording: formats, epoch numbers, time zones and the two hours a year that go wrong.

* A local time that occurs twice (clocks go back) is taken as the first of the two, unless that is not after the same
  device's previous row: then as the second. A recording in order of time is so read rightly, hourly ones too; the price
  is that an exact repetition of a row within that hour moves the rest of the hour to the second.
* A local time that never was (clocks go forward) is a bad row: its recorder does not follow the zone's rules, and a fixed
  offset such as +01:00 or Etc/GMT-1 is the right zone for it.
"""

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

EPOCH_NUMBER = re.compile(r"-?\d{9,19}(\.\d+)?")
OFFSET = re.compile(r"([+-])(\d{2}):?(\d{2})")
EPOCH_UNITS = ((1e11, 1.0), (1e14, 1e3), (1e17, 1e6), (float("inf"), 1e9))
"""Below the first number, the second is the count of units per second: s, ms, µs, ns."""


class BadTime(ValueError):
    """The text is not a time, or a time that never was."""


class NaiveTime(BadTime):
    """The text is a local time and no time zone is known."""


class Clock:
    """Reads the times of one recording, rows in the file's order.

    Args:
        time_format: a strptime format; None = ISO 8601 or an epoch number.
        zone: an IANA name or an offset of local times; None = a local time is an error.

    Raises:
        BadTime: no such time zone.
    """

    def __init__(self, time_format: str | None, zone: str | None) -> None:
        self._format = time_format
        self._zone = None if zone is None else find_zone(zone)
        self._previous: dict[str, datetime] = {}

    def read(self, device: str, text: str) -> datetime:
        """Returns the time in UTC.

        Args:
            device: whose row it is; its previous row decides between the two readings of a repeated hour.
            text: the cell.

        Raises:
            NaiveTime: a local time, and no zone was given.
            BadTime: not a time in this format, or in the hour that is skipped when clocks go forward.
        """
        at = self._parse(text)
        if at.tzinfo is None:
            at = self._localise(at, self._previous.get(device))
        at = at.astimezone(UTC)
        self._previous[device] = at
        return at

    def _parse(self, text: str) -> datetime:
        try:
            if self._format is not None:
                return datetime.strptime(text, self._format)  # noqa: DTZ007 - the zone is applied by the caller
            return _from_epoch(text) if EPOCH_NUMBER.fullmatch(text) else datetime.fromisoformat(text)
        except (ValueError, OverflowError) as error:
            wanted = "ISO 8601 or an epoch number" if self._format is None else f"of the format {self._format}"
            raise BadTime(f"time {text[:40]!r} is not {wanted}") from error

    def _localise(self, naive: datetime, previous: datetime | None) -> datetime:
        if self._zone is None:
            raise NaiveTime(f"time {naive.isoformat(' ')!r} has no offset from UTC")
        first, second = (naive.replace(tzinfo=self._zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        if first.astimezone(self._zone).replace(tzinfo=None) != naive:
            raise BadTime(f"time {naive.isoformat(' ')!r} never was in {self._zone}: clocks went forward over it")
        return second if previous is not None and first <= previous and first != second else first


def find_zone(name: str) -> tzinfo:
    """Returns the time zone of an IANA name or an offset such as +02:00.

    Raises:
        BadTime: no such time zone.
    """
    try:
        if offset := OFFSET.fullmatch(name):
            sign, hours, minutes = offset.groups()
            span = timedelta(hours=int(hours), minutes=int(minutes))
            return timezone(-span if sign == "-" else span)
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError) as error:
        raise BadTime(f"time zone {name!r} is not known: use an IANA name such as Europe/Berlin, or +02:00") from error


def _from_epoch(text: str) -> datetime:
    number = float(text)
    per_second = next(unit for bound, unit in EPOCH_UNITS if abs(number) < bound)
    # Through whole microseconds: a float of seconds would lose the last digits.
    micros = int(text) * 1_000_000 // int(per_second) if text.lstrip("-").isdigit() else round(number * 1e6 / per_second)
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
