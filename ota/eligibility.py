"""PURE. Which of the selected devices a rollout is for, and why it is not for the others."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ota.versions import is_newer


class Target(NamedTuple):
    """What a version asks for."""

    id: int
    version: str
    hardware: frozenset[str]
    """Empty: any."""
    min_version: str | None
    may_downgrade: bool


class Facts(NamedTuple):
    """What is known of a device; None: it has not said so."""

    number: int
    device: str
    hardware: str | None = None
    version: str | None = None
    retired: bool = False
    held: bool = False
    faults: int = 0
    faulty_version_id: int | None = None
    other_rollout: str | None = None
    """The name of another rollout that has a live deployment for it."""


REASONS: Mapping[str, str] = {
    "retired": "the device is retired",
    "wrong_hardware": "the version is for other hardware",
    "already_installed": "the device runs this version",
    "min_version": "the device runs an older version than this one can replace: install its min_version first",
    "downgrade": "the device runs a newer version: --allow-downgrade replaces it all the same",
    "hold": "people hold the device back: factoryd deployment unhold",
    "quarantine": "the device failed with this version twice in a row: factoryd deployment unquarantine",
    "other_rollout": "another rollout has not finished with the device: wait, or abort that one",
}
"""Why a device is left out, in words."""
NOTES: Mapping[str, str] = {
    "unknown_hardware": "the device has not said which hardware it is; it refuses what is not for it",
    "unknown_version": "the device has not said which version it runs",
}
"""What is not known of a device that is not left out."""

QUARANTINED_AT = 2
"""Failures in a row with the same version."""


def why_excluded(facts: Facts, target: Target) -> str | None:
    """Returns the first reason why a device is left out (REASONS), or None: it is eligible."""
    runs, hardware = facts.version, facts.hardware
    reasons = {
        "retired": facts.retired,
        "wrong_hardware": bool(target.hardware) and hardware is not None and hardware not in target.hardware,
        "already_installed": runs == target.version,
        "min_version": runs is not None and target.min_version is not None and is_newer(target.min_version, runs),
        "downgrade": runs is not None and is_newer(runs, target.version) and not target.may_downgrade,
        "hold": facts.held,
        "quarantine": facts.faults >= QUARANTINED_AT and facts.faulty_version_id == target.id,
        "other_rollout": facts.other_rollout is not None,
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


class Eligibility(NamedTuple):
    """The selected devices, divided."""

    eligible: Mapping[str, Facts]
    excluded: Mapping[str, list[str]]
    """Names of devices by reason."""
    notes: Mapping[str, list[str]]
    """Names of eligible devices by what is not known of them."""


def divide(selected: Iterable[Facts], target: Target) -> Eligibility:
    """Returns who is eligible, and why the others are not."""
    eligible: dict[str, Facts] = {}
    excluded: dict[str, list[str]] = {}
    notes: dict[str, list[str]] = {}
    for facts in sorted(selected, key=lambda each: each.device):
        reason = why_excluded(facts, target)
        if reason is not None:
            excluded.setdefault(reason, []).append(facts.device)
            continue
        eligible[facts.device] = facts
        if target.hardware and facts.hardware is None:
            notes.setdefault("unknown_hardware", []).append(facts.device)
        if facts.version is None:
            notes.setdefault("unknown_version", []).append(facts.device)
    return Eligibility(eligible, excluded, notes)
