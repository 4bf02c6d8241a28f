"""PURE. The nouns of ingest: what a message turns into. Times are aware UTC; metrics in the units of docs/data-model.md."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, NamedTuple

import msgspec

METRICS = ("temperature", "humidity", "pressure", "vibration", "power_consumption", "rpm")
"""The six metrics that are columns; any other number is kept in `extra`."""

Extra = dict[str, float | int | bool | str]


class Reason(StrEnum):
    """Why a reading was quarantined: a closed set, so that it can be a metric label."""

    EMPTY = "empty"
    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    TOO_DEEP = "too_deep"
    WRONG_SHAPE = "wrong_shape"
    TOO_MANY_READINGS = "too_many_readings"
    TOO_MANY_METRICS = "too_many_metrics"
    NO_METRICS = "no_metrics"
    BAD_METRIC_NAME = "bad_metric_name"
    AMBIGUOUS_METRIC = "ambiguous_metric"
    BAD_TYPE = "bad_type"
    NOT_FINITE = "not_finite"
    OUT_OF_RANGE = "out_of_range"
    BAD_TIME = "bad_time"
    NAIVE_TIMESTAMP = "naive_timestamp"
    TOO_LATE = "too_late"
    BAD_SEQUENCE = "bad_sequence"
    BAD_DEVICE_ID = "bad_device_id"
    DEVICE_MISMATCH = "device_mismatch"
    UNKNOWN_DEVICE = "unknown_device"
    RETIRED_DEVICE = "retired_device"
    CONFLICT = "conflict"
    NO_PARTITION = "no_partition"
    REFUSED = "refused"


class Wire(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The shape most messages have; whatever does not fit it goes the long way (`ingest.decoding.decode`)."""

    recorded_at: Annotated[datetime, msgspec.Meta(tz=True)] | int | float | None = None
    temperature: float | None = None
    humidity: float | None = None
    pressure: float | None = None
    vibration: float | None = None
    power_consumption: float | None = None
    rpm: float | None = None
    seq: int | None = None
    boot_id: str | None = None


class Sample(Wire, forbid_unknown_fields=True, gc=False):
    """A decoded reading before it belongs to a device and a moment.

    `recorded_at` is the moment to store it at, or None: then it is the time of receipt, less `before`.
    """

    recorded_at: datetime | None = None
    extra: Extra | None = None
    before: timedelta | None = None
    """Clock unset: how much older than the newest reading of its message. None for a reading that states no time."""
    device: str | None = None
    """Only where a source names the device inside the payload."""
    index: int = 0
    """Place in its message, from 0."""


class Reading(NamedTuple):
    """One row of sensor_readings, in the order of the COPY."""

    device_id: int
    temperature: float | None
    humidity: float | None
    pressure: float | None
    vibration: float | None
    power_consumption: float | None
    rpm: float | None
    recorded_at: datetime
    received_at: datetime
    extra: Extra | None


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """A reading, or a whole message, that cannot be stored: kept with its bytes, never raised."""

    reason: Reason
    detail: str
    payload: bytes


class Quarantined(msgspec.Struct, frozen=True, gc=False):
    """One row of the quarantine."""

    received_at: datetime
    topic: str
    device: str | None
    reason: Reason
    detail: str
    payload: bytes
    content_type: str | None
    qos: int


class Verdict(StrEnum):
    """What became of a reading: the right-hand side of the accounting identity."""

    STORED = "stored"
    MERGED = "merged"
    DUPLICATE = "duplicate"
    QUARANTINED = "quarantined"
    RETURNED = "returned"
    """Not settled when leadership was lost: never acknowledged, so the broker delivers it again."""
