"""`factoryd maintenance` and `factoryd archive` as people use them; rows come back as they were."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from storage.archive_uploads import ArchiveDamaged
from storage.partitions import ensure_partitions
from storage.refusals import InvalidInput, NotFound
from tests.integration.archiving import A_DAY, ALERTS, LONG_AGO, OLD_DAYS, Keeping, execute, fill, stored
from tests.integration.command_line import CommandLine
from tests.integration.conftest import BINARIES, Database
from tests.integration.writing import query

pytestmark = pytest.mark.parametrize("cluster", [max(BINARIES)], indirect=True)

DAY = datetime.now(UTC).date() - timedelta(days=5)
"""Of the commands, which know no other time than ours."""


@pytest.fixture
def keeping(database: Database, tmp_path: Path) -> Keeping:
    fill(database)
    execute(database, ALERTS, at=LONG_AGO)
    return Keeping(database, (tmp_path / "archive").as_uri(), spool=tmp_path / "spool")


@pytest.fixture
def factoryd(keeping: Keeping) -> CommandLine:
    """The command line; five days ago there were readings."""
    ensure_partitions(keeping.database.owner, 6, 1, datetime.now(UTC).date())
    fill(keeping.database, [DAY])
    return CommandLine(keeping.database.daemon, keeping.environment())


def test_rows_come_back_as_they_were_and_again_is_no_harm(keeping: Keeping) -> None:
    before = stored(keeping.database, OLD_DAYS)
    keeping.run()
    for _ in range(2):
        assert keeping.restore() == [(day, A_DAY) for day in OLD_DAYS]
        assert stored(keeping.database, OLD_DAYS, "restored_sensor_readings") == before


def test_one_device_comes_back_alone(keeping: Keeping) -> None:
    before = [row for row in stored(keeping.database, OLD_DAYS) if row[0] == "press-2"]
    keeping.run()
    keeping.restore(device="press-2", into="just_press_2")
    assert stored(keeping.database, OLD_DAYS, "just_press_2") == before
    keeping.restore(device="press-3", into="just_press_2")
    assert len(stored(keeping.database, OLD_DAYS, "just_press_2")) == 2 * len(before), "one after the other"
    assert keeping.restore(device="lathe") == [(day, 0) for day in OLD_DAYS]


def test_alerts_come_back_with_every_column(keeping: Keeping) -> None:
    columns = "SELECT t::text FROM {} t ORDER BY id"
    before = query(keeping.database, columns.format("alerts"))
    keeping.run()
    first, last = LONG_AGO.date(), LONG_AGO.date() + timedelta(days=3)
    assert sum(rows for _, rows in keeping.restore("alerts", days=(first, last))) == 60
    names = query(
        keeping.database,
        "SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute"
        " WHERE attrelid = 'alerts'::regclass AND attnum > 0 AND NOT attisdropped",
    )[0][0]
    assert query(keeping.database, columns.format(f"(SELECT {names} FROM restored_alerts)")) == before


def test_what_cannot_be_restored_is_said(keeping: Keeping) -> None:
    keeping.run()
    with pytest.raises(InvalidInput, match="name a table beside"):
        keeping.restore(into="sensor_readings")
    with pytest.raises(InvalidInput, match="it is not one that was restored into"):
        keeping.restore(into="devices")
    with pytest.raises(NotFound, match="holds nothing of alerts"):
        keeping.restore("alerts")
    with pytest.raises(InvalidInput, match="name no device"):
        keeping.restore("alert_history", device="press-1")
    with pytest.raises(InvalidInput, match="'users' is not archived"):
        keeping.restore("users")
    assert query(keeping.database, "SELECT count(*) FROM devices")[0][0] == 3


def test_a_damaged_file_brings_nothing(keeping: Keeping, tmp_path: Path) -> None:
    keeping.run()
    path = next((tmp_path / f"archive/table=sensor_readings/date={OLD_DAYS[1]}").iterdir())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArchiveDamaged, match="is not what was put there"):
        keeping.restore()
    assert len(stored(keeping.database, OLD_DAYS, "restored_sensor_readings")) == A_DAY, "the good one is there"


def test_the_commands_work_together(factoryd: CommandLine, keeping: Keeping) -> None:
    status = factoryd("maintenance", "status", "-o", "json").json()
    assert (status["days_due"] > 5, status["last_outcome"]) == (True, None)
    said = factoryd.good("maintenance", "run")
    assert f"{DAY}  {A_DAY} readings  {keeping.url}/table=sensor_readings/date={DAY}/" in said
    status = factoryd("maintenance", "status", "-o", "json").json()
    assert (status["days_due"], status["files_open"], status["last_outcome"]) == (0, 0, "done")
    assert status["archived_rows"] == 4 * A_DAY

    listed = factoryd("archive", "list", "--table", "sensor_readings", "--from", str(DAY), "-o", "json").json()
    assert [(row["day"], row["row_count"], row["state"]) for row in listed] == [(str(DAY), A_DAY, "complete")]
    assert factoryd.good("archive", "verify") == "4 files are what was put there\n"
    said = factoryd.good("archive", "restore", "--table", "sensor_readings", "--from", str(DAY), "--device", "press-1")
    assert said.endswith("801 rows of 1 files are in restored_sensor_readings; drop it when it has served\n")


def test_a_failed_run_says_why_and_is_remembered(factoryd: CommandLine, keeping: Keeping, tmp_path: Path) -> None:
    (tmp_path / "archive").write_text("in the way")
    answer = factoryd("maintenance", "run")
    assert answer.code == 1
    assert "readings: file:///" in answer.err
    assert "Not a directory" in answer.err
    assert "restored" not in answer.out
    status = factoryd("maintenance", "status", "-o", "json").json()
    assert status["last_outcome"] == "failed"
    assert "Not a directory" in status["last_error"]


def test_verify_names_what_it_does_not_know(factoryd: CommandLine, tmp_path: Path) -> None:
    factoryd.good("maintenance", "run", "--quiet")
    (tmp_path / "archive/table=sensor_readings/x.parquet").write_bytes(b"x")
    answer = factoryd("archive", "verify")
    assert answer.code == 1
    assert "x.parquet (1 bytes) is in no manifest" in answer.out


@pytest.mark.parametrize("command", [["maintenance", "run"], ["run"]])
def test_where_data_goes_must_be_said(command: list[str], database: Database) -> None:
    urls = {"FACTORYD_DATABASE__OWNER_URL": database.owner, "FACTORYD_MQTT__URL": "mqtt://127.0.0.1:1"}
    answer = CommandLine(database.daemon, urls)(*command)
    assert answer.code == 78
    assert "archive.url: not set; say where data goes that is past its time" in answer.err
    answer = CommandLine(database.daemon, {**urls, "FACTORYD_ARCHIVE__URL": "ftp://x"})(*command)
    assert "archive.url: must look like s3://bucket/prefix or file:///mnt/archive, or be none" in answer.err
