"""PURE. Which devices a simulated factory has: `plan_devices` makes the list, deterministic in its arguments."""

from dataclasses import dataclass

from simulator.profiles import PROFILES
from simulator.reading import Encoding

MIX = ("press", "cnc", "conveyor", "sensor", "cnc", "oven", "compressor", "sensor")
"""Types in the order they are handed out."""
MSGPACK_PLACE, GATEWAY_PLACE, EVERY = 7, 13, 20
"""Of every 20 machines the eighth speaks MessagePack and the fourteenth is a gateway."""
CHILDREN_PER_GATEWAY = 3


@dataclass(frozen=True, slots=True)
class SimulatedDevice:
    """One device as it must be registered with factoryd."""

    device: str
    machine_type: str
    location: str
    interval_s: float
    via: str | None = None
    """The gateway that speaks for it."""
    encoding: Encoding = Encoding.JSON
    has_extras: bool = False
    """Also reports oil_level and door_open."""


def plan_devices(machines: int, interval_s: float, prefix: str = "") -> tuple[SimulatedDevice, ...]:
    """Returns the devices of a factory with this many machines; the children of gateways come on top, after their gateway.

    Args:
        machines: MQTT clients, at least 1.
        interval_s: seconds between two readings of a device.
        prefix: put before every device id, e.g. "hall-2.".
    """
    devices: list[SimulatedDevice] = []
    counts: dict[str, int] = {}
    for position in range(machines):
        place = position % EVERY
        kind = "gateway" if place == GATEWAY_PLACE else MIX[position % len(MIX)]
        encoding = Encoding.MSGPACK if place == MSGPACK_PLACE else Encoding.JSON
        devices.append(_device(kind, counts, prefix, interval_s, encoding=encoding))
        if kind == "gateway":
            gateway = devices[-1].device
            devices += [_device("plc", counts, prefix, interval_s, via=gateway) for _ in range(CHILDREN_PER_GATEWAY)]
    return tuple(devices)


def _device(
    kind: str,
    counts: dict[str, int],
    prefix: str,
    interval_s: float,
    *,
    via: str | None = None,
    encoding: Encoding = Encoding.JSON,
) -> SimulatedDevice:
    counts[kind] = number = counts.get(kind, 0) + 1
    machine_type = {"gateway": "sensor", "plc": "conveyor"}.get(kind, kind)
    return SimulatedDevice(
        device=f"{prefix}{kind}-{number:02d}",
        machine_type=machine_type,
        location=PROFILES[machine_type].location,
        interval_s=interval_s,
        via=via,
        encoding=encoding,
        has_extras=kind in {"press", "compressor"},
    )
