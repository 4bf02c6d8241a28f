"""Presence: which device is online. Applies the rules of `ingest.liveness` and writes what changed, in coalesced batches.

Fed by the control receiver (`deliver`), by the pipeline after each commit (`heard_in`), and by time. Status messages are
acknowledged after the write that contains them. No silence is judged while we are blind: broker or database away, the process
halted, or a mark not yet back through both sessions; afterwards every device is granted a fresh interval.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Protocol

import structlog

from config.settings import PresenceSettings
from ingest.batch import Batch
from ingest.births import BadReport, Status, read_report
from ingest.devices import Device, Registry
from ingest.liveness import FOREVER, Liveness, Outcome, PresenceRow, bury, find_silent, hear, note_report, restored
from ingest.marks import CONTROL, TELEMETRY, Marks
from ingest.presence_metrics import PresenceMetrics
from mqtt import topics
from mqtt.receiver import Deliveries, acknowledge_all
from mqtt.session import Publish

log = structlog.get_logger(__name__)

MOST_UNACKED = 1_000
"""Status messages that wait for a write; beyond it the write does not wait for its interval."""
HALT_S = 10.0
"""Time between two looks beyond their interval: the process, or the clock, stood still or leapt."""


class PresenceStore(Protocol):
    """Where presence is kept; raises ConnectionError for "try again"."""

    async def load(self) -> Iterable[PresenceRow]:
        """Returns every device."""
        ...

    async def save(self, rows: Sequence[PresenceRow]) -> None:
        """Stores these rows in one transaction."""
        ...


class Presence:
    """All devices' liveness. Changed only by the event loop's thread."""

    def __init__(
        self,
        settings: PresenceSettings,
        *,
        root: str,
        instance: str,
        registry: Registry,
        store: PresenceStore,
        publish: Callable[[str, bytes], Awaitable[None]],
        sees: Callable[[], bool],
        clock: Callable[[], datetime],
        metrics: PresenceMetrics,
    ) -> None:
        self._settings = settings
        self._root = root
        self._registry = registry
        self._store = store
        self._sees = sees
        self._clock = clock
        self._metrics = metrics
        self._marks = Marks(topics.token(root, instance), publish, self._settle)
        self._states: dict[int, Liveness] = {}
        self._changed: set[int] = set()
        self._unsettled: dict[int, int] = {}
        self._unacked: list[Deliveries] = []
        self._due = asyncio.Event()
        self._writing = asyncio.Lock()
        self._failed = False
        self._sight: int | None = None
        self._granted: datetime | None = None
        self._looked_at = datetime.max.replace(tzinfo=UTC)
        metrics.blind.set(1)

    @property
    def marks_topic(self) -> str:
        """Both sessions must subscribe to it."""
        return self._marks.topic

    @property
    def blind(self) -> bool:
        """True while no silence is judged."""
        return self._granted is None

    async def load(self) -> None:
        """Reads every device's presence; before CONNECT.

        Raises:
            ConnectionError: the database is away; try again.
        """
        for row in await self._store.load():
            state = self._states[row.id] = restored(row)
            if state.dead:
                self._unsettled[row.id] = self._marks.want()

    def deliver(self, deliveries: Deliveries) -> None:
        """Takes what the control session brought; acknowledges it after the next write."""
        for publish in deliveries.publishes:
            if publish.topic == self._marks.topic:
                self._marks.arrived(CONTROL, publish.payload, deliveries.received_at)
            elif (name := topics.device_of(self._root, publish.topic, "status")) is not None:
                self._metrics.reports.labels(self._note(name, publish, deliveries.received_at).value).inc()
        self._unacked.append(deliveries)
        if sum(len(waiting.publishes) for waiting in self._unacked) >= MOST_UNACKED:
            self._due.set()

    def telemetry_mark(self, payload: bytes, received_at: datetime) -> None:
        """Takes a mark that came back on the telemetry session."""
        self._marks.arrived(TELEMETRY, payload, received_at)

    def heard(self, device_ids: Iterable[int], received_at: datetime) -> None:
        """Notes traffic of these devices, received at that moment and stored by now."""
        now = self._clock()
        for number in device_ids:
            hear(self._state(number), received_at, now)
            self._changed.add(number)

    def heard_in(self, batch: Batch) -> None:
        """Notes all traffic of a committed batch; each device by its newest message in it."""
        now, states = self._clock(), self._states
        newest = {number: reading.received_at for number, reading in batch.latest.items()}
        for reading in batch.rest:
            newest[reading.device_id] = max(reading.received_at, newest.get(reading.device_id, reading.received_at))
        for number in batch.heard - newest.keys() if batch.heard else ():
            newest[number] = batch.oldest or now
        for number, received_at in newest.items():
            state = states.get(number)
            if state is None or state.status is Status.OFFLINE or state.last_seen is None:
                hear(self._state(number), received_at, now)
            elif received_at > state.last_seen:  # nearly always: online, and heard again
                state.last_seen = received_at
        self._changed.update(newest)

    async def run(self) -> None:
        """Looks for silence and writes what changed, every write_interval_s, until cancelled."""
        loop, interval_s = asyncio.get_running_loop(), self._settings.write_interval_s
        async with asyncio.TaskGroup() as group:
            group.create_task(self._marks.run(), name="presence marks")
            next_look = loop.time() + interval_s
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(next_look):
                        await self._due.wait()
                if loop.time() >= next_look:
                    self.look()
                    next_look = loop.time() + interval_s
                await self.write()

    def look(self) -> None:
        """Judges silence, if we can see: one look per write interval."""
        now = self._clock()
        halted = not 0 <= (now - self._looked_at).total_seconds() <= self._settings.write_interval_s + HALT_S
        self._looked_at = now
        if halted or self._failed or not self._sees():
            self._sight, self._granted = None, None
        elif self._granted is None:
            self._open_eyes(now)
        else:
            self._find_silent(self._granted, now)
        self._metrics.blind.set(int(self.blind))

    async def write(self) -> None:
        """Stores what changed and acknowledges the status messages that it contains; after a failure all stays as it was."""
        async with self._writing:
            self._due.clear()
            changed, self._changed = self._changed, set()
            unacked, self._unacked = self._unacked, []
            states = [self._states[number] for number in sorted(changed)]
            rows = [state.row for state in states if state.row != state.written]
            try:
                if rows:
                    await self._store.save(rows)
            except BaseException as error:
                self._changed |= changed
                self._unacked = unacked + self._unacked
                if not isinstance(error, ConnectionError):
                    raise
                self._note_failure(error)
                return
            self._failed = False
            for row in rows:
                self._states[row.id].written = row
            acknowledge_all(unacked)
            self._count()

    def _state(self, number: int) -> Liveness:
        state = self._states.get(number)
        if state is None:
            state = self._states[number] = Liveness(number)
        return state

    def _note(self, name: str, publish: Publish, received_at: datetime) -> Outcome:
        device = self._registry.by_name.get(name)
        if device is None:
            return Outcome.UNKNOWN_DEVICE
        if device.retired:
            return Outcome.RETIRED_DEVICE
        try:
            report = read_report(publish.payload)
        except BadReport as error:
            log.warning("status_malformed", device=name, error=str(error))
            return Outcome.MALFORMED
        if report is None:
            return Outcome.CLEARED
        state = self._state(device.id)
        was_dead = state.dead
        outcome = note_report(state, report, received_at, retained=publish.retain)
        self._changed.add(device.id)
        if state.dead and outcome is Outcome.ACCEPTED:
            self._unsettled[device.id] = self._marks.want()
            if not was_dead:
                self._bury_children(device)
        return outcome

    def _bury_children(self, gateway: Device) -> None:
        """A gateway's death is its children's. Its silence is not: it may have nothing to say of its own."""
        families: dict[int, list[Device]] = {}
        for device in self._registry.by_id.values():
            if device.via_id is not None:
                families.setdefault(device.via_id, []).append(device)
        reason, below, seen = f"gateway {gateway.name} is offline", [gateway], {gateway.id}
        while below:
            for child in families.get(below.pop().id, ()):
                if child.id not in seen:
                    seen.add(child.id)
                    below.append(child)
                    bury(self._state(child.id), reason)
                    self._unsettled[child.id] = self._marks.want()
                    self._changed.add(child.id)

    def _settle(self, session: str, number: int, received_at: datetime) -> None:
        """A mark is back: of those who died before it was published, whatever comes on telemetry now is new."""
        if session != TELEMETRY:
            return
        for device_id in [device_id for device_id, wanted in self._unsettled.items() if wanted <= number]:
            del self._unsettled[device_id]
            state = self._states[device_id]
            if state.dead and state.deaf_until is FOREVER:
                state.deaf_until = received_at

    def _open_eyes(self, now: datetime) -> None:
        if self._sight is None:
            self._sight = self._marks.want()
        elif self._marks.reached >= self._sight:
            self._granted = now
            log.info("presence_resumed", devices=len(self._states))

    def _find_silent(self, granted: datetime, now: datetime) -> None:
        settings = self._settings
        for device in self._registry.by_id.values():
            interval_s = device.interval_s or settings.default_interval_s
            state = self._states.get(device.id)
            if interval_s is None or state is None or device.retired:
                continue
            if find_silent(state, settings.silent_intervals * interval_s, granted, now):
                self._metrics.silent.inc()
                self._changed.add(device.id)

    def _note_failure(self, error: ConnectionError) -> None:
        self._metrics.write_failures.inc()
        if not self._failed:
            log.warning("presence_not_written", error=str(error), changed=len(self._changed))
        self._failed = True

    def _count(self) -> None:
        statuses = [state.status for state in self._states.values()]
        for status in Status:
            self._metrics.devices.labels(status.value).set(statuses.count(status))
