"""PURE. A simulated reading and its bytes on the wire, as docs/mqtt.md describes telemetry."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import msgspec

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
MAX_BATCH = 150
"""Readings in one array: with six metrics and two extras well below the 64 KiB factoryd accepts."""


class Encoding(StrEnum):
    """How a device writes its telemetry."""

    JSON = "json"
    MSGPACK = "msgpack"


CONTENT_TYPES = {Encoding.JSON: None, Encoding.MSGPACK: "application/msgpack"}
"""The MQTT 5 Content Type sent with each encoding; JSON is the default and needs none."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading of one device; `seq` counts readings, so an array of n readings takes n numbers."""

    device: str
    boot_id: str
    seq: int
    recorded_at: datetime
    values: Mapping[str, float | bool]
    spoiled: bool = False
    """A fault makes it unstorable: it travels alone, so that it takes no good neighbour with it."""
    truncated: bool = False
    """The message is cut off in the middle."""


def encode(readings: Sequence[Reading], encoding: Encoding) -> bytes:
    """Returns the payload: an object for one reading, an array for several.

    JSON carries RFC 3339 times, MessagePack epoch numbers: factoryd reads both. NaN is written as the bare word, as
    many devices do, though JSON has no such thing.
    """
    bodies = [_body(reading, encoding) for reading in readings]
    content = bodies[0] if len(bodies) == 1 else bodies
    if encoding is Encoding.MSGPACK:
        payload = msgspec.msgpack.encode(content)
    else:
        payload = json.dumps(content, separators=(",", ":")).encode()
    return payload[: len(payload) * 2 // 3] if readings[0].truncated else payload


def batch_length(waiting: Sequence[Reading]) -> int:
    """Returns how many of the oldest waiting readings may go in one message; 0 if none wait."""
    for position, reading in enumerate(waiting):
        if reading.spoiled:
            return max(position, 1)
    return min(len(waiting), MAX_BATCH)


def to_milliseconds(at: datetime) -> datetime:
    """Returns the time cut to milliseconds, so that what the ledger says is what was sent."""
    return at.astimezone(UTC).replace(microsecond=at.microsecond // 1000 * 1000)


def _body(reading: Reading, encoding: Encoding) -> dict[str, object]:
    return {
        "recorded_at": _time(reading.recorded_at, encoding),
        **reading.values,
        "boot_id": reading.boot_id,
        "seq": reading.seq,
    }


def _time(at: datetime, encoding: Encoding) -> str | int:
    """Milliseconds where they say it all, else microseconds: factoryd tells epoch units by their size."""
    whole = at.microsecond % 1000 == 0
    if encoding is Encoding.MSGPACK:
        micros = (at - EPOCH) // MICROSECOND
        return micros // 1000 if whole else micros
    return at.astimezone(UTC).isoformat(timespec="milliseconds" if whole else "microseconds").replace("+00:00", "Z")
