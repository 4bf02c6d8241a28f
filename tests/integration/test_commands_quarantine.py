"""factoryd quarantine: look, replay, purge."""

import pytest

from tests.integration.command_line import CommandLine, quarantine, rows
from tests.integration.conftest import Database


@pytest.fixture
def factoryd(database: Database) -> CommandLine:
    return CommandLine(database.daemon)


def test_it_is_listed_newest_first_and_narrowed(factoryd: CommandLine, database: Database) -> None:
    old = quarantine(database.owner, "a", "malformed", ago="3 hours", detail="not JSON: x")
    new = quarantine(database.owner, "a", "too_late")
    other = quarantine(database.owner, "b", "malformed", repeats=40)

    def ids(*options: str) -> list[int]:
        return [row["id"] for row in factoryd("quarantine", "list", *options, "-o", "json").json()]

    assert ids() == [other, new, old]
    assert ids("--device", "a") == [new, old]
    assert ids("--reason", "malformed") == [other, old]
    assert ids("--since", "2h") == [other, new]
    assert ids("--below", str(new)) == [old]
    page = factoryd("quarantine", "list", "--limit", "2")
    assert page.err == f"more: --below {new}\n"
    assert page.out.splitlines()[0].split()[:4] == ["ID", "RECEIVED", "DEVICE", "REASON"]


def test_an_empty_quarantine_says_so(factoryd: CommandLine) -> None:
    answer = factoryd("quarantine", "list")
    assert (answer.code, answer.out, answer.err) == (0, "", "the quarantine is empty\n")
    assert factoryd("quarantine", "list", "-o", "json").json() == []


def test_payloads_are_shown_as_text_or_hex(factoryd: CommandLine, database: Database) -> None:
    text = quarantine(database.owner, "a", "bad_type", b'{"temperature": "hot"}')
    binary = quarantine(database.owner, "a", "malformed", b"\x81\xa1\x00\x1b[2J")
    assert factoryd("quarantine", "show", str(text), "-o", "json").json()["payload_text"] == '{"temperature": "hot"}'
    shown = factoryd.good("quarantine", "show", str(binary))
    assert "81a1001b 5b324a" in shown.replace("\n", " ")
    assert "\x1b" not in shown
    assert factoryd.good("quarantine", "show", "--raw", str(text)) == '{"temperature": "hot"}'
    missing = factoryd("quarantine", "show", "999")
    assert missing.code == 1
    assert missing.err == "factoryd: there is no quarantined message 999; factoryd quarantine list shows what there is\n"


def test_replay_marks_what_is_selected(factoryd: CommandLine, database: Database) -> None:
    first, second = (quarantine(database.owner, "a", "malformed") for _ in range(2))
    quarantine(database.owner, "b", "too_late")
    marked = "SELECT id FROM quarantine WHERE replay_requested_at IS NOT NULL ORDER BY id"
    assert factoryd.good("quarantine", "replay", str(first)) == "1 messages will be replayed by the daemon\n"
    assert rows(database.daemon, marked) == [(first,)]
    assert factoryd.good("quarantine", "replay", "--device", "a") == "1 messages will be replayed by the daemon\n"
    assert rows(database.daemon, marked) == [(first,), (second,)]


def test_purge_throws_away_what_is_selected(factoryd: CommandLine, database: Database) -> None:
    old = quarantine(database.owner, "a", "malformed", ago="31 days")
    young, other = (quarantine(database.owner, name, "malformed") for name in "ab")
    assert factoryd.good("quarantine", "purge", "--older-than", "30d") == "1 messages purged\n"
    assert factoryd.good("quarantine", "purge", str(young)) == "1 messages purged\n"
    answer = factoryd("quarantine", "purge", str(other), str(old))
    assert answer.code == 1
    assert answer.err == f"factoryd: not in the quarantine: {old}; nothing was done\n"
    assert factoryd.good("quarantine", "purge", "--all") == "1 messages purged\n"


@pytest.mark.parametrize("command", ["replay", "purge"])
@pytest.mark.parametrize("arguments", [(), ("--all", "--device", "a")])
def test_nothing_happens_without_a_clear_selection(factoryd: CommandLine, command: str, arguments: tuple[str, ...]) -> None:
    answer = factoryd("quarantine", command, *arguments)
    assert answer.code == 2
    assert "say which" in answer.err


@pytest.mark.parametrize("text", ["yesterday", "30", "-1d", "1e9d"])
def test_a_bad_duration_is_refused(factoryd: CommandLine, text: str) -> None:
    assert factoryd("quarantine", "purge", f"--older-than={text}").code == 2
