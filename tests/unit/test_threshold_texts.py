"""Thresholds as people write them: texts, selectors, and which line of a list means which threshold."""

from collections.abc import Mapping
from typing import Any

import pytest

from factoryd.commands.threshold_import import read_lines
from factoryd.commands.threshold_texts import condition_text, duration_text, number_text, read_values, texts_of
from storage.refusals import InvalidInput
from storage.threshold_fields import Threshold, check_threshold, read_selector, selector_text
from storage.threshold_plan import Planned, Site, plan_import
from storage.threshold_rows import Stored

FULL = Threshold("oil", 1.5, 1e22, "critical", False, 0.25, 0.1, 90.0, 5400.0, 604_800.0, "close the valve\nthen call", "anna")


@pytest.mark.parametrize("threshold", [FULL, Threshold("oil"), Threshold("oil", max_value=80.0, no_data_seconds=1.0)])
def test_what_is_written_is_read_again(threshold: Threshold) -> None:
    assert Threshold("oil", **read_values(texts_of(threshold))) == threshold


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.5, "0.5s"), (90, "90s"), (120, "2m"), (3600, "1h"), (5400, "90m"), (86_400, "1d"), (10, "10s")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(80.0, "80"), (-0.1, "-0.1"), (0.30000000000000004, "0.30000000000000004")])
def test_numbers_lose_nothing(value: float, text: str) -> None:
    assert number_text(value) == text


@pytest.mark.parametrize(
    ("threshold", "text"),
    [
        (Threshold("m", max_value=80.0), "above 80"),
        (Threshold("m", 5.0, 80.0, for_seconds=30.0, hysteresis=2.0), "below 5 or above 80 for 30s, hysteresis 2"),
        (Threshold("m", 5.0, clear_seconds=60.0, max_gap_seconds=300.0), "below 5, clear 1m, max-gap 5m"),
        (Threshold("m", no_data_seconds=600.0, for_seconds=30.0), "no data for 10m"),
    ],
)
def test_a_condition_in_words(threshold: Threshold, text: str) -> None:
    assert condition_text(threshold) == text


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({"max": "hot"}, "max: 'hot' is no number"),
        ({"max": "nan"}, "max: 'nan' is no number"),
        ({"min": "-inf"}, "min: '-inf' is no number"),
        ({"min": "1e400"}, "min: '1e400' is no number"),
        ({"for": "-5s"}, "for: '-5s' is no duration"),
        ({"for": "30"}, "for: '30' is no duration"),
        ({"no-data": "soon"}, "no-data: 'soon' is no duration"),
        ({"enabled": "maybe"}, "enabled: 'maybe' is neither yes nor no"),
    ],
)
def test_texts_that_say_nothing(texts: Mapping[str, str], said: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{said}"):
        read_values(texts)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "there is nothing to watch for: give min, max or no-data"),
        ({"min_value": 9.0, "max_value": 9.0}, "min: 9 is not below max 9"),
        ({"min_value": 10.0, "max_value": 30.0, "hysteresis": 10.5}, "hysteresis: 10.5 on both sides leaves nothing"),
        ({"max_value": 1.0, "hysteresis": -1.0}, "hysteresis: -1 is below 0"),
        ({"max_value": float("nan")}, "max: must be a finite number"),
        ({"max_value": 1.0, "for_seconds": 2_592_001.0}, "for: must be from 0 s to 30 days"),
        ({"max_value": 1.0, "clear_seconds": -1.0}, "clear: must be from 0 s to 30 days"),
        ({"no_data_seconds": 0.0}, "no-data: must be longer than nothing"),
        ({"max_value": 1.0, "max_gap_seconds": 0.0}, "max-gap: must be longer than nothing"),
        ({"max_value": 1.0, "severity": "fatal"}, "severity: 'fatal' is none: use info, warning, critical"),
        ({"max_value": 1.0, "instruction": "\x1b[2J"}, "instruction: '\\\\x1b"),
        ({"max_value": 1.0, "instruction": "x" * 2001}, "instruction: 2001 characters are too many"),
    ],
)
def test_thresholds_that_cannot_be(fields: Mapping[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{said}"):
        check_threshold(Threshold("oil", **fields))


@pytest.mark.parametrize("fields", [{"min_value": 10.0, "max_value": 30.0, "hysteresis": 10.0}, {"no_data_seconds": 0.1}])
def test_thresholds_that_just_can_be(fields: Mapping[str, Any]) -> None:
    check_threshold(Threshold("oil", **fields))


@pytest.mark.parametrize("metric", ["_offline", "_no_data", "", "a b", "x" * 101, "tempér", "a/b"])
def test_metrics_that_no_device_can_send(metric: str) -> None:
    with pytest.raises(InvalidInput, match=r"^metric: "):
        check_threshold(Threshold(metric, max_value=1.0))


@pytest.mark.parametrize(
    ("text", "selector"),
    [
        ("type=press", {"type": "press"}),
        ("location=hall 2, east, type=press*", {"location": "hall 2, east", "type": "press*"}),
        ("via=gw-1,owner=anna,device=a=b", {"via": "gw-1", "owner": "anna", "device": "a=b"}),
    ],
)
def test_selectors(text: str, selector: dict[str, str]) -> None:
    assert read_selector(text) == selector
    assert read_selector(selector_text(selector)) == selector


def test_a_selector_is_written_in_one_order() -> None:
    assert selector_text(read_selector("device=*,type=a")) == selector_text(read_selector("type=a,device=*"))


@pytest.mark.parametrize("text", ["", "press", "kind=press", "type=", "type=a,type=b", "type=a\x07"])
def test_bad_selectors(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^select: "):
        read_selector(text)


def stored(number: int, **fields: Any) -> Stored:
    device = None if "selector" in fields else fields.pop("device", "press-1")
    selector = fields.pop("selector", None)
    return Stored(number, device, selector, None, Threshold("oil", **{"owner": "system", **fields}))


def planned(text: str, *there: Stored) -> tuple[list[Planned], list[str]]:
    lines, problems = read_lines(text.strip().splitlines(keepends=True))
    assert problems == []
    site = Site(there, {"press-1": "system", "gone": "system"}, frozenset({"gone"}), frozenset({"system", "anna"}))
    plan, found = plan_import(lines, site)
    return plan, [f"{problem.number} {problem.text}" for problem in sorted(found)]


def verbs(text: str, *there: Stored) -> list[tuple[str, int | None]]:
    plan, problems = planned(text, *there)
    assert problems == []
    return [(line.verb, line.before.id if line.before else None) for line in plan]


def test_a_line_means_the_threshold_that_says_the_same_then_the_one_of_its_side() -> None:
    low, high = stored(1, min_value=5.0), stored(2, max_value=80.0)
    text = "device,metric,min,max\npress-1,oil,,85\npress-1,oil,5,"
    assert verbs(text, low, high) == [("change", 2), ("keep", 1)]
    assert verbs("device,metric,min,max\npress-1,oil,,85", low) == [("add", None)], "the other side stays as it is"
    assert verbs("device,metric,max,severity\npress-1,oil,80,critical", high) == [("add", None)], "another severity"
    assert verbs("device,metric,instruction\npress-1,oil,run", high) == [("change", 2)]


def test_a_class_is_not_a_device() -> None:
    text = "device,select,metric,max\n,type=oil,oil,9\npress-1,,oil,9"
    assert verbs(text, stored(1, selector={"type": "oil"}, owner=None, max_value=8.0)) == [("change", 1), ("add", None)]


def test_what_could_be_several_needs_an_id() -> None:
    there = [stored(1, max_value=80.0), stored(2, max_value=90.0)]
    _, problems = planned("device,metric,max\npress-1,oil,85", *there)
    (problem,) = problems
    assert problem.startswith(
        "2 id: threshold 1, threshold 2 may be meant by line 2; an id says which: factoryd threshold export"
    )
    _, problems = planned("device,metric,max\npress-1,oil,85\npress-1,oil,86", there[0])
    assert [problem.partition(":")[0] for problem in problems] == ["2 id", "3 id"]
    assert verbs("id,device,metric,max\n2,press-1,oil,85\n,press-1,oil,80", *there) == [("change", 2), ("keep", 1)]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("7,press-1,oil,1,", "2 id: threshold 7 cannot be meant"),
        ("1,press-1,water,1,", "2 id: threshold 1 is of press-1 oil"),
        (",press-9,oil,1,", "2 device: press-9 is not registered; factoryd device add press-9 registers it"),
        (",gone,oil,1,", "2 device: gone is retired; factoryd device edit gone --active takes it back"),
        (",press-1,oil,1,eve", "2 owner: user eve does not exist"),
        (",press-1,oil,,", "2 there is nothing to watch for"),
        (",press-1,new,1,\n,press-1,new,1,system", "3 says the same as line 2"),
        (",press-1,oil,80,\n,press-1,oil,80,", "3 says the same as line 2"),
    ],
)
def test_lines_that_cannot_be(line: str, problem: str) -> None:
    _, problems = planned(f"id,device,metric,max,owner\n{line}", stored(1, max_value=80.0))
    assert len(problems) == 1
    assert problems[0].startswith(problem)


def test_two_that_say_the_same_already_may_stay() -> None:
    line = "press-1,oil,80\n"
    assert verbs(f"device,metric,max\n{line}{line}", stored(1, max_value=80.0), stored(2, max_value=80.0)) == [
        ("keep", 1),
        ("keep", 2),
    ]
