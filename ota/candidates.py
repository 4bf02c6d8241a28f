"""PURE. Deployments that wait, and why; and whose turn it is."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ota.versions import is_newer


class Candidate(NamedTuple):
    """A deployment that waits. `reason`: what the database sees against it, or None."""

    id: int
    device_id: int
    rollout_id: int | None
    priority: int
    version: str
    min_version: str | None
    may_downgrade: bool
    runs: str | None
    reason: str | None


class OpenRollout(NamedTuple):
    """A rollout that may send now, and to how many devices; None: no limit."""

    id: int
    free: int | None


def why_waiting(candidate: Candidate) -> str | None:
    """Returns the first reason why a deployment is not sent, or None: it is sent within a second."""
    if candidate.reason is not None:
        return candidate.reason
    runs, least = candidate.runs, candidate.min_version
    if runs is None or runs == candidate.version:
        return None
    if least is not None and is_newer(least, runs):
        return "min_version"
    return "downgrade" if is_newer(runs, candidate.version) and not candidate.may_downgrade else None


def choose(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Returns those whose turn it is, one per device: the one of the highest priority, of equal ones the newest."""
    best: dict[int, Candidate] = {}
    for candidate in candidates:
        if why_waiting(candidate) is None:
            there = best.get(candidate.device_id)
            if there is None or (there.priority, there.id) < (candidate.priority, candidate.id):
                best[candidate.device_id] = candidate
    return sorted(best.values(), key=lambda each: (-each.priority, each.id))


REASONS: Mapping[str, str] = {
    "cancelling": "it is being cancelled",
    "retired": "the device is retired: factoryd device list",
    "recalled": "the version is recalled: factoryd firmware show",
    "not_released": "the version is a draft: factoryd firmware release",
    "unsigned": "the version is not signed: factoryd firmware sign, or ota.allow_unsigned for trials",
    "revoked_key": "its signature is of a revoked key: factoryd firmware sign, with another key",
    "deprecated": "the version is deprecated: nothing new begins with it",
    "bad_signature": "its signature is not right: factoryd firmware verify",
    "manifest_mismatch": "its signed manifest says something else than the database: factoryd firmware verify",
    "manifest_expired": "its manifest has expired: sign a new version",
    "bad_url": "devices could not fetch it: factoryd firmware verify",
    "hold": "people hold the device back: factoryd deployment unhold",
    "quarantine": "the device failed with this version twice in a row: factoryd deployment unquarantine",
    "wrong_hardware": "the version is for other hardware than the device says it has",
    "min_version": "the device runs an older version than this one can replace: install its min_version first",
    "downgrade": "the device runs a newer version, and this one may not replace newer ones",
    "rollout_scheduled": "its rollout has not started",
    "rollout_paused": "its rollout is paused: factoryd rollout resume",
    "rollout_aborting": "its rollout is being aborted",
    "rollout_aborted": "its rollout was aborted",
    "rollout_completed": "its rollout is over",
    "stage": "its stage of the rollout has not started",
    "window": "the maintenance window of its rollout is closed",
    "slot": "its rollout's max_in_progress is reached",
    "rate": "its rollout's max_per_minute is reached",
    "not_before": "it is not to begin before not_before",
    "backoff": "an attempt failed; the next one begins when the pause is over",
    "other_deployment": "another deployment is under way on the device",
    "offline": "the device is offline; it is sent when the device appears",
    "never_seen": "the device has never been seen; it is sent when the device appears",
}
"""In words, with what to do next."""
