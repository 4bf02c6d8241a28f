"""ota_rollouts with their stages, as `ota` sees them: read under lock, with the numbers counted from rows, and written back."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from psycopg.types.json import Jsonb

from ota.deployment import IRREVERSIBLE
from ota.gate import Counts, Decision, Limits
from ota.rollout import Rollout, RolloutStatus, Stage, StageStatus

LIVE = "d.status IN ('pending', 'in_progress')"
ROLLOUT = f"""
    SELECT r.id, r.name, r.status, r.success_threshold_pct, r.error_threshold_pct, r.min_sample, r.max_failures, r.soak_seconds,
        r.on_error, r.on_stage_success, r.start_at, r.end_at, r.pause_reason, r.started_at, r.finished_at,
        EXISTS (SELECT FROM ota_deployments d WHERE d.rollout_id = r.id AND {LIVE})
    FROM ota_rollouts r WHERE r.id = %(rollout)s FOR NO KEY UPDATE OF r"""  # noqa: S608 - our constants
STAGES = """
    SELECT stage_no, name, status, started_at, soak_until, decided_at, decision
    FROM ota_rollout_stages WHERE rollout_id = %(rollout)s ORDER BY stage_no"""
# The numbers of the view ota_rollout_counts, and who cannot be reached: for as long as the rollout says, since its stage began.
COUNTS = """
    SELECT count(*) FILTER (WHERE d.outcome IS NULL
            OR d.outcome NOT IN ('skipped', 'superseded', 'cancelled', 'removed')),
        count(*) FILTER (WHERE d.status = 'pending'),
        count(*) FILTER (WHERE d.status = 'in_progress'),
        count(*) FILTER (WHERE d.status = 'completed'),
        count(*) FILTER (WHERE d.outcome IN ('failed', 'timed_out', 'rolled_back', 'version_mismatch')),
        count(*) FILTER (WHERE d.outcome = 'rejected'),
        count(*) FILTER (WHERE d.outcome = 'expired'),
        count(*) FILTER (WHERE d.status = 'pending' AND v.status = 'offline'
            AND greatest(v.last_seen, t.started_at) <= %(now)s - make_interval(secs => r.unreachable_after_seconds))
    FROM ota_deployments d JOIN devices v ON v.id = d.device_id JOIN ota_rollouts r ON r.id = d.rollout_id
        JOIN ota_rollout_stages t ON t.rollout_id = d.rollout_id AND t.stage_no = d.stage_no
    WHERE d.rollout_id = %(rollout)s AND d.stage_no = %(stage)s"""
WRITE_ROLLOUT = """
    UPDATE ota_rollouts SET status = %s, pause_reason = %s, start_at = %s, started_at = %s, finished_at = %s WHERE id = %s"""
WRITE_STAGE = """
    UPDATE ota_rollout_stages SET status = %s, started_at = %s, soak_until = %s, decided_at = %s, decision = %s
    WHERE rollout_id = %s AND stage_no = %s"""
# A locked row has its turn with the next step. What writes its flash is let finish.
CANCEL = f"""
    UPDATE ota_deployments SET cancel_requested_at = %(now)s, cancel_reason = %(reason)s WHERE id IN (
        SELECT d.id FROM ota_deployments d WHERE d.rollout_id = %(rollout)s AND {LIVE} AND d.cancel_requested_at IS NULL
            AND d.phase <> ALL (%(irreversible)s) ORDER BY d.id FOR NO KEY UPDATE SKIP LOCKED)"""  # noqa: S608 - our constants

Statement = tuple[str, Mapping[str, object] | Sequence[object]]


def rollout_of(row: Sequence[Any], stages: Sequence[Sequence[Any]]) -> Rollout:
    """Returns the noun of a row of ROLLOUT with those of STAGES, nothing counted yet."""
    number, name, status, success, error, sample, failures, soak_s, on_error, on_success, *moments, live = row
    start_at, end_at, pause_reason, started_at, finished_at = moments
    return Rollout(
        id=number,
        name=name,
        status=RolloutStatus(status),
        stages=tuple(_stage(each) for each in stages),
        limits=Limits(success, error, sample, failures),
        soak_s=soak_s,
        on_error=on_error,
        on_stage_success=on_success,
        start_at=start_at,
        end_at=end_at,
        pause_reason=pause_reason,
        started_at=started_at,
        finished_at=finished_at,
        live=live,
    )


def counted(rollout: Rollout, counts: Sequence[int]) -> Rollout:
    """Returns a rollout with the numbers of its current stage, a row of COUNTS."""
    current = rollout.current
    stages = tuple(
        msgspec.structs.replace(stage, counts=Counts(*counts)) if stage is current else stage for stage in rollout.stages
    )
    return msgspec.structs.replace(rollout, stages=stages)


def changes(before: Rollout, after: Rollout, now: datetime) -> Iterator[Statement]:
    """Yields what writes the difference; and, of one that is being aborted, what cancels its deployments."""
    if _row(before) != _row(after):
        yield WRITE_ROLLOUT, [*_row(after), after.id]
    for old, new in zip(before.stages, after.stages, strict=True):
        if old != new:
            decision = Jsonb(msgspec.to_builtins(new.decision)) if new.decision is not None else None
            moments = [new.started_at, new.soak_until, new.decided_at]
            yield WRITE_STAGE, [new.status.value, *moments, decision, after.id, new.stage_no]
    if after.status is RolloutStatus.ABORTING:
        reason = f"rollout {after.id} aborted" + (f": {after.pause_reason}" if after.pause_reason else "")
        stopped = [phase.value for phase in IRREVERSIBLE]
        yield CANCEL, {"now": now, "rollout": after.id, "reason": reason, "irreversible": stopped}


def _row(rollout: Rollout) -> list[object]:
    moments = [rollout.start_at, rollout.started_at, rollout.finished_at]
    return [rollout.status.value, rollout.pause_reason, *moments]


def _stage(row: Sequence[Any]) -> Stage:
    number, name, status, started_at, soak_until, decided_at, decision = row
    return Stage(
        stage_no=number,
        name=name,
        status=StageStatus(status),
        started_at=started_at,
        soak_until=soak_until,
        decided_at=decided_at,
        decision=_decision(decision),
    )


def _decision(value: object) -> Decision | None:
    """What somebody else has written there is none of ours."""
    try:
        return msgspec.convert(value, Decision) if value is not None else None
    except msgspec.ValidationError:
        return None
