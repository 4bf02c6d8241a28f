"""PURE. The gate at the end of a stage: passed, failed, or too early to say; judged by the devices that could be reached.

docs/rollouts.md has it as a table.
"""

from enum import StrEnum

import msgspec


class Verdict(StrEnum):
    """What the gate says."""

    WAIT = "wait"
    PASS = "pass"  # noqa: S105 - not a password
    ERROR = "error"
    STUCK = "stuck"
    """Nothing failed, and yet the stage can no longer pass: devices refused, or there is none left to judge by."""
    NOBODY = "nobody"
    """No device could be reached."""


class Limits(msgspec.Struct, frozen=True):
    """When a rollout goes on, and when it stops."""

    success_threshold_pct: float = 95.0
    error_threshold_pct: float = 10.0
    min_sample: int = 5
    max_failures: int | None = None


class Counts(msgspec.Struct, frozen=True):
    """Deployments of a stage, counted."""

    eligible: int = 0
    """Without those that were skipped, superseded, cancelled or removed."""
    pending: int = 0
    in_progress: int = 0
    succeeded: int = 0
    faults: int = 0
    rejected: int = 0
    """The device refused."""
    never_reached: int = 0
    """Expired: its time was over before it could begin."""
    unreachable: int = 0
    """Pending, and the device was not seen for unreachable_after."""


class Accepted(msgspec.Struct, frozen=True):
    """What people have said does not count: failures and refusals up to then."""

    faults: int = 0
    rejected: int = 0


class Decision(msgspec.Struct, frozen=True):
    """What the gate says, and the numbers it says it by."""

    verdict: Verdict
    reason: str
    counts: Counts
    limits: Limits
    reachable: int
    finished: int
    """Succeeded or failed."""
    accepted: Accepted | None = None


def judge(counts: Counts, limits: Limits, accepted: Accepted | None = None) -> Decision:
    """Returns what the gate says of a stage.

    Args:
        counts: of its deployments.
        limits: of the rollout.
        accepted: failures that people have accepted; they are taken out of all numbers.
    """
    waived = accepted or Accepted()
    faults, refused = max(0, counts.faults - waived.faults), max(0, counts.rejected - waived.rejected)
    # A fault that was accepted may since have turned into a late success.
    forgiven = counts.faults - faults + counts.rejected - refused
    reachable = counts.eligible - counts.unreachable - counts.never_reached - forgiven
    finished = counts.succeeded + faults
    verdict, reason = _verdict(counts, limits, faults, refused, reachable, accepted is not None)
    return Decision(verdict, reason, counts, limits, reachable, finished, accepted)


def _verdict(counts: Counts, limits: Limits, faults: int, refused: int, reachable: int, accepted: bool) -> tuple[Verdict, str]:
    finished, wanted = counts.succeeded + faults, f"{limits.success_threshold_pct:g} %"
    possible = reachable - faults - refused
    if faults and limits.max_failures is not None and faults >= limits.max_failures:
        return Verdict.ERROR, f"{faults} failed, and max_failures is {limits.max_failures}"
    if faults and finished >= limits.min_sample and 100 * faults >= limits.error_threshold_pct * finished:
        share = f"{100 * faults / finished:.3g} %"
        return (
            Verdict.ERROR,
            f"{faults} of {finished} finished ones failed: {share}, and {limits.error_threshold_pct:g} % is allowed",
        )
    if faults and reachable > 0 and not _reaches(possible, reachable, limits):
        return Verdict.ERROR, f"{faults} of {reachable} failed: {wanted} can no longer succeed"
    if reachable > 0 and _reaches(counts.succeeded, reachable, limits):
        return Verdict.PASS, f"{counts.succeeded} of {reachable} reachable ones succeeded"
    if reachable > 0 and not _reaches(possible, reachable, limits):
        return Verdict.STUCK, f"{refused} of {reachable} refused: {wanted} can no longer succeed"
    if reachable > 0:
        return Verdict.WAIT, f"{counts.succeeded} of {reachable} reachable ones have succeeded so far"
    return _nobody(counts, accepted)


def _nobody(counts: Counts, accepted: bool) -> tuple[Verdict, str]:
    away = counts.unreachable + counts.never_reached
    if away:
        return Verdict.NOBODY, f"nobody reachable: none of the {away} devices that are left was seen"
    if accepted:
        return Verdict.PASS, "all that is left was accepted"
    return Verdict.STUCK, "no device is left to judge by: cancelled, superseded or removed"


def _reaches(count: int, of: int, limits: Limits) -> bool:
    return 100 * count >= limits.success_threshold_pct * of
