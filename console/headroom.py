"""How long the broker's queue would last if we stopped taking messages now.

The limit is the broker's max_queued_messages, which it tells nobody: the setting mqtt.broker_max_queued_messages must say it.
Without it there is no such metric.
"""

import asyncio
import math
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

from console.metrics import metric_total
from console.rates import RateMeter

SAMPLE_S = 1.0
WINDOW_S = 60.0


class QueueHeadroom:
    """`factoryd_broker_queue_headroom_seconds` = limit ÷ present rate.

    While nothing flows the rate that we see is not what the devices send: the last rate before is kept, for then the figure
    matters most.
    """

    def __init__(
        self, registry: CollectorRegistry, limit: int | None, messages: Counter, is_flowing: Callable[[], bool]
    ) -> None:
        self._limit = limit
        self._messages = messages
        self._is_flowing = is_flowing
        self._meter = RateMeter(WINDOW_S)
        self._rate = 0.0
        if limit is not None:
            Gauge(
                "factoryd_broker_queue_headroom_seconds",
                "Time until the broker's queue for us were full if we stopped now: its limit by the present rate.",
                registry=registry,
            ).set_function(self.seconds)

    async def run(self) -> None:
        """Samples the rate until cancelled; ends at once if no limit is known."""
        clock = asyncio.get_running_loop().time
        while self._limit is not None:
            self.sample(clock())
            await asyncio.sleep(SAMPLE_S)

    def sample(self, at_s: float) -> None:
        """Notes how many messages have come by now."""
        if not self._is_flowing():
            self._meter.forget()
            return
        self._meter.sample(at_s, metric_total(self._messages))
        if (rate := self._meter.per_second) is not None:
            self._rate = rate

    def seconds(self) -> float:
        """The metric's value; infinite while nothing is sent."""
        assert self._limit is not None
        return self._limit / self._rate if self._rate > 0 else math.inf
