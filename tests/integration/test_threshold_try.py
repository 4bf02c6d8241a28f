"""factoryd threshold try, and what `threshold add` says of the last days: against a real database."""

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from alerting.alert import Rule, Severity
from config.settings import DatabaseSettings, Settings
from factoryd.commands.threshold_try import last_days_report
from storage.partitions import ensure_partitions
from storage.refusals import NotFound
from tests.integration.command_line import CommandLine, rows
from tests.integration.conftest import TODAY, Database

MIDNIGHT = datetime(TODAY.year, TODAY.month, TODAY.day, tzinfo=UTC)
THAT_DAY = ("--since", f"{TODAY}", "--until", f"{TODAY + timedelta(days=1)}")

STORE = """
    INSERT INTO sensor_readings (device_id, recorded_at, received_at, temperature, extra)
    SELECT d.id, at, at + interval '1 s', value, jsonb_build_object('torque', value / 10)
    FROM devices d, unnest(%s::float8[]) WITH ORDINALITY AS v (value, number), LATERAL (SELECT %s + number * %s AS at) AS t
    WHERE d.device_id = 'press'"""


def store(database: Database, values: list[float], begin: datetime = MIDNIGHT, every_s: float = 60) -> None:
    """Stores a value every so many seconds, the first one at `begin`."""
    step = timedelta(seconds=every_s)
    rows(database.daemon, STORE, values, begin - step, step)


@pytest.fixture
def factoryd(database: Database) -> CommandLine:
    rows(database.owner, "INSERT INTO devices (device_id, name, type, location) VALUES ('press', '', '', '')")
    return CommandLine(database.daemon)


HOT = [*[70.0] * 30, 85.5, 83.25, 79.5, 81.0, 70.0, *[70.0] * 30]
"""An hour with two alerts: the second one comes while the first is hardly over."""


def test_what_would_have_been(factoryd: CommandLine, database: Database) -> None:
    store(database, HOT)
    assert factoryd.good("threshold", "try", "press", "temperature", "--max", "80", *THAT_DAY) == (
        "press temperature above 80: 65 readings, 2026-05-20 00:00:00Z to 2026-05-20 01:04:00Z\n"
        "\n"
        "RAISED                RESOLVED              LASTED  SIDE  PEAK  NOTES\n"
        "2026-05-20 00:30:00Z  2026-05-20 00:32:00Z  2m 0s   high  85.5\n"
        "2026-05-20 00:33:00Z  2026-05-20 00:34:00Z  1m 0s   high  81\n"
        "\n"
        "2 alerts, 3.0 minutes in alarm (4.7 % of the time), 1 raised again within 10 minutes\n"
        "A dead band of 0.7 (--hysteresis 0.7) would leave 1 alert.\n"
        "An on-delay of 1s (--for 1s) would leave 1 alert.\n"
    )
    damped = factoryd.good("threshold", "try", "press", "temperature", "--max", "80", "--hysteresis", "0.7", *THAT_DAY)
    assert "\n1 alert, 4.0 minutes in alarm" in damped, "what was suggested does what was said"


def test_a_key_of_extra_and_both_limits_and_all_delays(factoryd: CommandLine, database: Database) -> None:
    store(database, HOT)
    arguments = ("--min", "6", "--max", "8", "--for", "1m", "--clear", "3m", "--hysteresis", "0.1", "--max-gap", "5m")
    found = factoryd("threshold", "try", "press", "torque", *arguments, *THAT_DAY, "-o", "json").json()
    assert found["tried"] == "press torque below 6 or above 8 for 1m, hysteresis 0.1, clear 3m, max-gap 5m"
    assert found["raised"] == [
        {
            "triggered_at": "2026-05-20T00:31:00Z",
            "resolved_at": "2026-05-20T00:37:00Z",
            "side": "high",
            "peak": 8.325,
            "flapping": False,
        }
    ]
    assert (found["readings"], found["alerts"], found["in_alarm_s"], found["flaps"]) == (65, 1, 360.0, 0)
    assert found["share_in_alarm"] == pytest.approx(6 / 64)
    assert (found["first"], found["last"]) == ("2026-05-20T00:00:00Z", "2026-05-20T01:04:00Z")
    assert found["halved_by"] == {"dead_band": None, "on_delay_s": None}


def test_an_existing_threshold_as_it_is_and_changed(factoryd: CommandLine, database: Database) -> None:
    factoryd.good("threshold", "add", "press", "temperature", "--max", "80", "--for", "1m", "--disabled")
    ((number,),) = rows(database.owner, "SELECT id FROM alert_thresholds")
    store(database, HOT)
    as_it_is = factoryd("threshold", "try", "--threshold", str(number), *THAT_DAY, "-o", "json").json()
    assert (as_it_is["tried"], as_it_is["alerts"]) == ("press temperature above 80 for 1m", 1)
    changed = factoryd("threshold", "try", "--threshold", str(number), "--for", "0s", *THAT_DAY, "-o", "json").json()
    assert (changed["tried"], changed["alerts"]) == ("press temperature above 80", 2)
    assert rows(database.owner, "SELECT for_seconds FROM alert_thresholds") == [(60.0,)], "nothing is changed"
    assert factoryd("threshold", "try", "--threshold", str(number - 1), *THAT_DAY).code == 1, "another one is not it"


def test_the_table_is_bounded_and_the_rest_is_counted(factoryd: CommandLine, database: Database) -> None:
    store(database, [81.0, 70.0] * 30, every_s=1200)
    arguments = ("threshold", "try", "press", "temperature", "--max", "80", *THAT_DAY)
    bounded, whole = (factoryd.good(*arguments, *more).splitlines() for more in ((), ("--all",)))
    assert len([line for line in bounded if line.endswith("high  81")]) == 20
    assert bounded[3].startswith("2026-05-20 06:40:00Z"), "the eleventh"
    assert "the last 20 of 30 alerts; --all shows all" in bounded
    assert len([line for line in whole if line.endswith("high  81")]) == 30
    assert not [line for line in whole if "--all" in line]
    csv = factoryd.good(*arguments, "-o", "csv").splitlines()
    assert csv[:2] == [
        "triggered_at,resolved_at,side,peak,flapping",
        "2026-05-20T00:00:00Z,2026-05-20T00:20:00Z,high,81.0,false",
    ]
    assert len(csv) == 31
    assert factoryd.good(*arguments, "--min", "0", "--max", "99", "-o", "csv").splitlines() == csv[:1]


def test_what_is_still_open_and_what_flaps_is_marked(factoryd: CommandLine, database: Database) -> None:
    store(database, [81.0, 70.0] * 5, every_s=60)
    lines = factoryd.good("threshold", "try", "press", "temperature", "--max", "80", *THAT_DAY).splitlines()
    assert [line.partition("high  ")[2] for line in lines[3:6]] == ["81", "81", "81    open, flapping"]


def test_without_a_max_gap_it_is_three_intervals_of_the_device(factoryd: CommandLine, database: Database) -> None:
    factoryd.good("device", "edit", "press", "--interval", "15")
    store(database, HOT)
    seldom = factoryd("threshold", "try", "press", "temperature", "--max", "80", "--for", "1m", *THAT_DAY)
    assert "no alert\n" in seldom.out
    assert seldom.err == (
        "note: most readings come more than 45s after the one before, so delays begin anew all the time: see --max-gap\n"
    )
    factoryd.good("device", "edit", "press", "--interval", "20")
    often = factoryd("threshold", "try", "press", "temperature", "--max", "80", "--for", "1m", *THAT_DAY)
    assert "1 alert, " in often.out
    assert often.err == ""


def test_a_past_without_readings(factoryd: CommandLine, database: Database) -> None:
    answer = factoryd("threshold", "try", "press", "temperature", "--max", "80", *THAT_DAY)
    assert (answer.code, answer.out, answer.err) == (0, "", "no readings of temperature in that time\n")
    store(database, HOT, MIDNIGHT + timedelta(days=1))
    assert factoryd("threshold", "try", "press", "temperature", "--max", "80", *THAT_DAY, "-o", "json").json()["readings"] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("press", "temperature"), 2, "there is no limit to try: give --min or --max"),
        (("press",), 2, "say what to try: DEVICE METRIC --max 80, or --threshold ID"),
        (("press", "temperature", "--threshold", "1"), 2, "say what to try: DEVICE METRIC --max 80, or --threshold ID"),
        (("--threshold", "99", "--max", "80"), 1, "there is no threshold 99; factoryd threshold list shows all"),
        (
            ("nobody", "temperature", "--max", "80"),
            1,
            "device nobody is not registered; factoryd device add nobody registers it",
        ),
        (("press", "a b", "--max", "80"), 2, "metric: 'a b' cannot be a metric's name"),
        (("press", "temperature", "--max", "x"), 2, "max: 'x' is no number"),
        (("press", "temperature", "--min", "9", "--max", "8"), 2, "min: 9 is not below max 8"),
        (("press", "temperature", "--max", "8", "--since", "soon"), 2, "'soon' is no time"),
        (("press", "temperature", "--max", "8", "--since", "1d", "--until", "2d"), 2, "--since 1d: must be before 2d"),
        (("press", "temperature", "--max", "8", "--since", "2126-01-01"), 2, "--since 2126-01-01: must be before now"),
    ],
)
def test_mistakes_are_one_line_that_says_what_to_do(
    factoryd: CommandLine, arguments: tuple[str, ...], code: int, text: str
) -> None:
    answer = factoryd("threshold", "try", *arguments)
    assert answer.code == code
    assert answer.out == ""
    assert answer.err.startswith(f"factoryd: {text}")
    assert answer.err.count("\n") == 1


def test_the_last_days_in_a_few_lines(factoryd: CommandLine, database: Database) -> None:
    now = datetime.now(UTC)
    ensure_partitions(database.owner, 9, 1, now.date())
    settings = Settings(database=DatabaseSettings(url=SecretStr(database.daemon)))
    rule = Rule(0, 0, "temperature", None, 80.0, Severity.WARNING, 0)
    assert last_days_report(settings, "press", rule) is None
    store(database, HOT, now - timedelta(days=8))
    assert last_days_report(settings, "press", rule) is None, "a day too old"
    store(database, HOT, now - timedelta(hours=2))
    assert last_days_report(settings, "press", rule) == (
        "press, the last 7 days: 2 alerts, 3.0 minutes in alarm (4.7 % of the time), 1 raised again within 10 minutes\n"
        "A dead band of 0.7 (--hysteresis 0.7) would leave 1 alert.\n"
        "An on-delay of 1s (--for 1s) would leave 1 alert."
    )
    quiet = rule._replace(high=90.0)
    assert last_days_report(settings, "press", quiet) == "press, the last 7 days: no alert"
    assert str(last_days_report(settings, "press", rule, days=9)).startswith("press, the last 9 days: 4 alerts")
    with pytest.raises(NotFound):
        last_days_report(settings, "nobody", rule)
