"""What devices say about firmware, from the control session to the database: reduced per batch, acknowledged after commit.

Stands before presence in the way of the control session's messages: what it does not need it passes on, in order.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Protocol

import structlog

from mqtt import topics
from mqtt.connection import Deliveries
from mqtt.session import Publish
from ota.deployment import Timeouts
from ota.draft import Draft
from ota.metrics import OtaMetrics
from ota.payloads import BadBody, read_report, read_state
from ota.reduction import Loaded, Message, limited, numbers_in, reduce
from ota.reports import Hello, Report, Verdict

log = structlog.get_logger(__name__)

GATHER_S = 0.2
"""Batches begin at least so far apart: one transaction for many reports, and the readings' commits are not in their way."""
MOST_PER_DEVICE = 20
"""Messages of one device in one batch; of more, the newest and those that end something."""
MOST_DELIVERIES = 2_000
RETRY_MAX_S = 2.0
MALFORMED_LOG_S = 60.0


class TrackingStore(Protocol):
    """Where deployments are; raises ConnectionError for "try again"."""

    async def track(self, deployment_ids: Sequence[int], device_ids: Sequence[int], decide: Callable[[Loaded], Draft]) -> Draft:
        """Locks these deployments, and what these devices have to do with; decides; commits."""
        ...


class Known(Protocol):
    """A registered device, as far as it is needed here."""

    id: int
    retired: bool


class Tracker:
    """Takes reports, hellos, and births with a version."""

    def __init__(
        self,
        root: str,
        store: TrackingStore,
        timeouts: Timeouts,
        *,
        device: Callable[[str], Known | None],
        version_in_birth: Callable[[bytes], str | None],
        heard: Callable[[Iterable[int], datetime], None],
        committed: Callable[[Draft], None],
        pass_on: Callable[[Deliveries], None],
        metrics: OtaMetrics,
    ) -> None:
        self._prefix = topics.devices(root)
        self._readers = {"ota/progress": _report, "ota/state": _hello, "status": self._birth}
        self._store = store
        self._timeouts = timeouts
        self._device = device
        self._version_in_birth = version_in_birth
        self._heard = heard
        self._committed = committed
        self._pass_on = pass_on
        self._metrics = metrics
        self._waiting: deque[tuple[list[Message], Deliveries]] = deque()
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._malformed_logged: datetime | None = None

    def deliver(self, deliveries: Deliveries) -> None:
        """Takes messages as they come; never blocks. Bounded by the session's receive maximum."""
        messages = [
            message for publish in deliveries.publishes if (message := self._read(publish, deliveries.received_at)) is not None
        ]
        if not messages and not self._waiting:
            self._pass_on(deliveries)
            return
        self._waiting.append((messages, deliveries))
        self._idle.clear()
        self._arrived.set()

    async def drain(self) -> None:
        """Returns when all that has come is stored and passed on."""
        await self._idle.wait()

    async def run(self) -> None:
        """Stores what has come until cancelled."""
        loop, attempt = asyncio.get_running_loop(), 0
        while True:
            await self._arrived.wait()
            started_s = loop.time()
            batch = [self._waiting[place] for place in range(min(MOST_DELIVERIES, len(self._waiting)))]
            try:
                await self._store_batch([message for messages, _ in batch for message in messages])
            except ConnectionError as error:
                attempt += 1
                if attempt == 1 or attempt % 100 == 0:
                    log.warning("reports_not_stored", error=str(error), deliveries=len(batch), attempt=attempt)
                await asyncio.sleep(random.uniform(0.05, min(RETRY_MAX_S, 0.1 * 2 ** min(attempt, 5))))  # noqa: S311
                continue
            attempt = 0
            for _ in batch:
                self._pass_on(self._waiting.popleft()[1])
            if not self._waiting:
                self._arrived.clear()
                self._idle.set()
            await asyncio.sleep(max(0.0, GATHER_S - (loop.time() - started_s)))

    async def _store_batch(self, messages: Sequence[Message]) -> None:
        kept, left_out = limited(messages, MOST_PER_DEVICE)
        if not kept:
            return
        draft = await self._store.track(*numbers_in(kept), lambda loaded: reduce(kept, loaded, self._timeouts))
        self._metrics.reports.labels(Verdict.LIMITED.value).inc(left_out)
        self._metrics.note(draft)
        heard: dict[datetime, list[int]] = {}
        for message in kept:
            if isinstance(message.body, Report) or (message.body.live and message.body.snapshot):
                heard.setdefault(message.at, []).append(message.device_id)
        for at, device_ids in heard.items():
            self._heard(device_ids, at)
        self._committed(draft)

    def _read(self, publish: Publish, received_at: datetime) -> Message | None:
        topic = publish.topic
        if not topic.startswith(self._prefix):
            return None
        name, _, leaf = topic[len(self._prefix) :].partition("/")
        read = self._readers.get(leaf)
        return self._message(name, publish, received_at, read) if read is not None else None

    def _message(
        self, name: str, publish: Publish, received_at: datetime, read: Callable[[Publish], Report | Hello | None]
    ) -> Message | None:
        try:
            body = read(publish)
        except BadBody as error:
            self._count(Verdict.MALFORMED)
            self._log_malformed(name, publish.topic, error, received_at)
            return None
        if body is None:
            return None
        known = self._device(name)
        if known is None or known.retired:
            if read != self._birth:  # presence counts births
                self._count(Verdict.UNKNOWN_DEVICE)
            return None
        return Message(known.id, name, body, received_at)

    def _birth(self, publish: Publish) -> Hello | None:
        version = self._version_in_birth(publish.payload)
        return Hello(version=version, live=not publish.retain, rebooted=False, snapshot=False) if version else None

    def _count(self, verdict: Verdict) -> None:
        self._metrics.reports.labels(verdict.value).inc()

    def _log_malformed(self, name: str, topic: str, error: BadBody, now: datetime) -> None:
        """One line a minute, whoever sends how much of it; the counter has them all."""
        logged = self._malformed_logged
        if logged is None or not 0 <= (now - logged).total_seconds() < MALFORMED_LOG_S:
            self._malformed_logged = now
            log.warning("report_malformed", device=name, topic=topic, error=str(error))


def _report(publish: Publish) -> Report | None:
    return None if publish.retain else read_report(publish.payload)


def _hello(publish: Publish) -> Hello | None:
    return read_state(publish.payload, retained=publish.retain, repeated=publish.duplicate)
