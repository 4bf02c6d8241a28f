"""PURE. What becomes of a rollout: by time and by the gate (`advance`), and by people."""

from datetime import datetime, timedelta

from msgspec.structs import replace

from ota.gate import Accepted, Decision, Verdict, judge
from ota.rollout import OVER, SENDING, Rollout, RolloutStatus, Stage, StageStatus


class NotPossible(Exception):
    """The rollout does not stand so that this could be done; the text says what to do instead."""


def advance(rollout: Rollout, now: datetime) -> Rollout:
    """Returns what a rollout is at `now`, by one step; itself if nothing has changed."""
    if rollout.status is RolloutStatus.ABORTING:
        return rollout if rollout.live else _over(rollout, RolloutStatus.ABORTED, now)
    if rollout.status in OVER:
        return rollout
    if rollout.end_at is not None and rollout.end_at <= now:
        return _over(rollout, RolloutStatus.COMPLETED, now)
    if rollout.status is RolloutStatus.SCHEDULED:
        return rollout if rollout.start_at is not None and rollout.start_at > now else _begin(rollout, now)
    return _go_on(rollout, now) if rollout.status in SENDING else rollout


def pause(rollout: Rollout, reason: str) -> Rollout:
    """Sends nothing new; what is under way goes on.

    Raises:
        NotPossible: there is nothing to pause.
    """
    if rollout.status not in SENDING | {RolloutStatus.SCHEDULED}:
        raise NotPossible(f"rollout {rollout.id} is {rollout.status}: there is nothing to pause")
    return replace(rollout, status=RolloutStatus.PAUSED, pause_reason=reason)


def resume(rollout: Rollout, now: datetime, *, accept_failures: bool) -> Rollout:
    """Goes on where it was paused, if the gate lets it.

    Args:
        rollout: with its numbers.
        now: our clock.
        accept_failures: what has failed or refused so far is taken out of the numbers.

    Raises:
        NotPossible: it is not paused, or its stage has failed.
    """
    if rollout.status is not RolloutStatus.PAUSED:
        raise NotPossible(f"rollout {rollout.id} is {rollout.status}, not paused")
    stage = rollout.current
    going = replace(rollout, status=RolloutStatus.RUNNING, pause_reason=None)
    if stage is None:
        return going
    if stage.status is StageStatus.PENDING:
        return going if rollout.started_at is not None else replace(going, status=RolloutStatus.SCHEDULED)
    waived = Accepted(stage.counts.faults, stage.counts.rejected) if accept_failures else stage.accepted
    decision = judge(stage.counts, rollout.limits, waived)
    if decision.verdict in {Verdict.ERROR, Verdict.STUCK}:
        raise NotPossible(
            f"stage {stage.name} of rollout {rollout.id}: {decision.reason}; --accept-failures goes on all the same, "
            f"factoryd rollout abort {rollout.id} ends it"
        )
    soaking = stage.status is StageStatus.SOAKING
    # Who could not be reached has the whole time again.
    began = now if decision.verdict is Verdict.NOBODY else stage.started_at
    status = StageStatus.SOAKING if soaking else StageStatus.RUNNING
    resumed = replace(stage, status=status, started_at=began, decision=decision, decided_at=now)
    return replace(_with(going, resumed), status=RolloutStatus.SOAKING if soaking else RolloutStatus.RUNNING)


def abort(rollout: Rollout, reason: str) -> Rollout:
    """Ends it: what waits or has not begun to install is cancelled.

    Raises:
        NotPossible: it is over already.
    """
    if rollout.status in OVER | {RolloutStatus.ABORTING}:
        raise NotPossible(f"rollout {rollout.id} is {rollout.status} already")
    return replace(rollout, status=RolloutStatus.ABORTING, pause_reason=reason)


def start(rollout: Rollout, now: datetime) -> Rollout:
    """Begins a scheduled rollout now.

    Raises:
        NotPossible: it is not scheduled.
    """
    if rollout.status is not RolloutStatus.SCHEDULED:
        raise NotPossible(f"rollout {rollout.id} is {rollout.status}, not scheduled")
    return replace(rollout, start_at=now)


def _begin(rollout: Rollout, now: datetime) -> Rollout:
    return _begin_stage(replace(rollout, status=RolloutStatus.RUNNING, started_at=now), now)


def _begin_stage(rollout: Rollout, now: datetime) -> Rollout:
    stage = rollout.current
    if stage is None:
        return rollout
    return _with(rollout, replace(stage, status=StageStatus.RUNNING, started_at=now))


def _go_on(rollout: Rollout, now: datetime) -> Rollout:
    stage = rollout.current
    if stage is None:
        return rollout if rollout.live else _over(rollout, RolloutStatus.COMPLETED, now)
    if stage.status is StageStatus.PENDING:
        return _begin_stage(rollout, now)
    decision = judge(stage.counts, rollout.limits, stage.accepted)
    if decision.verdict is Verdict.WAIT:
        return _wait(rollout, stage, decision)
    if decision.verdict is Verdict.PASS:
        return _pass(rollout, stage, decision, now)
    return _stop(rollout, stage, decision, now)


def _wait(rollout: Rollout, stage: Stage, decision: Decision) -> Rollout:
    """The numbers are kept all the same; while it soaks, a device that has appeared makes the stage wait again."""
    waiting = replace(stage, decision=decision, status=StageStatus.RUNNING, soak_until=None)
    return replace(_with(rollout, waiting), status=RolloutStatus.RUNNING)


def _pass(rollout: Rollout, stage: Stage, decision: Decision, now: datetime) -> Rollout:
    if stage.status is StageStatus.RUNNING and rollout.soak_s > 0:
        until = now + timedelta(seconds=rollout.soak_s)
        soaking = replace(stage, status=StageStatus.SOAKING, soak_until=until, decision=decision, decided_at=now)
        return replace(_with(rollout, soaking), status=RolloutStatus.SOAKING)
    if stage.soak_until is not None and stage.soak_until > now:
        return _with(rollout, replace(stage, decision=decision))
    passed = _with(rollout, replace(stage, status=StageStatus.PASSED, decision=decision, decided_at=now))
    going = replace(passed, status=RolloutStatus.RUNNING)
    following = going.current
    if following is None or rollout.on_stage_success == "next":
        return _begin_stage(going, now)
    reason = f"stage {stage.name} passed; factoryd rollout resume begins stage {following.name}"
    return replace(going, status=RolloutStatus.PAUSED, pause_reason=reason)


def _stop(rollout: Rollout, stage: Stage, decision: Decision, now: datetime) -> Rollout:
    failed = decision.verdict is Verdict.ERROR
    status = StageStatus.FAILED if failed else stage.status
    stopped = _with(rollout, replace(stage, status=status, decision=decision, decided_at=now))
    reason = f"stage {stage.name}: {decision.reason}"
    if failed and rollout.on_error == "abort":
        return abort(stopped, reason)
    return pause(stopped, reason)


def _over(rollout: Rollout, status: RolloutStatus, now: datetime) -> Rollout:
    return replace(rollout, status=status, finished_at=now)


def _with(rollout: Rollout, stage: Stage) -> Rollout:
    stages = tuple(stage if each.stage_no == stage.stage_no else each for each in rollout.stages)
    return replace(rollout, stages=stages)
