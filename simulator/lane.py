"""One account's connection for a replay: it comes back by itself, and every message is tried until it is acknowledged."""

import asyncio
import random
import secrets

import structlog

from simulator.connection import Account, Broker, BrokerUnavailable, DeviceClient, backoff, connect
from simulator.statistics import Statistics

log = structlog.get_logger(__name__)


class Lane:
    """Run `run` in a TaskGroup, `deliver` from others, `close` at the end.

    The client id is not a device's: a replay must not take over the session of a machine that is running.
    """

    def __init__(self, broker: Broker, account: Account | None, reconnect_max_s: float, statistics: Statistics) -> None:
        self._broker = broker
        self._account = account
        self._reconnect_max_s = reconnect_max_s
        self._statistics = statistics
        self._client_id = f"replay-{secrets.token_hex(8)}"
        self._client: DeviceClient | None = None
        self._ready = asyncio.Event()
        self._closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._connections = 0

    async def run(self) -> None:
        """Keeps the connection until `close`.

        Raises:
            BrokerUnavailable: the very first attempt failed; later ones are repeated.
        """
        rng = random.Random()  # noqa: S311 - jitter
        pauses = backoff(rng, self._reconnect_max_s)
        while not self._closing.done():
            try:
                await self._hold()
                pauses = backoff(rng, self._reconnect_max_s)
            except BrokerUnavailable as error:
                if self._connections == 0:
                    raise
                self._note(error)
            await asyncio.wait({self._closing}, timeout=next(pauses))

    async def deliver(self, topic: str, payload: bytes) -> None:
        """Publishes until the broker acknowledges, over as many connections as it takes.

        Raises:
            PublishRefused: the broker acknowledged with a failure code.
            BrokerUnavailable: the lane was closed before that.
        """
        while True:
            await self._ready.wait()
            client = self._client
            if self._closing.done() or client is None:
                raise BrokerUnavailable("the replay was stopped before the broker acknowledged a message")
            try:
                self._statistics.published += 1
                await client.deliver(topic, payload)
            except BrokerUnavailable:
                self._give_up(client)
            else:
                return

    def close(self) -> None:
        """Ends the connection in good order; deliveries that still wait for one fail."""
        if not self._closing.done():
            self._closing.set_result(None)
        self._ready.set()

    def _give_up(self, client: DeviceClient) -> None:
        """A connection that does not acknowledge is as good as none: `run` makes another."""
        if client is self._client and not self._closing.done():
            self._ready.clear()
        client.vanish()

    async def _hold(self) -> None:
        async with connect(self._broker, self._client_id, self._account) as client:
            self._statistics.reconnects += self._connections > 0
            self._connections += 1
            self._client = client
            self._ready.set()
            self._statistics.connected += 1
            try:
                await asyncio.wait({client.lost, self._closing}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._statistics.connected -= 1
                if not self._closing.done():
                    self._ready.clear()

    def _note(self, error: Exception) -> None:
        if self._statistics.last_error != str(error):
            log.warning("replay_connection_failed", error=str(error))
        self._statistics.last_error = str(error)
