"""factoryd threshold: which values raise an alert, against a real database."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from time import sleep

import psycopg
import pytest
from pydantic import SecretStr

from config.settings import DatabaseSettings
from factoryd.commands import threshold_report
from storage.alert_book import AlertTables
from storage.command_connection import REGISTRY_LOCK
from storage.database import DatabaseUnavailable, open_pool
from storage.partitions import ensure_partitions
from storage.threshold_fields import rule_of
from storage.threshold_views import list_senders, list_thresholds
from tests.integration.command_line import CommandLine, rows
from tests.integration.conftest import Database
from tests.integration.thresholds import READINGS, registered


@pytest.fixture
def factoryd(database: Database) -> CommandLine:
    return registered(database)


def test_a_threshold_says_all_that_was_said(factoryd: CommandLine, database: Database) -> None:
    out = factoryd.good(
        *("threshold", "add", "press-1", "temperature", "--min", "-5", "--max", "80.5", "--severity", "critical"),
        *("--for", "30s", "--hysteresis", "2", "--clear", "1m", "--max-gap", "5m", "--no-data", "10m", "--owner", "anna"),
        *("--instruction", "stop the press", "--disabled"),
    )
    condition = "below -5 or above 80.5 for 30s, hysteresis 2, clear 1m, max-gap 5m, no data for 10m"
    assert out.splitlines()[0] == f"threshold 1 added: press-1 temperature {condition}, critical, disabled"
    assert rows(
        database.daemon,
        """SELECT d.device_id, metric_type, min_value, max_value, severity::text, enabled, for_seconds, hysteresis,
            clear_seconds, max_gap_seconds, no_data_seconds, instruction, u.login, class_id
        FROM alert_thresholds t JOIN devices d ON d.id = t.device_id JOIN users u ON u.id = t.user_id""",
    ) == [
        (
            *("press-1", "temperature", -5.0, 80.5, "critical", False, 30.0, 2.0),
            *(60.0, 300.0, 600.0, "stop the press", "anna", None),
        )
    ]
    (listed,) = factoryd("threshold", "list", "-o", "json").json()
    assert (listed["device"], listed["condition"], listed["state"]) == ("press-1", condition, "off")
    assert (listed["for_seconds"], listed["owner"], listed["alert"]) == (30.0, "anna", None)


async def test_what_is_back_tested_is_the_rule_that_the_daemon_goes_by(factoryd: CommandLine, database: Database) -> None:
    factoryd.good("device", "edit", "press-1", "--interval", "5")
    said = ("--min", "-5", "--max", "80", "--for", "30s", "--hysteresis", "2", "--clear", "1m", "--instruction", "stop")
    factoryd.good("threshold", "add", "press-1", "oil", *said)
    factoryd.good("threshold", "add", "press-1", "oil", *said, "--max-gap", "7s", "--severity", "info", "--no-data", "1m")
    async with open_pool(DatabaseSettings(url=SecretStr(database.daemon))) as pool:
        rules = (await AlertTables(pool).snapshot()).rules.values()
    (sender,) = list_senders(DatabaseSettings(url=SecretStr(database.daemon)), threshold=1)
    views = list_thresholds(DatabaseSettings(url=SecretStr(database.daemon)))
    ours = [rule_of(view.stored.threshold, sender.interval_s) for view in views]
    assert ours == [rule._replace(threshold_id=0, device_id=0, owner_id=0) for rule in rules]
    assert [rule.max_gap for rule in ours] == [timedelta(seconds=15), timedelta(seconds=7)]


def test_a_bare_threshold_gets_defaults(factoryd: CommandLine) -> None:
    factoryd.good("threshold", "add", "lathe-1", "oil", "--max", "80")
    factoryd.good("device", "edit", "lathe-1", "--owner", "anna")
    factoryd.good("threshold", "add", "lathe-1", "oil", "--min", "3")
    first, second = factoryd("threshold", "list", "-o", "json").json()
    assert (first["severity"], first["enabled"], first["state"], first["owner"]) == ("warning", True, "normal", "system")
    assert second["owner"] == "anna", "the device's"
    heading, line, _ = factoryd.good("threshold", "list").splitlines()
    assert heading.split() == ["ID", "DEVICE", "METRIC", "CONDITION", "SEVERITY", "OWNER", "CLASS", "STATE", "ALERT"]
    assert line.split() == ["1", "lathe-1", "oil", "above", "80", "warning", "system", "normal"]


def test_a_class_covers_devices_that_match_now_and_later(factoryd: CommandLine, database: Database) -> None:
    answer = factoryd("threshold", "add", "--select", "type=press,location=hall-*", "temperature", "--max", "80")
    assert answer.out.splitlines()[:2] == [
        "class 1 added: type=press,location=hall-* temperature above 80, warning",
        "2 devices now: press-1, press-2",
    ]
    assert answer.err == "note: temperature was never sent by press-2\n"
    factoryd.good("device", "add", "press-3", "--type", "press", "--location", "hall-3", "--owner", "anna")
    factoryd.good("threshold", "add", "press-1", "oil", "--max", "9")
    kept = factoryd("threshold", "list", "--class", "1", "-o", "json").json()
    assert [(row["device"], row["class"], row["owner"]) for row in kept] == [
        ("press-1", 1, "system"),
        ("press-2", 1, "system"),
        ("press-3", 1, "anna"),
    ]
    (listed,) = factoryd("threshold", "list", "--classes", "-o", "json").json()
    assert (listed["id"], listed["select"], listed["matching"], listed["owner"]) == (1, "type=press,location=hall-*", 3, None)
    assert rows(database.daemon, "SELECT selector FROM threshold_classes") == [({"type": "press", "location": "hall-*"},)]
    empty = factoryd("threshold", "add", "--select", "type=robot", "temperature", "--max", "80")
    assert empty.err == "note: no device matches now; factoryd device list shows type, location and all else\n"


@pytest.mark.parametrize(
    ("arguments", "note"),
    [
        (("press-1", "temprature"), "note: press-1 has never sent temprature; it sends door, oil, temperature\n"),
        (("press-2", "temperature"), "note: press-2 has not sent anything yet\n"),
        (
            ("--select", "type=press", "device_recorded_at"),
            "note: none of them has ever sent device_recorded_at; what they send is door, oil, temperature\n",
        ),
        (("--select", "type=lathe", "oil"), "note: none of them has ever sent oil; what they send is nothing yet\n"),
        (("press-1", "oil"), ""),
        (("press-1", "door"), ""),
    ],
)
def test_a_metric_that_never_came_is_pointed_out(factoryd: CommandLine, arguments: tuple[str, ...], note: str) -> None:
    answer = factoryd("threshold", "add", *arguments, "--max", "80")
    assert (answer.code, answer.err) == (0, note)


def test_the_last_days_are_told_of(factoryd: CommandLine, database: Database) -> None:
    ensure_partitions(database.owner, 8, 1, datetime.now(UTC).date())
    none = factoryd.good("threshold", "add", "press-1", "temperature", "--max", "91")
    assert none.splitlines()[1] == "press-1, the last 7 days: no readings"
    rows(database.owner, READINGS, [70.0, 85.0, 86.0, 70.0, 95.0, 70.0], "press-1")
    one = factoryd.good("threshold", "add", "press-1", "temperature", "--max", "80")
    assert "2 alerts" in one
    few = factoryd.good("threshold", "add", "--select", "device=press-*", "temperature", "--max", "90")
    assert "press-1" in few.partition("devices now: press-1, press-2\n")[2], "the first that sends it"
    assert "1 alert" in few


def test_a_past_that_cannot_be_read_takes_nothing_back(
    factoryd: CommandLine, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise DatabaseUnavailable("statement timeout")

    monkeypatch.setattr(threshold_report, "last_days_report", fail)
    answer = factoryd("threshold", "add", "press-1", "temperature", "--max", "80")
    assert (answer.code, answer.err) == (0, "note: the last 7 days of press-1 could not be read: statement timeout\n")
    assert rows(database.daemon, "SELECT count(*) FROM alert_thresholds") == [(1,)]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("press-1", "oil", "--min", "90", "--max", "80"), 2, "min: 90 is not below max 80"),
        (("press-1", "oil", "--min", "0", "--max", "10", "--hysteresis", "6"), 2, "hysteresis: 6 on both sides leaves nothing"),
        (("press-1", "oil", "--max", "80", "--for", "-5s"), 2, "for: '-5s' is no duration; write it like 90s"),
        (("press-1", "oil", "--max", "80", "--clear", "31d"), 2, "clear: must be from 0 s to 30 days"),
        (("press-1", "oil", "--max", "nan"), 2, "max: 'nan' is no number"),
        (("press-1", "oil", "--min", "-inf"), 2, "min: '-inf' is no number"),
        (("press-1", "oil"), 2, "there is nothing to watch for: give min, max or no-data"),
        (("press-1", "_offline", "--max", "1"), 2, "metric: _offline is reserved"),
        (("press-1", "_no_data", "--max", "1"), 2, "metric: _no_data is reserved"),
        (("press-1", "oil level", "--max", "1"), 2, "metric: 'oil level' cannot be a metric's name"),
        (("press-1", "oil", "--max", "1", "--severity", "fatal"), 2, "severity: 'fatal' is none: use info, warning, critical"),
        (("press-9", "oil", "--max", "1"), 1, "device press-9 is not registered; factoryd device add press-9 registers it"),
        (("a/b", "oil", "--max", "1"), 2, "'a/b' cannot be a device id"),
        (("old", "oil", "--max", "1"), 1, "device old is retired; factoryd device edit old --active takes it back"),
        (("press-1", "oil", "--max", "1", "--owner", "eve"), 1, "user eve does not exist; factoryd user list shows all"),
        (("--select", "type=press", "oil", "--max", "1", "--owner", "eve"), 1, "user eve does not exist"),
        (("--select", "kind=press", "oil", "--max", "1"), 2, "select: 'kind=press' is not one of type, location, via, owner"),
        (("--select", "type=press", "press-1", "oil", "--max", "1"), 2, "say which: DEVICE METRIC for one device, or --select"),
        (("oil", "--max", "1"), 2, "say which: DEVICE METRIC for one device, or --select"),
        (("press-1", "temperature", "oil", "--max", "1"), 2, "say which"),
        (("press-1", "known", "--max", "7", "--for", "1m"), 1, "threshold 1 of press-1 has these limits already"),
        (("--select", "device=press*", "known", "--max", "7"), 1, "factoryd threshold edit --class 1 changes it"),
    ],
)
def test_mistakes_are_one_line_that_says_what_to_do(
    factoryd: CommandLine, database: Database, arguments: tuple[str, ...], code: int, text: str
) -> None:
    factoryd.good("device", "add", "old")
    factoryd.good("device", "retire", "old")
    factoryd.good("threshold", "add", "press-1", "known", "--max", "7")
    factoryd.good("threshold", "add", "--select", "device=press*", "known", "--max", "7")
    answer = factoryd("threshold", "add", *arguments)
    assert (answer.code, answer.out) == (code, "")
    assert text in answer.err
    assert answer.err.count("\n") == 1
    assert answer.err.startswith("factoryd: ")
    assert rows(database.daemon, "SELECT count(*) FROM alert_thresholds") == [(3,)]


def test_a_list_shows_where_each_stands(factoryd: CommandLine, database: Database) -> None:
    for limit in ("80", "90", "95"):
        factoryd.good("threshold", "add", "press-1", "temperature", "--max", limit)
    rows(database.owner, "INSERT INTO rule_state (threshold_id, phase) VALUES (1, 'active'), (2, 'pending')")
    rows(database.owner, "INSERT INTO rule_state (threshold_id, phase, latent) VALUES (3, 'active', true)")
    for status, threshold in (("resolved", 1), ("acknowledged", 1), ("resolved", 2)):
        rows(
            database.owner,
            "INSERT INTO alerts (device_id, threshold_id, severity, message, status, noticed)"
            " SELECT device_id, id, severity, 'x', %s, true FROM alert_thresholds WHERE id = %s",
            *(status, threshold),
        )
    listed = factoryd("threshold", "list", "-o", "json").json()
    assert [(row["state"], row["alert"]) for row in listed] == [("active", 2), ("pending", None), ("latent", None)]


def test_lists_are_narrowed_and_come_in_pages(factoryd: CommandLine) -> None:
    assert factoryd("threshold", "list").err == "no thresholds; factoryd threshold add makes one\n"
    assert factoryd("threshold", "list", "--classes").err == "no classes; factoryd threshold add --select makes one\n"
    factoryd.good("threshold", "add", "--select", "type=press", "oil", "--max", "80")
    factoryd.good("threshold", "add", "press-1", "temperature", "--max", "80")
    factoryd.good("threshold", "add", "lathe-1", "temperature", "--max", "80")

    def ids(*options: str) -> list[int]:
        return [row["id"] for row in factoryd("threshold", "list", *options, "-o", "json").json()]

    assert ids() == [1, 2, 3, 4]
    assert ids("--device", "press-1") == [1, 3]
    assert ids("--metric", "temperature") == [3, 4]
    assert ids("--class", "1") == [1, 2]
    assert ids("--classes", "--metric", "oil") == [1]
    assert ids("--classes", "--metric", "temperature") == []
    page = factoryd("threshold", "list", "--limit", "2", "-o", "csv")
    assert page.out.splitlines()[0].startswith("id,device,class,condition,metric,min_value,max_value,severity,enabled")
    assert page.err == "more: --after 2\n"
    assert ids("--after", "2", "--limit", "2") == [3, 4]
    assert factoryd("threshold", "list", "--classes", "--device", "press-1").code == 2


def test_edit_changes_what_is_named_and_none_takes_it_away(factoryd: CommandLine) -> None:
    factoryd.good("threshold", "add", "press-1", "oil", "--min", "5", "--max", "80", "--for", "30s", "--instruction", "run")
    factoryd.good("threshold", "add", "press-2", "oil", "--max", "80", "--owner", "anna", "--no-data", "5m")
    assert factoryd.good("threshold", "edit", "1", "--min", "none", "--for", "none") == "threshold 1 changed\n"
    assert factoryd.good("threshold", "edit", "1", "2", "--max", "80", "--owner", "none") == "threshold 2 changed\n"
    assert factoryd.good("threshold", "edit", "1", "2", "--max", "80") == "nothing to do: as before\n"
    first, second = factoryd("threshold", "list", "-o", "json").json()
    assert (first["min_value"], first["max_value"], first["for_seconds"], first["instruction"]) == (None, 80.0, 0.0, "run")
    assert (second["owner"], second["no_data_seconds"]) == ("system", 300.0)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("edit", "1"), 2, "nothing to change: name at least one option, see factoryd threshold edit --help"),
        (("edit", "--max", "7"), 2, "say which: ids as factoryd threshold list shows them, or --class ID"),
        (("enable",), 2, "say which"),
        (("edit", "1", "--max", "none"), 2, "threshold 1: there is nothing to watch for"),
        (("edit", "1", "2", "--min", "85"), 2, "threshold 2: min: 85 is not below max 80; nothing was changed"),
        (("edit", "1", "8", "9", "--max", "7"), 1, "there is no threshold 8, 9; factoryd threshold list shows all"),
        (("delete", "1", "--class", "8"), 1, "there is no class 8; factoryd threshold list --classes shows all"),
        (("edit", "1", "3", "--max", "7"), 1, "threshold 3 is one of class 1: change that, with --class 1"),
        (("delete", "3"), 1, "threshold 3 is one of class 1"),
        (("disable", "1", "3"), 1, "threshold 3 is one of class 1"),
        (("edit", "1", "--owner", "eve"), 1, "user eve does not exist"),
        (("delete", "99999999999999999999"), 1, "there is no threshold 99999999999999999999"),
    ],
)
def test_a_bad_change_changes_nothing(
    factoryd: CommandLine, database: Database, arguments: tuple[str, ...], code: int, text: str
) -> None:
    factoryd.good("threshold", "add", "press-1", "oil", "--max", "90")
    factoryd.good("threshold", "add", "press-2", "oil", "--max", "80")
    factoryd.good("threshold", "add", "--select", "type=press", "temperature", "--max", "80")
    before = rows(database.daemon, "SELECT * FROM alert_thresholds ORDER BY id")
    answer = factoryd("threshold", *arguments)
    assert (answer.code, answer.out) == (code, "")
    assert text in answer.err
    assert answer.err.count("\n") == 1
    assert rows(database.daemon, "SELECT * FROM alert_thresholds ORDER BY id") == before


def test_a_class_is_edited_switched_and_deleted_with_all_it_keeps(factoryd: CommandLine, database: Database) -> None:
    factoryd.good("threshold", "add", "--select", "type=press", "oil", "--max", "80", "--owner", "anna")
    factoryd.good("threshold", "add", "lathe-1", "oil", "--max", "80")
    assert factoryd.good("threshold", "edit", "3", "--class", "1", "--max", "85", "--owner", "none") == (
        "threshold 3, class 1 changed\n"
    )
    assert factoryd.good("threshold", "disable", "--class", "1") == "class 1 disabled\n"
    assert factoryd.good("threshold", "disable", "--class", "1") == "nothing to do: out of effect already\n"
    kept = "SELECT max_value, enabled, u.login FROM alert_thresholds t JOIN users u ON u.id = t.user_id ORDER BY t.id"
    assert rows(database.daemon, kept) == [(85.0, False, "system"), (85.0, False, "system"), (85.0, True, "system")]
    assert factoryd.good("threshold", "enable", "--class", "1", "3") == "class 1 enabled\n"
    assert factoryd.good("threshold", "delete", "--class", "1") == "class 1 deleted\n"
    assert rows(database.daemon, kept) == [(85.0, True, "system")]


def test_deleting_resolves_open_alerts(factoryd: CommandLine, database: Database) -> None:
    factoryd.good("threshold", "add", "press-1", "oil", "--max", "80")
    rows(
        database.owner,
        "INSERT INTO alerts (device_id, threshold_id, severity, message)"
        " SELECT device_id, id, severity, 'x' FROM alert_thresholds",
    )
    assert factoryd.good("threshold", "delete", "1") == "threshold 1 deleted\n"
    assert rows(database.daemon, "SELECT status::text, resolution FROM alerts") == [("resolved", "threshold_deleted")]


def test_a_device_that_is_registered_meanwhile_does_not_slip_past_a_new_class(
    factoryd: CommandLine, database: Database
) -> None:
    """A transaction does not see what another has not committed: whoever changes the registry takes turns."""
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"

    def register() -> None:
        other.execute("INSERT INTO devices (device_id, name, type, location) VALUES ('late', '', 'robot', '')")
        while rows(database.admin, waiting) == [(0,)]:
            sleep(0.01)
        other.commit()

    with psycopg.connect(database.daemon) as other, ThreadPoolExecutor() as threads:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [REGISTRY_LOCK])
        registered = threads.submit(register)
        out = factoryd.good("threshold", "add", "--select", "type=robot", "oil", "--max", "80")
        registered.result()
    assert "1 device now: late" in out
