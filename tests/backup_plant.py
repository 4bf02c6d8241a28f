"""A cluster that is backed up: the system's PostgreSQL and pgBackRest, and `factoryd backup` run as the cluster's owner."""

import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from string import Template
from typing import Any

import psycopg

from factoryd.embedded.child import unprivileged
from factoryd.embedded.directory import free_port
from storage.migrate import upgrade
from storage.partitions import ensure_partitions
from storage.roles import DAEMON_ROLE, init_database
from tests.servers import ACCESS, postgres_binaries

PAGE = Path(__file__).parents[1] / "docs" / "backup.md"
VERSION = 15
OWNER_ROLE = "factoryd_owner"
DATABASE = "factoryd"
WITHIN_S = 30.0
STATISTICS = "SELECT last_archived_wal, failed_count FROM pg_stat_archiver"


class Cluster:
    """One data directory and the server on it."""

    def __init__(self, data: Path, *, settings: Mapping[str, str] | None = None) -> None:
        self.data, self.port, self.sockets = data, free_port(), data.parent
        self.binaries = postgres_binaries()[VERSION]
        self.log = data.parent / f"{data.name}.log"
        self._settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.sockets),
            "max_connections": "60",
            "shared_buffers": "64MB",
            **(settings or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        options = ["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", "--data-checksums", "-U", "postgres"]
        owned([str(self.binaries / "initdb"), "-D", str(self.data), *options])
        (self.data / "pg_hba.conf").write_text(f"local all all trust\nlocal replication all trust\n{ACCESS}")

    def start(self) -> None:
        words = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            command = [*unprivileged(), str(self.binaries / "postgres"), "-D", str(self.data), *words]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until(self._answers, lambda: f"no answer; the log:\n{self.log.read_text()[-3000:]}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(60)
            self._process = None

    def destroy(self) -> None:
        """Kills the server, and deletes its data directory."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(60)
        self._process = None
        until(lambda: not list(processes_in(self.data)), lambda: str(list(processes_in(self.data))))
        shutil.rmtree(self.data)

    def url(self, database: str = "postgres", user: str = "postgres", password: str = "") -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def sql(self, statement: str, database: str = DATABASE) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url(database), autocommit=True, options="-c timezone=UTC") as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def archived(self) -> None:
        """Waits until all that is committed is in the repository."""
        ((segment,),) = self.sql("SELECT pg_walfile_name(pg_switch_wal())", "postgres")
        until(lambda: (self.sql(STATISTICS)[0][0] or "") >= segment, lambda: str(self.sql(STATISTICS)))

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()[-3000:]
        try:
            psycopg.connect(self.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


class BackupPlant:
    """A cluster with factoryd's database, and the settings under which it is backed up."""

    def __init__(self, directory: Path, **environment: str) -> None:
        self.directory = directory
        self.cluster = Cluster(directory / "pg")
        self.passwords: dict[str, str] = {}
        self.config = directory / "pgbackrest.conf"
        self.environment = {
            "FACTORYD_BACKUP__MODE": "managed",
            "FACTORYD_BACKUP__CONFIG_FILE": str(self.config),
            "FACTORYD_BACKUP__PATH": str(directory / "repo"),
            "FACTORYD_BACKUP__SPOOL_PATH": str(directory / "spool"),
            "FACTORYD_BACKUP__CIPHER_PASS": secrets.token_urlsafe(24),
            **environment,
        }

    def make(self) -> None:
        """Makes cluster, database, schema and partitions; nothing is archived yet."""
        self.cluster.make()
        self.cluster.start()
        self.passwords = init_database(self.cluster.url(), database=DATABASE, owner=OWNER_ROLE).passwords
        upgrade(self.owner_url)
        ensure_partitions(self.owner_url, 2, 1, datetime.now(UTC).date())
        self.environment["FACTORYD_DATABASE__URL"] = self.daemon_url

    def set_up(self) -> None:
        """As docs/backup.md has it: init, restart, init."""
        self.good("init", "--yes", "--admin-url", self.cluster.url())
        self.cluster.stop()
        self.cluster.start()
        self.good("init", "--yes", "--admin-url", self.cluster.url())

    @property
    def owner_url(self) -> str:
        return self.cluster.url(DATABASE, OWNER_ROLE, self.passwords[OWNER_ROLE])

    @property
    def daemon_url(self) -> str:
        return self.cluster.url(DATABASE, DAEMON_ROLE, self.passwords[DAEMON_ROLE])

    def __call__(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Runs `factoryd backup …` as the cluster's owner."""
        command = [*unprivileged(), sys.executable, "-m", "factoryd", "backup", *arguments]
        environment = {**os.environ, **self.environment}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def follow(self, step: str, **values: str) -> str:
        """Runs the lines `factoryd backup …` of a section of docs/backup.md, in their order; returns what they said."""
        section = re.split(rf"^### .*{re.escape(step)}\n", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1]
        shell = re.findall(r"^```sh\n(.*?)^```", re.split(r"^##", section, flags=re.MULTILINE)[0], re.DOTALL | re.MULTILINE)
        lines = re.findall(r"^factoryd backup (.+)$", "\n".join(shell), re.MULTILINE)
        assert lines, step
        return "".join(self.good(*shlex.split(Template(line).substitute(values))) for line in lines)

    def good(self, *arguments: str) -> str:
        answer = self(*arguments)
        assert answer.returncode == 0, (arguments, answer.stderr, answer.stdout)
        return answer.stdout

    def status(self) -> Any:
        return json.loads(self("status", "-o", "json").stdout)


@contextmanager
def backup_plant(directory: Path, **environment: str) -> Iterator[BackupPlant]:
    """Makes one; nothing of it is left at the end."""
    plant = BackupPlant(directory, **environment)
    try:
        plant.make()
        yield plant
    finally:
        plant.cluster.stop()
        until(lambda: not list(processes_of(directory)), lambda: str(list(processes_of(directory))))


def owned(command: list[str]) -> None:
    subprocess.run([*unprivileged(), *command], check=True, capture_output=True)


def until(condition: Any, what: Any, within_s: float = WITHIN_S) -> None:
    """Waits for what another process brings about."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


def processes_in(directory: Path) -> Iterator[int]:
    """Yields the processes whose working directory this is."""
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if link.readlink().is_relative_to(directory):
                yield int(link.parent.name)
        except OSError:
            continue


def processes_of(directory: Path) -> Iterator[tuple[int, str]]:
    """Yields the processes that work in or speak of a directory, this one not."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if int(entry.name) != os.getpid() and (
                str(directory) in words or (entry / "cwd").readlink().is_relative_to(directory)
            ):
                yield int(entry.name), words
        except OSError:
            continue
