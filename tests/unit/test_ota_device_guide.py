"""docs/ota-device-guide.md says what the daemon and the reference device do: bodies, phases, checks, error codes."""

import re
from pathlib import Path

import pytest

from ota.error_codes import CURES
from ota.payloads import DEVICE_PHASES, read_report, read_state
from ota.reports import Ending
from simulator.ota_command import COMMITTED, read_command
from simulator.ota_manifest import PAYLOAD_TYPE

PAGE = (Path(__file__).parents[2] / "docs/ota-device-guide.md").read_text(encoding="utf-8")
PLAIN = PAGE.partition("\n## A plain device\n")[2]


def bodies(kind: str) -> list[bytes]:
    return [text.encode() for text in re.findall(rf"^```json {kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)]


def section(heading: str) -> str:
    return re.split(r"^##+ ", PAGE.partition(f" {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def first_cells(text: str) -> list[str]:
    return [cell for row in re.findall(r"^\| (`[^|]+) \|", text, re.MULTILINE) for cell in re.findall(r"`(\w+)`", row)]


def test_a_device_reads_the_commands() -> None:
    read = [read_command(body) for body in bodies("command")]
    assert [type(command).__name__ for command in read] == ["Update", "Cancel", "Query"]
    assert PAYLOAD_TYPE in PAGE


def test_the_daemon_reads_reports_and_states() -> None:
    reports = [read_report(body) for body in bodies("report")]
    assert [report.said for report in reports] == ["downloading", "succeeded", "failed"]
    assert [report.deployment_id for report in reports] == [184, 184, 184]
    (state,) = [read_state(body, retained=False, repeated=False) for body in bodies("state")]
    assert state is not None
    assert state.active is not None
    assert state.last is not None
    assert (state.active.deployment_id, state.last.deployment_id) == (184, 183)


@pytest.mark.parametrize("payload", re.findall(r"ota/progress -m '(.+)'", PLAIN))
def test_the_daemon_reads_the_plain_device(payload: str) -> None:
    assert read_report(payload.encode()).deployment_id == 1


def test_the_phases_are_those_of_the_daemon() -> None:
    assert {*first_cells(section("Phases")), "deferred"} == {phase.value for phase in DEVICE_PHASES}
    ends = first_cells(section("Reports"))
    assert {*ends, "too_late"} == {ending.value for ending in Ending}
    order = first_cells(section("Phases"))
    assert set(order[order.index("installed") :]) == COMMITTED, "too late for a cancel"


def test_each_error_code_is_on_the_page() -> None:
    by_checks = re.findall(r"^\| \d+ \| .+ \| `(\w+)` \|$", PAGE, re.MULTILINE)
    assert len(by_checks) == 13
    assert {*by_checks, *first_cells(section("Error codes"))} - {"error_code"} == set(CURES)
