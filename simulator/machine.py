"""One machine: a real MQTT client that measures at its interval, keeps what it could not send, and comes back.

Measuring goes on while the machine is away; after the outage the buffer leaves as one array per device. A reading is
forgotten only on its PUBACK, so delivery is at least once. A gateway is a machine that speaks for further devices.
"""

import asyncio
import json
import math
import random
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import aiomqtt
import structlog

from mqtt import topics
from simulator.buffer import Buffer
from simulator.connection import Broker, BrokerUnavailable, DeviceClient, PublishRefused, backoff, connect
from simulator.devices import SimulatedDevice
from simulator.ledger import Acknowledged, Ledger
from simulator.outages import Absence, Outages, draw_absence, time_to_outage
from simulator.reading import CONTENT_TYPES, Reading, encode
from simulator.sources import Source
from simulator.statistics import Statistics

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Conduct:
    """What all machines of a factory have in common."""

    broker: Broker
    seed: int = 1
    version: str = "1.4.2"
    """Firmware version in the births."""
    outages: Outages | None = None
    buffer_readings: int = 10_000
    """Readings a device keeps while away; beyond it the oldest go."""
    reconnect_max_s: float = 15.0
    ledger: Ledger | None = None


class Machine:
    """One MQTT client; `run` it in a TaskGroup. Its client id is the id of its first device."""

    def __init__(
        self, devices: Sequence[SimulatedDevice], conduct: Conduct, statistics: Statistics, stop: asyncio.Event
    ) -> None:
        boot_id = secrets.token_hex(4)
        self.name = devices[0].device
        self.sources = {device.device: Source(device, conduct.seed, boot_id) for device in devices}
        self.interval_s = devices[0].interval_s
        self._conduct = conduct
        self._statistics = statistics
        self._stop = stop
        self._random = random.Random(f"{conduct.seed}|{self.name}")  # noqa: S311 - a simulation, not a secret
        self._buffer = Buffer(conduct.buffer_readings)
        self._news = asyncio.get_running_loop().create_future()
        self._absence: Absence | None = None
        self._sessions = 0

    async def run(self, delay_s: float = 0.0) -> None:
        """Measures and publishes from `delay_s` on until the stop event, then publishes offline and leaves."""
        if await happens(self._stop, delay_s):
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._measure(), name=f"{self.name} measuring")
            tasks.create_task(self._stay_connected(), name=f"{self.name} connection")

    def cut(self, seconds: float, *, abrupt: bool = True) -> None:
        """Makes the machine leave now and stay away that long; abrupt: without DISCONNECT."""
        self._absence = Absence(seconds, abrupt)
        self._announce()

    async def _measure(self) -> None:
        clock = asyncio.get_running_loop().time
        due = clock()
        while not self._stop.is_set():
            for source in self.sources.values():
                self._statistics.dropped += self._buffer.add(source.read(datetime.now(UTC)))
                self._statistics.readings += 1
            self._announce()
            due = max(due + self.interval_s, clock())
            await happens(self._stop, due - clock())
        self._announce()

    async def _stay_connected(self) -> None:
        pauses = backoff(self._random, self._conduct.reconnect_max_s)
        while True:
            last_attempt = self._stop.is_set()
            try:
                pause = await self._session()
                pauses = backoff(self._random, self._conduct.reconnect_max_s)
            except BrokerUnavailable as error:
                self._note(error)
                pause = next(pauses)
            if last_attempt or pause is None:
                return
            await happens(self._stop, pause)

    async def _session(self) -> float | None:
        """Holds one connection; returns how long to stay away then, None = for good."""
        session = secrets.token_hex(4)
        will = aiomqtt.Will(self._topic(self.name), self._status("offline", session), 1, retain=True)
        account = self._conduct.broker.account(self.name)
        async with connect(self._conduct.broker, self.name, account, will) as client, self._counted():
            await client.subscribe([(topics.rejected(self._conduct.broker.root, name), 1) for name in self.sources])
            await self._tell(client, "online", session)
            absence = await self._publish_until_leaving(client)
            if absence is not None and absence.abrupt:
                client.vanish()
            else:
                await self._tell(client, "offline", session)
        return None if absence is None else absence.seconds

    @asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        self._sessions += 1
        self._statistics.reconnects += self._sessions > 1
        self._statistics.connected += 1
        log.debug("machine_connected", device=self.name, session_number=self._sessions)
        try:
            yield
        finally:
            self._statistics.connected -= 1

    async def _publish_until_leaving(self, client: DeviceClient) -> Absence | None:
        loop = asyncio.get_running_loop()
        leave_at = loop.time() + time_to_outage(self._conduct.outages, self._random)
        while True:
            self._news = loop.create_future()
            stopping = self._stop.is_set()
            for batch in self._buffer.batches():
                await self._deliver(client, batch)
            await self._hear_rejections(client)
            if absence := self._due_absence(loop.time() >= leave_at):
                return absence
            if not self._buffer:
                if stopping:
                    return None
                await self._wait_for_news(client, leave_at - loop.time())

    async def _wait_for_news(self, client: DeviceClient, longest_s: float) -> None:
        timeout = None if math.isinf(longest_s) else max(0.0, longest_s)
        await asyncio.wait({self._news, client.lost}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if client.lost.done():
            raise BrokerUnavailable("the connection to the broker broke")

    async def _deliver(self, client: DeviceClient, batch: Sequence[Reading]) -> None:
        device = self.sources[batch[0].device].device
        self._statistics.published += 1
        topic = topics.telemetry(self._conduct.broker.root, device.device)
        try:
            payload = encode(batch, device.encoding)
            await client.deliver(topic, payload, content_type=CONTENT_TYPES[device.encoding])
        except PublishRefused as error:
            self._statistics.refused += 1
            self._note(error)
        else:
            self._enter(batch)
        self._buffer.remove(batch)

    def _enter(self, batch: Sequence[Reading]) -> None:
        self._statistics.acknowledged += 1
        self._statistics.readings_acknowledged += len(batch)
        if self._conduct.ledger is not None:
            for reading in batch:
                if not reading.spoiled:
                    entry = Acknowledged(reading.device, reading.boot_id, reading.seq, reading.recorded_at)
                    self._conduct.ledger(entry)

    async def _hear_rejections(self, client: DeviceClient) -> None:
        while len(client.messages):
            message = await anext(client.messages)
            self._statistics.rejections += 1
            log.info("telemetry_rejected", topic=str(message.topic), notice=_text(message.payload))

    async def _tell(self, client: DeviceClient, status: str, session: str) -> None:
        """Publishes the status of every device we speak for; a refusal is noted, the telemetry may still pass."""
        for name in self.sources:
            try:
                await client.deliver(self._topic(name), self._status(status, session), retain=True)
            except PublishRefused as error:
                self._note(error)

    def _topic(self, name: str) -> str:
        return topics.status(self._conduct.broker.root, name)

    def _status(self, status: str, session: str) -> bytes:
        return json.dumps({"status": status, "session": session, "version": self._conduct.version}).encode()

    def _due_absence(self, outage_due: bool) -> Absence | None:
        absence, self._absence = self._absence, None
        if absence is None and outage_due and self._conduct.outages is not None:
            return draw_absence(self._conduct.outages, self._random)
        return absence

    def _announce(self) -> None:
        """Wakes the sender: a reading, an outage or the end has come."""
        if not self._news.done():
            self._news.set_result(None)

    def _note(self, error: Exception) -> None:
        if self._statistics.last_error != str(error):
            log.warning("machine_failed_to_deliver", device=self.name, error=str(error))
        self._statistics.last_error = str(error)


async def happens(event: asyncio.Event, within_s: float | None) -> bool:
    """Waits for an event at most that long (None: for ever); tells whether it came."""
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _text(payload: object) -> str:
    return payload.decode(errors="replace") if isinstance(payload, bytes) else str(payload)
