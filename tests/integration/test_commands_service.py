"""factoryd run, check-config, init, migrate, status: the settings, the schema and the daemon's start."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psycopg
import pytest

from storage.leader import LOCK
from storage.migrate import head_revision
from tests.integration.command_line import CommandLine, quarantine, rows
from tests.integration.conftest import Cluster, Database

NOWHERE = "postgresql://nobody:x@127.0.0.1:1/none"
NO_BROKER = "mqtt://127.0.0.1:1"


def process(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Starts factoryd as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "factoryd", *arguments],
        env={**os.environ, "COLUMNS": "200", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_help_does_not_load_the_drivers() -> None:
    code = (
        "import sys; sys.argv = ['factoryd', '--help']\n"
        "from factoryd.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'psycopg', 'sqlalchemy', 'alembic', 'aiomqtt', 'pydantic', 'simulator'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "check-config" in done.stdout


def test_check_config_prints_settings_without_secrets() -> None:
    out = CommandLine("postgresql://u:geheim@h/d").good("check-config")
    assert "database.url = **********" in out
    assert "geheim" not in out


def test_check_config_names_every_mistake(tmp_path: Path) -> None:
    file = tmp_path / "factoryd.toml"
    file.write_text("[mqtt]\nroot = 'A/#'\nreceive_maximum = 65535\n[nothing]\nx = 1\n")
    answer = CommandLine(NOWHERE)("--config", str(file), "check-config")
    assert answer.code == 78
    assert len(answer.err.splitlines()) == 3
    assert "mqtt.receive_maximum" in answer.err


def test_a_missing_settings_file_is_named(tmp_path: Path) -> None:
    answer = CommandLine(NOWHERE)("--config", str(tmp_path / "none.toml"), "check-config")
    assert (answer.code, answer.err.count("\n")) == (78, 1)


@pytest.mark.parametrize("arguments", [("device", "list"), ("status",), ("user", "list"), ("quarantine", "list")])
def test_without_a_database_there_is_one_line_and_its_own_code(arguments: tuple[str, ...]) -> None:
    answer = CommandLine(NOWHERE)(*arguments)
    assert answer.code == 69
    assert answer.err.startswith("factoryd: using the database: ")
    assert answer.err.count("\n") == 1


def test_without_a_url_the_option_is_named() -> None:
    answer = CommandLine("", {"FACTORYD_DATABASE__URL": ""})("device", "list")
    assert answer.code == 78
    assert "database.url" in answer.err


def test_an_empty_database_says_migrate(empty_database: Database) -> None:
    answer = CommandLine(empty_database.daemon)("device", "list")
    assert answer.code == 1
    assert answer.err.endswith("run factoryd migrate\n")


def test_migrate_brings_an_empty_database_up(empty_database: Database) -> None:
    environment = {"FACTORYD_DATABASE__OWNER_URL": empty_database.owner, "FACTORYD_RETENTION__READINGS_DAYS": "2"}
    factoryd = CommandLine(empty_database.owner, environment)
    check = factoryd("migrate", "--check")
    assert (check.code, check.err) == (1, f"factoryd: schema is missing, needs {head_revision()}: run factoryd migrate\n")
    out = factoryd.good("migrate")
    assert out.startswith(f"migrated to {head_revision()}\n10 partitions made, sensor_readings_")
    assert factoryd.good("migrate") == f"schema is {head_revision()}: nothing to migrate\n"
    assert factoryd.good("migrate", "--check").endswith("good\n")


def test_migrate_needs_the_owner() -> None:
    answer = CommandLine(NOWHERE)("migrate")
    assert answer.code == 78
    assert "database.owner_url" in answer.err


def test_migrate_can_print_its_sql() -> None:
    assert "CREATE TABLE sensor_readings" in CommandLine(NOWHERE).good("migrate", "--sql")


def test_init_prints_settings_that_work(cluster: Cluster) -> None:
    server = cluster.server
    factoryd = CommandLine(NOWHERE)
    try:
        out = factoryd.good("init", "--admin-url", server.url(), "--database", "from_init", "--owner", "init_owner")
        lines = dict(line.split("=", 1) for line in out.splitlines() if not line.startswith("#"))
        assert list(lines) == ["FACTORYD_DATABASE__OWNER_URL"]  # the other roles exist on this server
        with psycopg.connect(lines["FACTORYD_DATABASE__OWNER_URL"]) as connection:
            assert connection.info.dbname == "from_init"
        again = factoryd.good("init", "--admin-url", server.url(), "--database", "from_init", "--owner", "init_owner")
        assert "keep their passwords" in again
    finally:
        server.drop_database("from_init")


def test_init_without_an_administrator_says_what_to_give() -> None:
    answer = CommandLine(NOWHERE)("init")
    assert answer.code == 2
    assert "--admin-url" in answer.err
    assert "CREATE ROLE" in CommandLine(NOWHERE).good("init", "--print-sql")


def test_run_refuses_to_start_without_servers() -> None:
    answer = CommandLine("", {"FACTORYD_DATABASE__URL": ""})("run")
    assert answer.code == 78


def test_run_names_missing_urls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with process("run") as daemon:
        _, err = daemon.communicate(timeout=30)
    assert daemon.returncode == 78
    assert [line.split(":")[1].strip() for line in err.splitlines()] == ["database.url", "mqtt.url", "archive.url"]


def test_run_on_an_old_schema_says_migrate(empty_database: Database) -> None:
    with process(
        "run",
        FACTORYD_DATABASE__URL=empty_database.daemon,
        FACTORYD_MQTT__URL=NO_BROKER,
        FACTORYD_HTTP__PORT="0",
        FACTORYD_ARCHIVE__URL="none",
    ) as daemon:
        _, err = daemon.communicate(timeout=30)
    assert daemon.returncode == 1
    *logged, last = err.splitlines(keepends=True)
    assert [json.loads(line)["event"] for line in logged] == ["http_started", "daemon_started"]
    assert last == f"factoryd: schema is missing, needs {head_revision()}: run factoryd migrate\n"


def test_run_waits_for_its_database_and_ends_on_sigterm(tmp_path: Path) -> None:
    """Meanwhile it answers HTTP, and asks the service manager for more time."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        servers = {"FACTORYD_DATABASE__URL": NOWHERE, "FACTORYD_MQTT__URL": NO_BROKER, "FACTORYD_HTTP__PORT": "0"}
        environment["FACTORYD_ARCHIVE__URL"] = "none"
        with process("run", **servers, **environment) as daemon:
            assert daemon.stderr is not None
            logged = [json.loads(daemon.stderr.readline()) for _ in range(3)]
            assert [entry["event"] for entry in logged] == ["http_started", "daemon_started", "database_awaited"]
            with pytest.raises(urllib.error.HTTPError) as ready:
                urllib.request.urlopen(f"{logged[0]['url']}/readyz", timeout=5)
            assert json.load(ready.value)["status"] == "waiting"
            while manager.recv(4096).decode() != "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=300000":
                pass
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(30) == 0


def test_embedded_options_need_embedded() -> None:
    answer = CommandLine(NOWHERE)("run", "somewhere")
    assert answer.code == 2


def test_status_tells_how_things_stand(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    factoryd = CommandLine(database.daemon, {"FACTORYD_HTTP__PORT": "1"})
    for name in ("a", "b", "old"):
        factoryd.good("device", "add", name)
    factoryd.good("device", "retire", "old")
    rows(database.owner, "UPDATE devices SET status = 'online' WHERE device_id = 'a'")
    rows(
        database.owner,
        "INSERT INTO device_sequences (device_id, boot_id, first_seq, last_seq, missing)"
        " SELECT id, 'x', 1, 20, '{[3,5),[7,8)}' FROM devices WHERE device_id = 'a'",
    )
    rows(
        database.owner,
        "INSERT INTO device_latest (device_id, recorded_at, received_at)"
        " SELECT id, now() - interval '10 s', now() - interval '5 s' FROM devices WHERE device_id = 'a'",
    )
    quarantine(database.owner, "c", "malformed", repeats=7)
    quarantine(database.owner, "c", "too_late", ago="2 days")
    quiet = factoryd("status", "-o", "json").json()
    assert quiet["devices"] == {"online": 1, "offline": 1, "retired": 1}
    assert quiet["quarantined"] == {"malformed": 7}
    assert (quiet["missing_messages"], quiet["missing_by_device"]) == (3, {"a": 3})
    assert (quiet["leader"], quiet["daemon"]) == (None, None)
    assert quiet["revision"] == quiet["schema_needed"] == head_revision()
    with psycopg.connect(database.daemon) as leader:
        leader.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        led = factoryd("status", "-o", "json").json()
        assert led["leader"]["address"] == "127.0.0.1"
        text = factoryd.good("status")
    assert "active since" in text
    assert "no update under way" in text
    assert "UNSIGNED" not in text
    monkeypatch.setenv("FACTORYD_OTA__ALLOW_UNSIGNED", "true")
    assert "UNSIGNED FIRMWARE IS SENT" in factoryd.good("status")
    assert factoryd("status", "-o", "json").json()["allow_unsigned"] is True
    assert "7 malformed in 24 h" in text
    assert "3 messages never came: 3 a" in text
