"""factoryd threshold export and import: what one writes, the other takes."""

from pathlib import Path

import pytest

from tests.integration.command_line import CommandLine, rows
from tests.integration.conftest import Database
from tests.integration.thresholds import HEADER, registered


@pytest.fixture
def factoryd(database: Database) -> CommandLine:
    return registered(database)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "thresholds.csv"


def fill(factoryd: CommandLine) -> None:
    factoryd.good(
        *("threshold", "add", "press-1", "temperature", "--min", "0.1", "--max", "80", "--for", "90s", "--hysteresis", "0.5"),
        *("--instruction", 'call "Otto", then stop', "--owner", "anna", "--severity", "critical"),
    )
    factoryd.good("threshold", "add", "press-1", "temperature", "--max", "70", "--disabled")
    factoryd.good("threshold", "add", "--select", "location=hall-2,type=press", "oil", "--no-data", "1h")


def test_an_export_is_what_an_import_takes(factoryd: CommandLine, database: Database, file: Path) -> None:
    fill(factoryd)
    text = factoryd.good("threshold", "export")
    assert text.splitlines() == [
        HEADER,
        ',"type=press,location=hall-2",oil,,,,,,,,1h,,,',
        'press-1,,temperature,0.1,80,critical,90s,0.5,,,,"call ""Otto"", then stop",anna,',
        "press-1,,temperature,,70,,,,,,,,system,no",
    ]
    assert factoryd("threshold", "export", str(file)).err == f"{file}: 3 lines\n"
    assert file.read_text() == text
    assert factoryd.good("threshold", "import", str(file)) == "0 added, 0 changed, 3 as they were\n"
    factoryd.good("threshold", "delete", "1", "2", "--class", "1")
    assert factoryd.good("threshold", "import", str(file)) == "3 added, 0 changed, 0 as they were\n"
    assert factoryd.good("threshold", "export") == text
    assert rows(database.daemon, "SELECT count(*) FROM alert_thresholds WHERE class_id IS NOT NULL") == [(2,)]
    with_ids = factoryd.good("threshold", "export", "--ids")
    assert with_ids.startswith("id,device,")
    file.write_text(with_ids.replace(",80,", ",82,"))
    ((number,),) = rows(database.daemon, "SELECT id FROM alert_thresholds WHERE max_value = 80")
    assert factoryd.good("threshold", "import", str(file)) == "0 added, 1 changed, 2 as they were\n"
    assert rows(database.daemon, "SELECT id FROM alert_thresholds WHERE max_value = 82") == [(number,)]


def test_an_import_is_idempotent_and_follows_the_file(factoryd: CommandLine, database: Database, file: Path) -> None:
    file.write_text(
        "\ufeffmetric,device,select,max,for\noil,press-1,,80,30s\noil,press-2,,80,\ntemperature,,device=press-*,90,\n", "utf-8"
    )
    assert factoryd.good("threshold", "import", str(file)) == "3 added, 0 changed, 0 as they were\n"
    assert factoryd.good("threshold", "import", str(file)) == "0 added, 0 changed, 3 as they were\n"
    factoryd.good("threshold", "edit", "1", "--clear", "1m")
    file.write_text("metric,device,select,max,for\noil,press-1,,85,\ntemperature,,device=press-*,95,\n")
    assert factoryd.good("threshold", "import", str(file)) == "0 added, 2 changed, 0 as they were\n"
    stored = rows(
        database.daemon, "SELECT metric_type, max_value, for_seconds, clear_seconds FROM alert_thresholds ORDER BY id"
    )
    assert stored == [("oil", 85.0, 0.0, 60.0), ("oil", 80.0, 0.0, 0.0), *[("temperature", 95.0, 0.0, 0.0)] * 2]


def test_a_dry_run_says_what_would_be_and_changes_nothing(factoryd: CommandLine, file: Path) -> None:
    fill(factoryd)
    before = factoryd.good("threshold", "export", "--ids")
    file.write_text("device,select,metric,max,severity\npress-1,,temperature,75,\n,type=press,oil,9,\npress-2,,oil,9,info\n")
    assert factoryd.good("threshold", "import", str(file), "--dry-run").splitlines() == [
        "line 2: change threshold 2: press-1 temperature above 75, warning (was above 70, warning)",
        "line 3: add class: type=press oil above 9, warning",
        "line 4: add threshold: press-2 oil above 9, info",
        "dry run, nothing was changed: 2 added, 1 changed, 0 as they were",
    ]
    assert factoryd.good("threshold", "export", "--ids") == before


def test_an_import_is_all_or_nothing_and_names_line_and_column(factoryd: CommandLine, database: Database, file: Path) -> None:
    file.write_text(
        f"{HEADER}\n"
        "press-1,,oil,,80,,,,,,,,,\n"
        "press-1,,oil,,hot,,,,,,,,,\n"
        "press-9,,oil,,80,,,,,,,,,\n"
        "press-1,type=press,oil,,80,,,,,,,,,\n"
        "press-1,,_offline,,80,,,,,,,,,\n"
        ",type=,oil,,80,,,,,,,,,\n"
        "press-1,,oil,,80,fatal,,,,,,,,\n"
        "press-1,,rpm,90,80,,,,,,,,,\n"
        "\n"
        "press-1,,rpm,,80,,soon,,,,,,,\n"
        "press-1,,rpm,,81,,,,,,,,eve,\n"
        "press-1,,rpm\n"
    )
    answer = factoryd("threshold", "import", str(file))
    assert answer.code == 2
    assert [line.removeprefix("factoryd: ")[:17] for line in answer.err.splitlines()] == [
        "line 3: max: 'hot",
        "line 4: device: p",
        "line 5: device: g",
        "line 6: metric: _",
        "line 7: select: t",
        "line 8: severity:",
        "line 9: min: 90 i",
        "line 11: for: 'so",
        "line 12: owner: u",
        "line 13: 3 fields",
        "10 bad lines: not",
    ]
    assert rows(database.daemon, "SELECT count(*) FROM alert_thresholds") == [(0,)]


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("device,metric,limit", "no column 'limit' is known; columns are id, device, select, metric, min, max"),
        ("metric,max", "the header must name metric, device or select, none twice"),
        ("device,max", "the header must name metric"),
        ("device,metric,max,max", "none twice"),
        ("", "the header must name metric"),
    ],
)
def test_a_csv_with_an_unusable_header_is_refused(factoryd: CommandLine, file: Path, header: str, text: str) -> None:
    file.write_text(header)
    answer = factoryd("threshold", "import", str(file))
    assert answer.code == 2
    assert text in answer.err
