"""A draft of alerting as rows: alerts, history, rule state, outbox, late windows, outcomes of commands; in the caller's
transaction. Alert numbers come from the sequence beforehand, so that nothing here needs an answer from the server."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import msgspec
from psycopg import AsyncRawCursor

from alerting.alert import Alert, Entry
from alerting.draft import Draft
from alerting.monitor import is_durable_change
from alerting.outgoing import Outgoing
from storage.database import Connection

# One statement of the parts that have rows, and JSON rather than arrays: the server would take 0.1 ms for each part that has
# none, the driver 10 µs for each of 60 arrays, however short.
PARTS = {
    "raised": """
        INSERT INTO alerts (id, device_id, threshold_id, user_id, severity, message, status, triggered_at, acknowledged_at,
            resolved_at, kind, version, metric, side, topic, value, peak_value, min_value, max_value, acknowledged_by,
            resolution, resolved_by, inhibited_by, announced, shelved_until, stale, flapping, origin, noticed)
        SELECT n.id, n.device_id, t.id, n.user_id, n.severity, n.message, n.status, n.triggered_at, n.acknowledged_at,
            n.resolved_at, n.kind, n.version, n.metric, n.side, n.topic, n.value, n.peak_value, n.min_value, n.max_value,
            n.acknowledged_by, n.resolution, n.resolved_by, n.inhibited_by, n.announced, n.shelved_until, n.stale, n.flapping,
            n.origin, true
        FROM json_populate_recordset(NULL::alerts, %(raised)s) AS n
        LEFT JOIN alert_thresholds t ON t.id = n.threshold_id -- deleted a moment ago: the alert still happened
        ORDER BY n.id""",
    "changed": """
        UPDATE alerts a SET severity = n.severity, status = n.status, acknowledged_at = n.acknowledged_at,
            resolved_at = n.resolved_at, version = n.version, side = n.side, value = n.value, peak_value = n.peak_value,
            min_value = n.min_value, max_value = n.max_value, acknowledged_by = n.acknowledged_by, resolution = n.resolution,
            resolved_by = n.resolved_by, inhibited_by = n.inhibited_by, announced = n.announced,
            shelved_until = n.shelved_until, stale = n.stale, flapping = n.flapping, topic = n.topic, metric = n.metric,
            triggered_at = n.triggered_at, user_id = n.user_id, noticed = true
        FROM json_populate_recordset(NULL::alerts, %(changed)s) AS n WHERE a.id = n.id""",
    "history": """
        INSERT INTO alert_history (alert_id, version, change, status, value, user_id, note, happened_at)
        SELECT alert_id, version, change, status, value, user_id, note, happened_at
        FROM json_populate_recordset(NULL::alert_history, %(history)s)""",
    "outbox": """
        INSERT INTO alert_outbox (alert_id, version, topic, payload, retain, event_topic)
        SELECT alert_id, version, topic, decode(payload, 'base64'), retain, event_topic FROM json_to_recordset(%(outbox)s)
            AS n (alert_id int8, version int8, topic text, payload text, retain bool, event_topic text)""",
    "states": """
        INSERT INTO rule_state (threshold_id, phase, since, evaluated_at, value, peak_value, side, crossed_at, latent, changes,
            doublings, flapping, shelved_until)
        SELECT n.threshold_id, n.phase, n.since, n.evaluated_at, n.value, n.peak_value, n.side, n.crossed_at, n.latent,
            n.changes, n.doublings, n.flapping, n.shelved_until
        FROM json_populate_recordset(NULL::rule_state, %(states)s) AS n JOIN alert_thresholds t ON t.id = n.threshold_id
        ORDER BY n.threshold_id
        ON CONFLICT (threshold_id) DO UPDATE SET phase = excluded.phase, since = excluded.since,
            evaluated_at = excluded.evaluated_at, value = excluded.value, peak_value = excluded.peak_value,
            side = excluded.side, crossed_at = excluded.crossed_at, latent = excluded.latent, changes = excluded.changes,
            doublings = excluded.doublings, flapping = excluded.flapping, shelved_until = excluded.shelved_until""",
}

LATE = """
    INSERT INTO late_windows AS l (device_id, from_at, to_at)
    SELECT * FROM unnest(%s::int8[], %s::timestamptz[], %s::timestamptz[]) ORDER BY 1
    ON CONFLICT (device_id, noted_in) DO UPDATE SET from_at = least(l.from_at, excluded.from_at),
        to_at = greatest(l.to_at, excluded.to_at), noted_at = now()"""

CLOSED = """
    DELETE FROM late_windows l USING unnest(%s::int8[], %s::timestamptz[]) AS n (device_id, noted_at)
    WHERE l.device_id = n.device_id AND l.noted_at = n.noted_at"""

OUTCOMES = """
    UPDATE operator_commands c SET carried_out_at = now(), outcome = n.outcome, detail = n.detail
    FROM unnest(%s::int8[], %s::text[], %s::text[]) AS n (id, outcome, detail) WHERE c.id = n.id"""

MARKS = """
    UPDATE device_latest l SET evaluated_at = greatest(l.evaluated_at, n.at)
    FROM unnest(%s::int8[], %s::timestamptz[]) AS n (id, at) WHERE l.device_id = n.id"""


class Beside(NamedTuple):
    """What the caller writes by the same statement: more parts of it, and their parameters."""

    parts: str
    parameters: dict[str, str]


NOTHING = Beside("", {})


async def write_draft(connection: Connection, draft: Draft, messages: Sequence[Outgoing], beside: Beside = NOTHING) -> None:
    """Writes a draft, inside the caller's transaction (and pipeline); or as its own if `is_one_statement`."""
    states = list(_state_rows(draft))
    if draft.entries or states or beside.parts:
        alerts = sorted(draft.alerts.values(), key=lambda alert: alert.id)
        rows = {
            "raised": [_alert_row(alert) for alert in alerts if alert.id in draft.raised],
            "changed": [_alert_row(alert) for alert in alerts if alert.id not in draft.raised],
            "history": [_history_row(entry) for entry in draft.entries],
            "outbox": [message._asdict() for message in messages],
            "states": states,
        }
        present = {name: _json(part) for name, part in rows.items() if part}
        given = present | beside.parameters
        statement = _statement(beside.parts, tuple(present), tuple(given))
        # A raw cursor: what it is given is so long that the driver would look for placeholders each time.
        await AsyncRawCursor(connection).execute(statement, list(given.values()))
    if draft.late:
        await connection.execute(LATE, _columns((number, *window) for number, window in draft.late.items()))
    if draft.closed:
        await connection.execute(CLOSED, _columns(draft.closed))
    if draft.outcomes:
        await connection.execute(OUTCOMES, _columns((each.command_id, each.outcome, each.detail) for each in draft.outcomes))


def is_one_statement(draft: Draft) -> bool:
    """Tells whether `write_draft` needs no more than one statement."""
    return not (draft.late or draft.closed or draft.outcomes)


@cache
def _statement(beside: str, parts: tuple[str, ...], parameters: tuple[str, ...]) -> bytes:
    every = [beside] if beside else []
    text = f"WITH {', '.join(every + [f'{name} AS ({PARTS[name]})' for name in parts])} SELECT"
    for number, name in enumerate(parameters, 1):
        text = text.replace(f"%({name})s", f"${number}")
    return text.encode()


def _alert_row(alert: Alert) -> dict[str, object]:
    return {
        "id": alert.id,
        "device_id": alert.device_id,
        "threshold_id": alert.threshold_id,
        "user_id": alert.owner_id,
        "severity": alert.severity.value,
        "message": alert.message.replace("\0", "\ufffd"),
        "status": alert.status.value,
        "triggered_at": alert.triggered_at,
        "acknowledged_at": alert.acknowledged_at,
        "resolved_at": alert.resolved_at,
        "kind": alert.kind,
        "version": alert.version,
        "metric": alert.metric,
        "side": alert.side,
        "topic": alert.topic,
        "value": alert.value,
        "peak_value": alert.peak_value,
        "min_value": alert.min_value,
        "max_value": alert.max_value,
        "acknowledged_by": alert.acknowledged_by,
        "resolution": alert.resolution,
        "resolved_by": alert.resolved_by,
        "inhibited_by": alert.inhibited_by,
        "announced": alert.announced,
        "shelved_until": alert.shelved_until,
        "stale": alert.stale,
        "flapping": alert.flapping,
        "origin": alert.origin,
    }


def _history_row(entry: Entry) -> dict[str, object]:
    alert = entry.alert
    return {
        "alert_id": alert.id,
        "version": alert.version,
        "change": entry.change,
        "status": alert.status,
        "value": alert.value,
        "user_id": entry.user_id,
        "note": entry.note,
        "happened_at": entry.at,
    }


def _state_rows(draft: Draft) -> Iterator[dict[str, object]]:
    for number, state in draft.states.items():
        if is_durable_change(draft.book.state(number), state, draft.context.rules.get(number)):
            yield {
                "threshold_id": number,
                "phase": state.phase,
                "since": state.since,
                "evaluated_at": state.at,
                "value": state.value,
                "peak_value": state.peak,
                "side": state.side,
                "crossed_at": state.crossed_at,
                "latent": state.latent,
                "changes": state.changes,
                "doublings": state.doublings,
                "flapping": state.flapping,
                "shelved_until": state.shelved_until,
            }


def _json(rows: Iterable[object]) -> str:
    """Floats keep every digit; times are to the microsecond, as in the database."""
    return msgspec.json.encode(rows).decode()


def _columns(rows: Iterable[Sequence[object]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]
