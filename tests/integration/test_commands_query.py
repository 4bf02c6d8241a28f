"""factoryd query: tables, CSV, JSON, JSON lines and charts, from a real database."""

import csv
import io
import json
import os
import shlex
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from factoryd.commands import query
from storage.partitions import ensure_partitions
from tests.integration.command_line import CommandLine, rows
from tests.integration.conftest import Database
from tests.integration.examples import shell_lines

READINGS = """
    INSERT INTO sensor_readings (device_id, recorded_at, received_at, temperature, extra)
    SELECT d.id, at, at, n, CASE WHEN n %% 2 = 0 THEN jsonb_build_object('torque', n) END
    FROM devices d, generate_series(0, 9) AS n, LATERAL (SELECT now() - n * interval '1 minute' AS at) AS t
    WHERE d.device_id = 'press'"""
PLANT = """
    INSERT INTO users (login, email, password_hash, name, role) VALUES ('ada', 'ada@example.com', '!', 'Ada', 'user');
    INSERT INTO devices (device_id, name, type, location, user_id) VALUES ('lathe', 'Lathe', '', '', NULL),
        ('press', 'Press', '', '', (SELECT id FROM users WHERE login = 'ada')), ('saw', 'Saw', '', '', NULL);
    INSERT INTO alerts (device_id, user_id, severity, message, status, triggered_at, kind)
        SELECT d.id, d.user_id, s::alert_severity, 'hot', 'active', '2026-05-20 12:00:00.123456Z', s
        FROM devices d, unnest(ARRAY['info', 'critical', 'warning']) AS s WHERE d.device_id <> 'saw';
    UPDATE alerts SET status = 'acknowledged' WHERE severity = 'info';
    INSERT INTO ota_versions (version, firmware_url) VALUES ('1.0.0', 'x');
    INSERT INTO ota_deployments (device_id, version_id, status, outcome, phase)
        SELECT d.id, v.id, 'completed', 'succeeded', 'done' FROM devices d, ota_versions v;
    UPDATE ota_deployments SET status = 'failed', outcome = 'failed', error_code = 'E_SPACE'
        WHERE device_id = (SELECT id FROM devices WHERE device_id = 'lathe')"""


@pytest.fixture
def factoryd(database: Database) -> CommandLine:
    ensure_partitions(database.owner, 1, 1, datetime.now(UTC).date())
    rows(database.owner, PLANT)
    rows(database.owner, READINGS)
    return CommandLine(database.tools)


def test_readings_the_newest_first_and_where_to_go_on(factoryd: CommandLine) -> None:
    answer = factoryd("query", "readings", "press", "--limit", "4", "-o", "json")
    assert [row["temperature"] for row in answer.json()] == [0, 1, 2, 3]
    assert answer.json()[2]["extra"] == {"torque": 2}
    more = answer.err.removeprefix("more: ").split()
    assert [row["temperature"] for row in factoryd("query", "readings", "press", *more, "-o", "json").json()] == [
        4,
        5,
        6,
        7,
        8,
        9,
    ]
    found = factoryd("query", "readings", "press", "--since", "330s", "--until", "90s", "-o", "json").json()
    assert [row["temperature"] for row in found] == [2, 3, 4, 5]


def test_readings_as_a_table(factoryd: CommandLine) -> None:
    lines = factoryd.good("query", "readings", "press").splitlines()
    assert lines[0].split() == list(query.READING_COLUMNS.values())
    assert len(lines) == 11
    answer = factoryd("query", "readings", "saw")
    assert (answer.code, answer.out, answer.err) == (0, "", "no readings in that time\n")


def test_one_metric_alone(factoryd: CommandLine) -> None:
    found = factoryd("query", "readings", "press", "--metric", "torque", "-o", "json").json()
    assert [row["value"] for row in found] == [0, 2, 4, 6, 8]
    assert set(found[0]) == {"recorded_at", "value", "received_at"}
    assert factoryd.good("query", "readings", "press", "--metric", "temperature").split()[:3] == [
        "RECORDED",
        "TEMPERATURE",
        "RECEIVED",
    ]


@pytest.mark.parametrize("page", [1, 3, 5, 10, 11])
def test_all_of_them_page_by_page(factoryd: CommandLine, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    monkeypatch.setattr(query, "PAGE", page)
    lines = factoryd.good("query", "readings", "press", "--all", "-o", "jsonl").splitlines()
    assert [json.loads(line)["temperature"] for line in lines] == list(range(10))
    table = list(csv.reader(io.StringIO(factoryd.good("query", "readings", "press", "--all", "-o", "csv"))))
    assert table[0][:2] == ["recorded_at", "temperature"]
    assert [float(row[1]) for row in table[1:]] == list(range(10))
    for what, count in (("alerts", 4), ("devices", 3)):
        assert len(factoryd.good("query", what, "--all", "-o", "jsonl").splitlines()) == count
    assert len(factoryd.good("query", "deployments", "1.0.0", "--all", "-o", "csv").splitlines()) == 4


def test_all_of_nothing_is_an_empty_table(factoryd: CommandLine) -> None:
    assert factoryd.good("query", "readings", "saw", "--all", "-o", "jsonl") == ""
    assert factoryd.good("query", "readings", "saw", "--all", "-o", "csv").startswith("recorded_at,temperature,")


def test_who_reads_no_further_ends_it_quietly(factoryd: CommandLine, database: Database) -> None:
    rows(database.owner, READINGS.replace("9)", "4000)").replace("minute", "millisecond").replace("now() -", "now() +"))
    environment = {**os.environ, "FACTORYD_DATABASE__URL": database.tools}
    command = [sys.executable, "-m", "factoryd", "query", "readings", "press", "--all", "-o", "jsonl"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 1
        assert process.stderr.read() == b""


def test_alerts_with_device_and_owner(factoryd: CommandLine) -> None:
    found = factoryd("query", "alerts", "-o", "json").json()
    assert [(row["severity"], row["device"], row["owner_email"]) for row in found] == [
        ("critical", "press", "ada@example.com"),
        ("critical", "lathe", None),
        ("warning", "press", "ada@example.com"),
        ("warning", "lathe", None),
    ]
    assert len(factoryd("query", "alerts", "--acknowledged", "-o", "json").json()) == 6
    assert factoryd.good("query", "alerts").split()[:10] == list(query.ALERT_COLUMNS.values())


def test_pages_of_alerts_join(factoryd: CommandLine) -> None:
    whole = [row["id"] for row in factoryd("query", "alerts", "-o", "json").json()]
    found, more = list[int](), list[str]()
    for _ in range(2):
        answer = factoryd("query", "alerts", "--limit", "2", *more, "-o", "json")
        found += [row["id"] for row in answer.json()]
        more = answer.err.removeprefix("more: ").split()
    assert (found, more) == (whole, [])


def test_devices_and_their_alerts(factoryd: CommandLine) -> None:
    found = factoryd("query", "devices", "-o", "json").json()
    assert [(row["device"], row["active_alerts"], row["worst"]) for row in found] == [
        ("lathe", 2, "critical"),
        ("press", 2, "critical"),
        ("saw", 0, None),
    ]
    assert [row["device"] for row in factoryd("query", "devices", "--owner", "ada", "-o", "json").json()] == ["press"]
    answer = factoryd("query", "devices", "--limit", "2")
    assert answer.err == "more: --after press\n"
    assert [row["device"] for row in factoryd("query", "devices", "--after", "press", "-o", "json").json()] == ["saw"]


def test_deployments_of_a_version_by_status(factoryd: CommandLine) -> None:
    answer = factoryd("query", "deployments", "1.0.0", "--limit", "1", "-o", "json")
    first = answer.json()[0]
    assert (first["device"], first["status"]) == ("press", "completed")
    more = answer.err.removeprefix("more: ").split()
    assert more == ["--after", f"completed,{first['id']}"]
    found = factoryd("query", "deployments", "1.0.0", *more, "-o", "json").json()
    assert [row["device"] for row in found] == ["saw", "lathe"]
    failed = factoryd("query", "deployments", "1.0.0", "--status", "failed").out
    assert failed.splitlines()[1].split()[1:4] == ["failed", "failed", "lathe"]
    assert "E_SPACE" in failed


def test_a_chart(factoryd: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    lines = factoryd.good("query", "readings", "press", "--metric", "temperature", "--chart").splitlines()
    assert lines[0].startswith("temperature of press, ")
    assert lines[0].endswith(" UTC: 10 values, one point per 0:02:00")
    assert len(lines) == 1 + 12 + 2
    assert lines[1].startswith("9.00 ┤")
    assert lines[12].startswith("0.00 ┤")
    assert max(map(len, lines[1:])) <= 70
    assert factoryd.good("query", "readings", "press", "--metric", "nonsense", "--chart").splitlines()[1:] == ["no values"]


def test_the_points_of_a_chart(factoryd: CommandLine) -> None:
    asked = ("query", "readings", "press", "--metric", "torque", "--since", "30d", "--chart", "--points", "5")
    bins = factoryd(*asked, "-o", "json").json()
    assert len(bins) <= 5
    assert sum(each["count"] for each in bins) == 5
    assert {"at", "count", "avg", "min", "max", "first", "last"} == set(bins[0])
    assert len(factoryd.good(*asked, "-o", "csv").splitlines()) == 1 + len(bins)


def test_a_chart_for_an_output_without_blocks(factoryd: CommandLine, database: Database) -> None:
    environment = {**os.environ, "FACTORYD_DATABASE__URL": database.tools, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "factoryd", "query", "readings", "press", "--metric", "temperature", "--chart"]
    said = subprocess.run(command, env=environment, check=True, capture_output=True).stdout.decode("ascii")
    assert said.splitlines()[1].startswith("9.00 +")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("readings", "nobody"), 1, "device nobody is not registered"),
        (("readings", "press", "--since", "soon"), 2, "'soon' is no time"),
        (("readings", "press", "--since", "999999w"), 2, "'999999w' is no time"),
        (("readings", "press", "--since", "1h", "--until", "2h"), 2, "the end must be later"),
        (("readings", "press", "--all"), 2, "--all prints page by page: choose -o csv or -o jsonl"),
        (("readings", "press", "--all", "-o", "json"), 2, "--all prints page by page"),
        (("readings", "press", "--chart"), 2, "--chart: name one --metric"),
        (("readings", "press", "--chart", "--metric", "rpm", "--all"), 2, "--chart: name one --metric"),
        (("readings", "press", "--chart", "--metric", "rpm", "--points", "1"), 2, "points: 1 is not from 2 to 2000"),
        (("readings", "press", "--chart", "--metric", "a\0b"), 2, "the database refuses this value"),
        (("readings", "nobody", "--chart", "--metric", "rpm"), 1, "device nobody is not registered"),
        (("alerts", "--after", "7"), 2, "--after '7': take it from the line 'more:'"),
        (("alerts", "--after", "bad,2026-05-20T12:00Z,7"), 2, "take it from the line 'more:'"),
        (("alerts", "--after", "critical,2026-05-20T12:00,7"), 2, "take it from the line 'more:'"),
        (("devices", "--owner", "eve"), 1, "user eve does not exist"),
        (("deployments", "9.9.9"), 1, "there is no version 9.9.9"),
        (("deployments", "1.0.0", "--status", "lost"), 2, "--status lost: must be pending"),
        (("deployments", "1.0.0", "--after", "failed,x"), 2, "take it from the line 'more:'"),
    ],
)
def test_what_is_refused(factoryd: CommandLine, arguments: tuple[str, ...], code: int, text: str) -> None:
    answer = factoryd("query", *arguments)
    assert (answer.code, answer.out) == (code, "")
    assert text in answer.err


@pytest.mark.usefixtures("factoryd")
def test_json_lines_of_any_list_and_of_one_thing(database: Database) -> None:
    factoryd = CommandLine(database.daemon)
    lines = factoryd.good("device", "list", "-o", "jsonl").splitlines()
    assert [json.loads(line)["device_id"] for line in lines] == ["lathe", "press", "saw"]
    (line,) = factoryd.good("device", "show", "press", "-o", "jsonl").splitlines()
    assert json.loads(line)["owner"] == "ada"
    number = json.loads(factoryd.good("alert", "list", "-o", "jsonl").splitlines()[0])["id"]
    (line,) = factoryd.good("alert", "show", str(number), "-o", "jsonl").splitlines()
    assert json.loads(line)["history"] == []


def test_the_commands_of_the_page_are_run(factoryd: CommandLine, database: Database) -> None:
    rows(database.owner, "UPDATE devices SET device_id = 'press-7' WHERE device_id = 'press'")
    rows(database.owner, "UPDATE ota_versions SET version = '2.4.1'")
    lines = shell_lines()
    assert len(lines) > 6
    for line in lines:
        program, *arguments = shlex.split(line.partition(" > ")[0])
        assert program == "factoryd"
        factoryd.good(*arguments)


def test_a_place_is_exact_to_the_microsecond(factoryd: CommandLine) -> None:
    answer = factoryd("query", "alerts", "--limit", "1")
    assert ",2026-05-20T12:00:00.123456Z," in answer.err
