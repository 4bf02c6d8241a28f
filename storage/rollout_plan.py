"""Which devices a rollout would reach, in which stage, and which ones not, and why."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg.types.json import Jsonb

from ota.eligibility import REASONS, Eligibility, Facts, Target, divide
from ota.stages import PlannedStage, plan_stages
from storage.refusals import Conflict, NotFound
from storage.rollout_fields import Terms
from storage.threshold_fields import Selector, selector_text

VERSION = """
    SELECT id, version, hardware, min_version, downgrade, status::text, recalled_at IS NOT NULL
    FROM ota_versions WHERE version = %s"""
SELECTED = """
    SELECT d.id, d.device_id, s.hardware, s.version, d.retired_at IS NOT NULL, s.hold_reason IS NOT NULL,
        coalesce(s.faults, 0), s.faulty_version_id,
        (SELECT r.name FROM ota_deployments o JOIN ota_rollouts r ON r.id = o.rollout_id
            WHERE o.device_id = d.id AND o.status IN ('pending', 'in_progress') ORDER BY o.id LIMIT 1)
    FROM devices d LEFT JOIN ota_device_state s ON s.device_id = d.id WHERE selector_matches(%s, d) ORDER BY d.id"""
CANARY = "SELECT d.device_id FROM devices d WHERE selector_matches(%s, d)"


class Plan(NamedTuple):
    """What a rollout would be."""

    target: Target
    salt: str
    stages: Sequence[PlannedStage]
    eligibility: Eligibility


def make_plan(connection: psycopg.Connection, terms: Terms, salt: str) -> Plan:
    """Returns the stages with their devices.

    Raises:
        NotFound: no such version.
        Conflict: the version cannot be sent, or there is no device for it.
    """
    target = _target(connection, terms)
    rows = connection.execute(SELECTED, [Jsonb(dict(terms.selector))]).fetchall()
    eligibility = divide((_facts(row) for row in rows), target)
    if not eligibility.eligible:
        raise Conflict(_nobody(terms, eligibility))
    canary = _canary(connection, terms.canary, eligibility) if terms.canary is not None else ()
    return Plan(target, salt, plan_stages(eligibility.eligible, salt, terms.percents, canary), eligibility)


def _target(connection: psycopg.Connection, terms: Terms) -> Target:
    row = connection.execute(VERSION, [terms.version]).fetchone()
    if row is None:
        raise NotFound(
            f"there is no firmware {terms.version}; factoryd firmware list shows all, factoryd firmware add makes one"
        )
    number, version, hardware, min_version, downgrade, status, recalled = row
    if recalled:
        raise Conflict(f"firmware {version} is recalled; factoryd firmware show {version} says why")
    if status != "released":
        remedy = "factoryd firmware release comes first" if status == "draft" else "add a newer one"
        raise Conflict(f"firmware {version} is {'a draft' if status == 'draft' else status}; {remedy}")
    return Target(number, version, frozenset(hardware), min_version, downgrade or terms.allow_downgrade)


def _facts(row: Sequence[Any]) -> Facts:
    return Facts(*row)


def _canary(connection: psycopg.Connection, selector: Selector, eligibility: Eligibility) -> set[str]:
    matching = {row[0] for row in connection.execute(CANARY, [Jsonb(dict(selector))])}
    canary = matching & set(eligibility.eligible)
    if not canary:
        raise Conflict(f"canary: none of the {len(eligibility.eligible)} eligible devices is {selector_text(selector)}")
    return canary


def _nobody(terms: Terms, eligibility: Eligibility) -> str:
    selector = selector_text(terms.selector)
    if not eligibility.excluded:
        return f"no active device is {selector}; factoryd device list shows all"
    reasons = "; ".join(f"{len(names)}: {REASONS[reason]}" for reason, names in eligibility.excluded.items())
    return f"firmware {terms.version} is for none of the devices that are {selector}: {reasons}"
