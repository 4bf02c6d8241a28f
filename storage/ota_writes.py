"""What a draft comes to: deployments with their history, and ota_device_state, each by one statement."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from types import MappingProxyType

import msgspec
from msgspec import NODEFAULT
from msgspec.structs import fields

from ota.deployment import Deployment
from ota.draft import DeviceState, Draft, Event
from storage.database import Connection
from storage.ota_rows import STATE

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


class _Progress(msgspec.Struct):
    """What a report changes that tells of progress and nothing else: nearly all of them."""

    id: int
    seen: str | None
    progress_percent: int | None
    last_seq: int
    bytes_done: int | None
    last_report_at: datetime | None
    phase_deadline_at: datetime | None
    events: int
    event_at: datetime | None


PROGRESS = {name: WRITTEN[name] for name in _Progress.__struct_fields__[2:]}
_progress = attrgetter(*PROGRESS)
_steady = attrgetter(*(name for name in WRITTEN if name not in PROGRESS))


@dataclass(frozen=True)
class _Statements:
    deployments: bytes
    progress: bytes
    states: bytes
    events: bytes


class Overtaken(Exception):
    """Somebody else has changed a row since we saw it; nothing is written."""


def _statements() -> _Statements:
    states = ", ".join(f"{name} {kind}" for name, kind in STATE.items())
    return _Statements(
        _update(
            WRITTEN, [f"coalesce(n.{name}, {_literal(PLAIN[name])})" if name in PLAIN else f"n.{name}" for name in WRITTEN]
        ),
        _update(PROGRESS, [f"n.{name}" for name in PROGRESS]),
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


def _update(columns: Mapping[str, str], values: Iterable[str]) -> bytes:
    """Of rows that are as they were seen, if that matters; it returns how many, and the transaction."""
    typed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    return f"""WITH written AS (UPDATE ota_deployments d SET ({", ".join(columns)}) = ({", ".join(values)})
            FROM json_to_recordset(%s) AS n (id int8, seen xid, {typed})
            WHERE d.id = n.id AND (n.seen IS NULL OR d.xmin = n.seen) RETURNING d.xmin)
        SELECT count(*), min(xmin::text) FROM written""".encode()  # noqa: S608 - our constants


_encode = msgspec.json.Encoder().encode


async def write_draft(
    connection: Connection,
    draft: Draft,
    before: Mapping[int, Deployment] = MappingProxyType({}),
    seen: Mapping[int, str] = MappingProxyType({}),
) -> str | None:
    """Writes a draft, inside the caller's transaction; returns the transaction's number if a deployment was changed.

    Args:
        connection: in a transaction.
        draft: what is to be written.
        before: deployments as they are in the table, as far as they are known: of mere progress only that is written.
        seen: by deployment the transaction that has written what the draft goes by; without it the rows are locked.

    Raises:
        Overtaken: a row is not what was seen; the transaction must be given up.
    """
    written = None
    freed: list[Deployment] = []
    held: list[Deployment] = []
    progressed: list[Deployment] = []
    for after in draft.changed.values():
        old = before.get(after.id)
        kind = progressed if old is not None and _steady(old) == _steady(after) else held if after.holds_device else freed
        kind.append(after)
    # Who lets a device go comes first: the index on holds_device looks at each row.
    for changed in (freed, held, progressed):
        if changed:
            statement = STATEMENTS.progress if changed is progressed else STATEMENTS.deployments
            rows = _progress_of(changed, seen) if changed is progressed else _json_of(changed, seen)
            ((count, written),) = await (await connection.execute(statement, [rows])).fetchall()
            if count < len(changed):
                raise Overtaken(f"{len(changed) - count} of {len(changed)} deployments")
    if draft.states:
        await connection.execute(STATEMENTS.states, [_json([_state(state) for state in draft.states.values()])])
    if draft.events:
        await connection.execute(STATEMENTS.events, [_json([_event(event) for event in draft.events])])
    return written


def _progress_of(changed: Iterable[Deployment], seen: Mapping[int, str]) -> str:
    return _encode([_Progress(after.id, seen.get(after.id), *_progress(after)) for after in changed]).decode()


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
