"""Notices: tells a device, on its rejected topic, why a message of it was quarantined. A courtesy, never a duty.

At most one notice per device and interval; the next one says how many were held back. The pipeline never waits for it: what
does not fit the queue, or cannot be published at once, is dropped and counted. The quarantine has it all.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter

from config.settings import IngestSettings
from ingest.reading import Quarantined
from mqtt import topics
from mqtt.sender import PublishRefused

log = structlog.get_logger(__name__)

MAX_WAITING = 1_000
MAX_DEVICES = 10_000
"""Devices remembered at a time: an unknown device can have any name."""
MAX_DETAIL = 500


class NoticeMetrics:
    """What became of notices."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.notices = Counter(
            "factoryd_ingest_notices", "Notices to devices, by what became of them.", ("outcome",), registry=registry
        )
        for outcome in ("sent", "suppressed", "dropped", "failed"):
            self.notices.labels(outcome)


class Pace:
    """PURE. At most one per name and interval, with a count of those held back."""

    def __init__(self, interval_s: float, max_names: int = MAX_DEVICES) -> None:
        self._interval = timedelta(seconds=interval_s)
        self._max_names = max_names
        self._last: dict[str, datetime] = {}
        self._held: dict[str, int] = {}

    def admit(self, name: str, now: datetime) -> int | None:
        """Returns how many were held back since the last one that was admitted, or None if this one is held back, too."""
        last = self._last.get(name)
        if last is not None and last <= now < last + self._interval:
            self._held[name] = self._held.get(name, 0) + 1
            return None
        self._last.pop(name, None)
        self._last[name] = now  # to the end: the first is always the one admitted longest ago
        if len(self._last) > self._max_names:
            oldest = next(iter(self._last))
            del self._last[oldest]
            self._held.pop(oldest, None)
        return self._held.pop(name, 0)


class _Notice(NamedTuple):
    quarantined: Quarantined
    suppressed: int


class Notices:
    """Notices on their way."""

    def __init__(
        self,
        settings: IngestSettings,
        root: str,
        publish: Callable[[str, bytes], Awaitable[None]],
        clock: Callable[[], datetime],
        metrics: NoticeMetrics,
    ) -> None:
        self._root = root
        self._publish = publish
        self._clock = clock
        self._metrics = metrics
        self._pace = Pace(settings.rejected_notice_interval_s)
        self._waiting: asyncio.Queue[_Notice] = asyncio.Queue(MAX_WAITING)

    def note(self, refused: Sequence[Quarantined]) -> None:
        """Takes what a committed batch refused; never blocks."""
        now = self._clock()
        for quarantined in refused:
            name = quarantined.device
            if name is None or not topics.is_device_id(name):
                continue
            suppressed = self._pace.admit(name, now)
            if suppressed is None:
                self._count("suppressed")
                continue
            try:
                self._waiting.put_nowait(_Notice(quarantined, suppressed))
            except asyncio.QueueFull:
                self._count("dropped")

    async def run(self) -> None:
        """Publishes notices, one after the other, until cancelled."""
        while True:
            notice = await self._waiting.get()
            device = notice.quarantined.device
            assert device is not None, "only devices are told"
            try:
                await self._publish(topics.rejected(self._root, device), _body(notice))
                self._count("sent")
            except (ConnectionError, PublishRefused) as error:
                log.debug("notice_failed", device=device, error=str(error))
                self._count("failed")

    def _count(self, outcome: str) -> None:
        self._metrics.notices.labels(outcome).inc()


def _body(notice: _Notice) -> bytes:
    quarantined = notice.quarantined
    return msgspec.json.encode(
        {
            "reason": quarantined.reason.value,
            "detail": quarantined.detail[:MAX_DETAIL],
            "received_at": quarantined.received_at,
            "topic": quarantined.topic,
            "suppressed": notice.suppressed,
        }
    )
