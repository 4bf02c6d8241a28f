"""Whatever the archive does to us: nothing is dropped, the error is one clear line, the next run heals. A real S3 server."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.integration.archiving import A_DAY, ALERTS, LONG_AGO, OLD_DAYS, Keeping, archived, execute, fill, same, stored
from tests.integration.conftest import BINARIES, Database
from tests.integration.object_server import (
    BUCKET,
    Fault,
    ObjectServer,
    corrupted,
    error,
    object_server,
    silence,
    truncated,
)
from tests.integration.writing import query

pytestmark = pytest.mark.parametrize("cluster", [max(BINARIES)], indirect=True)
"""What S3 does has nothing to do with PostgreSQL's version."""

Misfortune = Callable[[ObjectServer], None]


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    with object_server(tmp_path / "s3", monkeypatch) as server:
        yield server


@pytest.fixture
def keeping(database: Database, s3: ObjectServer, tmp_path: Path) -> Keeping:
    fill(database)
    execute(database, ALERTS, at=LONG_AGO)
    return Keeping(database, f"s3://{BUCKET}/cold", s3.url, tmp_path / "spool", timeout_s=0.5)


def always(method: str, fault: Fault) -> Misfortune:
    def happen(server: ObjectServer) -> None:
        server.always = (method, fault)

    return happen


def bucket_gone(server: ObjectServer) -> None:
    shutil.rmtree(server.bucket)


MISFORTUNES = {
    "says 500": (always("PUT", error(500, "InternalError")), "S3 is in trouble"),
    "is told to slow down": (always("PUT", error(503, "SlowDown")), "S3 is in trouble"),
    "is silent": (always("PUT", silence), "cold/"),
    "denies access": (always("PUT", error(403, "AccessDenied")), "S3 refuses"),
    "denies reading back": (always("GET", error(403, "AccessDenied")), "S3 refuses"),
    "gives back less": (always("GET", truncated), "cold/"),
    "gives back something else": (always("GET", corrupted), "is not what was put there"),
    "has no such bucket": (bucket_gone, "there is no such file or bucket"),
}


@pytest.mark.parametrize("name", MISFORTUNES)
def test_nothing_is_dropped_and_the_next_run_heals(name: str, keeping: Keeping, s3: ObjectServer) -> None:
    happen, words = MISFORTUNES[name]
    before = stored(keeping.database, OLD_DAYS)
    happen(s3)
    report = keeping.run()
    assert [part.partition(":")[0] for part in report.errors] == ["readings", "alerts"]
    assert all(words in line and "\n" not in line for line in report.errors), report.errors
    assert stored(keeping.database, OLD_DAYS) == before, "nothing was dropped"
    assert query(keeping.database, "SELECT count(*) FROM alerts") == [(60,)]
    assert report.days == []

    s3.heal()
    report = keeping.run()
    assert not report.errors
    assert report.rows == 2 * A_DAY
    assert report.alerts == 60
    assert same(before, archived(s3.bucket / "cold"))
    assert {state for _, state, _ in keeping.files()} == {"complete"}


def test_a_short_trouble_is_ridden_out(keeping: Keeping, s3: ObjectServer) -> None:
    s3.faults = [("PUT", error(503, "SlowDown")), ("GET", error(500, "InternalError"))]
    assert not keeping.run().errors


def test_a_full_spool_is_one_line(keeping: Keeping, tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("in the way")
    with pytest.raises(OSError, match="File exists"):
        keeping.run()
    assert query(keeping.database, "SELECT count(*) FROM alerts") == [(60,)]


def test_who_holds_a_day_is_waited_for_and_then_named(keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long transaction: first the day is not sealed; then, sealed and uploaded, it is not detached."""
    monkeypatch.setattr("storage.sealing.LOCK_ATTEMPTS", 2)
    monkeypatch.setattr("storage.sealing.RETRY_PAUSE_S", 0.01)
    monkeypatch.setattr("storage.maintenance_run.LOCK_TIMEOUT_S", 0.2)
    with psycopg.connect(keeping.database.admin) as holder:
        holder.execute("SELECT count(*) FROM sensor_readings")
        assert "was not sealed" in keeping.run().errors[0]
        holder.rollback()
        with psycopg.connect(keeping.database.admin) as connection:
            day = f"sensor_readings_{OLD_DAYS[0]:%Y%m%d}"
            connection.execute(f"ALTER TABLE {day} ADD CONSTRAINT factoryd_sealed CHECK (false) NOT VALID".encode())
        holder.execute("SELECT count(*) FROM sensor_readings")
        assert "was not detached" in keeping.run().errors[0]
        assert keeping.files() == [(OLD_DAYS[0], "verified", A_DAY)]
    report = keeping.run()
    assert not report.errors
    assert keeping.files() == [(day, "complete", A_DAY) for day in OLD_DAYS]
