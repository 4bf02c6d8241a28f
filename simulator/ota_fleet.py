"""Many devices in one process, each with a connection and a folder of its own; they are switched on and off one by one."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from simulator.connection import Broker
from simulator.ota_device import USUAL, Habits, OtaDevice
from simulator.ota_faults import Faults
from simulator.ota_memory import DeploymentId


class OtaFleet:
    """Devices by name. `async with OtaFleet(...)`, then `switch_on`; leaving switches all off."""

    def __init__(
        self,
        names: Iterable[str],
        hardware: str,
        broker: Broker,
        folder: Path,
        trusted_keys: tuple[bytes, ...] = (),
        faults: Mapping[str, Faults] | None = None,
        habits: Habits = USUAL,
    ) -> None:
        own = faults or {}
        self.devices = {
            name: OtaDevice(name, hardware, broker, folder / name, trusted_keys, own.get(name), habits) for name in names
        }
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> "OtaFleet":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.switch_off()

    def switch_on(self, names: Iterable[str] | None = None) -> None:
        """Boots devices that are off; None: all."""
        for name in self.devices if names is None else names:
            if name not in self._tasks:
                self._tasks[name] = asyncio.create_task(self.devices[name].run(), name=name)

    async def switch_off(self, names: Iterable[str] | None = None) -> None:
        """Switches devices off as a power cut does; None: all.

        Raises:
            Exception: a device had stopped by an error of its own.
        """
        wanted = list(self._tasks if names is None else names)
        gone = [self._tasks.pop(name) for name in wanted if name in self._tasks]
        for task in gone:
            task.cancel()
        for ended in await asyncio.gather(*gone, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended

    def versions(self) -> dict[str, str]:
        """Returns what runs on each device."""
        return {name: device.version for name, device in self.devices.items()}

    def installs(self) -> dict[str, Counter[DeploymentId]]:
        """Returns how often each device has completed the install of each deployment: more than once is a fault."""
        return {name: Counter(each.deployment_id for each in device.installs) for name, device in self.devices.items()}
