"""What one device measures: healthy signals, the faults injected into them, and the numbers of its readings."""

from datetime import datetime, timedelta

from simulator.devices import SimulatedDevice
from simulator.faults import ActiveFault, Fault, Values, apply_faults, spoils
from simulator.reading import Reading, to_milliseconds
from simulator.signals import measure, measure_extra

MILLISECOND = timedelta(milliseconds=1)


class Source:
    """Makes one device's readings, strictly rising in time, numbered from 1 within its boot."""

    def __init__(self, device: SimulatedDevice, seed: int, boot_id: str) -> None:
        self.device = device
        self._seed = seed
        self._boot_id = boot_id
        self._faults: list[ActiveFault] = []
        self._seq = 0
        self._latest: datetime | None = None

    def inject(self, active: ActiveFault) -> None:
        """Starts a fault; a second one of the same kind and metric replaces the first."""
        self.heal(active.fault, active.metric)
        self._faults.append(active)

    def heal(self, fault: Fault | None = None, metric: str | None = None) -> None:
        """Ends one kind of fault (of one metric), or all."""
        keep = [a for a in self._faults if fault is not None and (a.fault, a.metric) != (fault, metric)]
        self._faults = keep

    def read(self, now: datetime) -> Reading:
        """Returns the reading of this moment (aware; cut to milliseconds, moved on if the clock stands still)."""
        at = to_milliseconds(now)
        if self._latest is not None and at <= self._latest:
            at = self._latest + MILLISECOND
        self._latest = at
        self._seq += 1
        reading = self._reading(at)
        self._faults = [active for active in self._faults if active.fault is not Fault.SPIKE]
        return reading

    def _reading(self, at: datetime) -> Reading:
        frozen = {active.since: self._healthy(active.since) for active in self._faults if active.fault is Fault.STUCK}
        return Reading(
            device=self.device.device,
            boot_id=self._boot_id,
            seq=self._seq,
            recorded_at=at,
            values=apply_faults(self._healthy(at), self._faults, at, frozen),
            spoiled=spoils(self._faults),
            truncated=any(active.fault is Fault.BAD_PAYLOAD for active in self._faults),
        )

    def _healthy(self, at: datetime) -> Values:
        device = self.device
        values: Values = {**measure(self._seed, device.device, device.machine_type, at)}
        return values | measure_extra(self._seed, device.device, at) if device.has_extras else values
