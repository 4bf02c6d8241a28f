"""A draft of alerting as rows: alerts, history, rule state, outbox, late windows, outcomes of commands; in the caller's
transaction. Alert numbers come from the sequence beforehand, so that nothing here needs an answer from the server."""

from collections.abc import Iterable, Sequence

from alerting.alert import Alert, Entry
from alerting.draft import Draft
from alerting.monitor import is_durable_change
from alerting.outgoing import Outgoing
from storage.database import Connection

INSERT = """
    INSERT INTO alerts (id, device_id, threshold_id, user_id, severity, message, status, triggered_at, acknowledged_at,
        resolved_at, kind, version, metric, side, topic, value, peak_value, min_value, max_value, acknowledged_by, resolution,
        resolved_by, inhibited_by, announced, shelved_until, stale, flapping, origin, noticed)
    SELECT n.id, n.device_id, t.id, n.user_id, n.severity::alert_severity, n.message, n.status::alert_status, n.triggered_at,
        n.acknowledged_at, n.resolved_at, n.kind, n.version, n.metric, n.side, n.topic, n.value, n.peak_value, n.min_value,
        n.max_value, n.acknowledged_by, n.resolution, n.resolved_by, n.inhibited_by, n.announced, n.shelved_until, n.stale,
        n.flapping, n.origin, true
    FROM unnest(%s::int8[], %s::int8[], %s::int8[], %s::int8[], %s::text[], %s::text[], %s::text[], %s::timestamptz[],
        %s::timestamptz[], %s::timestamptz[], %s::text[], %s::int8[], %s::text[], %s::text[], %s::text[], %s::float8[],
        %s::float8[], %s::float8[], %s::float8[], %s::int8[], %s::text[], %s::int8[], %s::int8[], %s::bool[],
        %s::timestamptz[], %s::bool[], %s::bool[], %s::text[])
        AS n (id, device_id, threshold_id, user_id, severity, message, status, triggered_at, acknowledged_at, resolved_at, kind,
            version, metric, side, topic, value, peak_value, min_value, max_value, acknowledged_by, resolution, resolved_by,
            inhibited_by, announced, shelved_until, stale, flapping, origin)
    LEFT JOIN alert_thresholds t ON t.id = n.threshold_id -- deleted a moment ago: the alert still happened
    ORDER BY n.id"""

UPDATE = """
    UPDATE alerts a SET severity = n.severity::alert_severity, status = n.status::alert_status,
        acknowledged_at = n.acknowledged_at, resolved_at = n.resolved_at, version = n.version, side = n.side, value = n.value,
        peak_value = n.peak_value, min_value = n.min_value, max_value = n.max_value, acknowledged_by = n.acknowledged_by,
        resolution = n.resolution, resolved_by = n.resolved_by, inhibited_by = n.inhibited_by, announced = n.announced,
        shelved_until = n.shelved_until, stale = n.stale, flapping = n.flapping, topic = n.topic, metric = n.metric,
        triggered_at = n.triggered_at, user_id = n.user_id, noticed = true
    FROM unnest(%s::int8[], %s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[], %s::int8[], %s::text[], %s::float8[],
        %s::float8[], %s::float8[], %s::float8[], %s::int8[], %s::text[], %s::int8[], %s::int8[], %s::bool[],
        %s::timestamptz[], %s::bool[], %s::bool[], %s::text[], %s::text[], %s::timestamptz[], %s::int8[])
        AS n (id, severity, status, acknowledged_at, resolved_at, version, side, value, peak_value, min_value, max_value,
            acknowledged_by, resolution, resolved_by, inhibited_by, announced, shelved_until, stale, flapping, topic, metric,
            triggered_at, user_id)
    WHERE a.id = n.id"""

HISTORY = """
    INSERT INTO alert_history (alert_id, version, change, status, value, user_id, note, happened_at)
    SELECT * FROM unnest(%s::int8[], %s::int8[], %s::text[], %s::alert_status[], %s::float8[], %s::int8[], %s::text[],
        %s::timestamptz[])"""

OUTBOX = """
    INSERT INTO alert_outbox (alert_id, version, topic, payload, retain, event_topic)
    SELECT * FROM unnest(%s::int8[], %s::int8[], %s::text[], %s::bytea[], %s::bool[], %s::text[])"""

STATES = """
    INSERT INTO rule_state (threshold_id, phase, since, evaluated_at, value, peak_value, side, crossed_at, latent, changes,
        doublings, flapping, shelved_until)
    SELECT n.id, n.phase, n.since, n.at, n.value, n.peak, n.side, n.crossed_at, n.latent, n.changes::timestamptz[], n.doublings,
        n.flapping, n.shelved_until
    FROM unnest(%s::int8[], %s::text[], %s::timestamptz[], %s::timestamptz[], %s::float8[], %s::float8[], %s::text[],
        %s::timestamptz[], %s::bool[], %s::text[], %s::int4[], %s::bool[], %s::timestamptz[])
        AS n (id, phase, since, at, value, peak, side, crossed_at, latent, changes, doublings, flapping, shelved_until)
    JOIN alert_thresholds t ON t.id = n.id ORDER BY n.id
    ON CONFLICT (threshold_id) DO UPDATE SET phase = excluded.phase, since = excluded.since,
        evaluated_at = excluded.evaluated_at, value = excluded.value, peak_value = excluded.peak_value, side = excluded.side,
        crossed_at = excluded.crossed_at, latent = excluded.latent, changes = excluded.changes,
        doublings = excluded.doublings, flapping = excluded.flapping, shelved_until = excluded.shelved_until"""

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


async def write_draft(connection: Connection, draft: Draft, messages: Sequence[Outgoing]) -> None:
    """Writes a draft, inside the caller's transaction (and pipeline)."""
    new = [alert for number, alert in sorted(draft.alerts.items()) if number in draft.raised]
    old = [alert for number, alert in sorted(draft.alerts.items()) if number not in draft.raised]
    if new:
        await connection.execute(INSERT, _columns(map(_insert_row, new)))
    if old:
        await connection.execute(UPDATE, _columns(map(_update_row, old)))
    if draft.entries:
        await connection.execute(HISTORY, _columns(map(_history_row, draft.entries)))
        await connection.execute(OUTBOX, _columns(messages))
    if states := list(_state_rows(draft)):
        await connection.execute(STATES, _columns(states))
    if draft.late:
        await connection.execute(LATE, _columns((number, *window) for number, window in draft.late.items()))
    if draft.closed:
        await connection.execute(CLOSED, _columns(draft.closed))
    if draft.outcomes:
        await connection.execute(OUTCOMES, _columns((each.command_id, each.outcome, each.detail) for each in draft.outcomes))


def _insert_row(alert: Alert) -> tuple[object, ...]:
    return (
        alert.id,
        alert.device_id,
        alert.threshold_id,
        alert.owner_id,
        alert.severity.value,
        alert.message.replace("\0", "\ufffd"),
        alert.status.value,
        alert.triggered_at,
        alert.acknowledged_at,
        alert.resolved_at,
        alert.kind,
        alert.version,
        alert.metric,
        alert.side.value if alert.side else None,
        alert.topic,
        alert.value,
        alert.peak_value,
        alert.min_value,
        alert.max_value,
        alert.acknowledged_by,
        alert.resolution,
        alert.resolved_by,
        alert.inhibited_by,
        alert.announced,
        alert.shelved_until,
        alert.stale,
        alert.flapping,
        alert.origin,
    )


def _update_row(alert: Alert) -> tuple[object, ...]:
    return (
        alert.id,
        alert.severity.value,
        alert.status.value,
        alert.acknowledged_at,
        alert.resolved_at,
        alert.version,
        alert.side.value if alert.side else None,
        alert.value,
        alert.peak_value,
        alert.min_value,
        alert.max_value,
        alert.acknowledged_by,
        alert.resolution,
        alert.resolved_by,
        alert.inhibited_by,
        alert.announced,
        alert.shelved_until,
        alert.stale,
        alert.flapping,
        alert.topic,
        alert.metric,
        alert.triggered_at,
        alert.owner_id,
    )


def _history_row(entry: Entry) -> tuple[object, ...]:
    alert = entry.alert
    status, note = alert.status.value, entry.note
    return (alert.id, alert.version, entry.change, status, alert.value, entry.user_id, note, entry.at)


def _state_rows(draft: Draft) -> Iterable[tuple[object, ...]]:
    for number, state in draft.states.items():
        if not is_durable_change(draft.book.state(number), state, draft.context.rules.get(number)):
            continue
        changes = "{" + ",".join(moment.isoformat() for moment in state.changes) + "}"
        yield (
            number,
            state.phase.value,
            state.since,
            state.at,
            state.value,
            state.peak,
            state.side.value if state.side else None,
            state.crossed_at,
            state.latent,
            changes,
            state.doublings,
            state.flapping,
            state.shelved_until,
        )


def _columns(rows: Iterable[Sequence[object]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]
