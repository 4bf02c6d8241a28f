"""Step 2 of a reading's walk: deliveries become batches. The hottest loop of the house; no await, no I/O.

`Intake.take` decodes each message as it arrives, while the writer commits the batch before. A message of the common shape
takes the typed way; all else goes the long way through `ingest.decoding.decode`, which knows every rule.
"""

from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

import structlog

from config.settings import IngestSettings
from config.storage_settings import RetentionSettings
from ingest.arrivals import Arrivals, Noted
from ingest.batch import Batch, Origin, Part, Stranger, merge_latest, quarantined_from, quarantined_row
from ingest.clocks import TimeWindow
from ingest.decoding import decode
from ingest.devices import Device, Registry
from ingest.flood import FloodGate, Refusals
from ingest.layouts import NATIVE
from ingest.metrics import CLOCK_FAULTS, IngestMetrics
from ingest.reading import Extra, Reading, Reason, Sample, Wire
from ingest.routes import Routes
from ingest.sequences import Arrival
from ingest.wire import LongWay, WireErrors, decode_wire, stated_time
from mqtt.connection import Deliveries
from mqtt.session import Publish
from mqtt.topics import is_device_id

log = structlog.get_logger(__name__)

_make = tuple.__new__

_LONG_WAY = (*WireErrors, LongWay)


class Intake:
    """Decodes deliveries into the batches that wait for the writer."""

    def __init__(
        self,
        settings: IngestSettings,
        retention: RetentionSettings,
        registry: Registry,
        routes: Routes,
        metrics: IngestMetrics,
    ) -> None:
        self._settings = settings
        self._retention = timedelta(days=retention.readings_days)
        self._skew = timedelta(seconds=settings.max_clock_skew_s)
        self._registry = registry
        self._routes = routes
        self._metrics = metrics
        self._arrivals = Arrivals(metrics)
        self._gate = FloodGate(settings.quarantine_per_device_hour)
        self._direct: dict[str, Device] = {}
        self.waiting: deque[Batch] = deque()
        self.own_topics: dict[str, Callable[[bytes, datetime], None]] = {}
        """Who takes what we publish to ourselves on the telemetry session, with its time of receipt (`ingest.marks`)."""

    def forget_routes(self) -> None:
        """Looks every topic up anew: the registry was reloaded."""
        self._direct.clear()

    def is_full(self, in_commit: Batch | None) -> bool:
        """Tells whether what is not yet acknowledged has reached the limit, `in_commit` included."""
        batches = [*self.waiting, in_commit] if in_commit is not None else self.waiting
        return (
            sum(batch.messages for batch in batches) >= self._settings.buffer_max_messages
            or sum(batch.payload_bytes for batch in batches) >= self._settings.buffer_max_bytes
            or sum(batch.readings for batch in batches) >= 2 * self._settings.batch_max_readings
        )

    def take(self, deliveries: Deliveries) -> None:
        """Decodes messages in order of arrival into the last waiting batch."""
        batch = self._open_batch()
        if batch.oldest is None:
            batch.oldest = deliveries.received_at
        before = batch.readings
        batch.deliveries.append(deliveries)
        received_at = deliveries.received_at
        window = TimeWindow.around(received_at, self._retention, self._skew)
        direct, limit, size = self._direct.get, self._settings.max_payload_bytes, 0
        for publish in deliveries.publishes:
            payload = publish.payload
            size += len(payload)
            device = direct(publish.topic)
            if device is None or publish.packet_id is None or publish.retain or len(payload) > limit:
                self._take_long(batch, publish, received_at, window)
                continue
            try:
                wire = decode_wire(payload)
                if type(wire) is Wire:
                    stated = stated_time(wire, window)
                    if wire.seq is None or not self._arrivals.is_repetition(
                        batch, device, wire, None, dated=stated is not None
                    ):
                        self._store(batch, device, wire, stated, received_at, None, publish)
                else:
                    self._take_wires(batch, device, wire, publish, received_at, window)
            except _LONG_WAY:
                self._take_long(batch, publish, received_at, window)
        batch.messages += len(deliveries.publishes)
        batch.payload_bytes += size
        self._metrics.messages.inc(len(deliveries.publishes))
        self._metrics.received.inc(batch.readings - before)

    def replay(self, publish: Publish, received_at: datetime, quarantine_id: int) -> None:
        """Takes a quarantined message once more; its row leaves the quarantine in the batch's transaction."""
        batch = self._open_batch()
        before = batch.readings
        batch.replayed.append(quarantine_id)
        window = TimeWindow.around(received_at, self._retention, self._skew)
        self._take_long(batch, publish, received_at, window, replayed=True)
        self._metrics.received.inc(batch.readings - before)

    def retake_strangers(self, batch: Batch) -> None:
        """Decodes the messages whose devices were looked up; who is still unknown goes to the quarantine."""
        strangers, batch.strangers = batch.strangers, {}
        for messages in strangers.values():
            for publish, received_at, replayed in messages:
                before = batch.readings
                window = TimeWindow.around(received_at, self._retention, self._skew)
                self._take_long(batch, publish, received_at, window, replayed=replayed, looked_up=True)
                self._metrics.received.inc(batch.readings - before - 1)

    def _open_batch(self) -> Batch:
        settings = self._settings
        if self.waiting:
            batch = self.waiting[-1]
            if batch.messages < settings.batch_max_messages and batch.readings < settings.batch_max_readings:
                return batch
            batch.close()
        batch = Batch(Refusals(self._gate))
        self.waiting.append(batch)
        return batch

    def _take_wires(
        self, batch: Batch, device: Device, wires: list[Wire], publish: Publish, received_at: datetime, window: TimeWindow
    ) -> None:
        if not 0 < len(wires) <= self._settings.max_readings_per_message:
            raise LongWay
        stated = [stated_time(wire, window) for wire in wires]  # all are checked before the first is stored
        noted: Noted = {}
        for place, wire in enumerate(wires):
            if not self._arrivals.is_repetition(batch, device, wire, noted, dated=stated[place] is not None):
                self._store(batch, device, wire, stated[place], received_at, None, Part(publish, place))

    def _take_long(self, batch: Batch, publish: Publish, received_at: datetime, window: TimeWindow, **how: bool) -> None:
        """The long way, with a net: a fault of ours in reading one message must not hold up all that come after it."""
        try:
            self._take_every_rule(batch, publish, received_at, window, **how)
        except Exception as error:
            log.exception("message_refused", topic=publish.topic, size=len(publish.payload))
            detail = f"could not be read, and that is a fault of factoryd: {type(error).__name__}"
            batch.refused.add(quarantined_from(publish, received_at, None, Reason.REFUSED, detail, publish.payload))

    def _take_every_rule(
        self,
        batch: Batch,
        publish: Publish,
        received_at: datetime,
        window: TimeWindow,
        *,
        replayed: bool = False,
        looked_up: bool = False,
    ) -> None:
        """Every rule. `looked_up`: the database was asked for devices that the cache does not know."""
        if publish.retain:
            self._metrics.ignored_retained.inc()
            return
        if (own := self.own_topics.get(publish.topic)) is not None:
            own(publish.payload, received_at)
            return
        route = self._routes.find(publish.topic)
        if (
            route is None
            or (route.device and not is_device_id(route.device))
            or not (route.device or route.layout.device_field)
        ):
            detail = f"topic {publish.topic[:300]!r} names no device; ids match [A-Za-z0-9._:-]{{1,255}}"
            batch.refused.add(quarantined_from(publish, received_at, None, Reason.BAD_DEVICE_ID, detail, publish.payload))
            return
        by_payload = route.layout.device_field is not None
        device = self._registry.by_name.get(route.device)
        if device is None and not by_payload and not looked_up:
            batch.strangers.setdefault(route.device, []).append(Stranger(publish, received_at, replayed))
            return
        decoded = decode(
            publish.payload,
            publish.content_type,
            device=route.device,
            window=window,
            received_at=received_at,
            limits=self._settings,
            layout=route.layout,
            zone=device.zone if device else None,
        )
        unknown = {s.device for s in decoded.samples if s.device and s.device not in self._registry.by_name}
        if by_payload and unknown and not looked_up:
            for name in sorted(filter(is_device_id, unknown)):
                batch.strangers.setdefault(name, [])
            batch.strangers.setdefault("", []).append(Stranger(publish, received_at, replayed))
            return
        self._metrics.ignored_values.inc(decoded.ignored)
        for rejected in decoded.rejected:
            named = route.device or None
            batch.refused.add(quarantined_from(publish, received_at, named, rejected.reason, rejected.detail, rejected.payload))
        self._store_samples(batch, device, route.device, decoded.samples, publish, received_at, replayed=replayed)
        if device is not None:
            for boot, seq in decoded.refused_sequences:
                self._arrivals.note(batch, device, boot, seq, None)
            dated = any(sample.recorded_at is not None for sample in decoded.samples)
            clock = "unset" if decoded.clock_unset else "ahead" if decoded.clock_ahead else "ok" if dated else device.clock
            if any(rejected.reason is Reason.NAIVE_TIMESTAMP for rejected in decoded.rejected):
                clock = "naive"
            self._flag(batch, device, clock, qos0=publish.packet_id is None)
            if route.layout is NATIVE and not device.retired and device.clock == "ok":
                self._direct[publish.topic] = device  # a device with a wrong clock stays on the long way until it is mended
            else:
                self._direct.pop(publish.topic, None)

    def _store_samples(
        self,
        batch: Batch,
        device: Device | None,
        topic_device: str,
        samples: Iterable[Sample],
        publish: Publish,
        received_at: datetime,
        *,
        replayed: bool,
    ) -> None:
        noted: Noted = {}
        bases: dict[Device, datetime] = {}
        several = publish.payload[:1] != b"{"
        for sample in samples:
            origin: Origin = Part(publish, sample.index) if several else publish
            name = sample.device or topic_device
            owner = self._registry.by_name.get(name) if sample.device else device
            if owner is None or owner.retired:
                self._quarantine_stranger(batch, owner, name, publish, received_at, origin)
                continue
            if replayed and sample.seq is not None:
                if sample.boot_id is not None:
                    self._arrivals.note(batch, owner, sample.boot_id, sample.seq, noted)
                noted[sample.boot_id, sample.seq] = Arrival.LATE  # it may have been noted when it was quarantined
            if self._arrivals.is_repetition(batch, owner, sample, noted, dated=sample.recorded_at is not None):
                continue
            recorded_at = sample.recorded_at
            if recorded_at is None:
                place = owner.replay_time if replayed else owner.receipt_time
                if sample.before is None:
                    recorded_at = place(received_at)
                else:
                    recorded_at = (bases.get(owner) or bases.setdefault(owner, place(received_at))) - sample.before
            self._store(batch, owner, sample, recorded_at, received_at, sample.extra, origin)

    def _quarantine_stranger(
        self, batch: Batch, owner: Device | None, name: str, publish: Publish, received_at: datetime, origin: Origin
    ) -> None:
        reading = Reading(0, None, None, None, None, None, None, received_at, received_at, None)
        safe = name if is_device_id(name) else None
        if owner is None:
            detail = f"device {name[:255]!r} is not registered; factoryd device approve {safe or 'ID'} registers and replays it"
            reason = Reason.UNKNOWN_DEVICE if safe else Reason.BAD_DEVICE_ID
            batch.refused.add(quarantined_row(reading, origin, safe, reason, detail))
        else:
            detail = f"device {name!r} is retired; factoryd device edit {name} --active takes it back"
            batch.refused.add(quarantined_row(reading, origin, name, Reason.RETIRED_DEVICE, detail))

    def _store(
        self,
        batch: Batch,
        device: Device,
        wire: Wire | Sample,
        recorded_at: datetime | None,
        received_at: datetime,
        extra: Extra | None,
        origin: Origin,
    ) -> None:
        """Adds one reading to its write path, and keeps the device's newest time and values."""
        a, b, c, d, e, f = (
            wire.temperature,
            wire.humidity,
            wire.pressure,
            wire.vibration,
            wire.power_consumption,
            wire.rpm,
        )
        if recorded_at is None:
            recorded_at = device.receipt_time(received_at)
        number = device.id
        reading: Reading = _make(Reading, (number, a, b, c, d, e, f, recorded_at, received_at, extra))
        if recorded_at > device.newest:
            device.newest = recorded_at
            batch.fresh.append(reading)
            batch.fresh_origins.append(origin)
            prior = batch.latest.get(number)
            batch.latest[number] = reading if prior is None else merge_latest(prior, reading)
        else:
            batch.rest.append(reading)
            batch.rest_origins.append(origin)
            batch.rest_after.append(len(batch.fresh))
            batch.heard.add(number)
            if recorded_at == device.newest:  # it may complete the newest reading; the writer knows if it contradicts it
                prior = batch.latest.get(number)
                batch.latest[number] = reading if prior is None else merge_latest(prior, reading)

    def _flag(self, batch: Batch, device: Device, clock: str, *, qos0: bool) -> None:
        """Marks what an operator should know of a device: QoS 0, a clock that is not set, ahead or without zone."""
        if clock in CLOCK_FAULTS:
            self._metrics.clock.labels(clock).inc()
        if clock != device.clock or (qos0 and not device.qos0_seen):
            device.clock = clock
            device.qos0_seen = device.qos0_seen or qos0
            batch.flagged.add(device)
