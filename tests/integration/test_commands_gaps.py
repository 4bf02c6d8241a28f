"""factoryd device gaps: what never came, newest first."""

import pytest

from tests.integration.command_line import CommandLine, rows
from tests.integration.conftest import Database

GAP = """
    INSERT INTO sequence_gaps (device_id, boot_id, first_seq, last_seq, missing, noticed_at, closed_at, lost_at)
    SELECT id, %s, %s, %s, %s::int8multirange, now() - %s::interval, CASE WHEN %s = '{}' THEN now() END,
        CASE WHEN %s THEN now() END
    FROM devices WHERE device_id = %s RETURNING id"""
HEADING = ["ID", "DEVICE", "BOOT", "FIRST", "LAST", "MISSING", "NOTICED", "CLOSED", "LOST"]


def gap(
    database: Database,
    device: str,
    first: int,
    last: int,
    missing: str,
    ago: str = "1 minute",
    *,
    boot: str = "b",
    lost: bool = False,
) -> int:
    number: int = rows(database.owner, GAP, boot, first, last, missing, ago, missing, lost, device)[0][0]
    return number


@pytest.fixture
def factoryd(database: Database) -> CommandLine:
    for device in ("a", "b"):
        rows(database.owner, "INSERT INTO devices (device_id, name, type, location) VALUES (%s, 'x', 'sensor', 'x')", device)
    return CommandLine(database.tools)


def test_open_ones_are_listed_newest_first_and_narrowed(factoryd: CommandLine, database: Database) -> None:
    old = gap(database, "a", 2, 9, "{[4,8),[9,10)}", "3 days")
    filled = gap(database, "a", 12, 13, "{}", "2 hours")
    lost = gap(database, "b", 5, 6, "{[5,7)}", boot="", lost=True)

    def ids(*options: str) -> list[int]:
        return [row["id"] for row in factoryd("device", "gaps", *options, "-o", "json").json()]

    assert ids() == [lost, old]
    assert ids("--all") == [lost, filled, old]
    assert ids("a") == [old]
    assert ids("--since", "2d") == [lost]
    assert ids("a", "--all", "--since", "2d") == [filled]
    assert ids("--below", str(lost)) == [old]
    assert ids("--all", "--below", str(lost), "--limit", "1") == [filled]


def test_what_is_shown_of_a_gap(factoryd: CommandLine, database: Database) -> None:
    gap(database, "a", 2, 9, "{[4,8),[9,10)}", "3 days")
    gap(database, "b", 5, 6, "{[5,7)}", boot="", lost=True)
    answer = factoryd("device", "gaps")
    lines = answer.out.splitlines()
    assert lines[0].split() == HEADING
    assert lines[2].split()[1:6] == ["a", "b", "2", "9", "5"]
    assert answer.err == "2 gaps of 2 devices, 7 messages missing, 2 of them for good\n"
    shown = factoryd("device", "gaps", "a", "-o", "json")
    (entry,) = shown.json()
    assert (entry["missing"], entry["numbers"], entry["closed_at"], entry["lost_at"]) == (5, "4-7,9", None, None)
    assert shown.err == "1 gaps of 1 devices, 5 messages missing\n"
    header = factoryd.good("device", "gaps", "-o", "csv").splitlines()[0]
    assert header == "id,device,boot_id,first_seq,last_seq,missing,numbers,noticed_at,closed_at,lost_at"


def test_a_page_says_how_to_go_on_and_what_there_is_in_all(factoryd: CommandLine, database: Database) -> None:
    first, second, third = (gap(database, "a", seq, seq, f"{{[{seq},{seq + 1})}}") for seq in (1, 3, 5))
    page = factoryd("device", "gaps", "--limit", "2", "-o", "json")
    assert [row["id"] for row in page.json()] == [third, second]
    assert page.err == f"3 gaps of 1 devices, 3 messages missing\nmore: --below {second}\n"
    rest = factoryd("device", "gaps", "--limit", "2", "--below", str(second), "-o", "json")
    assert [row["id"] for row in rest.json()] == [first]
    assert "more" not in rest.err


def test_gaps_that_no_bigint_could_count(factoryd: CommandLine, database: Database) -> None:
    for device in ("a", "b"):
        gap(database, device, 1, 2**63 - 2, f"{{[1,{2**63 - 1})}}")
    assert factoryd("device", "gaps").err == f"2 gaps of 2 devices, {2 * (2**63 - 2)} messages missing\n"


def test_a_device_that_leaps_over_everything_spoils_no_list(factoryd: CommandLine, database: Database) -> None:
    daemon = CommandLine(database.daemon)
    for boot in "xy":
        rows(
            database.owner,
            "INSERT INTO device_sequences (device_id, boot_id, first_seq, last_seq, missing)"
            " SELECT id, %s, 0, 9223372036854775807, '{[1,9223372036854775807)}' FROM devices WHERE device_id = 'a'",
            boot,
        )
    assert [row["missing_messages"] for row in daemon("device", "list", "-o", "json").json()] == [2**63 - 1, 0]
    assert f"{2**63 - 1} messages never came" in daemon("status").out


def test_none_says_so(factoryd: CommandLine) -> None:
    answer = factoryd("device", "gaps")
    assert (answer.code, answer.out, answer.err) == (0, "", "no gaps\n")
    assert factoryd("device", "gaps", "-o", "json").json() == []


def test_an_unknown_device_and_a_time_that_is_none_are_refused(factoryd: CommandLine) -> None:
    unknown = factoryd("device", "gaps", "nobody")
    assert (unknown.code, unknown.err) == (
        1,
        "factoryd: device nobody is not registered; factoryd device add nobody registers it\n",
    )
    assert factoryd("device", "gaps", "--since", "yesterday").code == 2
