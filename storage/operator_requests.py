"""What people at the command line want done with alerts: rows of operator_commands, and the daemon's answers to them.

Nothing else touches an alert: the daemon carries a request out within milliseconds, or when it next runs.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from config.settings import DatabaseSettings
from storage.alert_views import refuse_unknown
from storage.command_connection import command_connection
from storage.users import refuse_stranger

SYSTEM = "system"
"""Who acts if nobody is named: the built-in user."""
POLL_S = 0.02

REQUEST = """
    INSERT INTO operator_commands (login, action, alert_id, note, shelve_until, sticky, origin)
    SELECT %(login)s, %(action)s, id, %(note)s, coalesce(%(until)s::timestamptz, now() + %(span)s::interval), %(sticky)s, 'cli'
    FROM unnest(%(alerts)s::int8[]) WITH ORDINALITY AS alert (id, place) ORDER BY place RETURNING id, alert_id"""
ANSWERED = """
    SELECT id, alert_id, outcome, detail FROM operator_commands WHERE id = ANY(%s) AND carried_out_at IS NOT NULL ORDER BY id"""


class NotCarriedOut(ConnectionError):
    """The request is stored, but no daemon has taken it in time."""


@dataclass(frozen=True, slots=True)
class Act:
    """One act on some alerts. Shelved `until`, or for a `span` from now, or for as long as the daemon does by itself."""

    login: str
    action: str
    """As alerting.operators has it."""
    alerts: Sequence[int]
    note: str | None = None
    until: datetime | None = None
    span: timedelta | None = None
    sticky: bool = False


class Answer(NamedTuple):
    """What the daemon says."""

    id: int
    alert_id: int
    outcome: str
    """done or refused."""
    detail: str


class Asked(NamedTuple):
    """Answers in the order of the alerts, and the alerts for which there is none yet."""

    answers: Sequence[Answer]
    waiting: Sequence[int]


def ask(settings: DatabaseSettings, act: Act, patience_s: float) -> Asked:
    """Stores a request for each alert, all or none, and waits for the daemon's answers.

    Args:
        settings: the database.
        act: what is wanted.
        patience_s: how long to wait; the requests stay.

    Raises:
        NotFound: there is no such alert or person; nothing was asked for.
    """
    alerts = list(dict.fromkeys(act.alerts))
    values = {"login": act.login, "action": act.action, "alerts": alerts, "note": act.note, "sticky": act.sticky}
    with command_connection(settings) as connection:
        refuse_stranger(connection, act.login)
        refuse_unknown(connection, alerts)
        requests = dict(connection.execute(REQUEST, {**values, "until": act.until, "span": act.span}).fetchall())
        deadline = time.monotonic() + patience_s
        while True:
            answers = [Answer(*row) for row in connection.execute(ANSWERED, [list(requests)])]
            waiting = [alert for number, alert in requests.items() if number not in {answer.id for answer in answers}]
            if not waiting or time.monotonic() > deadline:
                return Asked(answers, waiting)
            time.sleep(POLL_S)
