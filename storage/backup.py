"""pgBackRest as a program: what it is asked to do. It reads the secrets from its configuration; we pass none.

Trap: a copy that is started beside the cluster must not archive into the cluster's repository.
"""

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from config.storage_settings import BackupSettings
from storage.backup_answers import NOT_THE_OWNER, BackupError, StoredBackup, explain, parse_info, verify_faults
from storage.backup_config import Cluster, parse_cluster, repositories, restore_command
from storage.refusals import InvalidInput

Kind = Literal["full", "incr"]

PROGRAM = "pgbackrest"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a program is run as, and who owns what it is given."""

    uid: int
    gid: int

    @classmethod
    def owner_of(cls, path: Path) -> "Identity":
        """Returns the owner of a file."""
        status = path.stat()
        return cls(status.st_uid, status.st_gid)

    def options(self) -> dict[str, Any]:
        """Returns arguments of Popen: root becomes it, anybody else stays."""
        if os.geteuid() != 0 or self.uid == 0:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Hands a file over, if we are root."""
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.gid)


class PgBackRest:
    """One stanza of it.

    Args:
        settings: of backups; its configuration must have been written (`factoryd backup init`).
    """

    def __init__(self, settings: BackupSettings) -> None:
        self._settings = settings

    @property
    def identity(self) -> Identity:
        """The owner of the configuration: the cluster's.

        Raises:
            BackupError: there is no configuration.
        """
        try:
            return Identity.owner_of(self._settings.config_file)
        except OSError as error:
            raise BackupError(
                f"{self._settings.config_file}: {error.strerror}: run factoryd backup init --yes first"
            ) from error

    def cluster(self) -> Cluster:
        """Returns the cluster of the configuration.

        Raises:
            BackupError: it cannot be read, or is not ours.
        """
        path = self._settings.config_file
        try:
            return parse_cluster(path.read_text(encoding="utf-8"), self._settings.stanza)
        except OSError as error:
            raise BackupError(f"{path}: {error.strerror}: {NOT_THE_OWNER}") from error
        except InvalidInput as error:
            raise BackupError(f"{path}: {error}") from error

    def create_stanza(self) -> None:
        """Prepares the repositories; nothing happens if they are.

        Raises:
            BackupError: it failed.
        """
        self._run("stanza-create")

    def check(self) -> None:
        """Switches to a new WAL segment, and waits until every repository has the old one.

        Raises:
            BackupError: it failed.
        """
        self._run("check")

    def backup(self, kind: Kind, repository: int) -> None:
        """Makes a backup, and removes what is past its time. Takes as long as it takes.

        Raises:
            BackupError: it failed.
        """
        self._run("backup", f"--type={kind}", f"--repo={repository}")

    def backups(self) -> list[StoredBackup]:
        """Returns what is in the repositories, the oldest first.

        Raises:
            BackupError: it failed.
        """
        return parse_info(self._run("info", "--output=json"))

    def verify(self) -> list[str]:
        """Reads every file of all repositories; returns what is wrong. What is missing at an end of the WAL it cannot see.

        Raises:
            BackupError: it failed.
        """
        found = {number: self._run("verify", f"--repo={number}", "--output=text") for number in repositories(self._settings)}
        return [f"repository {number}: {fault}" for number, text in found.items() for fault in verify_faults(text)]

    def restore(self, command: Sequence[str]) -> str:
        """Restores files (`restore_arguments`), and returns the label of the backup that was used.

        Raises:
            BackupError: it failed.
        """
        text = self._run("restore", "--log-level-console=info", *command)
        found = re.search(r"restore backup set (\S+?)[,\s]", text)
        return found[1] if found else "unknown"

    def make_directory(self, path: Path) -> None:
        """Makes a directory for restored files, if it is missing: the owner's alone.

        Raises:
            BackupError: it cannot be made.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.identity.own(path)
        except OSError as error:
            raise BackupError(f"{error.filename}: {error.strerror}: {NOT_THE_OWNER}") from error

    def words(self, command: str, *arguments: str) -> list[str]:
        """Returns the command line."""
        return [PROGRAM, f"--config={self._settings.config_file}", f"--stanza={self._settings.stanza}", *arguments, command]

    def _run(self, command: str, *arguments: str) -> str:
        try:
            words, who = self.words(command, *arguments), self.identity.options()
            result: subprocess.CompletedProcess[bytes] = subprocess.run(words, capture_output=True, check=False, cwd="/", **who)
        except FileNotFoundError as error:
            raise BackupError("pgbackrest is not installed: apt-get install pgbackrest") from error
        out, err = (text.decode(errors="replace") for text in (result.stdout, result.stderr))
        if result.returncode != 0:
            raise BackupError(explain(command, result.returncode, f"{err}\n{out}"))
        return out


def restore_arguments(
    settings: BackupSettings,
    into: Path,
    *,
    target: datetime | None = None,
    standby: bool = False,
    primary: str | None = None,
    in_place: bool = False,
    delta: bool = False,
    repository: int | None = None,
) -> list[str]:
    """Returns the arguments of `pgbackrest restore`.

    Args:
        settings: of backups.
        into: the new data directory.
        target: moment to recover to (aware); None: all that was archived.
        standby: it shall follow a primary.
        primary: libpq connection string of that primary, for streaming; None: from the archive alone.
        in_place: it takes the cluster's place. Elsewhere it is a copy, which must never archive (but for a standby, which does
            so when it is promoted), and which keeps its tablespaces beside it.
        delta: overwrite what differs in a directory that is not empty.
        repository: restore from this one; None: the first that has what is needed.

    Raises:
        InvalidInput: `primary` cannot be used.
    """
    if primary is not None:
        _refuse_password(primary)
    words = [f"--pg1-path={into}"]
    if standby:
        words += ["--type=standby", *([f"--recovery-option=primary_conninfo={primary}"] if primary else [])]
    elif target is not None:
        words += ["--type=time", f"--target={target.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f+00}", "--target-action=promote"]
    if not in_place:
        words += [f"--tablespace-map-all={into}.tablespaces"]
        words += [f"--recovery-option=restore_command={restore_command(settings, into)}"]
        words += [] if standby else ["--archive-mode=off"]
    words += ["--delta"] if delta else []
    return [*words, *([f"--repo={repository}"] if repository else [])]


def _refuse_password(conninfo: str) -> None:
    try:
        found = conninfo_to_dict(conninfo)
    except ProgrammingError as error:
        raise InvalidInput(f"--primary: {error}") from error
    if "password" in found:
        raise InvalidInput("--primary: a password here could be read by everybody; put it into a .pgpass file (passfile=…)")
