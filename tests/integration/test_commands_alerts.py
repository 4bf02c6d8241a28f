"""factoryd alert: look at alerts and act on them, against a real database; the daemon's part is played."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any

import pytest

from factoryd.commands import alert_acts
from tests.integration.command_line import CommandLine, rows
from tests.integration.conftest import Database

ALERT = """
    INSERT INTO alerts (device_id, threshold_id, user_id, severity, message, status, kind, metric, value, triggered_at,
        resolved_at, resolution, shelved_until, inhibited_by, stale, flapping, origin, noticed)
    SELECT d.id, %s, u.id, %s::alert_severity, %s, %s::alert_status, %s, %s, %s, now() - %s::interval, %s, %s, %s, %s, %s, %s,
        %s, true FROM devices d, users u WHERE d.device_id = %s AND u.login = 'system' RETURNING id"""
HISTORY = """
    INSERT INTO alert_history (alert_id, version, change, status, value, user_id, note, happened_at)
    SELECT %s, %s, %s, %s::alert_status, %s, (SELECT id FROM users WHERE login = %s), %s, now()"""
WAITING = "SELECT id, login, action, alert_id FROM operator_commands WHERE carried_out_at IS NULL ORDER BY id"
CARRY_OUT = "UPDATE operator_commands SET carried_out_at = now(), outcome = %s, detail = %s WHERE id = %s"


@pytest.fixture
def factoryd(database: Database) -> CommandLine:
    """With two devices and an operator."""
    factoryd = CommandLine(database.daemon)
    for name in ("press-1", "press-2"):
        factoryd.good("device", "add", name, "--name", name.title())
    factoryd.good("user", "add", "ada", "--email", "ada@example.com", "--role", "operator")
    return factoryd


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody will answer: five seconds of waiting would show no more."""
    monkeypatch.setattr(alert_acts, "PATIENCE_S", 0.2)


def raised(
    database: Database,
    device: str = "press-1",
    severity: str = "warning",
    status: str = "active",
    *,
    ago: str = "1 minute",
    kind: str = "offline",
    **fields: Any,
) -> int:
    values = {
        "threshold_id": None,
        "severity": severity,
        "message": "too hot",
        "status": status,
        "kind": kind,
        "metric": "oil",
        "value": 92.5,
        "ago": ago,
        "resolved_at": datetime.now(UTC) if status == "resolved" else None,
        "resolution": None,
        "shelved_until": None,
        "inhibited_by": None,
        "stale": False,
        "flapping": False,
        "origin": "live",
        **fields,
    }
    number: int = rows(database.owner, ALERT, *values.values(), device)[0][0]
    return number


@contextmanager
def daemon(database: Database, answer: Callable[[str, str, int], tuple[str, str]]) -> Iterator[None]:
    """Carries commands out, as the daemon does: `answer` takes login, action and alert, and says outcome and detail."""
    over = Event()

    def run() -> None:
        while not over.wait(0.005):
            for number, login, action, alert in rows(database.daemon, WAITING):
                rows(database.daemon, CARRY_OUT, *answer(login, action, alert), number)

    with ThreadPoolExecutor(1) as thread:
        task = thread.submit(run)
        try:
            yield
        finally:
            over.set()
            task.result()


def done(login: str, action: str, alert: int) -> tuple[str, str]:
    return "done", f"alert {alert}: {action} by {login}"


def test_open_alerts_the_most_severe_first_then_the_newest(factoryd: CommandLine, database: Database) -> None:
    assert factoryd("alert", "list").err == "no open alerts\n"
    old = raised(database, ago="3 hours")
    info = raised(database, severity="info", kind="a", ago="2 minutes")
    worst = raised(database, "press-2", "critical", "acknowledged", ago="1 day")
    new = raised(database, kind="b")
    over = raised(database, severity="critical", status="resolved", ago="2 hours", kind="c")

    def ids(*options: str) -> list[int]:
        return [row["id"] for row in factoryd("alert", "list", *options, "-o", "json").json()]

    assert ids() == ids("--open") == [worst, new, old, info]
    assert ids("--all") == [new, info, over, old, worst]
    assert ids("--device", "press-2") == [worst]
    assert ids("--severity", "warning") == [new, old]
    assert ids("--all", "--since", "150m", "--severity", "critical") == [over]
    page = factoryd("alert", "list", "--limit", "2")
    assert page.err == f"more: --after {new}\n"
    assert ids("--after", str(new)) == [old, info]
    assert ids("--all", "--after", str(over)) == [old, worst]
    assert factoryd("alert", "list", "--device", "press-2", "--severity", "info", "--all").err == "no alerts\n"


def test_a_list_says_what_an_operator_should_know(factoryd: CommandLine, database: Database) -> None:
    first = raised(database, severity="critical", message="Press 1: oil 92.5 above 80\x1b[2J", flapping=True, stale=True)
    raised(database, inhibited_by=first, shelved_until=datetime(2046, 1, 2, tzinfo=UTC), kind="a")
    raised(
        database, status="resolved", resolution="recovered", origin="retrospective", kind="b", shelved_until=datetime.now(UTC)
    )
    rows(
        database.owner,
        "UPDATE alerts SET status = 'acknowledged', acknowledged_by = 2, noticed = true, version = 2 WHERE id = 1",
    )
    heading, line, *_ = factoryd.good("alert", "list").splitlines()
    assert heading.split() == [*("ID", "SEVERITY", "STATUS", "SINCE", "DEVICE", "METRIC", "VALUE", "OWNER", "NOTES", "MESSAGE")]
    assert line.split()[:3] == ["1", "critical", "acknowledged"]
    assert "press-1  oil     92.5   system" in line
    assert line.endswith("Press 1: oil 92.5 above 80\\x1b[2J")
    listed = {row["id"]: row["notes"] for row in factoryd("alert", "list", "--all", "-o", "json").json()}
    assert listed == {
        1: "acknowledged by ada, stale, flapping",
        2: "shelved until 2046-01-02 00:00:00Z, inhibited by 1",
        3: "retrospective, recovered",
    }


def test_one_alert_with_its_history_and_what_to_do(factoryd: CommandLine, database: Database) -> None:
    factoryd.good("threshold", "add", "press-1", "oil", "--max", "80", "--instruction", "close the valve")
    number = raised(database, kind="threshold", threshold_id=1)
    rows(database.owner, HISTORY, number, 1, "raised", "active", 92.5, None, None)
    rows(database.owner, HISTORY, number, 2, "acknowledged", "acknowledged", None, "ada", "on my way")
    shown = factoryd.good("alert", "show", str(number))
    assert "instruction      close the valve\n" in shown
    assert "device name      Press-1\n" in shown
    heading, first, second = shown.partition("\n\n")[2].splitlines()
    assert heading.split() == ["VERSION", "WHEN", "CHANGE", "STATUS", "VALUE", "BY", "NOTE"]
    assert (first.split()[3], first.split()[-1]) == ("raised", "92.5")
    assert second.endswith("ada  on my way")
    whole = factoryd("alert", "show", str(number), "-o", "json").json()
    assert (whole["id"], whole["threshold_id"], whole["metric"]) == (number, 1, "oil")
    assert [(change["change"], change["by"], change["note"]) for change in whole["history"]] == [
        ("raised", None, None),
        ("acknowledged", "ada", "on my way"),
    ]
    unseen = raised(database, "press-2", metric=None)
    assert factoryd("alert", "show", str(unseen), "-o", "json").json()["metric"] == "_offline"
    assert factoryd("alert", "show", str(unseen)).err == "no history: the daemon has not seen it yet\n"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("show", "99"), 1, "there is no alert 99; factoryd alert list --all shows all"),
        (("show", "1", "-o", "csv"), 2, "-o csv: an alert with its history is no list"),
        (("list", "--after", "99"), 1, "there is no alert 99"),
        (("list", "--severity", "fatal"), 2, "--severity fatal: must be info, warning, critical"),
        (("list", "--since", "soon"), 2, "'soon' is no time"),
        (("watch", "-o", "csv"), 2, "-o csv: a stream is no list"),
        (("watch", "--severity", "fatal"), 2, "--severity fatal: must be info, warning, critical"),
        (("ack", "1", "98", "99"), 1, "there is no alert 98, 99"),
        (("ack", "1", "--actor", "eve"), 1, "user eve does not exist; factoryd user list shows all"),
        (("resolve", "1", "--note", "x" * 2001), 2, "note: 2001 characters are too many, at most 2000 fit"),
        (("comment", "1", "  "), 2, "a comment needs a text"),
        (("shelve", "1", "--for", "9h"), 2, "--for 9h: shelve for at most 8h, and for more than nothing"),
        (("shelve", "1", "--for", "0s"), 2, "--for 0s: shelve for at most 8h"),
        (("shelve", "1", "--for", "-1h"), 2, "'-1h' is no duration"),
        (("shelve", "1", "--until", "2h"), 2, "--until 2h is a duration: write --for 2h"),
        (("shelve", "1", "--until", "2020-01-01"), 2, "--until 2020-01-01: is past; a time without an offset is UTC"),
        (("shelve", "1", "--for", "1h", "--until", "2046-01-01"), 2, "give --for or --until, not both"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_asked_for(
    factoryd: CommandLine, database: Database, arguments: tuple[str, ...], code: int, text: str
) -> None:
    raised(database)
    answer = factoryd("alert", *arguments)
    assert (answer.code, answer.out) == (code, "")
    assert text in answer.err
    assert answer.err.count("\n") == 1
    assert rows(database.daemon, "SELECT count(*) FROM operator_commands") == [(0,)]


@pytest.mark.parametrize(
    ("arguments", "stored"),
    [
        (("ack", "1"), ("system", "acknowledge", None, None, False)),
        (("ack", "1", "--note", "mine", "--actor", "ada"), ("ada", "acknowledge", "mine", None, False)),
        (("resolve", "1", "--note", "sensor changed"), ("system", "resolve", "sensor changed", None, False)),
        (("shelve", "1"), ("system", "shelve", None, None, False)),
        (("shelve", "1", "--for", "2h", "--sticky"), ("system", "shelve", None, timedelta(hours=2), True)),
        (("unshelve", "1"), ("system", "unshelve", None, None, False)),
        (("comment", "1", "seen it", "--actor", "ada"), ("ada", "comment", "seen it", None, False)),
    ],
)
def test_an_act_is_a_request_that_the_daemon_answers(
    factoryd: CommandLine, database: Database, arguments: tuple[str, ...], stored: tuple[object, ...]
) -> None:
    raised(database)
    with daemon(database, done):
        answer = factoryd("alert", *arguments)
    assert (answer.code, answer.out, answer.err) == (0, f"alert 1: {stored[1]} by {stored[0]}\n", "")
    assert rows(database.daemon, "SELECT login, action, note, shelve_until - created_at, sticky FROM operator_commands") == [
        stored
    ]
    assert rows(database.daemon, "SELECT alert_id, origin FROM operator_commands") == [(1, "cli")]
    assert rows(database.daemon, "SELECT status::text FROM alerts") == [("active",)], "the daemon alone touches alerts"


def test_shelving_until_a_time_is_by_its_offset(factoryd: CommandLine, database: Database) -> None:
    raised(database)
    with daemon(database, done):
        factoryd.good("alert", "shelve", "1", "--until", "2046-01-01T16:00+01:00")
    assert rows(database.daemon, "SELECT shelve_until FROM operator_commands") == [(datetime(2046, 1, 1, 15, tzinfo=UTC),)]


def test_what_is_refused_is_told_with_the_reason(factoryd: CommandLine, database: Database) -> None:
    numbers = [raised(database, kind=kind) for kind in "abc"]

    def answer(login: str, action: str, alert: int) -> tuple[str, str]:
        return ("refused", f"alert {alert} is resolved already") if alert == 2 else ("done", f"alert {alert} acknowledged")

    with daemon(database, answer):
        told = factoryd("alert", "ack", "3", "2", "1", "3")
    assert told.code == 1
    assert told.out == "alert 3 acknowledged\nalert 1 acknowledged\n"
    assert told.err == "factoryd: alert 2 is resolved already\n"
    asked = rows(database.daemon, "SELECT alert_id FROM operator_commands ORDER BY id")
    assert asked == [(3,), (2,), (1,)], f"each once, in their order, of {numbers}"


@pytest.mark.usefixtures("impatient")
def test_without_a_daemon_the_request_stays(factoryd: CommandLine, database: Database) -> None:
    raised(database)
    answer = factoryd("alert", "ack", "1")
    assert (answer.code, answer.out) == (69, "")
    assert answer.err == (
        "factoryd: alert 1: no answer within 0.2 s; the request is stored, and is carried out when the daemon runs"
        " (factoryd status)\n"
    )
    assert rows(database.daemon, "SELECT action, carried_out_at FROM operator_commands") == [("acknowledge", None)]


@pytest.mark.usefixtures("impatient")
def test_a_refusal_outweighs_a_missing_answer(factoryd: CommandLine, database: Database) -> None:
    """Trying again is of no use for what was refused."""
    for kind in "ab":
        raised(database, kind=kind)
    refuse_one = "UPDATE operator_commands SET carried_out_at = now(), outcome = 'refused', detail = 'no' WHERE alert_id = 1"
    rows(
        database.owner,
        f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN {refuse_one};"
        " RETURN NULL; END $$",
    )
    rows(database.owner, "CREATE TRIGGER refuse AFTER INSERT ON operator_commands EXECUTE FUNCTION refuse()")
    answer = factoryd("alert", "resolve", "1", "2")
    assert answer.code == 1
    assert answer.err.splitlines()[0] == "factoryd: no"
    assert answer.err.splitlines()[1].startswith("factoryd: alert 2: no answer within 0.2 s; the request is stored")


@contextmanager
def happening(database: Database, *alerts: int) -> Iterator[None]:
    """New versions of alerts come all the time, one alert after the other."""
    over = Event()

    def run() -> None:
        version = 1
        while not over.wait(0.01):
            version += 1
            for alert in alerts:
                rows(database.owner, HISTORY, alert, version, "acknowledged", "acknowledged", 7.5, "ada", "on my way")

    with ThreadPoolExecutor(1) as thread:
        task = thread.submit(run)
        try:
            yield
        finally:
            over.set()
            task.result()


def test_watch_shows_each_version_as_it_comes(factoryd: CommandLine, database: Database) -> None:
    first = raised(database, severity="critical")
    second = raised(database, "press-2", message="Press 2: oil 92.5 above 80")
    rows(database.owner, HISTORY, first, 1, "raised", "active", 92.5, None, None)
    with happening(database, first, second):
        answer = factoryd("alert", "watch", "--count", "6", "-o", "json")
        changes = [json.loads(line) for line in answer.out.splitlines()]
        some = factoryd("alert", "watch", "--count", "3", "--device", "press-2", "-o", "json")
        severe = factoryd("alert", "watch", "--count", "3", "--severity", "critical", "-o", "json")
        line = factoryd("alert", "watch", "--count", "1", "--device", "press-2").out
    assert answer.err == "watching alerts; Ctrl-C ends it\n"
    numbers = [change["id"] for change in changes]
    assert numbers == list(range(numbers[0], numbers[0] + 6)), "each version once, in order"
    assert numbers[0] > 1, "only what came since"
    assert {(change["alert_id"], change["device"]) for change in changes} == {(first, "press-1"), (second, "press-2")}
    assert {json.loads(text)["alert_id"] for text in some.out.splitlines()} == {second}
    assert {json.loads(text)["alert_id"] for text in severe.out.splitlines()} == {first}
    assert line.split("  ", 1)[1] == (f"acknowledged by ada  warning   #{second}  Press 2: oil 92.5 above 80  (on my way)\n")
