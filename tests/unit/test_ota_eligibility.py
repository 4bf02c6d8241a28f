"""For whom a rollout is: the first reason why it is not for a device, and what is only noted."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.eligibility import NOTES, REASONS, Facts, Target, divide, why_excluded

TARGET = Target(3, "2.4.1", frozenset({"plc-gw/rev-c"}), "2.2.0", may_downgrade=False)
FITTING = Facts(1, "press-1", "plc-gw/rev-c", "2.3.0")


@pytest.mark.parametrize(
    ("facts", "target", "reason"),
    [
        ({}, {}, None),
        ({"retired": True}, {}, "retired"),
        ({"hardware": "plc-gw/rev-b"}, {}, "wrong_hardware"),
        ({"hardware": "plc-gw/rev-b"}, {"hardware": frozenset()}, None),
        ({"hardware": None}, {}, None),
        ({"version": "2.4.1"}, {}, "already_installed"),
        ({"version": "2.1.9"}, {}, "min_version"),
        ({"version": "2.2.0"}, {}, None),
        ({"version": "2.1.9"}, {"min_version": None}, None),
        ({"version": None}, {}, None),
        ({"version": "of our own"}, {}, None),
        ({"version": "2.5.0"}, {}, "downgrade"),
        ({"version": "2.5.0"}, {"may_downgrade": True}, None),
        ({"version": "2.4.1-rc.1"}, {}, None),
        ({"held": True}, {}, "hold"),
        ({"faults": 2, "faulty_version_id": 3}, {}, "quarantine"),
        ({"faults": 1, "faulty_version_id": 3}, {}, None),
        ({"faults": 9, "faulty_version_id": 2}, {}, None),
        ({"other_rollout": "the last one"}, {}, "other_rollout"),
        ({"retired": True, "held": True, "hardware": "other"}, {}, "retired"),
    ],
)
def test_the_first_reason(facts: dict[str, Any], target: dict[str, Any], reason: str | None) -> None:
    assert why_excluded(FITTING._replace(**facts), TARGET._replace(**target)) == reason


def test_what_is_not_known_is_noted() -> None:
    silent = Facts(2, "press-2")
    divided = divide([silent, FITTING], TARGET)
    assert list(divided.eligible) == ["press-1", "press-2"]
    assert divided.excluded == {}
    assert divided.notes == {"unknown_hardware": ["press-2"], "unknown_version": ["press-2"]}
    assert divide([silent], TARGET._replace(hardware=frozenset())).notes == {"unknown_version": ["press-2"]}
    assert set(divided.notes) == set(NOTES)


MAYBE = st.booleans()
FACTS = st.builds(
    Facts,
    st.just(0),
    st.just(""),
    st.sampled_from([None, "plc-gw/rev-c", "other"]),
    st.sampled_from([None, "2.1.0", "2.3.0", "2.4.1", "3.0.0", "?"]),
    MAYBE,
    MAYBE,
    st.integers(0, 3),
    st.sampled_from([None, 2, 3]),
    st.sampled_from([None, "another"]),
)


@given(st.lists(FACTS, max_size=30))
def test_each_device_is_in_or_out_for_one_reason_that_has_words(some: list[Facts]) -> None:
    selected = [facts._replace(number=number, device=f"press-{number}") for number, facts in enumerate(some)]
    divided = divide(reversed(selected), TARGET)
    out = [name for names in divided.excluded.values() for name in names]
    assert sorted([*divided.eligible, *out]) == sorted(facts.device for facts in selected)
    assert set(divided.excluded) <= set(REASONS)
    assert all(name in divided.eligible for names in divided.notes.values() for name in names)
