"""PURE. What a rollout says, and whether it can be so."""

from dataclasses import dataclass
from datetime import datetime

from ota.windows import BadWindow, read_windows
from storage.refusals import InvalidInput
from storage.threshold_fields import Selector

LONGEST_S = 30 * 86_400
MAX_NAME = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """A rollout as people ask for it, mostly by the names and in the units of its columns."""

    version: str
    selector: Selector
    percents: tuple[float, ...]
    """Cumulative, the last is 100."""
    actor: str
    """Login."""
    canary: Selector | None = None
    name: str | None = None
    """None: made of version and selector."""
    max_in_progress: int | None = None
    max_per_minute: int | None = None
    success_threshold_pct: float = 95.0
    error_threshold_pct: float = 10.0
    min_sample: int = 5
    max_failures: int | None = None
    soak_seconds: float = 0.0
    unreachable_after_seconds: float = 86_400.0
    on_error: str = "pause"
    on_stage_success: str = "next"
    verify_mode: str = "version"
    allow_downgrade: bool = False
    window: str | None = None
    start_at: datetime | None = None
    end_at: datetime | None = None


TERM_COLUMNS = (
    "max_in_progress",
    "max_per_minute",
    "success_threshold_pct",
    "error_threshold_pct",
    "min_sample",
    "max_failures",
    "soak_seconds",
    "unreachable_after_seconds",
    "on_error",
    "on_stage_success",
    "verify_mode",
    "allow_downgrade",
    "window",
    "start_at",
    "end_at",
)
"""Fields of Terms that are columns of ota_rollouts as they are."""
WORDS = {"on_error": ("pause", "abort"), "on_stage_success": ("next", "pause"), "verify_mode": ("version", "report")}


def check_terms(terms: Terms, now: datetime) -> None:
    """Raises InvalidInput, with the first thing that cannot be."""
    if terms.name is not None and not (0 < len(terms.name) <= MAX_NAME and terms.name.isprintable()):
        raise InvalidInput(f"name: 1 to {MAX_NAME} printable characters fit")
    for field in ("max_in_progress", "max_per_minute", "min_sample", "max_failures"):
        value = getattr(terms, field)
        if value is not None and not 0 < value < 2**31:
            raise InvalidInput(f"{_option(field)}: {value} is none, it must be at least 1")
    for field in ("success_threshold_pct", "error_threshold_pct"):
        if not 0 <= getattr(terms, field) <= 100:
            raise InvalidInput(f"{_option(field)}: must be from 0 to 100 percent")
    for field in ("soak_seconds", "unreachable_after_seconds"):
        if not 0 <= getattr(terms, field) <= LONGEST_S:
            raise InvalidInput(f"{_option(field)}: must be from 0 s to {LONGEST_S // 86_400} days")
    for field, words in WORDS.items():
        if getattr(terms, field) not in words:
            raise InvalidInput(f"{_option(field)}: {getattr(terms, field)[:40]!r} is none: use {' or '.join(words)}")
    _check_times(terms, now)


def _check_times(terms: Terms, now: datetime) -> None:
    begin = max(now, terms.start_at or now)
    if terms.end_at is not None and terms.end_at <= begin:
        raise InvalidInput("end-at: the rollout would be over before it begins")
    if terms.window is None:
        return
    try:
        opens = read_windows(terms.window).next_opening(begin)
    except BadWindow as error:
        raise InvalidInput(f"window: {error}") from error
    if terms.end_at is not None and opens >= terms.end_at:
        raise InvalidInput(f"window: opens at {opens:%Y-%m-%d %H:%M}Z, when the rollout is over; give a later end-at")


def _option(field: str) -> str:
    return field.removesuffix("_pct").removesuffix("_seconds").replace("_", "-")
