"""PURE. Rollouts in words: plans, stages, and what holds them up."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from factoryd.commands.tables import shown
from ota.eligibility import NOTES, REASONS
from storage.rollout_plan import Plan
from storage.rollout_views import RolloutView, StageView

NAMES_SHOWN = 8


def plan_lines(plan: Plan) -> Iterator[str]:
    """Yields what a rollout would do: each stage with its devices, and who is left out."""
    for stage in plan.stages:
        yield f"stage {stage.name:6}  {_devices(len(stage.devices)):12}  {names_text(stage.devices)}"
    for reason, names in plan.eligibility.excluded.items():
        yield f"left out {len(names)}: {REASONS[reason]}: {names_text(names)}"
    for note, names in plan.eligibility.notes.items():
        yield f"note: {_devices(len(names))}: {NOTES[note]}: {names_text(names)}"


def plan_facts(plan: Plan) -> dict[str, Any]:
    """Returns a plan for programs, with every device."""
    return {
        "version": plan.target.version,
        "devices": len(plan.eligibility.eligible),
        "stages": [
            {"stage_no": each.stage_no, "name": each.name, "cum_percent": each.cum_percent, "devices": list(each.devices)}
            for each in plan.stages
        ],
        "excluded": dict(plan.eligibility.excluded),
        "notes": dict(plan.eligibility.notes),
    }


def names_text(names: Sequence[str]) -> str:
    """Returns the first names of many."""
    more = f" … and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(map(shown, names[:NAMES_SHOWN])) + more


def stage_facts(stage: StageView) -> dict[str, Any]:
    """Returns a stage as a row."""
    decision = stage.decision or {}
    counts = decision.get("counts") or {}
    return {
        **stage._asdict(),
        "progress": round(stage.progress, 1),
        "ended": stage.ended,
        "unreachable": counts.get("unreachable"),
        "verdict": decision.get("verdict"),
        "reason": decision.get("reason"),
    }


def rollout_facts(view: RolloutView) -> dict[str, Any]:
    """Returns a rollout for programs."""
    facts: Mapping[str, Any] = view._asdict()
    return {**facts, "stages": [stage_facts(stage) for stage in view.stages]}


def standing_text(view: RolloutView) -> str:
    """Returns how a rollout stands, in one line."""
    done, of, faults = view.total("succeeded"), view.total("planned"), view.total("faults")
    failed = f", {faults} failed" if faults else ""
    why = f": {shown(view.pause_reason)}" if view.pause_reason and view.status != "completed" else ""
    return f"rollout {view.id} {shown(view.name)}: {view.status}, {done} of {of} succeeded{failed}{why}"


def stage_text(stage: StageView) -> str:
    """Returns how a stage stands, in one line."""
    parts = {
        "waiting": stage.pending,
        "under way": stage.in_progress,
        "succeeded": stage.succeeded,
        "failed": stage.faults,
        "refused": stage.rejected,
        "never reached": stage.never_reached,
        "taken out": stage.excluded,
    }
    counts = ", ".join(f"{count} {word}" for word, count in parts.items() if count)
    return f"stage {stage.name:6}  {stage.status:8}  {stage.ended}/{stage.planned}  {counts}".rstrip()


def _devices(count: int) -> str:
    return f"{count} device" if count == 1 else f"{count} devices"
