"""PostgreSQL as a supervised child: for development, the demo and tests.

It keeps its data with full durability in one directory, listens on loopback only, with a generated password, and ends with a
clean shutdown when this process ends, even by SIGKILL (Linux).
"""

import asyncio
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from factoryd.embedded.binaries import find_postgres, major, postgres_version
from factoryd.embedded.child import Child, command_line, hand_over, read_pid, unprivileged
from factoryd.embedded.directory import LOOPBACK, DirectoryLock, EmbeddedServiceError, kept_port, kept_secret

SUPERUSER = "postgres"
START_TIMEOUT_S = 120.0
"""Long: after a crash the server replays up to max_wal_size before it is ready."""
STOP_TIMEOUT_S = 60.0
READY_LINE = 7
"""Line (from 0) of postmaster.pid in which the server states its status; pg_ctl waits on the same one."""

SETTINGS: Mapping[str, str] = {
    # Room for the partition being written and its index; the default 128 MB is for the smallest machines.
    "shared_buffers": "256MB",
    # The write path commits batches all day: with the default 1 GB a checkpoint would come every few seconds under load.
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    # Full-page images after each checkpoint are most of the WAL of random index writes; pglz is in every build.
    "wal_compression": "on",
    # A PUBACK is sent after COMMIT: it must mean "on disk". Batches amortise the fsync. Stated so that nobody wonders.
    "synchronous_commit": "on",
    # Daemon (writer, pool, listener, lock), console, command line, people with psql: ample at 2-3 MB each.
    "max_connections": "60",
    # A query over the whole retention locks every daily partition and its indexes: 90 days are about 300 locks.
    "max_locks_per_transaction": "256",
    # The directory is on a local SSD as a rule: an index scan is no worse than a sequential one.
    "random_page_cost": "1.1",
    # All our times are UTC; the server's own log and sessions too.
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    # A lock wait above deadlock_timeout (1 s) in the log explains a slow batch.
    "log_lock_waits": "on",
    # TCP on loopback only: a socket's path may be at most 107 bytes long, a directory's is not ours to choose.
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
}


class EmbeddedPostgres:
    """A PostgreSQL cluster in `directory`, which it makes on first start.

    `with` and `async with` start and stop it. Start it from a thread that lives as long as it is to live: the kernel ends the
    server with that thread (`async with` in the main thread does right).
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        bin_dir: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Prepares nothing yet.

        Args:
            directory: holds data, log, port and the superuser's password; used by one process at a time.
            port: TCP port on loopback; default: the last one used, else a free one.
            bin_dir: where `initdb` and `postgres` are; default: see `find_postgres`.
            settings: server settings that win over SETTINGS, e.g. {"fsync": "off"} in tests.
        """
        self._directory = directory.absolute()
        self._data = self._directory / "data"
        self._given_port = port
        self._port: int | None = None
        self._bin_dir = bin_dir
        self._settings = {**SETTINGS, **(settings or {})}
        self._lock = DirectoryLock(self._directory, "postgres")
        self._locked = False
        self._child = Child("postgres", self._directory, signal.SIGINT)

    @property
    def port(self) -> int:
        """The TCP port on loopback; known once started."""
        if self._port is None:
            raise EmbeddedServiceError("PostgreSQL was not started yet")
        return self._port

    @property
    def name(self) -> str:
        """What it is called in the log."""
        return self._child.name

    @property
    def alive(self) -> bool:
        """Whether the server's process is there."""
        return self._child.running

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return self._child.pid

    @property
    def log_path(self) -> Path:
        """The server's log."""
        return self._child.log_path

    def url(self, database: str = "postgres", user: str = SUPERUSER, password: str | None = None) -> str:
        """Returns a postgresql:// URL; without a user the superuser's."""
        secret = self._superuser_password() if password is None else password
        return f"postgresql://{quote(user, safe='')}:{quote(secret, safe='')}@{LOOPBACK}:{self.port}/{database}"

    def start(self) -> None:
        """Starts the server and returns when it accepts connections; on first use makes the cluster (about 1 s).

        Also starts it again after `crash`, on the same port.

        Raises:
            EmbeddedServiceError: no PostgreSQL is installed, the directory is another process's or another major
                version's, or the server ended during its start.
        """
        command = self._prepare()
        self._child.start(command)
        self._wait_ready()

    def stop(self) -> None:
        """Stops the server with a fast shutdown: sessions are ended, everything committed is written."""
        self._child.stop(signal.SIGINT, STOP_TIMEOUT_S)
        self._unlock()

    def crash(self) -> None:
        """Kills the server (SIGKILL) as a fault test does; `start` brings it back with crash recovery."""
        self._child.kill()

    async def astart(self) -> None:
        """As `start`, without blocking the event loop; the server lives as long as the event loop's thread."""
        command = await asyncio.to_thread(self._prepare)
        self._child.start(command)
        await asyncio.to_thread(self._wait_ready)

    async def astop(self) -> None:
        """As `stop`, without blocking the event loop."""
        await asyncio.to_thread(self.stop)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await self.astart()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.astop()

    def _prepare(self) -> list[str]:
        bin_dir = find_postgres(self._bin_dir)
        if not self._locked:
            self._lock.__enter__()
            self._locked = True
        try:
            self._child.end_orphan()
            self._wait_for_backends()
            self._check_version(bin_dir)
            self._check_pid_file()
            if not self._data.exists():
                self._init_cluster(bin_dir)
            self._port = kept_port(self._directory / "port", self._port or self._given_port)
            hand_over(self._directory)
        except BaseException:
            self._unlock()
            raise
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        return [str(bin_dir / "postgres"), "-D", str(self._data), "-p", str(self._port), *options]

    def _wait_ready(self) -> None:
        try:
            self._child.wait_until(self._is_ready, START_TIMEOUT_S)
        except BaseException:
            self.stop()
            raise

    def _is_ready(self) -> bool:
        try:
            lines = (self._data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        # The process id: a pid file left by an earlier run says "ready" as well.
        return len(lines) > READY_LINE and lines[0] == str(self._child.pid) and lines[READY_LINE].strip() == "ready"

    def _init_cluster(self, bin_dir: Path) -> None:
        fresh = self._directory / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        self._superuser_password()
        hand_over(self._directory)
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--data-checksums", f"--username={SUPERUSER}"]
        files = [f"--pgdata={fresh}", f"--pwfile={self._password_path}"]
        command = [*unprivileged(), str(bin_dir / "initdb"), *options, *files]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            raise EmbeddedServiceError(f"initdb could not make a cluster in {self._data}: {run.stderr.strip()}")
        # Renamed when complete: a killed initdb leaves no half-made cluster behind.
        fresh.rename(self._data)

    def _check_version(self, bin_dir: Path) -> None:
        version_file = self._data / "PG_VERSION"
        if not version_file.exists():
            return
        ours, found = major(postgres_version(bin_dir)), major(version_file.read_text(encoding="ascii"))
        if ours != found:
            raise EmbeddedServiceError(
                f"{self._data} was made by PostgreSQL {found}, but {bin_dir} is PostgreSQL {ours}; "
                f"use PostgreSQL {found} for it, move the data with pg_dump or pg_upgrade, or start in a new directory"
            )

    def _check_pid_file(self) -> None:
        """Removes a pid file whose process id now belongs to another program: PostgreSQL itself would refuse to start."""
        path = self._data / "postmaster.pid"
        pid = read_pid(path)
        if pid is None:
            return
        if str(self._data) in command_line(pid):
            raise EmbeddedServiceError(f"another PostgreSQL (process {pid}) runs on {self._data}; stop it first")
        path.unlink()

    def _wait_for_backends(self, timeout_s: float = 30.0) -> None:
        """Waits for the sessions of a killed server: they end by themselves soon, and until then hold its shared memory."""
        deadline = time.monotonic() + timeout_s
        for pid in _processes_in(self._data):
            while command_line(pid) and time.monotonic() < deadline:
                time.sleep(0.01)

    @property
    def _password_path(self) -> Path:
        return self._directory / "superuser_password"

    def _superuser_password(self) -> str:
        return kept_secret(self._password_path)

    def _unlock(self) -> None:
        self._lock.__exit__(None, None, None)
        self._locked = False


def _processes_in(directory: Path) -> Iterator[int]:
    """Yields the processes whose working directory this is; every PostgreSQL process works in its data directory."""
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if link.readlink() == directory:
                yield int(link.parent.name)
        except OSError:
            continue
