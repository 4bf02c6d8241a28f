"""PURE. What a managed backup needs: pgBackRest's configuration, and the settings of PostgreSQL that go with it.

Options and their defaults: pgBackRest's configuration reference, of version 2.45 (Debian 12).
"""

import shlex
from collections.abc import Iterator, Mapping
from configparser import ConfigParser
from configparser import Error as ParserError
from dataclasses import dataclass, field
from pathlib import PurePath
from urllib.parse import urlsplit

from config.storage_settings import BackupSettings
from storage.refusals import InvalidInput

HEAD = "# Written by factoryd backup init: a change made here is lost with its next run."
MASK = "********"
ARCHIVE_TIMEOUT_S = 60
"""Recovery point: with a quiet database the last minute is what can be lost."""
NEEDS_RESTART = {"archive_mode", "wal_level"}


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the database cluster is on its machine, as pgBackRest reaches it."""

    data_directory: str
    port: int
    socket_directory: str
    superuser: str
    """Role that pgBackRest connects as; by the socket, so `peer` in pg_hba.conf is enough."""


@dataclass(frozen=True, slots=True)
class S3Keys:
    """Of the off-site repository. Without them pgBackRest asks the machine's own role (repo-s3-key-type=auto)."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Option:
    """One line of the configuration."""

    name: str
    value: str = field(repr=False)
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """One setting of PostgreSQL that has to change."""

    name: str
    present: str
    wanted: str

    @property
    def needs_restart(self) -> bool:
        """Whether a reload is not enough."""
        return self.name in NEEDS_RESTART


def repositories(settings: BackupSettings) -> list[int]:
    """Returns pgBackRest's numbers of the repositories: 1 is local, 2 off-site."""
    return [1, 2] if settings.s3_url else [1]


def render(settings: BackupSettings, cluster: Cluster, keys: S3Keys | None, *, masked: bool = False) -> str:
    """Returns pgbackrest.conf.

    Args:
        settings: of backups.
        cluster: what is backed up.
        keys: of the off-site repository.
        masked: with secrets replaced, for people to read.

    Raises:
        InvalidInput: a value that a line of this file cannot hold.
    """
    sections = {"global": [*_global(settings, keys)], settings.stanza: [*_stanza(cluster)]}
    lines = [HEAD]
    for name, options in sections.items():
        lines += ["", f"[{name}]", *(_line(option, masked=masked) for option in options)]
    return "\n".join(lines) + "\n"


def parse_cluster(text: str, stanza: str) -> Cluster:
    """Returns the cluster that a configuration names.

    Raises:
        InvalidInput: it is not ours, or of another stanza.
    """
    parser = ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    try:
        parser.read_string(text)
        found = parser[stanza]
        return Cluster(found["pg1-path"], int(found["pg1-port"]), found["pg1-socket-path"], found["pg1-user"])
    except (KeyError, ValueError, TypeError, ParserError) as error:
        raise InvalidInput(f"no cluster of stanza {stanza!r} in it: run factoryd backup init") from error


def archive_command(settings: BackupSettings) -> str:
    """Returns PostgreSQL's archive_command."""
    config = shlex.quote(f"--config={settings.config_file}").replace("%", "%%")
    return f"pgbackrest {config} --stanza={settings.stanza} archive-push %p"


def restore_command(settings: BackupSettings, data_directory: PurePath) -> str:
    """Returns the restore_command of a copy beside a running cluster.

    Not asynchronous: the two would share a lock, and the running cluster's WAL would wait for the copy.
    """
    words = [f"--config={settings.config_file}", f"--pg1-path={data_directory}"]
    quoted = " ".join(shlex.quote(word).replace("%", "%%") for word in words)
    return f'pgbackrest {quoted} --stanza={settings.stanza} --no-archive-async archive-get %f "%p"'


def server_changes(settings: BackupSettings, present: Mapping[str, str]) -> list[Change]:
    """Returns what must change for WAL to be archived.

    Args:
        settings: of backups.
        present: wal_level, archive_mode, archive_command, archive_timeout (seconds), as pg_settings has them.
    """
    command, timeout = archive_command(settings), int(present["archive_timeout"])
    wanted = {
        "wal_level": "replica" if present["wal_level"] == "minimal" else present["wal_level"],
        "archive_mode": "on" if present["archive_mode"] == "off" else present["archive_mode"],
        "archive_command": command,
        "archive_timeout": str(timeout if 0 < timeout <= ARCHIVE_TIMEOUT_S else ARCHIVE_TIMEOUT_S),
    }
    return [Change(name, present[name], value) for name, value in wanted.items() if present[name] != value]


def _global(settings: BackupSettings, keys: S3Keys | None) -> Iterator[Option]:
    yield Option("repo1-path", str(settings.path))
    yield from _repository(settings, 1)
    if settings.s3_url:
        yield from _s3(settings, settings.s3_url, keys)
        yield from _repository(settings, 2)
    yield Option("compress-type", "zst")
    yield Option("process-max", str(settings.processes))
    yield Option("start-fast", "y")
    yield Option("archive-async", "y")
    yield Option("spool-path", str(settings.spool_path))
    yield Option("lock-path", str(settings.spool_path / "lock"))  # not in /tmp, which a unit may have of its own
    yield Option("log-level-console", "warn")
    yield Option("log-level-file", "off")  # the journal has what commands say, PostgreSQL's log what archiving says


def _repository(settings: BackupSettings, number: int) -> Iterator[Option]:
    yield Option(f"repo{number}-bundle", "y")
    yield Option(f"repo{number}-retention-full-type", "time")
    yield Option(f"repo{number}-retention-full", str(settings.retention_days))
    if settings.cipher_pass is not None:
        yield Option(f"repo{number}-cipher-type", "aes-256-cbc")
        yield Option(f"repo{number}-cipher-pass", settings.cipher_pass.get_secret_value(), secret=True)


def _s3(settings: BackupSettings, url: str, keys: S3Keys | None) -> Iterator[Option]:
    bucket, endpoint = urlsplit(url), urlsplit(f"//{settings.s3_endpoint}")
    yield Option("repo2-type", "s3")
    yield Option("repo2-path", bucket.path.rstrip("/") or "/")
    yield Option("repo2-s3-bucket", bucket.netloc)
    yield Option("repo2-s3-endpoint", endpoint.hostname or "")
    if endpoint.port:
        yield Option("repo2-storage-port", str(endpoint.port))
    yield Option("repo2-s3-region", settings.s3_region)
    if settings.s3_path_style:
        yield Option("repo2-s3-uri-style", "path")
    if settings.s3_ca_file:
        yield Option("repo2-storage-ca-file", str(settings.s3_ca_file))
    if keys is None:
        yield Option("repo2-s3-key-type", "auto")
        return
    yield Option("repo2-s3-key", keys.access_key_id, secret=True)
    yield Option("repo2-s3-key-secret", keys.secret_access_key, secret=True)
    if keys.session_token:
        yield Option("repo2-s3-token", keys.session_token, secret=True)


def _stanza(cluster: Cluster) -> Iterator[Option]:
    yield Option("pg1-path", cluster.data_directory)
    yield Option("pg1-port", str(cluster.port))
    yield Option("pg1-socket-path", cluster.socket_directory)
    yield Option("pg1-user", cluster.superuser)


def _line(option: Option, *, masked: bool) -> str:
    value = option.value
    if not value or value != value.strip() or not value.isprintable():
        raise InvalidInput(f"{option.name}: must be one line, without spaces at its ends")
    return f"{option.name}={MASK if masked and option.secret else value}"
