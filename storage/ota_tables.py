"""The transactions of firmware over the air: rows are locked, `ota` decides, and what it decides is committed or nothing is."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from ota.deployment import Deployment
from ota.dispatcher import Look
from ota.draft import Draft
from ota.reduction import Loaded
from storage.database import Pool, translated
from storage.ota_memory import Remembered
from storage.ota_rows import LOCKED, LOCKED_IF_FREE, load_deployments, load_states
from storage.ota_writes import Overtaken, write_draft

LIVE = "d.status IN ('pending', 'in_progress')"

# Live deployments of these devices, and the last one of each: a hello may be about any of them.
CONCERNED = """
    SELECT id FROM ota_deployments WHERE device_id = ANY(%(devices)s) AND status IN ('pending', 'in_progress')
    UNION SELECT last.id FROM unnest(%(devices)s::int8[]) AS given (id) CROSS JOIN LATERAL (
        SELECT o.id FROM ota_deployments o WHERE o.device_id = given.id ORDER BY o.id DESC LIMIT 1) AS last"""

LOOKS = {
    # What waits for its turn is not due, unless it has waited too long.
    Look.DUE: f"""WHERE {LIVE} AND d.next_action_at <= %(now)s AND d.phase <> 'backoff'
        ORDER BY d.next_action_at LIMIT %(limit)s FOR NO KEY UPDATE OF d SKIP LOCKED""",
    Look.WAITED: f"""WHERE d.status = 'pending' AND d.phase IN ('queued', 'backoff') AND d.queue_expires_at <= %(now)s
        {LOCKED_IF_FREE} LIMIT %(limit)s""",
    Look.CANCEL: f"""WHERE {LIVE} AND d.cancel_requested_at IS NOT NULL
        AND (d.cancel_deadline_at IS NULL OR d.cancel_force) {LOCKED_IF_FREE} LIMIT %(limit)s""",
    Look.RECALLED: f"""WHERE {LIVE} AND d.cancel_requested_at IS NULL AND d.version_id IN
            (SELECT id FROM ota_versions WHERE recalled_at IS NOT NULL)
        AND d.phase NOT IN ('installing', 'installed', 'rebooting', 'confirming') {LOCKED_IF_FREE}
        LIMIT %(limit)s""",  # noqa: S608 - our constants
    Look.RETIRED: f"WHERE {LIVE} AND v.retired_at IS NOT NULL {LOCKED_IF_FREE} LIMIT %(limit)s",
}
HELD = f"WHERE {LIVE} AND d.holds_device {LOCKED}"
RIVALS = f"WHERE {LIVE} AND d.device_id IN (SELECT device_id FROM ota_deployments WHERE id = ANY(%s)) {LOCKED}"  # noqa: S608 - our constants

SEEN = "SELECT value::timestamptz FROM daemon_state WHERE key = 'ota_seen_at' FOR UPDATE"
SEE = """INSERT INTO daemon_state (key, value) VALUES ('ota_seen_at', %s)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = now()"""


class OtaTables:
    """Through the pool: firmware must not wait for readings, nor they for firmware."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._remembered = Remembered()

    async def track(self, deployment_ids: Sequence[int], device_ids: Sequence[int], decide: Callable[[Loaded], Draft]) -> Draft:
        """Locks these deployments, and what these devices have to do with; decides; commits.

        Raises:
            DatabaseUnavailable: nothing was changed; try again.
        """
        with translated("storing reports about firmware"):
            if not device_ids:
                draft = await self._track_remembered(deployment_ids, decide)
                if draft is not None:
                    return draft
            async with self._pool.connection() as connection, connection.transaction():
                numbers = set(deployment_ids)
                if device_ids:
                    rows = await (await connection.execute(CONCERNED, {"devices": list(device_ids)})).fetchall()
                    numbers.update(row[0] for row in rows)
                where = f"WHERE d.id = ANY(%s) {LOCKED}"
                deployments = await load_deployments(connection, where, [sorted(numbers)]) if numbers else {}
                devices = {deployment.device_id for deployment in deployments.values()}.union(device_ids)
                draft = decide(Loaded(deployments, await load_states(connection, devices)))
                written = await write_draft(connection, draft, deployments)
        self._remembered.keep(draft, written)
        return draft

    async def _track_remembered(self, numbers: Sequence[int], decide: Callable[[Loaded], Draft]) -> Draft | None:
        """The same without reading: returns None if we do not remember all of them, or if more than progress comes of it."""
        recalled = self._remembered.recall(numbers)
        if recalled is None:
            return None
        draft = decide(Loaded(recalled.deployments, {}))
        if not draft.is_mere_progress:
            return None
        try:
            async with self._pool.connection() as connection, connection.transaction():
                written = await write_draft(connection, draft, recalled.deployments, recalled.seen)
        except Overtaken:
            self._remembered.forget(numbers)
            return None
        self._remembered.keep(draft, written)
        return draft

    async def settle(self, look: Look, now: datetime, limit: int, decide: Callable[[Loaded], Draft]) -> tuple[int, Draft]:
        """Decides on at most so many deployments that a look finds; returns how many there were. Rows that are locked wait."""
        with translated("settling deployments"):
            async with self._pool.connection() as connection, connection.transaction():
                found = await load_deployments(connection, LOOKS[look], {"now": now, "limit": limit})
                states = await load_states(connection, (each.device_id for each in found.values())) if found else {}
                draft = decide(Loaded(found, states))
                written = await write_draft(connection, draft, found)
        self._remembered.keep(draft, written)
        return len(found), draft

    async def dispatch(self, deployment_ids: Sequence[int], decide: Callable[[Loaded], Draft]) -> Draft:
        """Decides on deployments whose turn it is, and on the others of the same devices."""
        with translated("dispatching deployments"):
            async with self._pool.connection() as connection, connection.transaction():
                found = await load_deployments(connection, RIVALS, [list(deployment_ids)])
                draft = decide(Loaded(found, await load_states(connection, (each.device_id for each in found.values()))))
                await write_draft(connection, draft, found)
        return draft

    async def see(self, now: datetime) -> None:
        """Notes that up to now we have heard the devices."""
        with translated("noting that devices are heard"):
            async with self._pool.connection() as connection:
                await connection.execute(SEE, [now.isoformat()])

    async def give_back(self, granted: datetime, decide: Callable[[Sequence[Deployment], timedelta], Draft]) -> timedelta:
        """Moves the deadlines of all that is with devices by the time in which we did not hear them; returns it.

        In one transaction with the note that we hear again, so that no crash gives it back twice.
        """
        with translated("giving our absence back to deployments"):
            async with self._pool.connection() as connection, connection.transaction():
                row = await (await connection.execute(SEEN)).fetchone()
                absence = max(timedelta(0), granted - row[0]) if row else timedelta(0)
                if absence:
                    held = await load_deployments(connection, HELD, [])
                    await write_draft(connection, decide(list(held.values()), absence))
                await connection.execute(SEE, [granted.isoformat()])
        return absence
