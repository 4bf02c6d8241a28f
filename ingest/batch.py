"""A batch: what one transaction stores, and the deliveries that are acknowledged when it has.

Filled by `ingest.intake` while the writer is busy with the one before (natural group commit).
"""

from collections.abc import Container
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from ingest.devices import Device
from ingest.flood import Refusals
from ingest.payload import read_parts
from ingest.reading import Quarantined, Reading, Reason
from ingest.sequences import Stream, note_without_boot
from mqtt.connection import Deliveries
from mqtt.session import Publish


class Part(NamedTuple):
    """Where a reading came from: one element of a message that held several."""

    publish: Publish
    place: int


Origin = Publish | Part
"""The message a reading came from; a bare one held just this reading."""


class Stranger(NamedTuple):
    """A message of a device that the cache does not know: the database is asked once per batch."""

    publish: Publish
    received_at: datetime
    replayed: bool


@dataclass(slots=True, eq=False)
class Batch:
    """Readings by write path, and all that goes into the same transaction.

    `fresh` rows are newer than everything stored for their device, in rising order: they cannot conflict. `rest` may repeat or
    complete a stored row. The lists of origins run parallel to them.
    """

    refused: Refusals
    fresh: list[Reading] = field(default_factory=list)
    fresh_origins: list[Origin] = field(default_factory=list)
    rest: list[Reading] = field(default_factory=list)
    rest_origins: list[Origin] = field(default_factory=list)
    rest_after: list[int] = field(default_factory=list)
    """By place in `rest`: how many fresh ones had come before."""
    latest: dict[int, Reading] = field(default_factory=dict)
    streams: dict[tuple[int, str], Stream] = field(default_factory=dict)
    """By device and boot: the live streams that this batch's messages belong to."""
    sequences: dict[tuple[int, str], Stream] = field(default_factory=dict)
    """By device and boot: the stream as it was after the last message of this batch."""
    flagged: set[Device] = field(default_factory=set)
    heard: set[int] = field(default_factory=set)
    strangers: dict[str, list[Stranger]] = field(default_factory=dict)
    deliveries: list[Deliveries] = field(default_factory=list)
    replayed: list[int] = field(default_factory=list)
    duplicates: int = 0
    messages: int = 0
    payload_bytes: int = 0
    oldest: datetime | None = None
    closed: bool = False

    @property
    def readings(self) -> int:
        """Readings that this batch accounts for; a stranger's message counts as one until it is decoded."""
        waiting = sum(map(len, self.strangers.values())) if self.strangers else 0
        return len(self.fresh) + len(self.rest) + len(self.refused) + self.duplicates + waiting

    def close(self) -> None:
        """Keeps the streams as they are: what later batches note must not be stored before what they hold is."""
        for key, stream in self.streams.items():
            if key not in self.sequences:
                self.sequences[key] = stream.hand_over()
        self.closed = True

    def note(self, device_id: int, boot: str, stream: Stream, seq: int) -> None:
        """Told of a sequence number that a message of this batch carries, after the live stream has noted it."""
        self.streams[device_id, boot] = stream
        if self.closed:  # a stranger's message, decoded late: the live stream may be ahead of what this batch may store
            kept = self.sequences.get((device_id, boot))
            if kept is None:
                self.sequences[device_id, boot] = stream.hand_over()
                return
            _ = kept.note(seq) if boot else note_without_boot(kept, seq)
            if stream == kept:
                stream.hand_over()  # this batch tells the ledger all of it
            elif not stream.anew:
                stream.before = kept  # what the ledger will know by then


def in_order(batch: Batch, rest: Container[int], fresh: Container[int] | None = None) -> list[Reading]:
    """Returns readings in order of arrival; those of one message by time, so that where a batch ends means nothing.

    Args:
        batch: closed.
        rest: which of `batch.rest` are wanted, by place.
        fresh: which of `batch.fresh`; default: all.
    """
    arrivals: list[tuple[int, int, Reading, Origin]] = [
        (place, 1, reading, origin)
        for place, (reading, origin) in enumerate(zip(batch.fresh, batch.fresh_origins, strict=True))
        if fresh is None or place in fresh
    ]
    arrivals += [
        (batch.rest_after[place], 0, reading, origin)
        for place, (reading, origin) in enumerate(zip(batch.rest, batch.rest_origins, strict=True))
        if place in rest
    ]
    arrivals.sort(key=itemgetter(0, 1))
    ordered: list[Reading] = []
    for _, group in groupby(arrivals, key=_message):
        readings = [arrival[2] for arrival in group]
        ordered += sorted(readings, key=_evaluation_time) if len(readings) > 1 else readings
    return ordered


def _message(arrival: tuple[int, int, Reading, Origin]) -> int:
    origin = arrival[3]
    return id(origin.publish if isinstance(origin, Part) else origin)


def _evaluation_time(reading: Reading) -> datetime:
    return min(reading.recorded_at, reading.received_at)


def quarantined_from(
    publish: Publish, received_at: datetime, device: str | None, reason: Reason, detail: str, payload: bytes
) -> Quarantined:
    """Returns the quarantine's row for a reading of this message; NUL, which PostgreSQL's text refuses, is replaced."""
    topic, content_type = publish.topic.replace("\0", "\ufffd"), publish.content_type
    kind = content_type.replace("\0", "\ufffd") if content_type else None
    return Quarantined(received_at, topic, device, reason, detail, payload, kind, int(publish.qos))


def quarantined_row(reading: Reading, origin: Origin, device: str | None, reason: Reason, detail: str) -> Quarantined:
    """Returns the quarantine's row for one decoded reading, with its own bytes."""
    publish, payload = origin_bytes(origin)
    return quarantined_from(publish, reading.received_at, device, reason, detail, payload)


def origin_bytes(origin: Origin) -> tuple[Publish, bytes]:
    """Returns the message a reading came from and the bytes of just this reading."""
    if not isinstance(origin, Part):
        return origin, origin.payload
    publish, place = origin
    parts = read_parts(publish.payload, publish.content_type, max_parts=1 << 30, max_depth=1 << 10)
    return publish, parts[place][1]


def merge_latest(old: Reading, new: Reading) -> Reading:
    """Returns the newest value of each metric, where `new` is the newer reading of the same device."""
    if new.extra is None and old.extra is None and _is_whole(new):
        return new
    values = [after if after is not None else before for before, after in zip(old[1:7], new[1:7], strict=True)]
    extra = {**(old.extra or {}), **(new.extra or {})} or None
    return Reading._make((new.device_id, *values, new.recorded_at, new.received_at, extra))


def _is_whole(reading: Reading) -> bool:
    _, a, b, c, d, e, f, _, _, _ = reading
    return not (a is None or b is None or c is None or d is None or e is None or f is None)
