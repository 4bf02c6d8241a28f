"""The quarantine as people handle it: look, have it replayed by the daemon, throw away."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from config.settings import DatabaseSettings
from storage.command_connection import command_connection
from storage.refusals import NotFound


@dataclass(frozen=True, slots=True)
class QuarantineView:
    """One kept message or reading. Times are aware UTC."""

    id: int
    received_at: datetime
    device: str | None
    reason: str
    detail: str
    topic: str
    qos: int
    content_type: str | None
    size: int
    """Bytes of the payload."""
    repeats: int
    """More than 1: a flood, of which this is the last; the others were counted only."""
    replay_requested_at: datetime | None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows; what is None or empty does not narrow."""

    ids: Sequence[int] = ()
    device: str | None = None
    reason: str | None = None
    since: datetime | None = None
    before: datetime | None = None

    def __bool__(self) -> bool:
        """Whether it narrows at all."""
        return bool(self.ids) or any(value is not None for value in (self.device, self.reason, self.since, self.before))

    def values(self) -> dict[str, object]:
        """Returns the statement's parameters."""
        return {
            "ids": list(self.ids) or None,
            "device": self.device,
            "reason": self.reason,
            "since": self.since,
            "before": self.before,
        }


SELECTED = """(%(ids)s::int8[] IS NULL OR id = ANY(%(ids)s)) AND (%(device)s::text IS NULL OR device = %(device)s)
        AND (%(reason)s::text IS NULL OR reason = %(reason)s)
        AND (%(since)s::timestamptz IS NULL OR received_at >= %(since)s)
        AND (%(before)s::timestamptz IS NULL OR received_at < %(before)s)"""

COLUMNS = """id, received_at, device, reason, detail, topic, qos, content_type, length(payload) AS size, repeats,
        replay_requested_at"""

PAGE = f"""
    SELECT {COLUMNS} FROM quarantine WHERE {SELECTED} AND (%(above)s::int8 IS NULL OR id < %(above)s)
    ORDER BY id DESC LIMIT %(limit)s"""  # noqa: S608 - our own constants

REPLAY = f"""
    UPDATE quarantine SET replay_requested_at = now(), replay_reason = 'requested'
    WHERE {SELECTED} AND replay_requested_at IS NULL"""  # noqa: S608

PURGE = f"DELETE FROM quarantine WHERE {SELECTED}"  # noqa: S608


def list_quarantine(
    settings: DatabaseSettings, selection: Selection, *, limit: int = 100, below: int | None = None
) -> list[QuarantineView]:
    """Returns a page, newest first; `below` goes on with older rows than that id."""
    values = {**selection.values(), "above": below, "limit": limit}
    with command_connection(settings) as connection, connection.cursor(row_factory=class_row(QuarantineView)) as cursor:
        return cursor.execute(PAGE, values).fetchall()


def get_quarantined(settings: DatabaseSettings, number: int) -> tuple[QuarantineView, bytes]:
    """Returns one row and its payload.

    Raises:
        NotFound: there is none of that id.
    """
    with command_connection(settings) as connection:
        row = connection.execute("SELECT payload FROM quarantine WHERE id = %s", [number]).fetchone()
        with connection.cursor(row_factory=class_row(QuarantineView)) as cursor:
            view = cursor.execute(f"SELECT {COLUMNS} FROM quarantine WHERE id = %s", [number]).fetchone()  # noqa: S608
    if row is None or view is None:
        raise NotFound(f"there is no quarantined message {number}; factoryd quarantine list shows what there is")
    return view, bytes(row[0])


def request_replay(settings: DatabaseSettings, selection: Selection) -> int:
    """Asks the daemon to take these messages once more; returns how many were not asked for already."""
    with command_connection(settings) as connection:
        return connection.execute(REPLAY, selection.values()).rowcount


def purge_quarantine(settings: DatabaseSettings, selection: Selection) -> int:
    """Throws these messages away for good; returns how many."""
    with command_connection(settings) as connection:
        return connection.execute(PURGE, selection.values()).rowcount


def missing_ids(settings: DatabaseSettings, ids: Sequence[int]) -> list[int]:
    """Returns those of the ids that are not there."""
    with command_connection(settings) as connection:
        found = {number for (number,) in connection.execute("SELECT id FROM quarantine WHERE id = ANY(%s)", [list(ids)])}
    return [number for number in ids if number not in found]
