"""Presence: which device is online. Applies the rules of `ingest.liveness`.

Fed by the control receiver (`deliver`), by the pipeline after each commit (`heard_in`), and by time. What is to be stored
goes to `ingest.presence_writing`, which acknowledges status messages after the write that contains them. No silence is judged
while we are blind: broker or database away, status messages held back, the process halted, or a mark not yet back through both
sessions; afterwards every device is granted a fresh interval.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime

import structlog

from config.settings import PresenceSettings
from ingest.batch import Batch
from ingest.births import BadReport, Status, read_report
from ingest.devices import Device, Registry
from ingest.liveness import FOREVER, Liveness, Outcome, bury, find_silent, hear, note_report, restored
from ingest.marks import CONTROL, TELEMETRY, Marks
from ingest.pipeline import Backpressure
from ingest.presence_metrics import PresenceMetrics
from ingest.presence_writing import PresenceStore, PresenceWriting
from mqtt import topics
from mqtt.connection import Deliveries
from mqtt.session import Publish

log = structlog.get_logger(__name__)

HALT_S = 10.0
"""Time between two looks beyond their interval: the process, or the clock, stood still or leapt."""
BLIND_LOOK_S = 0.5
"""Between two looks while we are blind: alerts of absence, and firmware, wait for our eyes to open."""
MALFORMED_LOG_S = 60.0
"""At most one log line about malformed status messages in this time."""


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
        self._writing = PresenceWriting(settings, store, metrics)
        self._states = self._writing.states
        self._unsettled: dict[int, int] = {}
        self._malformed = 0
        self._malformed_logged: datetime | None = None
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

    @property
    def granted(self) -> datetime | None:
        """Since when we see without interruption; None while blind."""
        return self._granted

    @property
    def states(self) -> Mapping[int, Liveness]:
        """Every device's presence, by number."""
        return self._states

    def hold(self, source: Backpressure) -> None:
        """Tells which receiver brings status messages: it is held while too many of them wait for a write."""
        self._writing.unacknowledged.source = source

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
        self._writing.received(deliveries)

    def telemetry_mark(self, payload: bytes, received_at: datetime) -> None:
        """Takes a mark that came back on the telemetry session."""
        self._marks.arrived(TELEMETRY, payload, received_at)

    def heard(self, device_ids: Iterable[int], received_at: datetime) -> None:
        """Notes traffic of these devices, received at that moment and stored by now."""
        now = self._clock()
        for number in device_ids:
            self._hear(number, received_at, now)

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
                self._hear(number, received_at, now)
            elif received_at > state.last_seen:  # nearly always: online, and heard again
                state.last_seen = received_at
        self._writing.progressed.update(newest)

    async def run(self) -> None:
        """Looks for silence and writes what changed, every write_interval_s, and last_seen in its own time; until cancelled."""
        loop, interval_s = asyncio.get_running_loop(), self._settings.write_interval_s
        async with asyncio.TaskGroup() as group:
            group.create_task(self._marks.run(), name="presence marks")
            group.create_task(self._writing.spread(), name="presence last_seen")
            next_look = loop.time()
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(next_look):
                        await self._writing.due.wait()
                if loop.time() >= next_look:
                    self.look()
                    next_look = loop.time() + (min(interval_s, BLIND_LOOK_S) if self.blind else interval_s)
                await self.write()

    def look(self) -> None:
        """Judges silence, if we can see: one look per write interval."""
        now = self._clock()
        halted = not 0 <= (now - self._looked_at).total_seconds() <= self._settings.write_interval_s + HALT_S
        self._looked_at = now
        if halted or self._writing.failed or self._writing.unacknowledged.holding or not self._sees():
            self._sight, self._granted = None, None
        elif self._granted is None:
            self._open_eyes(now)
        else:
            self._find_silent(self._granted, now)
        self._metrics.blind.set(int(self.blind))

    async def write(self) -> None:
        """Stores what changed and acknowledges the status messages that it contains; after a failure all stays as it was."""
        await self._writing.write()

    async def flush(self) -> None:
        """As `write`, and every last_seen with it: at an orderly end."""
        await self._writing.flush()

    def _state(self, number: int) -> Liveness:
        state = self._states.get(number)
        if state is None:
            state = self._states[number] = Liveness(number)
        return state

    def _hear(self, number: int, received_at: datetime, now: datetime) -> None:
        state = self._state(number)
        first = state.last_seen is None
        changed = hear(state, received_at, now) or first
        (self._writing.changed if changed else self._writing.progressed).add(number)

    def _note(self, name: str, publish: Publish, received_at: datetime) -> Outcome:
        device = self._registry.by_name.get(name)
        if device is None:
            return Outcome.UNKNOWN_DEVICE
        if device.retired:
            return Outcome.RETIRED_DEVICE
        try:
            report = read_report(publish.payload)
        except BadReport as error:
            self._note_malformed(name, error, received_at)
            return Outcome.MALFORMED
        if report is None:
            return Outcome.CLEARED
        state = self._state(device.id)
        was_dead = state.dead
        outcome = note_report(state, report, received_at, retained=publish.retain)
        self._writing.changed.add(device.id)
        if state.dead and outcome is Outcome.ACCEPTED:
            self._unsettled[device.id] = self._marks.want()
            if not was_dead:
                self._bury_children(device)
        return outcome

    def _note_malformed(self, name: str, error: BadReport, now: datetime) -> None:
        """One line a minute, whoever sends how much of it; the counter has them all."""
        self._malformed += 1
        logged = self._malformed_logged
        if logged is None or not 0 <= (now - logged).total_seconds() < MALFORMED_LOG_S:
            log.warning("status_malformed", device=name, error=str(error), messages=self._malformed)
            self._malformed, self._malformed_logged = 0, now

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
                    self._writing.changed.add(child.id)

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
                self._writing.changed.add(device.id)
