"""ota_deployments with their history, and ota_device_state, as `ota` sees them: read under lock, written by one statement."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import NODEFAULT
from msgspec.structs import fields

from ota.deployment import Command, Deployment, Outcome, Phase, Status, VerifyMode
from ota.draft import DeviceState, Draft, Event
from storage.database import Connection

SELECT = """
    SELECT d.id, d.device_id, v.device_id, d.version_id, f.version, v.status <> 'offline',
        NOT d.holds_device AND EXISTS (SELECT FROM ota_deployments o WHERE o.device_id = d.device_id AND o.holds_device),
        d.rollout_id, d.status::text, d.phase, d.outcome, d.progress_percent, d.error_code, d.error_message, d.verify_mode,
        d.attempt, d.max_attempts, d.resends, d.last_seq, d.bytes_done, d.from_version, d.reported_version, d.started_at,
        d.completed_at, d.verified_at, d.queue_expires_at, d.dispatched_at, d.phase_since, d.last_report_at,
        d.phase_deadline_at, d.attempt_deadline_at, d.next_action_at, d.cancel_requested_at, d.cancel_force, d.cancel_reason,
        d.cancel_deadline_at, d.holds_device, d.publish_pending, d.sends, d.events, d.event_at, d.xmin::text
    FROM ota_deployments d JOIN devices v ON v.id = d.device_id JOIN ota_versions f ON f.id = d.version_id"""
"""In the order of Deployment's fields; and which transaction wrote the row."""

LOCKED = "ORDER BY d.id FOR NO KEY UPDATE OF d"
LOCKED_IF_FREE = "ORDER BY d.id FOR NO KEY UPDATE OF d SKIP LOCKED"

WRITTEN: dict[str, str] = {
    "status": "ota_deployment_status",
    "phase": "text",
    "outcome": "text",
    "progress_percent": "int4",
    "error_code": "text",
    "error_message": "text",
    "attempt": "int4",
    "max_attempts": "int4",
    "resends": "int4",
    "last_seq": "int8",
    "bytes_done": "int8",
    "from_version": "text",
    "reported_version": "text",
    "started_at": "timestamptz",
    "completed_at": "timestamptz",
    "verified_at": "timestamptz",
    "dispatched_at": "timestamptz",
    "phase_since": "timestamptz",
    "last_report_at": "timestamptz",
    "phase_deadline_at": "timestamptz",
    "attempt_deadline_at": "timestamptz",
    "next_action_at": "timestamptz",
    "cancel_requested_at": "timestamptz",
    "cancel_reason": "text",
    "cancel_deadline_at": "timestamptz",
    "holds_device": "bool",
    "publish_pending": "text",
    "sends": "int4",
    "events": "int4",
    "event_at": "timestamptz",
}
"""What the daemon changes of a row, and its types."""
PLAIN = {field.name: field.default for field in fields(Deployment) if field.default not in {None, NODEFAULT}}
"""Values that are left out of the JSON, and stand for themselves."""

STATE: dict[str, str] = {
    "hardware": "text",
    "version": "text",
    "previous_version": "text",
    "version_seen_at": "timestamptz",
    "boot_id": "text",
    "seq": "int8",
    "manifest_seq": "int8",
    "active_id": "int8",
    "faults": "int4",
    "faulty_version_id": "int8",
    "hello_at": "timestamptz",
}
STATES = f"SELECT device_id, {', '.join(STATE)} FROM ota_device_state WHERE device_id = ANY(%s)"  # noqa: S608 - our constants


@dataclass(frozen=True)
class _Statements:
    deployments: bytes
    states: bytes
    events: bytes


class Overtaken(Exception):
    """Somebody else has changed a row since we saw it; nothing is written."""


def _statements() -> _Statements:
    typed = ", ".join(f"{name} {kind}" for name, kind in WRITTEN.items())
    values = ", ".join(f"coalesce(n.{name}, {_literal(PLAIN[name])})" if name in PLAIN else f"n.{name}" for name in WRITTEN)
    states = ", ".join(f"{name} {kind}" for name, kind in STATE.items())
    return _Statements(
        f"""WITH written AS (UPDATE ota_deployments d SET ({", ".join(WRITTEN)}) = ({values})
                FROM json_to_recordset(%s) AS n (id int8, seen xid, {typed})
                WHERE d.id = n.id AND (n.seen IS NULL OR d.xmin = n.seen) RETURNING d.xmin)
            SELECT count(*), min(xmin::text) FROM written""".encode(),  # noqa: S608 - our constants
        f"""INSERT INTO ota_device_state (device_id, {", ".join(STATE)})
            SELECT device_id, {", ".join(STATE)} FROM json_to_recordset(%s) AS n (device_id int8, {states})
            ORDER BY device_id ON CONFLICT (device_id) DO UPDATE SET ({", ".join(STATE)}) =
            ({", ".join(f"excluded.{name}" for name in STATE)})""".encode(),  # noqa: S608 - our constants
        b"""INSERT INTO ota_deployment_events
                (deployment_id, kind, attempt, seq, verdict, status, phase, progress_percent, error_code, detail, happened_at)
            SELECT * FROM json_to_recordset(%s) AS n (deployment_id int8, kind text, attempt int4, seq int8, verdict text,
                status ota_deployment_status, phase text, progress_percent int4, error_code text, detail text,
                happened_at timestamptz)""",
    )


_encode = msgspec.json.Encoder().encode


async def load_deployments(
    connection: Connection, where: str, parameters: Sequence[object] | Mapping[str, object]
) -> dict[int, Deployment]:
    """Returns rows by number; `where` ends with LOCKED or LOCKED_IF_FREE if they are to be changed."""
    cursor = await connection.execute(f"{SELECT} {where}".encode(), parameters)
    return {row[0]: deployment_of(row) for row in await cursor.fetchall()}


async def load_states(connection: Connection, device_ids: Iterable[int]) -> dict[int, DeviceState]:
    """Returns what these devices said of themselves."""
    rows = await (await connection.execute(STATES.encode(), [list(device_ids)])).fetchall()
    names = ("device_id", *STATE)
    return {row[0]: DeviceState(**dict(zip(names, row, strict=True))) for row in rows}


async def write_draft(connection: Connection, draft: Draft, seen: Mapping[int, str] | None = None) -> str | None:
    """Writes a draft, inside the caller's transaction; returns the transaction's number if a deployment was changed.

    Args:
        connection: in a transaction.
        draft: what is to be written.
        seen: by deployment the transaction that has written what the draft goes by; without it the rows are locked.

    Raises:
        Overtaken: a row is not what was seen; the transaction must be given up.
    """
    written = None
    # Who lets a device go comes first: the index on holds_device looks at each row.
    for holding in (False, True):
        changed = [deployment for deployment in draft.changed.values() if deployment.holds_device is holding]
        if changed:
            cursor = await connection.execute(STATEMENTS.deployments, [_json_of(changed, seen or {})])
            ((count, written),) = await cursor.fetchall()
            if count < len(changed):
                raise Overtaken(f"{len(changed) - count} of {len(changed)} deployments")
    if draft.states:
        await connection.execute(STATEMENTS.states, [_json([_state(state) for state in draft.states.values()])])
    if draft.events:
        await connection.execute(STATEMENTS.events, [_json([_event(event) for event in draft.events])])
    return written


FIELDS = Deployment.__struct_fields__
WORDS = {"status": Status, "phase": Phase, "outcome": Outcome, "verify_mode": VerifyMode, "publish_pending": Command}
ORDER = (
    "id", "device_id", "device", "version_id", "version", "online", "occupied", "rollout_id", "status", "phase", "outcome",
    "progress_percent", "error_code", "error_message", "verify_mode", "attempt", "max_attempts", "resends", "last_seq",
    "bytes_done", "from_version", "reported_version", "started_at", "completed_at", "verified_at", "queue_expires_at",
    "dispatched_at", "phase_since", "last_report_at", "phase_deadline_at", "attempt_deadline_at", "next_action_at",
    "cancel_requested_at", "cancel_force", "cancel_reason", "cancel_deadline_at", "holds_device", "publish_pending", "sends",
    "events", "event_at",
)  # fmt: skip
assert FIELDS == ORDER, "SELECT gives the fields in this order"
PLACES = [(ORDER.index(name), words) for name, words in WORDS.items()]


def deployment_of(row: Sequence[Any]) -> Deployment:
    """Returns the noun of one row of SELECT."""
    values = list(row)
    for place, words in PLACES:
        if values[place] is not None:
            values[place] = words(values[place])
    return Deployment(**dict(zip(FIELDS, values, strict=False)))


def _json_of(changed: Iterable[Deployment], seen: Mapping[int, str]) -> str:
    """Structs encode themselves; the transaction that was seen goes in front."""
    rows = (
        b'{"seen":"%s",%s' % (seen[deployment.id].encode(), _encode(deployment)[1:])
        if deployment.id in seen
        else _encode(deployment)
        for deployment in changed
    )
    return f"[{b','.join(rows).decode()}]"


def _state(state: DeviceState) -> dict[str, object]:
    return {"device_id": state.device_id} | {name: getattr(state, name) for name in STATE}


def _event(event: Event) -> dict[str, object]:
    after = event.deployment
    return {
        "deployment_id": after.id,
        "kind": event.kind,
        "attempt": after.attempt,
        "seq": event.seq,
        "verdict": event.verdict,
        "status": after.status,
        "phase": after.phase,
        "progress_percent": after.progress_percent,
        "error_code": after.error_code,
        "detail": event.detail,
        "happened_at": event.happened_at,
    }


def _literal(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)


def _json(rows: list[dict[str, object]]) -> str:
    return msgspec.json.encode(rows).decode()


STATEMENTS = _statements()
