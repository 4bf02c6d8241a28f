"""PURE. Bodies on the wire: reports and hellos in, commands out (docs/mqtt.md)."""

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar

import msgspec

from ota.deployment import Command, Phase
from ota.reports import Ending, Hello, Report, Work

MAX_BYTES = 16_384
MAX_TEXT = 1000
MAX_WORD = 100
MAX_NUMBER = 2**53
MAX_ATTEMPT = 1_000_000
DEVICE_PHASES = frozenset(Phase) - {Phase.QUEUED, Phase.BACKOFF, Phase.SENT, Phase.DONE}
ENDINGS = frozenset(Ending)
WORDS: dict[str, Phase | Ending] = {**{word.value: word for word in DEVICE_PHASES}, **{word.value: word for word in ENDINGS}}
STATUSES: dict[str, Phase | Ending | None] = {
    "pending": Phase.ACKNOWLEDGED,
    "in_progress": None,
    "completed": Ending.SUCCEEDED,
    "failed": Ending.FAILED,
}


class BadBody(ValueError):
    """A report or a state that cannot be read; the text says why."""


class _Report(msgspec.Struct):
    deployment_id: int | str
    status: str | None = None
    phase: str | None = None
    attempt: int | None = None
    seq: int | None = None
    progress_percent: int | float | None = None
    bytes_done: int | float | None = None
    version: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    retryable: bool | None = None
    retry_after_s: int | float | None = None


class _Work(msgspec.Struct):
    deployment_id: int | str
    attempt: int | None = None
    phase: str | None = None
    outcome: str | None = None
    progress_percent: int | float | None = None
    error_code: str | None = None
    error_message: str | None = None


class _State(msgspec.Struct):
    version: str | None = None
    hardware: str | None = None
    boot_id: str | int | None = None
    seq: int | None = None
    last_manifest_seq: int | None = None
    active: _Work | None = None
    last: _Work | None = None


Wire = TypeVar("Wire")
_decode_report = msgspec.json.Decoder(_Report).decode
_decode_state = msgspec.json.Decoder(_State).decode


def read_report(payload: bytes) -> Report:
    """Returns what a device reports.

    Raises:
        BadBody: not a report.
    """
    wire = _read(payload, _decode_report, "a report")
    said = WORDS.get(wire.phase) if wire.phase is not None else None
    return Report(
        deployment_id=_number(wire.deployment_id),
        said=said if said is not None else _said(wire.phase, wire.status),
        attempt=_counted(wire.attempt, "attempt", MAX_ATTEMPT),
        seq=_counted(wire.seq, "seq"),
        progress_percent=_percent(wire.progress_percent),
        bytes_done=_bytes(wire.bytes_done),
        version=_text(wire.version, MAX_WORD),
        error_code=_text(wire.error_code, MAX_WORD),
        error_message=_text(wire.error_message, MAX_TEXT),
        retryable=wire.retryable,
        retry_after_s=_seconds(wire.retry_after_s),
    )


def read_state(payload: bytes, *, retained: bool, repeated: bool) -> Hello | None:
    """Returns what runs on a device, or None for an empty message: somebody cleared the retained one.

    Args:
        payload: as it came.
        retained: the broker had kept it.
        repeated: the broker says that it may have been delivered before.

    Raises:
        BadBody: not a state.
    """
    if not payload:
        return None
    wire = _read(payload, _decode_state, "a state")
    boot_id = _text(str(wire.boot_id) if wire.boot_id is not None else None, MAX_WORD)
    return Hello(
        version=_text(wire.version, 50),
        live=not retained,
        rebooted=boot_id is None and not retained and not repeated,
        hardware=_text(wire.hardware, MAX_WORD),
        boot_id=boot_id,
        seq=_counted(wire.seq, "seq"),
        manifest_seq=_counted(wire.last_manifest_seq, "last_manifest_seq"),
        active=_work(wire.active),
        last=_work(wire.last),
    )


class Order(NamedTuple):
    """Who is to install what."""

    device: str
    deployment_id: int
    attempt: int
    version: str


def update(
    order: Order,
    url: str,
    url_expires_at: datetime | None,
    now: datetime,
    expires_at: datetime,
    facts: Mapping[str, object],
) -> bytes:
    """Returns the command to install; `facts`: size_bytes, sha256 and the manifest's envelope, as far as there are any."""
    body: dict[str, object] = {
        "v": 1,
        "type": Command.UPDATE.value,
        "device": order.device,
        "deployment_id": order.deployment_id,
        "attempt": order.attempt,
        "version": order.version,
        "firmware_url": url,
    }
    if url_expires_at is not None:
        body["url_expires_at"] = _time(url_expires_at)
    return msgspec.json.encode(body | {"issued_at": _time(now), "expires_at": _time(expires_at)} | dict(facts))


def cancel(device: str, deployment_id: int, attempt: int, reason: str, now: datetime) -> bytes:
    """Returns the command to stop; also for a deployment that we do not know."""
    return msgspec.json.encode(
        {
            "v": 1,
            "type": Command.CANCEL.value,
            "device": device,
            "deployment_id": deployment_id,
            "attempt": attempt,
            "reason": reason[:200],
            "issued_at": _time(now),
        }
    )


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _read(payload: bytes, decode: Callable[[bytes], Wire], what: str) -> Wire:
    if len(payload) > MAX_BYTES:
        raise BadBody(f"{len(payload)} bytes; {what} has at most {MAX_BYTES}")
    try:
        return decode(payload)
    except (msgspec.ValidationError, msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadBody(f"not {what}: {error}") from error


def _said(phase: str | None, status: str | None) -> Phase | Ending | None:
    if phase is not None:
        known = WORDS.get(phase.strip().lower())
        if known is not None:
            return known
        raise BadBody(f"phase {phase[:40]!r} is none of {', '.join(sorted([*DEVICE_PHASES, *Ending]))}")
    if status is None:
        raise BadBody("neither status nor phase")
    word = status.strip().lower()
    if word not in STATUSES:
        raise BadBody(f"status {status[:40]!r} is none of {', '.join(STATUSES)}")
    return STATUSES[word]


def _work(wire: _Work | None) -> Work | None:
    if wire is None:
        return None
    said = _said(wire.phase or wire.outcome, "in_progress")
    return Work(
        _number(wire.deployment_id),
        _counted(wire.attempt, "attempt", MAX_ATTEMPT),
        said,
        _percent(wire.progress_percent),
        _text(wire.error_code, MAX_WORD),
        _text(wire.error_message, MAX_TEXT),
    )


def _number(value: int | str) -> int:
    if isinstance(value, str) and not (value.isascii() and value.isdecimal() and len(value) < 17):
        raise BadBody(f"deployment_id {value[:40]!r} is not a number")
    number = int(value)
    if not 0 < number < MAX_NUMBER:
        raise BadBody(f"deployment_id {number} is out of range")
    return number


def _counted(value: int | None, name: str, most: int = MAX_NUMBER) -> int | None:
    if value is not None and not 0 <= value <= most:
        raise BadBody(f"{name} {value} is out of range")
    return value


def _percent(value: float | None) -> int | None:
    return min(100, max(0, int(value))) if value is not None else None


def _bytes(value: float | None) -> int | None:
    return min(MAX_NUMBER, int(value)) if value is not None and value >= 0 else None


def _seconds(value: float | None) -> float | None:
    return min(86_400.0, float(value)) if value is not None and math.isfinite(value) and value > 0 else None


def _text(value: str | None, limit: int) -> str | None:
    """NUL is replaced: PostgreSQL's text refuses it."""
    if value is None:
        return None
    text = value.replace("\0", "\ufffd").strip()[:limit]
    return text or None
