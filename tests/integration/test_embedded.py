"""Embedded PostgreSQL and mosquitto: real ones, in directories of their own."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from factoryd.commands.embedded_run import BROKER_MAX_QUEUED_MESSAGES, embedded_services
from factoryd.commands.invocation import Invocation
from factoryd.embedded.directory import EmbeddedServiceError, free_port, kept_port, kept_secret
from factoryd.embedded.mosquitto import EmbeddedMosquitto, conf_template
from factoryd.embedded.postgres import EmbeddedPostgres
from factoryd.embedded.services import EmbeddedServices
from tests.services import FORGETFUL

REPOSITORY = Path(__file__).parents[2]

KILLED_PARENT = """
import asyncio, sys, time
from pathlib import Path
from factoryd.embedded.services import EmbeddedServices

async def main():
    async with EmbeddedServices(Path(sys.argv[1]), readings_days=0, partitions_ahead_days=0) as services:
        print(services.postgres.pid, services.mosquitto.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(tmp_path / "postgres", settings=FORGETFUL) as postgres:
        yield postgres


def test_postgres_is_as_the_daemon_needs_it(cluster: EmbeddedPostgres) -> None:
    names = ("data_checksums", "server_encoding", "TimeZone", "wal_compression", "password_encryption", "listen_addresses")
    with psycopg.connect(cluster.url()) as connection:
        found = {name: connection.execute("SELECT current_setting(%s)", [name]).fetchone() for name in names}
    assert found == {
        "data_checksums": ("on",),
        "server_encoding": ("UTF8",),
        "TimeZone": ("UTC",),
        "wal_compression": ("pglz",),
        "password_encryption": ("scram-sha-256",),
        "listen_addresses": ("127.0.0.1",),
    }


def test_postgres_wants_its_password(cluster: EmbeddedPostgres, tmp_path: Path) -> None:
    assert (tmp_path / "postgres/superuser_password").stat().st_mode & 0o777 == 0o600
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(cluster.url(password="wrong")).close()


def test_postgres_keeps_data_and_port_over_a_restart(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path, settings=FORGETFUL) as postgres:
        before = postgres.url()
        with psycopg.connect(before) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    with EmbeddedPostgres(tmp_path, settings=FORGETFUL) as postgres:
        assert postgres.url() == before
        with psycopg.connect(before) as connection:
            assert connection.execute("SELECT one FROM kept").fetchone() == (1,)


def test_postgres_recovers_from_a_crash_while_a_session_is_busy(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as postgres:
        busy = psycopg.connect(postgres.url(), autocommit=True)
        busy.execute("CREATE TABLE kept AS SELECT 1 AS one")
        postgres.crash()
        postgres.start()
        with psycopg.connect(postgres.url()) as connection:
            assert connection.execute("SELECT one FROM kept").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError):
            busy.execute("SELECT 1")
        busy.close()
    assert "automatic recovery" in postgres.log_path.read_text()


def test_a_second_postgres_on_the_directory_is_refused(cluster: EmbeddedPostgres, tmp_path: Path) -> None:
    with pytest.raises(EmbeddedServiceError, match=f"in use by another factoryd .process {os.getpid()}"):
        EmbeddedPostgres(tmp_path / "postgres").start()
    with psycopg.connect(cluster.url()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_data_directory_of_another_major_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedServiceError, match=r"made by PostgreSQL 9, but .* use PostgreSQL 9 for it"):
        EmbeddedPostgres(tmp_path).start()


def test_a_pid_file_whose_process_is_another_program_now_does_not_hinder(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path, settings=FORGETFUL) as postgres:
        left_over = (tmp_path / "data/postmaster.pid").read_text().replace(str(postgres.pid), str(os.getpid()))
        postgres.crash()
        (tmp_path / "data/postmaster.pid").write_text(left_over)
        postgres.start()


def test_a_half_made_cluster_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "data.new").mkdir()
    (tmp_path / "data.new/PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(tmp_path, settings=FORGETFUL) as postgres:
        assert postgres.port


def test_a_bad_setting_ends_the_start_with_the_servers_own_words(tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(tmp_path, settings={"no_such_setting": "1"})
    with pytest.raises(EmbeddedServiceError, match="unrecognized configuration parameter"):
        postgres.start()
    with EmbeddedPostgres(tmp_path, settings=FORGETFUL) as again:
        assert again.port


def test_a_missing_postgres_is_said(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedServiceError, match="holds no initdb and postgres"):
        EmbeddedPostgres(tmp_path, bin_dir=tmp_path).start()


def killed_parent(directory: Path) -> list[int]:
    """Lets another process start the services, and kills it; returns what becomes readable when a service ends."""
    command = [sys.executable, "-c", KILLED_PARENT, str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as parent:
        assert parent.stdout is not None
        ends = [os.pidfd_open(int(pid)) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(ends) == 2
    return ends


def sourced(file: Path) -> dict[str, str]:
    """Returns the environment of a shell that read the file."""
    shell = subprocess.run(["sh", "-c", f"set -a; . '{file}'; env -0"], capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in shell.stdout.split("\0") if line)


def test_the_services_end_in_order_when_their_parent_is_killed(tmp_path: Path) -> None:
    for end in killed_parent(tmp_path):
        assert select.select([end], [], [], 30)[0], "a service outlived its parent"
        os.close(end)
    log = (tmp_path / "postgres/postgres.log").read_text()
    assert "received fast shutdown request" in log
    assert log.rstrip().endswith("database system is shut down")
    assert (tmp_path / "mosquitto/sessions/mosquitto.db").exists()


async def test_the_next_start_waits_for_the_services_of_a_killed_parent(tmp_path: Path) -> None:
    for end in killed_parent(tmp_path):
        os.close(end)
    async with EmbeddedServices(tmp_path, readings_days=0, partitions_ahead_days=0):
        assert "was not properly shut down" not in (tmp_path / "postgres/postgres.log").read_text()


async def test_services_env_is_read_by_a_shell_and_the_same_after_a_restart(tmp_path: Path) -> None:
    async with EmbeddedServices(tmp_path, readings_days=0, partitions_ahead_days=0) as services:
        first = services.urls
        for url in (first.database_url, first.owner_url or "", first.database_tools_url or ""):
            with psycopg.connect(url) as connection:
                assert connection.execute("SELECT count(*) FROM sensor_readings").fetchone() == (0,)
    async with EmbeddedServices(tmp_path, readings_days=0, partitions_ahead_days=0) as services:
        assert services.urls == first
    file = tmp_path / "services.env"
    assert file.stat().st_mode & 0o777 == 0o600
    assert first.environment().items() <= sourced(file).items()


async def test_a_lost_password_is_replaced(tmp_path: Path) -> None:
    async with EmbeddedServices(tmp_path, readings_days=0, partitions_ahead_days=0):
        (tmp_path / "postgres/factoryd_daemon.secret").unlink()
    async with EmbeddedServices(tmp_path, readings_days=0, partitions_ahead_days=0) as services:
        with psycopg.connect(services.urls.database_url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


async def test_what_was_given_by_url_is_not_started(tmp_path: Path) -> None:
    given = {"database_url": "postgresql://d:it's;x@host/db", "owner_url": "postgresql://o@host/db", "mqtt_url": "mqtt://host"}
    async with EmbeddedServices(tmp_path, **given) as services:  # type: ignore[arg-type]  # a dict of one value type
        assert (services.postgres, services.mosquitto) == (None, None)
        assert services.urls.environment() == {
            "FACTORYD_DATABASE__URL": given["database_url"],
            "FACTORYD_DATABASE__OWNER_URL": given["owner_url"],
            "FACTORYD_MQTT__URL": given["mqtt_url"],
            "FACTORYD_HTTP__PORT": str(services.urls.http_port),
            "FACTORYD_ARCHIVE__URL": (tmp_path / "archive").as_uri(),
        }
    assert sourced(tmp_path / "services.env")["FACTORYD_DATABASE__URL"] == given["database_url"]


async def test_nothing_is_left_running_when_the_second_service_cannot_start(tmp_path: Path) -> None:
    with EmbeddedMosquitto(tmp_path / "mosquitto"), pytest.raises(EmbeddedServiceError, match="in use"):
        async with EmbeddedServices(tmp_path, readings_days=0, partitions_ahead_days=0):
            pass
    assert not (tmp_path / "postgres/data/postmaster.pid").exists()


def test_a_port_is_kept_while_it_is_free_and_given_ones_are_checked(tmp_path: Path) -> None:
    port = kept_port(tmp_path / "port")
    assert kept_port(tmp_path / "port") == port
    with EmbeddedMosquitto(tmp_path / "mosquitto", devices_port=port):
        assert kept_port(tmp_path / "port") != port
        with pytest.raises(EmbeddedServiceError, match=f"port {port} .* taken by another program"):
            kept_port(tmp_path / "port", port)


def test_a_secret_is_made_once_and_private(tmp_path: Path) -> None:
    secret = kept_secret(tmp_path / "secret")
    assert len(secret) == 32
    assert kept_secret(tmp_path / "secret") == secret
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_mosquitto_is_fetched_without_root_or_its_absence_is_one_clear_line(tmp_path: Path) -> None:
    outcome = ""
    try:
        with EmbeddedMosquitto(tmp_path, search=False) as broker:
            outcome = f"runs as process {broker.pid}"
    except EmbeddedServiceError as error:
        outcome = str(error)
    fetched = (tmp_path / "fetched" / "root" / "usr/sbin/mosquitto").exists()
    assert outcome.startswith("runs") if fetched else "install it (" in outcome


def test_mosquitto_keeps_its_ports_over_a_crash(tmp_path: Path) -> None:
    with EmbeddedMosquitto(tmp_path, devices_port=free_port()) as broker:
        before = (broker.devices_port, broker.internal_port, broker.pid)
        broker.crash()
        broker.start()
        assert (broker.devices_port, broker.internal_port) == before[:2]
        assert broker.pid != before[2]
        os.kill(broker.pid, signal.SIGCONT)  # it is there


async def test_a_shell_that_has_read_services_env_runs_the_same_services_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The URLs of our own directory are no foreign servers."""
    async with EmbeddedServices(tmp_path) as services:
        for name, value in services.urls.environment().items():
            monkeypatch.setenv(name, value)
    again = embedded_services(Invocation(), tmp_path, None)
    assert again.postgres is not None
    assert again.mosquitto is not None
    monkeypatch.setenv("FACTORYD_MQTT__URL", "mqtt://elsewhere:1883")
    assert embedded_services(Invocation(), tmp_path, None).mosquitto is None


def test_the_queue_that_the_daemon_counts_on_is_the_brokers() -> None:
    (line,) = [line for line in conf_template().splitlines() if line.startswith("max_queued_messages ")]
    assert int(line.split()[1]) == BROKER_MAX_QUEUED_MESSAGES
