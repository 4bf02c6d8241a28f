"""PURE. Step 2 of a reading's walk: bytes → samples or `Rejected(reason)`. Every rule of docs/mqtt.md, telemetry payload.

Two ways lead to the same result (a property test holds them together): `decode_wire`, typed and fast, for the common shape;
`decode`, complete, for everything that `decode_wire` refuses.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import Any

from config.settings import IngestSettings
from ingest import payload as payloads
from ingest.clocks import NO_CLOCK_BEFORE, BadTime, TimeWindow, read_time
from ingest.layouts import Layout, unwrap
from ingest.reading import METRICS, Extra, Reason, Rejected, Sample

MAX_DEPTH = 4
FLATTEN_DEPTH = 2
MAX_SEQ = 2**63 - 1
MAX_NAME = 100
RESERVED = frozenset({"device_id", "seq", "boot_id"})
DEVICE_TIME = "device_recorded_at"
"""Key in `extra` for the time a device claimed, where it was too far ahead of ours."""

_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:-")
_COLUMNS = frozenset(METRICS)


@dataclass(slots=True)
class Decoded:
    """What one message held. `ignored` counts values that carry no number (text, arrays, too deep)."""

    samples: list[Sample] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    refused_sequences: list[tuple[str | None, int]] = field(default_factory=list)
    """Boot and seq of rejected readings: they arrived, and must not look lost."""
    ignored: int = 0
    clock_unset: bool = False
    clock_ahead: bool = False


class _Unfit(ValueError):
    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def decode(
    payload: bytes,
    content_type: str | None,
    *,
    device: str,
    window: TimeWindow,
    received_at: datetime,
    limits: IngestSettings,
    layout: Layout,
    zone: tzinfo | None = None,
) -> Decoded:
    """Decodes one message completely.

    Args:
        payload: as received.
        content_type: MQTT 5 Content Type, if any.
        device: the device that the topic names; "" if the layout's `device_field` names it.
        window: readings before `oldest` are too late; after `newest` their clock is ahead.
        received_at: aware UTC.
        limits: sizes and counts.
        layout: where time, device and metrics are.
        zone: where the device stands, for local times without an offset.
    """
    if len(payload) > limits.max_payload_bytes:
        detail = f"{len(payload)} bytes; the limit is {limits.max_payload_bytes}"
        return Decoded(rejected=[Rejected(Reason.TOO_LARGE, detail, payload[: limits.max_payload_bytes])])
    try:
        parts = payloads.read_parts(
            payload, content_type, max_parts=limits.max_readings_per_message, max_depth=MAX_DEPTH + _wrapping(layout)
        )
    except payloads.BadPayload as error:
        return Decoded(rejected=[Rejected(error.reason, str(error), payload)])
    items = [(item, named, raw, index) for index, (value, raw) in enumerate(parts) for item, named in unwrap(layout, value)]
    if not items:  # whatever comes in is accounted for: a message without a reading, too
        return Decoded(rejected=[Rejected(Reason.NO_METRICS, "an empty list of readings", payload)])
    if len(items) > limits.max_readings_per_message:
        too_many = payloads.too_many(len(items), limits.max_readings_per_message)
        return Decoded(rejected=[Rejected(too_many.reason, str(too_many), payload)])
    message = _Message(device, window, limits, layout, layout.zone or zone)
    for item in items:
        message.add(*item)
    message.place_unset(received_at)
    return message.decoded


def _wrapping(layout: Layout) -> int:
    return 2 if layout.format == "telegraf" else 0


class _Message:
    """The state of decoding one message."""

    def __init__(self, device: str, window: TimeWindow, limits: IngestSettings, layout: Layout, zone: tzinfo | None) -> None:
        self.decoded = Decoded()
        self._device = device
        self._window = window
        self._limits = limits
        self._layout = layout
        self._zone = zone
        self._unset: list[tuple[Sample, datetime, bytes]] = []

    def add(self, item: Any, named: str | None, raw: bytes, index: int) -> None:
        """Decodes one reading; what cannot be stored is rejected alone, with its own bytes."""
        try:
            self._add_one(item, named, raw, index)
        except (_Unfit, BadTime) as error:
            self.decoded.rejected.append(Rejected(error.reason, str(error), raw))
            self._note_sequence(item)

    def _note_sequence(self, item: Any) -> None:
        if isinstance(item, dict):
            try:
                seq, boot = _seq(item), _boot_id(item)
            except _Unfit:
                return
            if seq is not None:
                self.decoded.refused_sequences.append((boot, seq))

    def place_unset(self, received_at: datetime) -> None:
        """Readings of a device without a clock: their spacing is kept, the newest is now."""
        if not self._unset:
            return
        self.decoded.clock_unset = True
        newest = max(stated for _, stated, _ in self._unset)
        for sample, stated, raw in self._unset:
            sample.before = newest - stated
            if received_at - sample.before < self._window.oldest:
                self.decoded.rejected.append(Rejected(Reason.TOO_LATE, _too_late(stated), raw))
            else:
                self.decoded.samples.append(sample)
        self.decoded.samples.sort(key=lambda sample: sample.index)

    def _add_one(self, item: Any, named: str | None, raw: bytes, index: int) -> None:
        if not isinstance(item, dict):
            raise _Unfit(Reason.WRONG_SHAPE, f"a reading must be an object, not {_kind(item)}")
        self._check_device(item)
        sample = Sample(seq=_seq(item), boot_id=_boot_id(item), index=index, device=named)
        self._fill(sample, item)
        stated = self._stated_time(item)
        if stated is None:
            self.decoded.samples.append(sample)
        elif stated < NO_CLOCK_BEFORE:
            self._unset.append((sample, stated, raw))
        else:
            self._place(sample, stated)

    def _check_device(self, item: dict[Any, Any]) -> None:
        stated = item.get("device_id")
        if stated is not None and self._device and stated != self._device:
            raise _Unfit(Reason.DEVICE_MISMATCH, f"payload says device {str(stated)[:80]!r}, its topic says {self._device!r}")

    def _stated_time(self, item: dict[Any, Any]) -> datetime | None:
        for name in self._layout.time_fields:
            if (value := item.get(name)) is not None:
                return read_time(value, self._zone)
        return None

    def _place(self, sample: Sample, stated: datetime) -> None:
        if stated < self._window.oldest:
            raise _Unfit(Reason.TOO_LATE, _too_late(stated))
        if stated > self._window.newest:
            self.decoded.clock_ahead = True
            sample.extra = {**(sample.extra or {}), DEVICE_TIME: stated.isoformat()}
        else:
            sample.recorded_at = stated
        self.decoded.samples.append(sample)

    def _fill(self, sample: Sample, item: dict[Any, Any]) -> None:
        extra: Extra = {}
        seen = set()
        for name, value in self._numbers(item):
            if name in seen:
                raise _Unfit(Reason.AMBIGUOUS_METRIC, f"metric {name!r} occurs twice after flattening and renaming")
            seen.add(name)
            if name in _COLUMNS:
                setattr(sample, name, float(value))
            else:
                extra[name] = value
        if not seen:
            raise _Unfit(Reason.NO_METRICS, "no number in this reading")
        if len(extra) > self._limits.max_extra_metrics:
            detail = f"{len(extra)} metrics beyond the columns; the limit is {self._limits.max_extra_metrics}"
            raise _Unfit(Reason.TOO_MANY_METRICS, detail)
        sample.extra = extra or None

    def _numbers(self, item: dict[Any, Any]) -> Iterator[tuple[str, float | int | bool]]:
        skipped = RESERVED.union(self._layout.time_fields)
        values = item.get("values")
        if isinstance(values, dict):
            yield from self._flat({k: v for k, v in item.items() if k != "values" and k not in skipped}, "", 1)
            yield from self._flat(values, "", 1)
        else:
            yield from self._flat({k: v for k, v in item.items() if k not in skipped}, "", 1)

    def _flat(self, values: dict[Any, Any], prefix: str, depth: int) -> Iterator[tuple[str, float | int | bool]]:
        for key, value in values.items():
            name = f"{prefix}{key}"
            if isinstance(value, dict) and depth < FLATTEN_DEPTH:
                yield from self._flat(value, f"{name}_", depth + 1)
            elif value is not None:
                name = self._layout.rename.get(name, name)
                number = self._number(name, value)
                if number is not None:
                    yield name, number

    def _number(self, name: str, value: Any) -> float | int | bool | None:
        if isinstance(value, bool) and name not in _COLUMNS:
            _check_name(name)
            return value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            _check_name(name)
            number = _finite(name, value)
            factor = self._layout.scale.get(name)
            return number if factor is None else _scaled(name, number, factor)
        if name in _COLUMNS:
            raise _Unfit(Reason.BAD_TYPE, f"{name} must be a number, not {_kind(value)}")
        self.decoded.ignored += 1
        return None


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= MAX_NAME or not _NAME_CHARACTERS.issuperset(name):
        raise _Unfit(Reason.BAD_METRIC_NAME, f"metric name {name[:120]!r} must match [A-Za-z0-9_.:-]{{1,{MAX_NAME}}}")


def _finite(name: str, value: float | int) -> float | int:
    try:
        if math.isfinite(value):
            return value
    except OverflowError:
        pass  # an integer beyond any double
    if isinstance(value, float):
        raise _Unfit(Reason.NOT_FINITE, f"{name} is NaN or infinite")
    raise _Unfit(Reason.OUT_OF_RANGE, f"{name} does not fit a double")


def _scaled(name: str, value: float | int, factor: float) -> float:
    product = float(value) * factor
    if math.isfinite(product):
        return product
    raise _Unfit(Reason.OUT_OF_RANGE, f"{name} does not fit a double once scaled by {factor}")


def _seq(item: dict[Any, Any]) -> int | None:
    seq = item.get("seq")
    if seq is None:
        return None
    if isinstance(seq, int) and not isinstance(seq, bool) and 0 <= seq <= MAX_SEQ:
        return seq
    raise _Unfit(Reason.BAD_SEQUENCE, f"seq must be a whole number from 0 to 2^63-1, not {str(seq)[:40]!r}")


def _boot_id(item: dict[Any, Any]) -> str | None:
    boot = item.get("boot_id")
    if boot is None:
        return None
    if isinstance(boot, (str, int)) and not isinstance(boot, bool) and is_boot_id(str(boot)):
        return str(boot)
    raise _Unfit(Reason.BAD_SEQUENCE, f"boot_id must be 1 to {MAX_NAME} printable characters, not {str(boot)[:40]!r}")


def is_boot_id(text: str) -> bool:
    """Tells whether `text` may name one boot of a device."""
    return 1 <= len(text) <= MAX_NAME and text.isprintable()


def _too_late(stated: datetime) -> str:
    return f"{stated.isoformat()} is older than readings are kept (retention.readings_days)"


def _kind(value: object) -> str:
    names = {bool: "a boolean", str: "text", int: "a number", float: "a number", list: "an array", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
