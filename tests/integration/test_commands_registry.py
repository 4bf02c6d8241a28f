"""factoryd device, user: the registry, against a real database."""

from pathlib import Path

import bcrypt
import pytest

from tests.integration.command_line import CommandLine, quarantine, rows
from tests.integration.conftest import Database


@pytest.fixture
def factoryd(database: Database) -> CommandLine:
    return CommandLine(database.daemon)


def test_a_device_is_added_listed_and_shown(factoryd: CommandLine) -> None:
    factoryd.good("user", "add", "anna", "--email", "anna@example.com", "--role", "operator")
    factoryd.good("device", "add", "gw-1", "--type", "gateway")
    factoryd.good(
        *("device", "add", "press-01", "--name", "Press 1", "--type", "press", "--location", "hall 1", "--interval", "2.5"),
        *("--timezone", "Europe/Berlin", "--via", "gw-1", "--owner", "anna", "--metadata", '{"line": 4}'),
    )
    listed = factoryd("device", "list", "-o", "json").json()
    assert [device["device_id"] for device in listed] == ["gw-1", "press-01"]
    shown = factoryd("device", "show", "press-01", "-o", "json").json()
    assert shown["name"] == "Press 1"
    assert (shown["via"], shown["owner"], shown["timezone"], shown["interval_s"]) == ("gw-1", "anna", "Europe/Berlin", 2.5)
    assert shown["metadata"] == {"line": 4}
    assert shown["status"] == "offline"


def test_a_bare_device_gets_defaults(factoryd: CommandLine) -> None:
    factoryd.good("device", "add", "s-1")
    shown = factoryd("device", "show", "s-1", "-o", "json").json()
    assert (shown["name"], shown["type"], shown["location"]) == ("s-1", "unknown", "")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("add", "a/b"), 2, "'a/b' cannot be a device id: use 1 to 255 of A-Z a-z 0-9 . _ : -"),
        (("add", "x", "--timezone", "Mars/Base"), 2, "timezone: 'Mars/Base' is not known"),
        (("add", "x", "--timezone", "../etc/passwd"), 2, "timezone: '../etc/passwd' is not known"),
        (("add", "x", "--interval", "0"), 2, "interval: '0' is no number of seconds above 0"),
        (("add", "x", "--interval", "inf"), 2, "interval: 'inf' is no number of seconds above 0"),
        (("add", "x", "--metadata", "[1]"), 2, "metadata: must be a JSON object"),
        (("add", "x", "--metadata", '{"a": NaN}'), 2, "metadata: not JSON"),
        (("add", "x", "--metadata", '{"a": "\\u0000"}'), 2, "metadata: the character NUL cannot be stored"),
        (("add", "x", "--name", "n" * 256), 2, "name: 256 characters are too many, at most 255 fit"),
        (("add", "x", "--via", "gw-9"), 1, "gateway gw-9 is not registered; add it first"),
        (("add", "x", "--via", "x"), 1, "device x cannot be its own gateway"),
        (("add", "x", "--owner", "nobody"), 1, "user nobody does not exist; factoryd user list shows all"),
        (("add", "known"), 1, "device known is registered already; factoryd device edit known changes it"),
        (("add", "factoryd"), 1, "a device must not be named factoryd"),
        (("show", "x"), 1, "device x is not registered; factoryd device add x registers it"),
        (("show", "seen"), 1, "device seen is not registered; factoryd device approve seen registers it"),
        (("edit", "x", "--name", "y"), 1, "device x is not registered"),
        (("edit", "known"), 2, "nothing to change"),
        (("retire", "x"), 1, "device x is not registered"),
        (("credentials", "x"), 1, "device x is not registered"),
        (("approve", "x"), 1, "device x was not seen in the quarantine; factoryd device add x registers it unseen"),
        (("list", "--status", "gone"), 2, "--status gone: must be online, offline or error"),
    ],
)
def test_mistakes_are_one_line_that_says_what_to_do(
    factoryd: CommandLine, database: Database, arguments: tuple[str, ...], code: int, text: str
) -> None:
    rows(database.owner, "INSERT INTO devices (device_id, name, type, location) VALUES ('known', '', '', '')")
    quarantine(database.owner, "seen", "unknown_device")
    answer = factoryd("device", *arguments)
    assert answer.code == code
    assert answer.out == ""
    assert text in answer.err
    assert answer.err.count("\n") == 1
    assert answer.err.startswith("factoryd: ")


def test_edit_changes_what_is_named_and_an_empty_value_takes_it_away(factoryd: CommandLine) -> None:
    factoryd.good("device", "add", "gw")
    factoryd.good("device", "add", "d", "--via", "gw", "--interval", "5", "--location", "hall 1", "--timezone", "UTC")
    factoryd.good("device", "edit", "d", "--via", "", "--interval", "", "--timezone", "", "--name", "D")
    shown = factoryd("device", "show", "d", "-o", "json").json()
    assert (shown["via"], shown["interval_s"], shown["timezone"]) == (None, None, None)
    assert (shown["name"], shown["location"]) == ("D", "hall 1")


def test_gateways_cannot_form_a_circle(factoryd: CommandLine) -> None:
    factoryd.good("device", "add", "a")
    factoryd.good("device", "add", "b", "--via", "a")
    factoryd.good("device", "add", "c", "--via", "b")
    for gateway in ("a", "b", "c"):
        answer = factoryd("device", "edit", "a", "--via", gateway)
        assert answer.code == 1
        assert answer.err == "factoryd: device a cannot have a gateway that is behind itself; name another one with --via\n"


def test_approve_registers_a_device_and_marks_its_messages(factoryd: CommandLine, database: Database) -> None:
    ours = [quarantine(database.owner, "new", "unknown_device") for _ in range(3)]
    quarantine(database.owner, "new", "malformed")
    quarantine(database.owner, "other", "unknown_device")
    out = factoryd.good("device", "approve", "new", "--location", "hall 2")
    assert out == "device new registered; 3 quarantined messages will be replayed by the daemon\n"
    assert factoryd("device", "show", "new", "-o", "json").json()["location"] == "hall 2"
    asked = rows(database.daemon, "SELECT id FROM quarantine WHERE replay_requested_at IS NOT NULL ORDER BY id")
    assert [number for (number,) in asked] == ours
    again = factoryd.good("device", "approve", "new")
    assert again == "device new was registered already; 0 quarantined messages will be replayed by the daemon\n"


def test_credentials_are_shown_once_and_kept_as_a_hash(factoryd: CommandLine, database: Database) -> None:
    factoryd.good("device", "add", "d")
    first = factoryd.good("device", "credentials", "d").splitlines()
    username, password, line = (part.partition(": ")[2] for part in first[:3])
    (stored,) = rows(database.daemon, "SELECT secret_hash, rotated_at IS NULL FROM device_credentials")
    assert (username, line) == ("d", f"d:{stored[0]}")
    assert stored[0].startswith("$7$101$")
    assert password not in stored[0]
    assert stored[1] is True
    assert factoryd("device", "credentials", "d").err == "the old secret ends now\n"
    (rotated,) = rows(database.daemon, "SELECT secret_hash, rotated_at IS NOT NULL FROM device_credentials")
    assert rotated[0] != stored[0]
    assert rotated[1] is True


def test_retire_keeps_the_device_and_removes_its_credentials(factoryd: CommandLine, database: Database) -> None:
    factoryd.good("device", "add", "gw")
    factoryd.good("device", "add", "child", "--via", "gw")
    factoryd.good("device", "credentials", "gw")
    answer = factoryd("device", "retire", "gw")
    assert answer.code == 0
    assert "1 devices still have it as their gateway" in answer.err
    assert rows(database.daemon, "SELECT count(*) FROM device_credentials") == [(0,)]
    assert [d["device_id"] for d in factoryd("device", "list", "-o", "json").json()] == ["child"]
    assert [d["device_id"] for d in factoryd("device", "list", "--retired", "-o", "json").json()] == ["child", "gw"]
    assert "gateway gw is retired" in factoryd("device", "add", "next", "--via", "gw").err
    assert "device gw is retired" in factoryd("device", "credentials", "gw").err
    factoryd.good("device", "edit", "gw", "--active")
    assert factoryd("device", "show", "gw", "-o", "json").json()["retired_at"] is None


def test_lists_come_in_pages(factoryd: CommandLine) -> None:
    for number in range(5):
        factoryd.good("device", "add", f"d-{number}")
    first = factoryd("device", "list", "--limit", "2", "-o", "csv")
    assert first.out.splitlines()[0].startswith("device_id,name,type,location,status")
    assert [line.split(",")[0] for line in first.out.splitlines()[1:]] == ["d-0", "d-1"]
    assert first.err == "more: --after d-1\n"
    last = factoryd("device", "list", "--limit", "2", "--after", "d-2", "-o", "csv")
    assert [line.split(",")[0] for line in last.out.splitlines()[1:]] == ["d-3", "d-4"]
    assert last.err == ""


def test_a_table_is_plain_where_nobody_looks_and_obeys_no_control_characters(factoryd: CommandLine, database: Database) -> None:
    rows(
        database.owner,
        "INSERT INTO devices (device_id, name, type, location, status_reason) VALUES ('d', %s, 't', '', 'silent')",
        "evil\x1b[2J",
    )
    heading, line = factoryd.good("device", "list").splitlines()
    assert heading.split() == [
        "DEVICE",
        "NAME",
        "TYPE",
        "LOCATION",
        "STATUS",
        "LAST",
        "SEEN",
        "LAST",
        "READING",
        "VIA",
        "OWNER",
        "NOTES",
    ]
    assert "evil\\x1b[2J" in line
    assert line.endswith("silent, no credentials")


def test_an_import_is_all_or_nothing_and_names_every_bad_line(
    factoryd: CommandLine, database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "devices.csv"
    file.write_text(
        "device_id,name,interval,timezone,via,owner\n"
        "good,Good,5,UTC,,\n"
        "bad/id,,,,,\n"
        "zone,,,Nowhere,,\n"
        "\n"
        "short,x\n"
        "gate,,,,missing,\n"
        "own,,,,,nobody\n"
        "good,Again,,,,\n"
        "loop-a,,,,loop-b,\n"
        "loop-b,,,,loop-a,\n"
        "factoryd,,,,,\n"
    )
    answer = factoryd("device", "import", str(file))
    assert answer.code == 2
    assert [line.removeprefix("factoryd: ").partition(":")[0] for line in answer.err.splitlines()] == [
        *(f"line {number}" for number in (3, 4, 6, 7, 8, 9, 10, 11, 12)),
        "9 bad lines",
    ]
    assert rows(database.daemon, "SELECT count(*) FROM devices") == [(0,)]


def test_an_import_again_changes_nothing(factoryd: CommandLine, database: Database, tmp_path: Path) -> None:
    file = tmp_path / "devices.csv"
    file.write_text(
        '\ufeffdevice_id,name,type,via,metadata\nplc,,plc,gw,\ngw,Gateway,gateway,,"{""a"": 1}"\n', encoding="utf-8"
    )
    assert factoryd.good("device", "import", str(file)) == "2 registered, 0 changed, 0 as they were\n"
    assert factoryd.good("device", "import", str(file)) == "0 registered, 0 changed, 2 as they were\n"
    shown = factoryd("device", "show", "plc", "-o", "json").json()
    assert (shown["via"], shown["name"], shown["type"]) == ("gw", "plc", "plc")
    factoryd.good("device", "edit", "plc", "--location", "hall 3")
    file.write_text("device_id,type\nplc,robot\ngw,gateway\n")
    assert factoryd.good("device", "import", str(file)) == "0 registered, 1 changed, 1 as they were\n"
    shown = factoryd("device", "show", "plc", "-o", "json").json()
    assert (shown["type"], shown["location"], shown["via"]) == ("robot", "hall 3", "gw")


def test_a_csv_with_an_unknown_column_is_refused(factoryd: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "devices.csv"
    file.write_text("device_id;name\nx;y\n")
    answer = factoryd("device", "import", str(file))
    assert answer.code == 2
    assert "columns are device_id, name, type" in answer.err


def test_users_have_bcrypt_passwords(factoryd: CommandLine, database: Database) -> None:
    password = "correct horse battery"
    factoryd.good("user", "add", "bob", "--email", "bob@example.com", "--password-stdin", stdin=f"{password}\n")
    ((stored,),) = rows(database.daemon, "SELECT password_hash FROM users WHERE login = 'bob'")
    assert stored.startswith("$2b$12$")
    assert bcrypt.checkpw(password.encode(), stored.encode())
    listed = factoryd("user", "list", "-o", "json").json()
    assert [(user["login"], user["has_password"]) for user in listed] == [("bob", True), ("system", False)]


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "text"),
    [
        (("Bob", "--email", "b@x.org"), None, 2, "'Bob' cannot be a login"),
        (("bob", "--email", "nothing"), None, 2, "'nothing' is no e-mail address"),
        (("bob", "--email", "b@x.org", "--role", "boss"), None, 2, "'boss' is no role: use admin, operator, user"),
        (("bob", "--email", "b@x.org", "--password-stdin"), "ä" * 37, 2, "has 74 bytes, and bcrypt takes 72"),
        (("bob", "--email", "b@x.org", "--password-stdin"), "long enough\0 to pass", 2, "holds the character NUL"),
        (("bob", "--email", "b@x.org", "--password-stdin"), "short", 2, "choose at least 12"),
        (("system", "--email", "b@x.org"), None, 1, "login system is taken"),
        (("bob", "--email", "system@factoryd.invalid"), None, 1, "e-mail address system@factoryd.invalid is taken"),
    ],
)
def test_mistakes_about_users(
    factoryd: CommandLine, arguments: tuple[str, ...], stdin: str | None, code: int, text: str
) -> None:
    answer = factoryd("user", "add", *arguments, stdin=stdin)
    assert answer.code == code
    assert text in answer.err
    assert answer.err.count("\n") == 1
