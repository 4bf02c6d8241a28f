"""ota_deployments with their history, and ota_device_state, as `ota` sees them: read under lock; `ota_writes` writes them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ota.deployment import Command, Deployment, Outcome, Phase, Status, VerifyMode
from ota.draft import DeviceState
from storage.database import Connection

SELECT = """
    SELECT d.id, d.device_id, v.device_id, d.version_id, f.version, v.status <> 'offline',
        NOT d.holds_device AND EXISTS (SELECT FROM ota_deployments o WHERE o.device_id = d.device_id AND o.holds_device),
        d.rollout_id, d.status::text, d.phase, d.outcome, d.progress_percent, d.error_code, d.error_message, d.verify_mode,
        d.attempt, d.max_attempts, d.resends, d.last_seq, d.bytes_done, d.from_version, d.reported_version, d.started_at,
        d.completed_at, d.verified_at, d.queue_expires_at, d.dispatched_at, d.phase_since, d.last_report_at,
        d.phase_deadline_at, d.attempt_deadline_at, d.next_action_at, d.cancel_requested_at, d.cancel_force, d.cancel_reason,
        d.cancel_deadline_at, d.holds_device, d.publish_pending, d.sends, d.events, d.event_at
    FROM ota_deployments d JOIN devices v ON v.id = d.device_id JOIN ota_versions f ON f.id = d.version_id"""
"""In the order of Deployment's fields."""

LOCKED = "ORDER BY d.id FOR NO KEY UPDATE OF d"
LOCKED_IF_FREE = "ORDER BY d.id FOR NO KEY UPDATE OF d SKIP LOCKED"

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
    return Deployment(**dict(zip(FIELDS, values, strict=True)))
