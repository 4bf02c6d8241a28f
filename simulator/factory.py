"""A simulated factory: its machines in one TaskGroup, started one after another; faults and outages on demand."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from simulator.connection import Broker
from simulator.devices import SimulatedDevice
from simulator.faults import ActiveFault, Fault
from simulator.ledger import Ledger
from simulator.machine import Conduct, Machine, happens
from simulator.outages import Outages
from simulator.sources import Source
from simulator.statistics import Statistics


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """A fault that comes by itself."""

    after_s: float
    device: str
    fault: Fault
    metric: str | None = None
    lasts_s: float | None = None
    """None = to the end of the simulation."""
    rate: float = 1.0


@dataclass(frozen=True, slots=True)
class SimulationPlan:
    """Everything `run_simulation` needs."""

    broker: Broker
    devices: tuple[SimulatedDevice, ...]
    """As made by `devices.plan_devices`; a device with `via` belongs to the gateway of that id."""
    seed: int = 1
    duration_s: float | None = None
    """None = until stopped."""
    stagger_s: float | None = None
    """The machines start evenly spread over this time; None = over one interval, at most 5 s."""
    outages: Outages | None = None
    buffer_readings: int = 10_000
    reconnect_max_s: float = 15.0
    version: str = "1.4.2"
    ledger: Ledger | None = None
    faults: tuple[PlannedFault, ...] = ()


class Factory:
    """The machines of a plan. Make it inside the event loop, `run` it, read `statistics` at any time.

    Raises:
        LookupError: a device's gateway, account or machine type, or a planned fault's device, does not exist.
    """

    def __init__(self, plan: SimulationPlan, stop: asyncio.Event | None = None) -> None:
        self.statistics = Statistics()
        self._plan = plan
        self._stop = stop or asyncio.Event()
        conduct = Conduct(
            broker=plan.broker,
            seed=plan.seed,
            version=plan.version,
            outages=plan.outages,
            buffer_readings=plan.buffer_readings,
            reconnect_max_s=plan.reconnect_max_s,
            ledger=plan.ledger,
        )
        self._machines = [Machine(group, conduct, self.statistics, self._stop) for group in _groups(plan.devices)]
        for machine in self._machines:
            plan.broker.account(machine.name)
        for planned in plan.faults:
            self._source(planned.device)

    async def run(self) -> None:
        """Runs until `stop` or the plan's duration; every machine publishes offline before it returns."""
        async with asyncio.TaskGroup() as tasks:
            for machine, delay_s in zip(self._machines, self._delays(), strict=True):
                tasks.create_task(machine.run(delay_s), name=machine.name)
            for planned in self._plan.faults:
                tasks.create_task(self._play(planned), name=f"{planned.device} {planned.fault}")
            if await happens(self._stop, self._plan.duration_s) is False:
                self.stop()

    def stop(self) -> None:
        """Asks all machines to leave in good order; `run` then returns."""
        self._stop.set()

    def inject(self, device: str, fault: Fault, *, metric: str | None = None, rate: float = 1.0) -> None:
        """Starts a fault on a device now.

        Args:
            device: a device of the plan, also one behind a gateway.
            fault: see Fault.
            metric: which metric STUCK, NAN and SPIKE hit; None = the device's first.
            rate: how many times faster than described OVERHEATING and BEARING_WEAR develop.

        Raises:
            LookupError: no such device.
        """
        self._source(device).inject(ActiveFault(fault, datetime.now(UTC), metric, rate))

    def heal(self, device: str, fault: Fault | None = None, metric: str | None = None) -> None:
        """Ends a fault of a device, or all of them.

        Raises:
            LookupError: no such device.
        """
        self._source(device).heal(fault, metric)

    def cut(self, device: str, seconds: float, *, abrupt: bool = True) -> None:
        """Makes the machine that speaks for a device leave now and stay away; abrupt: the broker publishes its will.

        Raises:
            LookupError: no such device.
        """
        self._machine(device).cut(seconds, abrupt=abrupt)

    def _machine(self, device: str) -> Machine:
        for machine in self._machines:
            if device in machine.sources:
                return machine
        names = ", ".join(name for machine in self._machines for name in machine.sources)
        raise LookupError(f"no device {device!r} in this factory; there are {names}")

    def _source(self, device: str) -> Source:
        return self._machine(device).sources[device]

    def _delays(self) -> Iterator[float]:
        spread = self._plan.stagger_s
        for position, machine in enumerate(self._machines):
            over = min(machine.interval_s, 5.0) if spread is None else spread
            yield over * position / len(self._machines)

    async def _play(self, planned: PlannedFault) -> None:
        if await happens(self._stop, planned.after_s):
            return
        self.inject(planned.device, planned.fault, metric=planned.metric, rate=planned.rate)
        if planned.lasts_s is not None and not await happens(self._stop, planned.lasts_s):
            self.heal(planned.device, planned.fault, planned.metric)


async def run_simulation(
    plan: SimulationPlan,
    *,
    stop: asyncio.Event | None = None,
    started: Callable[[Factory], None] | None = None,
) -> Statistics:
    """Runs a factory until `stop` is set or the plan's duration is over, and returns what it did.

    Args:
        plan: what to run.
        stop: set it for an orderly end (births are taken back); cancelling instead lets the brokers publish the wills.
        started: called once with the factory, so that the caller can read statistics and inject faults.

    Raises:
        LookupError: the plan names a gateway, account, machine type or device that does not exist.
    """
    factory = Factory(plan, stop)
    if started is not None:
        started(factory)
    await factory.run()
    return factory.statistics


def _groups(devices: tuple[SimulatedDevice, ...]) -> list[list[SimulatedDevice]]:
    groups = {device.device: [device] for device in devices if device.via is None}
    for device in devices:
        if device.via is None:
            continue
        if device.via not in groups:
            raise LookupError(f"device {device.device!r} goes via {device.via!r}, which is not a machine of the plan")
        groups[device.via].append(device)
    return list(groups.values())
