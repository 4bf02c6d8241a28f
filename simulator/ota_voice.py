"""What one device says: reports and states, each with the next number, over as many connections as it takes."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
import structlog

from mqtt import topics
from simulator.connection import BrokerUnavailable, DeviceClient, PublishRefused
from simulator.ota_command import Facts
from simulator.ota_faults import Faults
from simulator.ota_memory import DeploymentId, Ended, Notebook, Order
from simulator.ota_slots import Slots

log = structlog.get_logger(__name__)


class Voice:
    """Speaks once it is given a connection; one message at a time, so that numbers leave in order."""

    def __init__(self, root: str, facts: Facts, notebook: Notebook, slots: Slots, faults: Faults, boot_id: str) -> None:
        self._root = root
        self._facts = facts
        self._notebook = notebook
        self._slots = slots
        self._faults = faults
        self._boot_id = boot_id
        self._client: DeviceClient | None = None
        self._ready = asyncio.Event()
        self._turn = asyncio.Lock()
        self.has_spoken = False
        """The broker has heard something in this boot."""

    async def begin(self, client: DeviceClient) -> None:
        """Says what runs on a new connection, before anything else, and lets others speak."""
        await self._state(client)
        self._client = client
        self.has_spoken = True
        self._ready.set()

    def end(self) -> None:
        """The connection is gone."""
        self._client = None
        self._ready.clear()

    async def state(self) -> None:
        """Says what runs; if the connection breaks, the next one begins with it anyway."""
        client = await self._connected()
        try:
            async with self._turn:
                await self._state(client)
        except BrokerUnavailable:
            self._give_up(client)

    async def report(self, deployment_id: DeploymentId, attempt: int, phase: str, **more: object) -> None:
        """Reports, and returns when the broker has it."""
        lost = self._faults.silent or (phase == "succeeded" and self._faults.loses_success)
        while not lost:
            client = await self._connected()
            try:
                async with self._turn:
                    body = {
                        "deployment_id": deployment_id,
                        "attempt": attempt,
                        "seq": self._notebook.next_seq(),
                        "phase": phase,
                    }
                    await self._say(client, topics.ota_progress(self._root, self._facts.device), body | more)
            except BrokerUnavailable:
                self._give_up(client)
            else:
                return

    async def tell_end(self, ended: Ended) -> None:
        """Gives the terminal report, and remembers that the broker has it."""
        more: dict[str, object] = {"progress_percent": ended.percent, "version": self._slots.running.version}
        await self.report(ended.deployment_id, ended.attempt, ended.outcome, **more | _why(ended))
        last = self._notebook.memory.last
        if last is not None and (last.deployment_id, last.attempt) == (ended.deployment_id, ended.attempt):
            self._notebook.change(last=msgspec.structs.replace(last, told=True))

    def _give_up(self, client: DeviceClient) -> None:
        """A connection that does not acknowledge is as good as none."""
        client.vanish()
        if client is self._client:
            self.end()

    async def _connected(self) -> DeviceClient:
        while (client := self._client) is None:
            await self._ready.wait()
        return client

    async def _state(self, client: DeviceClient) -> None:
        memory = self._notebook.memory
        body: dict[str, object] = {
            "v": 1,
            "version": self._slots.running.version,
            "hardware": self._facts.hardware,
            "boot_id": self._boot_id,
            "slot": self._slots.slot,
            "confirmed": self._slots.confirmed,
            "last_manifest_seq": memory.manifest_seq,
            "seq": self._notebook.next_seq(),
            "capabilities": {"resume": True, "signed": bool(self._facts.trusted_keys)},
            "ts": datetime.now(UTC).isoformat(),
        }
        if (active := memory.active) is not None:
            body["active"] = _work(active) | {"phase": active.phase, "progress_percent": active.percent}
        if (last := memory.last) is not None:
            body["last"] = _work(last) | {"outcome": last.outcome} | _why(last)
        await self._say(client, topics.ota_state(self._root, self._facts.device), body, retain=True)

    async def _say(self, client: DeviceClient, topic: str, body: Mapping[str, object], *, retain: bool = False) -> None:
        try:
            await client.deliver(topic, msgspec.json.encode(body), retain=retain)
        except PublishRefused as error:
            log.warning("ota_message_refused", device=self._facts.device, topic=topic, error=str(error))


def _work(work: Order | Ended) -> dict[str, object]:
    return {"deployment_id": work.deployment_id, "attempt": work.attempt}


def _why(ended: Ended) -> dict[str, object]:
    return {"error_code": ended.error_code, "error_message": ended.error_message} if ended.error_code is not None else {}
