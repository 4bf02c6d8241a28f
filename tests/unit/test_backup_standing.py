"""Whether backups are recent enough; what pgBackRest's answers mean."""

from datetime import UTC, datetime, timedelta

import pytest

from config.storage_settings import BackupSettings
from storage.backup_answers import BackupError, StoredBackup, explain, parse_info, verify_faults
from storage.backup_copy import explain_log
from storage.backup_standing import judge
from storage.job_runs import LatestRuns

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
SETTINGS = BackupSettings(full_max_age_h=192, incr_max_age_h=26, drill_max_age_days=100)
JOBS = ("backup_full", "backup_incr", "drill")
INFO = """[{"backup": [
    {"label": "20261122-020000F", "type": "full", "error": false, "database": {"repo-key": 2},
     "timestamp": {"start": 1795312800, "stop": 1795312860}, "info": {"size": 100, "repository": {"delta": 10, "size": 10}}},
    {"label": "20261122-010000F", "type": "full", "error": true, "database": {"repo-key": 1},
     "timestamp": {"start": 1795309200, "stop": 1795309260}, "info": {"size": 90, "repository": {"delta": 9, "size": 9}}}]}]"""


def done(job: str, hours: float, outcome: str = "done", error: str | None = None) -> LatestRuns:
    return LatestRuns(job, NOW - timedelta(hours=hours), outcome, error, NOW - timedelta(hours=hours), {})


def stored(kind: str, hours: float) -> StoredBackup:
    at = NOW - timedelta(hours=hours)
    return StoredBackup(1, "x", kind, at, at, 0, 0, damaged=False)


@pytest.mark.parametrize(
    ("runs", "backups", "states"),
    [
        ([], [], ["never", "never", "never"]),
        ([done("backup_full", 191), done("backup_incr", 25), done("drill", 2399)], [], ["good", "good", "good"]),
        ([done("backup_full", 193), done("backup_incr", 27), done("drill", 2401)], [], ["too old", "too old", "too old"]),
        ([done("backup_full", 1)], [], ["good", "good", "never"]),
        ([done("backup_incr", 1)], [], ["never", "good", "never"]),
        ([], [stored("full", 100), stored("diff", 3)], ["good", "good", "never"]),
        ([done("backup_full", 200)], [stored("incr", 1)], ["too old", "good", "never"]),
    ],
)
def test_states(runs: list[LatestRuns], backups: list[StoredBackup], states: list[str]) -> None:
    standing = judge(SETTINGS, {run.job: run for run in runs}, backups, NOW)
    assert [each.job for each in standing] == list(JOBS)
    assert [each.state for each in standing] == states
    assert [each.is_good for each in standing] == [state == "good" for state in states]


def test_a_failure_after_a_good_one_is_said_and_not_yet_too_old() -> None:
    standing = judge(SETTINGS, {"backup_incr": done("backup_incr", 2, "failed", "no space")}, [], NOW)
    assert (standing[1].state, standing[1].note) == ("good", "the last one failed: no space")
    running = judge(SETTINGS, {"drill": done("drill", 2, "running")}, [], NOW)
    assert running[2].note == "one runs since 2026-11-28 10:00Z"


def test_info_is_read_the_oldest_first() -> None:
    old, new = parse_info(INFO)
    assert (old.label, old.repository, old.damaged, old.size_bytes) == ("20261122-010000F", 1, True, 90)
    assert (new.label, new.stopped_at, new.stored_bytes) == ("20261122-020000F", datetime.fromtimestamp(1795312860, UTC), 10)
    assert parse_info('[{"backup": []}]') == []


@pytest.mark.parametrize("text", ["", "{}x", "[{}]", '[{"backup": [{}]}]', "3"])
def test_other_info_is_an_error_in_words(text: str) -> None:
    with pytest.raises(BackupError, match="what we cannot read"):
        parse_info(text)


WELL = (
    "stanza: f\nstatus: ok\n  archiveId: 15-1, total WAL checked: 5, total valid WAL: 5\n    missing: 0, checksum invalid: 0\n"
)
BAD_FILE = (
    "stanza: f\nstatus: error\n"
    "  backup: 2F, status: invalid, total files checked: 9, total valid files: 8\n    checksum invalid: 1\n"
)
BAD_WAL = "stanza: f\nstatus: error\n  archiveId: 15-1, total WAL checked: 7, total valid WAL: 6\n    other: 1\n"


@pytest.mark.parametrize(("text", "faults"), [("", 0), (WELL, 0), (BAD_FILE, 3), (BAD_WAL, 2)])
def test_verification_is_judged_by_its_text(text: str, faults: int) -> None:
    assert len(verify_faults(text)) == faults


@pytest.mark.parametrize(
    ("code", "text", "said"),
    [
        (50, "ERROR: [050]: unable to acquire lock\n       HINT: is another running?\n", "another backup is running"),
        (56, "WARN: x\nERROR: [056]: unable to find primary cluster - cannot proceed\n", "is PostgreSQL running"),
        (99, "ERROR: [099]: odd\n", "pgbackrest backup: odd"),
        (7, "", "pgbackrest backup: exit code 7"),
    ],
)
def test_errors_say_what_to_do(code: int, text: str, said: str) -> None:
    message = explain("backup", code, text)
    assert said in message
    assert "\n" not in message


def test_a_log_says_why_recovery_ended() -> None:
    log = (
        "2026 LOG:  last completed transaction was at log time 2026-11-28 09:00:01.5+00\n"
        "2026 FATAL:  recovery ended before configured recovery target was reached\n"
    )
    assert "up to 2026-11-28 09:00:01.5+00" in explain_log(log)
    assert explain_log("LOG: a\nFATAL:  b\nLOG: c\n") == "FATAL:  b"
    assert explain_log("only this") == "only this"
