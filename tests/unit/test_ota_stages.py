"""Stages: everybody has one turn, in an order that nobody chose and that never changes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.stages import BadStages, frozen_order, plan_stages, read_stages

HUNDRED = [f"press-{number}" for number in range(100)]
DEVICES = st.sets(st.text("abcdef0123456789-", min_size=1, max_size=8), min_size=1, max_size=60)
PERCENTS = st.lists(st.integers(1, 99), max_size=6, unique=True).map(lambda some: (*sorted(some), 100))


def test_percentages_are_cumulative() -> None:
    stages = plan_stages(HUNDRED, "salt", read_stages("1,10,50,100"))
    assert [(stage.stage_no, stage.name, stage.cum_percent, len(stage.devices)) for stage in stages] == [
        (0, "1%", 1, 1),
        (1, "10%", 10, 9),
        (2, "50%", 50, 40),
        (3, "100%", 100, 50),
    ]


def test_a_canary_comes_first_and_counts() -> None:
    stages = plan_stages(HUNDRED, "salt", (10, 100), canary=HUNDRED[:4])
    assert [(stage.name, stage.cum_percent, len(stage.devices)) for stage in stages] == [
        ("canary", None, 4),
        ("10%", 10, 6),
        ("100%", 100, 90),
    ]
    assert set(stages[0].devices) == set(HUNDRED[:4])


def test_no_stage_is_empty() -> None:
    assert [len(stage.devices) for stage in plan_stages(["a", "b"], "salt", (1, 10, 50, 100))] == [1, 1]
    assert [stage.stage_no for stage in plan_stages(["a", "b"], "salt", (1, 10, 50, 100))] == [0, 1]
    assert [stage.name for stage in plan_stages(["a"], "salt", (50, 100), canary=["a"])] == ["canary"]


def test_the_order_is_frozen() -> None:
    # As `printf salta | sha256sum` has it: c48e…, 08cc…, dd4c…
    assert frozen_order(["a", "b", "c"], "salt") == ["b", "a", "c"]
    assert frozen_order(reversed(HUNDRED), "one") == frozen_order(HUNDRED, "one")  # type: ignore[arg-type]
    assert frozen_order(HUNDRED, "one") != frozen_order(HUNDRED, "two")


@given(DEVICES, PERCENTS, st.text(max_size=5), st.data())
def test_everybody_has_one_turn(devices: set[str], percents: tuple[int, ...], salt: str, data: st.DataObject) -> None:
    canary = data.draw(st.sets(st.sampled_from(sorted(devices))))
    stages = plan_stages(devices, salt, percents, canary)
    turns = [device for stage in stages for device in stage.devices]
    assert sorted(turns) == sorted(devices)
    assert [stage.stage_no for stage in stages] == list(range(len(stages)))
    assert all(stage.devices for stage in stages)
    taken = 0
    for stage in stages:
        taken += len(stage.devices)
        if stage.cum_percent is not None:
            assert taken == max(math.ceil(stage.cum_percent * len(devices) / 100), len(canary))
    assert stages == plan_stages(sorted(devices), salt, percents, canary)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "does not say stages"),
        ("1,,100", "does not say stages"),
        ("one,100", "does not say stages"),
        ("0,100", "above 0"),
        ("nan,100", "above 0"),
        ("50,101", "at most 100"),
        ("10,10,100", "larger than the one before"),
        ("50,10,100", "larger than the one before"),
        ("1,50", "the last stage must be 100"),
        (",".join(str(number / 10) for number in range(1, 60)) + ",100", "too many"),
    ],
)
def test_a_text_that_is_none_says_what_to_write(text: str, words: str) -> None:
    with pytest.raises(BadStages, match=words):
        read_stages(text)


def test_stages_are_read() -> None:
    assert read_stages(" 0.5%, 10 ,100%") == (0.5, 10, 100)
