"""PURE. What devices say: progress reports, and hellos with the version that runs."""

from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from ota.deployment import Phase, Word


class Ending(Word):
    """Words with which a device ends its work, or answers a cancel."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    ROLLED_BACK = "rolled_back"
    TOO_LATE = "too_late"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One progress report."""

    deployment_id: int
    said: Phase | Ending | None
    """None: in progress, and the device has no finer word."""
    attempt: int | None = None
    """None: the current one."""
    seq: int | None = None
    """None: ordered by phase."""
    progress_percent: int | None = None
    bytes_done: int | None = None
    version: str | None = None
    """Running now."""
    error_code: str | None = None
    error_message: str | None = None
    retryable: bool | None = None
    retry_after_s: float | None = None


class Work(NamedTuple):
    """What a device says it does, or did last."""

    deployment_id: int
    attempt: int | None
    said: Phase | Ending | None
    progress_percent: int | None
    error_code: str | None = None
    error_message: str | None = None


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """What runs on a device now: its ota/state, or a birth with a version."""

    version: str | None
    live: bool
    """Said now; False: retained, found at the broker."""
    rebooted: bool
    """Said in another boot than the last one that we know (`in_view_of`); without a boot id: said now, the first time."""
    snapshot: bool = True
    """A whole ota/state; False: a birth with a version, which says nothing about work."""
    hardware: str | None = None
    boot_id: str | None = None
    seq: int | None = None
    manifest_seq: int | None = None
    active: Work | None = None
    last: Work | None = None


def in_view_of(hello: Hello, known_boot: str | None) -> Hello:
    """Returns a hello that knows whether it tells of a new boot: its boot id is another than the last one we know."""
    return replace(hello, rebooted=hello.boot_id != known_boot) if hello.boot_id is not None else hello


class Verdict(Word):
    """What became of a report; every one gets one."""

    ACCEPTED = "accepted"
    NO_CHANGE = "no_change"
    DUPLICATE = "duplicate_or_old"
    STALE_ATTEMPT = "stale_attempt"
    FUTURE_ATTEMPT = "future_attempt"
    PHASE_REGRESSION = "phase_regression"
    AFTER_TERMINAL = "after_terminal"
    NOT_SENT = "not_sent"
    UNKNOWN_DEPLOYMENT = "unknown_deployment"
    FOREIGN_DEPLOYMENT = "foreign_deployment"
    UNKNOWN_DEVICE = "unknown_device"
    MALFORMED = "malformed"
    LIMITED = "limited"
