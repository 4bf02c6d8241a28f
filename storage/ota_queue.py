"""Deployments that wait: the first reason why, by one statement for the dispatcher and for `factoryd deployment explain`."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from ota.candidates import Candidate, OpenRollout, why_waiting
from storage.database import Connection, Pool, translated

MOST = 1_000
"""Looked at in one go for each rollout, and for what was made by hand."""

WAITING = """
    SELECT d.id, d.device_id, d.rollout_id, d.priority, f.version, f.min_version,
        f.downgrade OR coalesce(r.allow_downgrade, false), s.version,
        CASE WHEN d.cancel_requested_at IS NOT NULL THEN 'cancelling'
            WHEN v.retired_at IS NOT NULL THEN 'retired'
            WHEN f.recalled_at IS NOT NULL THEN 'recalled'
            WHEN f.status = 'draft' THEN 'not_released'
            WHEN %(refused)s::jsonb ? d.version_id::text THEN %(refused)s::jsonb ->> d.version_id::text
            WHEN s.hold_reason IS NOT NULL THEN 'hold'
            WHEN d.rollout_id IS NOT NULL AND s.faults >= 2 AND s.faulty_version_id = d.version_id THEN 'quarantine'
            WHEN f.hardware <> '{}' AND s.hardware <> ALL (f.hardware) THEN 'wrong_hardware'
            WHEN r.status NOT IN ('running', 'soaking') THEN 'rollout_' || r.status
            WHEN t.status NOT IN ('running', 'soaking', 'passed') THEN 'stage'
            WHEN d.not_before > %(now)s THEN 'not_before'
            WHEN d.phase = 'backoff' AND d.next_action_at > %(now)s THEN 'backoff'
            WHEN EXISTS (SELECT FROM ota_deployments o WHERE o.device_id = d.device_id AND o.holds_device
                AND (o.status = 'in_progress' OR o.id > d.id)) THEN 'other_deployment'
            WHEN v.status = 'offline' THEN CASE WHEN v.last_seen IS NULL THEN 'never_seen' ELSE 'offline' END
            ELSE %(closed)s::jsonb ->> d.rollout_id::text END AS reason
    FROM ota_deployments d JOIN devices v ON v.id = d.device_id JOIN ota_versions f ON f.id = d.version_id
        LEFT JOIN ota_device_state s ON s.device_id = d.device_id LEFT JOIN ota_rollouts r ON r.id = d.rollout_id
        LEFT JOIN ota_rollout_stages t ON t.rollout_id = d.rollout_id AND t.stage_no = d.stage_no
    WHERE d.status = 'pending' AND d.phase IN ('queued', 'backoff')"""

FREE = "WHERE reason IS NULL ORDER BY priority DESC, id LIMIT %(most)s"
BY_HAND = f"SELECT * FROM ({WAITING} AND d.rollout_id IS NULL) w {FREE}"  # noqa: S608 - our constants
OF_ROLLOUT = f"SELECT * FROM ({WAITING} AND d.rollout_id = %(rollout)s) w {FREE}"  # noqa: S608 - our constants


OF_DEVICE = f"{WAITING} AND v.device_id = %(device)s ORDER BY d.id DESC"
KNOWN = "SELECT id FROM devices WHERE device_id = %s"
STANDING = """
    SELECT d.id, f.version, d.status::text, d.phase, d.phase_since, d.progress_percent, d.attempt, d.outcome, d.error_message,
        d.publish_pending IS NOT NULL
    FROM ota_deployments d JOIN devices v ON v.id = d.device_id JOIN ota_versions f ON f.id = d.version_id
    WHERE v.device_id = %s ORDER BY d.id DESC LIMIT 100"""


class Standing(NamedTuple):
    """A deployment, as far as its state explains itself."""

    id: int
    version: str
    status: str
    phase: str
    phase_since: datetime | None
    progress_percent: int | None
    attempt: int
    outcome: str | None
    error_message: str | None
    unsent: bool
    """Its command waits for the broker."""


class WaitingTable:
    """Through the pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def candidates(self, now: datetime, refused: Mapping[int, str], rollouts: Sequence[OpenRollout]) -> list[Candidate]:
        """Returns whose turn it is.

        Args:
            now: our clock.
            refused: versions that are not sent, by number, and why.
            rollouts: those that may send.

        Raises:
            DatabaseUnavailable: try again.
        """
        words = parameters(now, refused, {})
        with translated("looking for deployments whose turn it is"):
            async with self._pool.connection() as connection:
                found = await _fetch(connection, BY_HAND, words | {"most": MOST})
                for rollout in rollouts:
                    # Versions are compared here, and not there: one that must wait for its min_version takes nobody's place.
                    seen = await _fetch(connection, OF_ROLLOUT, words | {"most": MOST, "rollout": rollout.id})
                    found += [each for each in seen if why_waiting(each) is None][: rollout.free]
        return found

    async def waiting(
        self, device: str, now: datetime, refused: Mapping[int, str], closed: Mapping[int, str]
    ) -> list[Candidate]:
        """Returns what waits for one device, whatever for; `closed`: rollouts that may not send now, and why."""
        values = parameters(now, refused, closed) | {"device": device}
        with translated("looking for what a device waits for"):
            async with self._pool.connection() as connection:
                return await _fetch(connection, OF_DEVICE, values)

    async def standing(self, device: str) -> list[Standing] | None:
        """Returns the last deployments of a device, the newest first; None if there is no such device."""
        with translated("looking for a device's deployments"):
            async with self._pool.connection() as connection:
                known = await (await connection.execute(KNOWN, [device])).fetchone()
                rows = await (await connection.execute(STANDING, [device])).fetchall()
        return [Standing(*row) for row in rows] if known is not None else None


def parameters(now: datetime, refused: Mapping[int, str], closed: Mapping[int, str]) -> dict[str, object]:
    """Returns what WAITING needs; `closed`: rollouts that may not send now, by number, and why."""
    return {"now": now, "refused": _json(refused), "closed": _json(closed)}


def _json(words: Mapping[int, str]) -> str:
    return msgspec.json.encode({str(number): word for number, word in words.items()}).decode()


async def _fetch(connection: Connection, statement: str, values: Mapping[str, object]) -> list[Candidate]:
    return [Candidate(*row) for row in await (await connection.execute(statement.encode(), values)).fetchall()]
