"""One boot's connection of a device: hears commands, decides, writes down, acknowledges, answers - in this order."""

import asyncio
import random
import secrets
from collections.abc import Callable
from datetime import UTC, datetime

import aiomqtt
import msgspec
import structlog
from msgspec.structs import replace

from mqtt import topics
from simulator.connection import Broker, BrokerUnavailable, DeviceClient, backoff, connect
from simulator.ota_command import Cancel, Command, Decision, Facts, Update, Verb, decide, read_command
from simulator.ota_faults import Faults
from simulator.ota_memory import Notebook, Order, with_attempt
from simulator.ota_voice import Voice
from simulator.ota_work import ended_of

log = structlog.get_logger(__name__)
SESSION_S = 86_400
"""The broker keeps commands for so long while the device is away."""


class Ears:
    """`run` it; `wake` is called when the order has changed."""

    def __init__(
        self,
        broker: Broker,
        facts: Facts,
        notebook: Notebook,
        voice: Voice,
        wake: Callable[[], None],
        faults: Faults,
        *,
        announces: bool = True,
        has_clock: bool = True,
        reconnect_max_s: float = 15.0,
    ) -> None:
        self._broker = broker
        self._facts = facts
        self._notebook = notebook
        self._voice = voice
        self._wake = wake
        self._faults = faults
        self._announces = announces
        self._has_clock = has_clock
        self._reconnect_max_s = reconnect_max_s

    async def run(self) -> None:
        """Keeps a connection."""
        rng = random.Random()  # noqa: S311 - jitter
        pauses = backoff(rng, self._reconnect_max_s)
        while True:
            try:
                await self._listen()
            except BrokerUnavailable as error:
                log.debug("ota_connection_ended", device=self._facts.device, error=str(error))
            if self._voice.has_spoken:
                pauses = backoff(rng, self._reconnect_max_s)
            await asyncio.sleep(next(pauses))

    async def _listen(self) -> None:
        name, root = self._facts.device, self._broker.root
        status, session = topics.status(root, name), secrets.token_hex(4)
        will = aiomqtt.Will(status, _status("offline", session), 1, retain=True) if self._announces else None
        async with connect(self._broker, name, self._broker.account(name), will, SESSION_S) as client:
            try:
                # Subscribed first: what runs makes the daemon send again what is missing.
                await client.subscribe(topics.ota_command(root, name), qos=1)
                await self._voice.begin(client)
                if self._announces:
                    await client.deliver(status, _status("online", session), retain=True)
                async for message in client.messages:
                    await self._hear(client, message)
            finally:
                self._voice.end()

    async def _hear(self, client: DeviceClient, message: aiomqtt.Message) -> None:
        payload = message.payload
        # A retained command is somebody's mistake, and would come back at every boot.
        command = None if message.retain else read_command(payload)
        now = datetime.now(UTC) if self._has_clock else None
        decision = decide(command, self._notebook.memory, self._facts, now)
        if decision.verb is Verb.ACCEPT:
            self._faults.strike("heard")
        self._write_down(command, decision)
        if decision.verb is Verb.ACCEPT:
            self._faults.strike("acknowledged")
        client.acknowledge(message)
        log.debug("ota_command_received", device=self._facts.device, verb=decision.verb.value, reason=decision.reason)
        await self._answer(command, decision)

    def _write_down(self, command: Command | None, decision: Decision) -> None:
        order = decision.order
        match decision.verb:
            case Verb.ACCEPT if order is not None:
                self._notebook.change(active=order, last=None, attempts=self._attempts(order))
            case Verb.ALREADY if order is not None:
                self._notebook.change(last=ended_of(order, "succeeded"), attempts=self._attempts(order))
            case Verb.ADOPT if order is not None and (active := self._notebook.memory.active) is not None:
                # What is to be installed is known to be the same; only the way to it is taken over.
                way = {"attempt": order.attempt, "url": order.url, "url_expires_at": order.url_expires_at, "needs_url": False}
                self._notebook.change(active=replace(active, **way), attempts=self._attempts(order))
            case Verb.STOP:
                self._notebook.change_order(cancelled=True)
            case Verb.NOTHING_TO_STOP if isinstance(command, Cancel):
                # A late copy of its update must begin nothing.
                self._notebook.change(attempts=self._attempts(command))
            case _:
                pass

    def _attempts(self, of: Order | Cancel) -> dict[str, int]:
        known = self._notebook.memory.attempt_of(of.deployment_id) or 0
        return with_attempt(self._notebook.memory, of.deployment_id, max(known, of.attempt))

    async def _answer(self, command: Command | None, decision: Decision) -> None:
        match decision.verb, command:
            case Verb.STOP, _:
                self._wake()
            case ((Verb.ACCEPT | Verb.ADOPT), _):
                await self._repeat(command)
                self._wake()
            case ((Verb.REPEAT | Verb.ALREADY), _):
                await self._repeat(command)
            case Verb.REFUSE, Update():
                why = {"error_code": decision.error_code, "error_message": decision.reason}
                await self._voice.report(command.deployment_id, command.attempt, "rejected", **why)
            case ((Verb.NOTHING_TO_STOP | Verb.TOO_LATE), Cancel()):
                word = "cancelled" if decision.verb is Verb.NOTHING_TO_STOP else "too_late"
                await self._voice.report(command.deployment_id, command.attempt, word, error_message=decision.reason)
            case _:
                pass

    async def _repeat(self, command: Command | None) -> None:
        """Says what is so."""
        active, last = self._notebook.memory.active, self._notebook.memory.last
        number = command.deployment_id if isinstance(command, Update | Cancel) else None
        if active is not None and active.deployment_id == number:
            lacks = {"error_code": "url_expired"} if active.needs_url else {}
            phase = "failed" if active.needs_url else active.phase
            await self._voice.report(active.deployment_id, active.attempt, phase, progress_percent=active.percent, **lacks)
        elif last is not None and last.deployment_id == number:
            await self._voice.tell_end(last)
        else:
            await self._voice.state()


def _status(word: str, session: str) -> bytes:
    return msgspec.json.encode({"status": word, "session": session})
