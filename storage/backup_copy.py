"""Runs a restored copy of the cluster where nobody else can reach it: a socket in a private directory, archiving off."""

import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from storage.backup import Identity
from storage.backup_answers import BackupError

DEBIAN_BINARIES = "/usr/lib/postgresql/{major}/bin"
POLL_S = 0.05
STOP_TIMEOUT_S = 300.0
LOG_LINES = 3

# Its own configuration is elsewhere on Debian, and made for another machine in any case. Of what ALTER SYSTEM has set, that
# is overridden which would reach out or hang. Without hot_standby recovery does not ask for as many connections as there were.
OPTIONS: Mapping[str, str] = {
    "archive_mode": "off",
    "autovacuum": "off",
    "cluster_name": "factoryd_drill",
    "hot_standby": "off",
    "listen_addresses": "",
    "log_destination": "stderr",
    "log_timezone": "UTC",
    "logging_collector": "off",
    "max_connections": "20",
    "max_locks_per_transaction": "256",
    "max_prepared_transactions": "100",
    "port": "5432",  # part of the socket's name only
    "primary_conninfo": "",
    "shared_buffers": "128MB",
    "ssl": "off",
    "synchronous_standby_names": "",
}


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy that has recovered and takes queries."""

    conninfo: str
    recovered_to: datetime | None
    """Commit of its last transaction; None: no transaction was replayed."""


def find_binaries(data: Path, explicit: Path | None) -> Path:
    """Returns the directory of the programs that fit a data directory.

    Raises:
        BackupError: they are not here.
    """
    major = (data / "PG_VERSION").read_text(encoding="ascii").strip()
    found = shutil.which("postgres")
    candidates = (
        [explicit] if explicit else [Path(DEBIAN_BINARIES.format(major=major)), *([Path(found).parent] if found else [])]
    )
    for directory in candidates:
        if (directory / "postgres").exists():
            return directory
    raise BackupError(f"no PostgreSQL {major} here to start the copy with: install it, or name its directory with --binaries")


@contextmanager
def running_copy(binaries: Path, data: Path, superuser: str, identity: Identity) -> Iterator[Copy]:
    """Starts PostgreSQL on a restored data directory, waits for the end of its recovery, and stops it at the end.

    Raises:
        BackupError: it ended before it had recovered.
    """
    run = Path(tempfile.mkdtemp(prefix="factoryd-drill-"))  # short: a socket's path may have 107 bytes
    try:
        identity.own(run)
        log = run / "postgres.log"
        command = [str(binaries / "postgres"), "-D", str(data), *_options(run)]
        with log.open("wb") as file:
            process = subprocess.Popen([*_tied(), *command], stdout=file, stderr=file, cwd="/", **identity.options())
        try:
            conninfo = make_conninfo(host=str(run), port=OPTIONS["port"], user=superuser, dbname="postgres", connect_timeout=10)
            _wait_until_recovered(process, conninfo, log)
            yield Copy(conninfo, _recovered_to(log.read_text(errors="replace")))
        finally:
            _stop(process)
    finally:
        shutil.rmtree(run)


def damaged_blocks(binaries: Path, data: Path, identity: Identity) -> list[str]:
    """Reads all files of a stopped copy; returns what pg_checksums finds wrong.

    Raises:
        BackupError: it could not look.
    """
    command = [str(binaries / "pg_checksums"), "--check", "--pgdata", str(data)]
    result: subprocess.CompletedProcess[bytes] = subprocess.run(
        command, capture_output=True, check=False, cwd="/", **identity.options()
    )
    out, err = result.stdout.decode(errors="replace"), result.stderr.decode(errors="replace")
    if "Bad checksums" not in out:
        raise BackupError(f"pg_checksums could not look at {data}: {' '.join(err.split())}")
    return [line for line in err.splitlines() if "checksum verification failed" in line]


def explain_log(text: str) -> str:
    """Returns why PostgreSQL ended during its recovery, from its log."""
    if "recovery ended before configured recovery target was reached" in text:
        return (
            "the archive ends before the target time: nothing was committed after it that was archived; "
            f"choose a time up to {_last_commit(text) or 'that of the last commit'}, or none, to recover everything"
        )
    lines = [line for line in text.splitlines() if re.search(r"FATAL|PANIC|ERROR|HINT", line)] or text.splitlines()
    return " / ".join(lines[-LOG_LINES:])


def _options(run: Path) -> list[str]:
    (run / "postgresql.conf").touch()
    (run / "pg_ident.conf").touch()
    (run / "pg_hba.conf").write_text("local all all trust\n", encoding="ascii")  # the directory lets in its owner only
    files = {"config_file": "postgresql.conf", "hba_file": "pg_hba.conf", "ident_file": "pg_ident.conf"}
    settings = {
        **OPTIONS,
        "unix_socket_directories": str(run),
        **{option: str(run / name) for option, name in files.items()},
    }
    return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]


def _tied() -> list[str]:
    """It ends with us, even if we are killed."""
    return ["setpriv", "--pdeathsig=INT", "--"] if shutil.which("setpriv") else []


def _wait_until_recovered(process: subprocess.Popen[bytes], conninfo: str, log: Path) -> None:
    while process.poll() is None:
        try:
            with psycopg.connect(conninfo) as connection:
                row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
                if row and not row[0]:
                    return
        except psycopg.OperationalError:
            time.sleep(POLL_S)
    raise BackupError(f"the restored copy did not recover: {explain_log(log.read_text(errors='replace'))}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_commit(text: str) -> str | None:
    found = re.findall(r"last completed transaction was at log time (\S+ \S+)", text)
    return found[-1] if found else None


def _recovered_to(text: str) -> datetime | None:
    found = _last_commit(text)
    return datetime.fromisoformat(found).astimezone(UTC) if found else None
