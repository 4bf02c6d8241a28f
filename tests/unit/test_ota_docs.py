"""docs/ota.md names every reason, every error code with its cure, every verdict and every metric."""

import re
from pathlib import Path

from prometheus_client import CollectorRegistry

from ota.candidates import REASONS
from ota.error_codes import CURES, Cure
from ota.metrics import OtaMetrics
from ota.reports import Verdict

PAGE = (Path(__file__).parents[2] / "docs/ota.md").read_text(encoding="utf-8")
CURE_NAMES = {
    Cure.RETRY: "another attempt, after a pause",
    Cure.RETRY_ONCE: "another attempt; the same twice is the end",
    Cure.NEW_URL: "the same attempt, with a fresh URL",
    Cure.NEVER: "none",
}


def section(heading: str) -> str:
    return re.split(r"^##+ ", PAGE.partition(f"{heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def test_every_reason_is_explained() -> None:
    assert dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", section("### Why it waits"), re.MULTILINE)) == dict(REASONS)


def test_every_error_code_has_its_cure() -> None:
    rows = dict(re.findall(r"^\| ([^|`]+) \| (`.+`) \|$", section("### Reasons of a failure"), re.MULTILINE))
    told = {"error_code": "what helps"} | {name: CURE_NAMES[cure] for name, cure in CURES.items()}
    assert {code: cure for cure, codes in rows.items() for code in re.findall(r"`(\w+)`", codes)} == told


def test_every_metric_and_verdict_is_named() -> None:
    registry = CollectorRegistry()
    OtaMetrics(registry)
    text = section("## Metrics")
    named = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert named == {f"{metric.name}{'_total' * (metric.type == 'counter')}" for metric in registry.collect()}
    assert {verdict.value for verdict in Verdict} <= set(re.findall(r"`(\w+)`", text))
