"""The reference device of docs/ota-device-guide.md: what firmware has to do for updates over the air, by MQTT and HTTP alone.

A boot reads everything from the folder, so a power cut is an exception that ends it. The first message of every boot says
what runs; new firmware is confirmed only after the broker has heard of it.
"""

import asyncio
import secrets
from pathlib import Path
from typing import NamedTuple

import structlog

from simulator.connection import Broker
from simulator.ota_command import Facts
from simulator.ota_download import CHUNK_BYTES
from simulator.ota_ears import Ears
from simulator.ota_faults import Faults, PowerCut
from simulator.ota_memory import Notebook
from simulator.ota_slots import Install, Slots
from simulator.ota_voice import Voice
from simulator.ota_work import Reboot, Work

log = structlog.get_logger(__name__)


class Habits(NamedTuple):
    """How a device goes about it."""

    factory_version: str = "1.0.0"
    slot_bytes: int = 64 * 1024 * 1024
    chunk_bytes: int = CHUNK_BYTES
    """Of a download, at a time."""
    pace_s: float = 0.0
    """Pause after every chunk and every step."""
    reconnect_max_s: float = 15.0
    has_clock: bool = True
    """False: nothing ever expires for it."""
    announces: bool = True
    """Also says `online` and, by its will, `offline`; False: somebody else does."""


USUAL = Habits()


class OtaDevice:
    """One device; `run` it in a TaskGroup, and cancel that to switch it off. A new one on the same folder goes on."""

    def __init__(
        self,
        name: str,
        hardware: str,
        broker: Broker,
        folder: Path,
        trusted_keys: tuple[bytes, ...] = (),
        faults: Faults | None = None,
        habits: Habits = USUAL,
    ) -> None:
        """Args: as they say; `trusted_keys` are raw ed25519 public keys: without any it takes unsigned firmware, too."""
        self.name = name
        self.faults = faults or Faults()
        self.boots = 0
        self._hardware = hardware
        self._broker = broker
        self._folder = folder
        self._trusted_keys = trusted_keys
        self._habits = habits
        self._cut = asyncio.Event()

    @property
    def version(self) -> str:
        """What runs, as the disk says."""
        return self._slots().running.version

    @property
    def installs(self) -> tuple[Install, ...]:
        """Every install that was completed, oldest first."""
        return self._slots().installs

    def cut_power(self) -> None:
        """Lets the power fail now; it comes back at once."""
        self._cut.set()

    async def run(self) -> None:
        """Boots again and again, until cancelled."""
        while True:
            try:
                async with asyncio.TaskGroup() as tasks:
                    self._boot(tasks)
                    await self._lose_power()  # here, and not as a task: a group takes back its cancellation of its body only
            except* (PowerCut, Reboot) as ending:
                log.debug("ota_device_stopped", device=self.name, why=type(ending.exceptions[0]).__name__)
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError  # both at once: the group tells of the errors only

    def _boot(self, tasks: asyncio.TaskGroup) -> None:
        self._cut.clear()
        self.boots += 1
        habits, notebook, slots = self._habits, Notebook(self._folder), self._slots()
        slots.boot(trial_fails=self.faults.boot_failed)
        facts = Facts(self.name, self._hardware, slots.running.version, habits.slot_bytes, self._trusted_keys)
        voice = Voice(self._broker.root, facts, notebook, slots, self.faults, secrets.token_hex(4))
        work = Work(
            self._folder,
            notebook,
            slots,
            voice,
            self.faults,
            habits.slot_bytes,
            habits.pace_s,
            habits.chunk_bytes,
            habits.has_clock,
        )
        ears = Ears(
            self._broker,
            facts,
            notebook,
            voice,
            work.wake,
            self.faults,
            announces=habits.announces,
            has_clock=habits.has_clock,
            reconnect_max_s=habits.reconnect_max_s,
        )
        for each in (ears.run(), work.run()):
            tasks.create_task(each, name=f"{self.name} boot {self.boots}")

    async def _lose_power(self) -> None:
        await self._cut.wait()
        raise PowerCut("by hand")

    def _slots(self) -> Slots:
        return Slots(self._folder, self._habits.factory_version)
