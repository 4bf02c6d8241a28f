"""The event loop's heartbeat: how late it comes is how long something held the loop."""

import asyncio

from prometheus_client import CollectorRegistry, Histogram

BEAT_S = 0.25
DEAD_AFTER_S = 10.0
"""/livez fails when the last beat is older."""
BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Heartbeat:
    """A task that sleeps, and notes how late it woke up."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lag = Histogram(
            "factoryd_event_loop_lag_seconds",
            "How late the event loop came to a task that was due.",
            buckets=BUCKETS,
            registry=registry,
        )
        self._worst_s = 0.0
        self._beat_at: float | None = None

    async def run(self) -> None:
        """Beats until cancelled."""
        clock = asyncio.get_running_loop().time
        self._beat_at = clock()
        while True:
            await asyncio.sleep(BEAT_S)
            now = clock()
            lag = max(0.0, now - self._beat_at - BEAT_S)
            self._lag.observe(lag)
            self._worst_s = max(self._worst_s, lag)
            self._beat_at = now

    def take_worst_s(self) -> float:
        """Returns the longest lag since the last call, in seconds."""
        worst, self._worst_s = self._worst_s, 0.0
        return worst

    def probe(self) -> tuple[bool, str]:
        """The liveness check `event_loop`; asked from within the event loop."""
        if self._beat_at is None:
            return True, "not started yet"
        age = asyncio.get_running_loop().time() - self._beat_at
        return age < DEAD_AFTER_S, f"last heartbeat {age:.1f} s ago, limit {DEAD_AFTER_S:g} s"
