"""The devices as the hot path sees them: who may speak, and what is the newest reading that each has stored.

Loaded before CONNECT, reloaded within a second of any change by any writer (`factoryd.caches`). Configuration is replaced in
place, so that what is in flight keeps its device.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

import structlog

from ingest.sequences import Stream

log = structlog.get_logger(__name__)

MAX_STREAMS = 16
"""Boots per device whose sequences are followed: a late message of an older boot is not worth more memory."""
REPLAY_SPREAD = timedelta(seconds=1)
"""Readings replayed this close together were received together."""
NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A device as stored: configuration, and where its stored readings end."""

    id: int
    name: str
    timezone: str | None = None
    interval_s: float | None = None
    via_id: int | None = None
    retired: bool = False
    status: str = "offline"
    last_seen: datetime | None = None
    qos0_seen: bool = False
    clock: str = "ok"
    newest: datetime | None = None
    streams: tuple[tuple[str, Stream], ...] = ()


@dataclass(slots=True, eq=False)
class Device:
    """A device at run time. Changed only by the event loop's thread."""

    id: int
    name: str
    zone: tzinfo | None = None
    interval_s: float | None = None
    via_id: int | None = None
    retired: bool = False
    qos0_seen: bool = False
    clock: str = "ok"
    newest: datetime = NEVER
    """No stored reading of this device is newer; what is newer can be copied without a conflict."""
    last_receipt: datetime = NEVER
    streams: dict[str, Stream] = field(default_factory=dict)
    """By boot, the last used last."""
    last_replay: datetime = NEVER

    def stream(self, boot: str) -> Stream | None:
        """Returns the sequence of a boot, now the last used, or None if it is not followed."""
        stream = self.streams.get(boot)
        if stream is not None and len(self.streams) > 1:
            self.streams[boot] = self.streams.pop(boot)
        return stream

    def begin_stream(self, boot: str, seq: int) -> Stream:
        """Begins the sequence of a boot not followed so far; the longest unused one makes room (its row stays stored)."""
        if len(self.streams) >= MAX_STREAMS:
            del self.streams[next(iter(self.streams))]
        stream = self.streams[boot] = Stream(seq, anew=not boot)
        return stream

    def receipt_time(self, received_at: datetime) -> datetime:
        """Returns the time for a reading that states none: that of its receipt, strictly rising per device."""
        if received_at <= self.last_receipt:
            received_at = self.last_receipt + datetime.resolution
        self.last_receipt = received_at
        return received_at

    def replay_time(self, received_at: datetime) -> datetime:
        """Returns the time for a replayed reading that states none: that of its first receipt; equal ones keep their order."""
        if timedelta() <= self.last_replay - received_at < REPLAY_SPREAD:
            received_at = self.last_replay + datetime.resolution
        self.last_replay = received_at
        return received_at


class Registry:
    """All devices, by name and by id."""

    def __init__(self) -> None:
        self.by_name: dict[str, Device] = {}
        self.by_id: dict[int, Device] = {}

    def __len__(self) -> int:
        return len(self.by_name)

    def load(self, rows: Iterable[DeviceRow]) -> None:
        """Takes new and changed devices; those not in `rows` stay (devices are retired, never deleted)."""
        for row in rows:
            device = self.by_id.get(row.id)
            if device is None:
                device = Device(row.id, row.name, newest=row.newest or NEVER, streams=dict(row.streams))
                device.qos0_seen, device.clock = row.qos0_seen, row.clock
                self.by_id[row.id] = device
            elif device.name != row.name and self.by_name.get(device.name) is device:
                del self.by_name[device.name]  # its old name may be another's by now
            device.name, device.interval_s, device.via_id = row.name, row.interval_s, row.via_id
            device.zone = _zone(row)
            device.retired = row.retired
            self.by_name[row.name] = device


def _zone(row: DeviceRow) -> tzinfo | None:
    """Any writer can put any text there: one bad zone must not keep all other devices from being loaded."""
    try:
        return ZoneInfo(row.timezone) if row.timezone else None
    except (LookupError, ValueError, OSError):  # unknown; not a key; the name of a directory of zones
        log.warning("timezone_ignored", device=row.name, timezone=row.timezone, next="factoryd device edit --timezone")
        return None
