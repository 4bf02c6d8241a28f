"""The pages say what the code does: examples are run, settings and columns compared, links and names of tests followed."""

import json
import re
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from config.describe import describe
from config.settings import IngestSettings, Settings
from factoryd.__main__ import Commands
from ingest.births import read_report
from ingest.clocks import TimeWindow
from ingest.decoding import Decoded, decode
from ingest.layouts import NATIVE
from ingest.notices import _body, _Notice
from ingest.reading import METRICS, Quarantined, Reason, Sample
from ingest.routes import Route, Routes
from storage import models, models_lasting, models_ota, models_own

TOP = Path(__file__).parents[2]
PAGES = sorted([*TOP.glob("*.md"), *TOP.glob("docs/**/*.md")])
NOW = datetime(2026, 11, 22, 10, 0, 2, tzinfo=UTC)
LIMITS = IngestSettings()
DEVICE = "press-7"
TOPIC = f"factory/devices/{DEVICE}/telemetry"
TABLES = models.Base.metadata.tables
assert models_own.Quarantine.__tablename__ in TABLES, "both modules' tables are in one catalogue"
assert models_ota.OtaRollout.__tablename__ in TABLES
assert models_lasting.JobRun.__tablename__ in TABLES
FOLLOWED_ELSEWHERE = {"bad_device_id", "unknown_device", "retired_device", "conflict", "no_partition", "refused"}
"""Reasons that no payload alone can show."""


class Fence(NamedTuple):
    """One fenced block: its language, the words after it, and its text."""

    language: str
    words: str
    text: str


def fences(page: Path) -> list[Fence]:
    found = re.findall(r"^```(\w+) ?([^\n]*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [Fence(*match) for match in found]


MQTT = TOP / "docs/mqtt.md"
MQTT_FENCES = fences(MQTT)
RULES = re.findall(r"^\| .+ \| `(.+)` \| `([a-z_]+)` \|$", MQTT.read_text(encoding="utf-8"), re.MULTILINE)


def decoded(payload: bytes, route: Route) -> Decoded:
    window = TimeWindow.around(NOW, timedelta(days=90), timedelta(seconds=LIMITS.max_clock_skew_s))
    return decode(payload, None, device=route.device, window=window, received_at=NOW, limits=LIMITS, layout=route.layout)


def row_of(sample: Sample, route: Route, *, named: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"device": sample.device or route.device} if named else {}
    if sample.recorded_at is not None:
        row["recorded_at"] = sample.recorded_at.isoformat()
    row |= {name: getattr(sample, name) for name in METRICS if getattr(sample, name) is not None}
    return row | (sample.extra or {})


def near(value: Any) -> Any:
    """Scaled numbers may differ in the last bit."""
    return pytest.approx(value) if isinstance(value, float) else value


def examples() -> Iterator[tuple[str, Route, str, str | None]]:
    """Yields each payload with its route and, if the page shows them, the rows it becomes."""
    sources = Settings().ingest.source
    for place, fence in enumerate(MQTT_FENCES):
        if fence.language == "toml":
            sources = Settings(**tomllib.loads(fence.text)).ingest.source
        topic = fence.words.removeprefix("topic=") if fence.words.startswith("topic=") else TOPIC
        if fence.words == "telemetry" or topic != TOPIC:
            route = Routes("factory", sources).find(topic)
            assert route is not None, f"no source takes {topic}"
            following = MQTT_FENCES[place + 1] if place + 1 < len(MQTT_FENCES) else None
            yield topic, route, fence.text, following.text if following and following.words == "becomes" else None


@pytest.mark.parametrize(("topic", "route", "payload", "rows"), list(examples()))
def test_an_example_becomes_what_the_page_says(topic: str, route: Route, payload: str, rows: str | None) -> None:
    result = decoded(payload.encode(), route)
    assert result.rejected == []
    assert result.samples
    if rows is not None:
        stored = [row_of(sample, route, named=topic != TOPIC) for sample in result.samples]
        assert stored == [{name: near(value) for name, value in row.items()} for row in json.loads(rows)]


def test_each_recipe_has_its_payload_and_rows() -> None:
    shown = [rows for topic, _, _, rows in examples() if topic != TOPIC]
    assert len(shown) == sum(fence.language == "toml" for fence in MQTT_FENCES) == 4
    assert None not in shown
    assert all(fence.words for fence in MQTT_FENCES if fence.language == "json"), "each JSON block says what it is"


@pytest.mark.parametrize(("payload", "reason"), RULES)
def test_a_rule_has_the_reason_that_the_page_says(payload: str, reason: str) -> None:
    result = decoded(payload.encode(), Route(DEVICE, NATIVE))
    assert [rejected.reason.value for rejected in result.rejected] == [reason]
    assert result.samples == []


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", Reason.EMPTY),
        (b" " * 65_536 + b"1", Reason.TOO_LARGE),
        (json.dumps([{"rpm": 1}] * 1_001).encode(), Reason.TOO_MANY_READINGS),
        (json.dumps({f"m{number}": 1 for number in range(65)}).encode(), Reason.TOO_MANY_METRICS),
    ],
    ids=lambda value: value if isinstance(value, Reason) else "",
)
def test_a_limit_is_the_one_that_the_page_says(payload: bytes, reason: Reason) -> None:
    assert [rejected.reason for rejected in decoded(payload, Route(DEVICE, NATIVE)).rejected] == [reason]


def test_every_reason_is_on_the_page() -> None:
    text = MQTT.read_text(encoding="utf-8")
    assert [reason for reason in Reason if f"| `{reason}` |" not in text] == []
    shown = {reason for _, reason in RULES} | {"empty", "too_large", "too_many_readings", "too_many_metrics"}
    assert shown | FOLLOWED_ELSEWHERE == set(Reason)


def test_the_statuses_are_read_as_written() -> None:
    statuses = [fence.text for fence in MQTT_FENCES if fence.words == "status"]
    assert [json.loads(text)["status"] for text in statuses] == ["online", "offline", "error"]
    for text in statuses:
        report = read_report(text.encode())
        assert report is not None
        assert {k: v for k, v in report._asdict().items() if v is not None} == json.loads(text)


def test_a_notice_has_the_fields_of_the_page() -> None:
    shown = [json.loads(fence.text) for fence in MQTT_FENCES if fence.words == "notice"]
    quarantined = Quarantined(NOW, TOPIC, DEVICE, Reason.BAD_TYPE, "detail", b"", None, 1)
    assert [set(notice) for notice in shown] == [set(json.loads(_body(_Notice(quarantined, 0))))]


def test_the_sizing_table_is_the_one_of_mosquitto_conf() -> None:
    def figures(text: str) -> list[list[str]]:
        rows = [re.sub(r"[ #]", "", line).strip("|").split("|") for line in text.splitlines() if re.search(r" [MG]B", line)]
        return [row for row in rows if len(row) == 5]

    page = figures(MQTT.read_text(encoding="utf-8"))
    assert page == figures((TOP / "mosquitto.conf").read_text(encoding="utf-8"))
    assert len(page) == 6


def test_the_settings_page_is_what_the_models_say() -> None:
    expected = "\n".join(describe()) + "\n"
    assert (TOP / "docs/settings.md").read_text(encoding="utf-8") == expected, "python -m config.describe > docs/settings.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_toml_examples_are_good_settings(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for fence in fences(page):
        if fence.language == "toml":
            Settings(**tomllib.loads(fence.text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    rooms = "alerting|bench|config|console|deploy|docs|factoryd|ingest|mqtt|ota|simulator|storage|tests"
    for name in re.findall(rf"`((?:{rooms})/[\w./-]+\.\w+)`", page.read_text(encoding="utf-8")):
        assert (TOP / name).exists(), f"{page.name}: {name}"


def test_tests_that_are_named_exist() -> None:
    written = "\n".join(path.read_text(encoding="utf-8") for path in TOP.glob("tests/**/test_*.py"))
    for page in PAGES:
        for name in re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8")):
            assert f"def {name}(" in written, f"{page.name}: {name}"


def test_commands_that_are_named_exist() -> None:
    for page in PAGES:
        spans = re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))
        shell = [line for fence in fences(page) if fence.language == "sh" for line in fence.text.splitlines()]
        for name in re.findall(r"^(?:\S*bin/)?factoryd ([a-z][a-z-]+)", "\n".join(spans + shell), re.MULTILINE):
            assert name in Commands.entries, f"{page.name}: factoryd {name}"


def test_the_readmes_lines_on_firmware_are_run_on_their_pages() -> None:
    """By `test_the_page_is_run` and `test_the_page_of_rollouts_is_run`."""
    readme = (TOP / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"## Firmware, in stages\n\n```sh\n(.*?)```", readme, re.DOTALL)
    pages = [TOP / "docs" / name for name in ("firmware.md", "rollouts.md")]
    run = {line for page in pages for fence in fences(page) for line in fence.text.splitlines()}
    assert set(lines.splitlines()) <= run


def test_the_container_holds_every_package() -> None:
    packages = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    copied = re.findall(r"^COPY (\w+) \1$", (TOP / "deploy/Containerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert copied == sorted({package.partition(".")[0] for package in packages})


def test_every_table_and_column_is_described() -> None:
    sections = re.split(r"^##+ ", (TOP / "docs/data-model.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    described = {
        section.split()[0]: sorted(
            name for cell in re.findall(r"^\| (`.+?`) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)
        )
        for section in sections
        if section.split()[0] in TABLES
    }
    assert described == {name: sorted(column.name for column in table.columns) for name, table in TABLES.items()}
