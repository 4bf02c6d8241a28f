"""What the daemon says of itself on {root}/daemon/{instance}: online, blind, offline. It outlives the lock: a daemon that has
lost its database is still there to say so.

A standby is silent: the topic belongs to the one that leads.
"""

import asyncio

import structlog
from prometheus_client import CollectorRegistry, Gauge

from console.health import Health, State
from mqtt.publisher import Publisher

log = structlog.get_logger(__name__)

LOOK_S = 1.0
CAUSES = ("database", "broker")


class Voice:
    """Runs the publisher while there is something to say, and keeps its word up to date."""

    def __init__(self, registry: CollectorRegistry, publisher: Publisher, health: Health) -> None:
        self.publisher = publisher
        self._health = health
        self._speaking: asyncio.Task[None] | None = None
        self._said = "online"
        self._blind = Gauge("factoryd_blind", "1 while this is away: no silence is judged.", ("cause",), registry=registry)
        for cause in CAUSES:
            self._blind.labels(cause).set(0)

    async def run(self) -> None:
        """Looks until cancelled; then says offline, if it said anything."""
        try:
            while True:
                await self._look()
                await asyncio.sleep(LOOK_S)
        finally:
            await self._end()

    async def speak(self) -> None:
        """Connects the publisher, if it is not connected: called when leadership is won."""
        if self._speaking is None or self._speaking.done():
            self.publisher.farewell = True
            self._speaking = asyncio.create_task(self.publisher.run(), name="publisher")
        await self._say("online")

    async def _look(self) -> None:
        state, health = self._health.state, self._health
        no_database = state is not State.STANDBY and health.asked_for_database and not health.passes("database")
        self._blind.labels("database").set(no_database)
        connected = self._speaking is None or self.publisher.ready.is_set()
        self._blind.labels("broker").set(state is State.ACTIVE and not connected)
        if state is State.STANDBY:
            self.publisher.farewell = False
            await self._end()
        elif no_database and state is not State.DRAINING:
            if self._speaking is None:
                await self.speak()
            await self._say("blind", "database")
        elif state is State.ACTIVE and self._speaking is not None:
            await self._say("online")

    async def _say(self, status: str, cause: str | None = None) -> None:
        if status != self._said:
            self._said = status
            log.info("daemon_status_changed", status=status, cause=cause)
            await self.publisher.announce(status, cause)

    async def _end(self) -> None:
        if self._speaking is not None:
            self._speaking.cancel()
            await asyncio.wait({self._speaking})
            self._speaking = None
