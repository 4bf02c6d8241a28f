"""PURE. What people do with alerts: acknowledge, resolve, shelve, unshelve, comment. One way for MQTT, command line and SQL.

A command is a row of operator_commands; here it becomes a draft and an answer. The role is that of the database at this
moment: an admin or operator acts on any alert, a user on those of which he is the owner.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec.structs import replace

from alerting.alert import THRESHOLD, Alert, Entry, Status
from alerting.draft import Draft, Outcome
from alerting.monitor import Monitor

LONGEST_SHELVING = timedelta(hours=8)
SHELVING = timedelta(hours=1)
"""For a command that says no time."""
MAX_NOTE = 2_000
ACTIONS = ("acknowledge", "resolve", "shelve", "unshelve", "comment")


class BadCommand(ValueError):
    """A command that cannot be read; the text says why."""


@dataclass(frozen=True, slots=True)
class Command:
    """One row of operator_commands, with what the database says of the person and of the alert's owner."""

    id: int
    login: str
    action: str
    alert_id: int | None
    note: str | None
    shelve_until: datetime | None
    sticky: bool
    request_id: str | None
    response_topic: str | None
    correlation_data: bytes | None
    created_at: datetime
    user_id: int | None
    role: str | None
    known: bool
    """The alert exists."""
    owner_id: int | None = None


class CommandBody(msgspec.Struct):
    """The JSON of a command."""

    action: str
    alert_id: int | None = None
    note: str | None = None
    by: str | None = None
    """Ignored: the topic says who it is."""
    request_id: str | int | None = None
    until: datetime | None = None
    seconds: float | None = None
    sticky: bool = False


_decode = msgspec.json.Decoder(CommandBody).decode


def read_command(payload: bytes, received_at: datetime) -> tuple[CommandBody, datetime | None]:
    """Returns a command as it came, and until when it shelves.

    Raises:
        BadCommand: it cannot be read.
    """
    try:
        body = _decode(payload)
    except (msgspec.ValidationError, msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadCommand(f'not a command such as {{"action":"acknowledge","alert_id":12}}: {error}') from error
    if body.alert_id is not None and not 0 <= body.alert_id < 1 << 63:
        raise BadCommand("alert_id is no alert's number")
    until = body.until
    if body.seconds is not None:
        if not 0 < body.seconds <= LONGEST_SHELVING.total_seconds():
            raise BadCommand(f"seconds: shelve for 1 to {LONGEST_SHELVING.total_seconds():.0f} seconds")
        until = received_at + timedelta(seconds=body.seconds)
    if until is not None and until.tzinfo is None:
        raise BadCommand("until: give a time with its offset from UTC")
    return body, until


def carry_out(monitor: Monitor, draft: Draft, command: Command, now: datetime) -> None:
    """Does what a command says, or says why not."""
    detail = _refusal(draft, command)
    outcome = "refused"
    if detail is None:
        assert command.alert_id is not None, "checked"
        alert = draft.alert(command.alert_id)
        outcome, detail = _act(monitor, draft, command, alert, now)
    answer: dict[str, Any] = {"request_id": command.request_id, "action": command.action, "alert_id": command.alert_id}
    response = msgspec.json.encode({**answer, "outcome": outcome, "detail": detail})
    draft.outcomes.append(Outcome(command.id, outcome, detail, command.response_topic, response, command.correlation_data))


def _refusal(draft: Draft, command: Command) -> str | None:
    if command.user_id is None or command.role is None:
        return f"no user has the login {command.login}; factoryd user list shows all"
    if command.action not in ACTIONS:
        return f"unknown action {command.action[:40]!r}: use {', '.join(ACTIONS)}"
    if command.alert_id is None or not command.known:
        return f"there is no alert {command.alert_id}; factoryd alert list shows all"
    open_alert = draft.alert(command.alert_id)
    owner_id = open_alert.owner_id if open_alert is not None else command.owner_id
    if command.role == "user" and owner_id != command.user_id:
        return f"{command.login} has the role user and is not the owner of alert {command.alert_id}: ask an operator"
    return None


def _act(monitor: Monitor, draft: Draft, command: Command, alert: Alert | None, now: datetime) -> tuple[str, str]:
    who, note = command.user_id, (command.note or "")[:MAX_NOTE].replace("\0", "\ufffd") or None
    if alert is None:
        return "refused", f"alert {command.alert_id} is resolved already"
    match command.action:
        case "acknowledge":
            if alert.status is Status.ACKNOWLEDGED:
                by = draft.context.logins.get(alert.acknowledged_by or 0, "somebody")
                return "done", f"alert {alert.id} was acknowledged by {by} already"
            changed = {"status": Status.ACKNOWLEDGED, "acknowledged_at": now, "acknowledged_by": who}
            draft.change(alert, "acknowledged", now, event=True, user_id=who, note=note, **changed)
            return "done", f"alert {alert.id} acknowledged"
        case "resolve":
            draft.resolve(alert, "operator", now, user_id=who, note=note)
            if alert.kind == THRESHOLD and alert.threshold_id is not None:
                monitor.end_rule(draft, alert.threshold_id, now)
            return "done", f"alert {alert.id} resolved"
        case "shelve":
            return _shelve(draft, command, alert, now, note)
        case "unshelve":
            if alert.shelved_until is None:
                return "done", f"alert {alert.id} was not shelved"
            draft.release(alert, "unshelved", now, user_id=who, note=note)
            _set_sticky(draft, alert, None)
            return "done", f"alert {alert.id} unshelved"
        case _:
            if note is None:
                return "refused", "a comment needs a note"
            draft.change(alert, "comment", now, event=False, user_id=who, note=note)
            return "done", f"comment on alert {alert.id} kept"


def _shelve(draft: Draft, command: Command, alert: Alert, now: datetime, note: str | None) -> tuple[str, str]:
    until = command.shelve_until or command.created_at + SHELVING
    if until <= now:
        return "refused", f"alert {alert.id}: {until.isoformat()} is past"
    if until - command.created_at > LONGEST_SHELVING + timedelta(seconds=1):
        return "refused", f"alert {alert.id}: shelve it for at most {LONGEST_SHELVING.total_seconds() / 3600:g} hours"
    draft.change(alert, "shelved", now, event=False, user_id=command.user_id, note=note, shelved_until=until)
    _set_sticky(draft, alert, until if command.sticky else None)
    return "done", f"alert {alert.id} shelved until {until:%Y-%m-%dT%H:%M:%SZ}"


def _set_sticky(draft: Draft, alert: Alert, until: datetime | None) -> None:
    if alert.threshold_id is not None and draft.state(alert.threshold_id).shelved_until != until:
        draft.states[alert.threshold_id] = replace(draft.state(alert.threshold_id), shelved_until=until)


def take_foreign(monitor: Monitor, draft: Draft, row: Alert, now: datetime) -> None:
    """An alert was changed, or made, by plain SQL: memory follows, and it is published like any other."""
    known = draft.alert(row.id)
    next_version = replace(row, version=row.version + 1)
    if not row.open:
        draft.alerts[row.id] = known or row
        ended = known or replace(row, announced=True)
        draft.resolve(ended, row.resolution or "sql", row.resolved_at or now, message=row.message)
        if row.threshold_id is not None:
            monitor.end_rule(draft, row.threshold_id, now)
        elif known is not None and known.threshold_id is not None and known.threshold_id in draft.context.rules:
            monitor.end_rule(draft, known.threshold_id, now)
        return
    if known is not None and known.status is not row.status:
        event, change = True, row.status.value
    elif known is None:
        event, change = True, "raised"
    else:
        event, change = False, "changed"
    free = row.inhibited_by is None and (row.shelved_until is None or row.shelved_until <= now)
    event = event and free
    taken = replace(next_version, announced=row.announced or event)
    draft.alerts[row.id] = taken
    draft.adopt_foreign(Entry(taken, change, now, event))
