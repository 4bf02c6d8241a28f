"""Rollouts as people see them: lines and bars."""

from datetime import UTC, datetime
from typing import Any

import pytest

from factoryd.commands.rollout_texts import names_text, rollout_facts, stage_text, standing_text
from factoryd.commands.rollout_watch import _draw, reached
from storage.rollout_views import RolloutView, StageView

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


def stage(**fields: Any) -> StageView:
    bare: dict[str, Any] = {
        "stage_no": 0, "name": "10%", "status": "running", "planned": 10, "started_at": NOW, "soak_until": None,
        "decided_at": None, "decision": None, "eligible": 10, "pending": 4, "in_progress": 4, "succeeded": 1, "faults": 1,
        "rejected": 0, "never_reached": 0, "excluded": 0, "progress": 25.0,
    }  # fmt: skip
    return StageView(**(bare | fields))


def rollout(*stages: StageView, **fields: Any) -> RolloutView:
    bare: dict[str, Any] = {
        "id": 3, "name": "valves", "version": "2.4.1", "status": "running", "selector": {"type": "press"}, "pause_reason": None,
        "created_by": "anna", "created_at": NOW, "start_at": None, "end_at": None, "started_at": NOW, "finished_at": None,
        "terms": {}, "excluded": {}, "stages": stages,
    }  # fmt: skip
    return RolloutView(**(bare | fields))


def test_a_stage_says_only_what_there_is() -> None:
    assert stage_text(stage()) == "stage 10%     running   2/10  4 waiting, 4 under way, 1 succeeded, 1 failed"
    ended = stage(pending=0, in_progress=0, succeeded=6, faults=0, rejected=1, never_reached=1, excluded=2)
    assert stage_text(ended) == "stage 10%     running   10/10  6 succeeded, 1 refused, 1 never reached, 2 taken out"


def test_those_under_way_count_by_their_progress() -> None:
    assert reached(stage()) == 3.0


def test_how_it_stands_and_why() -> None:
    assert standing_text(rollout(stage())) == "rollout 3 valves: running, 1 of 10 succeeded, 1 failed"
    paused = rollout(stage(faults=0), status="paused", pause_reason="by anna: lunch")
    assert standing_text(paused) == "rollout 3 valves: paused, 1 of 10 succeeded: by anna: lunch"


def test_what_others_have_written_draws_nothing_on_the_terminal() -> None:
    assert "\x1b" not in standing_text(rollout(name="\x1b[2J", status="paused", pause_reason="\x1b[31m"))
    assert "\x1b" not in names_text(["\x1b]0;title\x07"])


def test_many_names_are_a_few_and_a_number() -> None:
    assert names_text([f"p{number}" for number in range(10)]) == "p0, p1, p2, p3, p4, p5, p6, p7 … and 2 more"


def test_programs_get_the_last_numbers_of_the_gate() -> None:
    decision = {"verdict": "wait", "reason": "so far", "counts": {"unreachable": 2}}
    (facts,) = rollout_facts(rollout(stage(decision=decision)))["stages"]
    assert (facts["verdict"], facts["reason"], facts["unreachable"], facts["ended"]) == ("wait", "so far", 2, 2)
    (foreign,) = rollout_facts(rollout(stage(decision={})))["stages"]
    assert foreign["verdict"] is None


def test_bars(capsys: pytest.CaptureFixture[str]) -> None:
    done = stage(pending=0, in_progress=0, succeeded=10, faults=0, status="passed")
    _draw(iter([rollout(stage()), rollout(done, status="completed")]))
    out = capsys.readouterr().out
    assert "rollout 3 valves: running, 1 of 10 succeeded, 1 failed" in out
    assert "rollout 3 valves: completed, 10 of 10 succeeded" in out
    assert "stage 10%" in out
