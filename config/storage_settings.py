"""`[retention]`, `[archive]` and `[backup]`: how long data is kept, where it goes then, and how it is brought back."""

import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

NO_ARCHIVE = "none"
"""The word that must be said for data to be deleted without an archive."""


class RetentionSettings(BaseModel):
    """How long data is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    readings_days: int = Field(
        90,
        ge=1,
        le=3660,
        description="Older readings are refused as too late; partitions are made this far back, and archived beyond it.",
    )
    partitions_ahead_days: int = Field(7, ge=1, le=60, description="Days of partitions made in advance.")
    alerts_days: int = Field(365, ge=1, le=36600, description="Resolved alerts are archived after this, with their history.")
    deployments_days: int = Field(
        365, ge=1, le=36600, description="Ended deployments are archived after this, with their events."
    )
    rollups_days: int = Field(730, ge=1, le=36600, description="Roll-ups by minute and hour are deleted after this.")
    gaps_days: int = Field(365, ge=1, le=36600, description="The ledger of missing messages forgets after this.")
    quarantine_days: int = Field(30, ge=1, le=3660, description="Quarantined messages are deleted after this.")
    run_at: str = Field(
        "02:15",
        description="Time of day (UTC) at which the daemon archives and removes what is past its time, as "
        "factoryd maintenance run; never: a timer runs it. Needs database.owner_url.",
    )

    @field_validator("run_at")
    @classmethod
    def _is_time_of_day(cls, value: str) -> str:
        if value != "never" and not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value):
            raise ValueError("must be a time of day like 02:15, or never")
        return value


class ArchiveSettings(BaseModel):
    """Where data goes that is past its time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str | None = Field(
        None,
        description="s3://bucket/prefix or file:///mnt/archive; none: it is deleted without an archive. Must be said, except "
        "with --embedded, which keeps it below its directory.",
    )
    s3_endpoint_url: str | None = Field(
        None, description="S3 server other than AWS; credentials come from the environment, as for all tools."
    )
    spool_directory: Path | None = Field(
        None,
        description="Files are written here before they are uploaded: room for a day's; default: the system's temporary.",
    )
    rows_per_s: float | None = Field(
        250_000.0,
        gt=0,
        description="Most readings exported per second while a daemon is active: storing new ones comes first. Without one it "
        "is as fast as it can be.",
    )
    s3_timeout_s: float = Field(
        60.0, gt=0, le=3600, description="Longest silence of the S3 server within one request; it is asked four times."
    )

    @field_validator("url")
    @classmethod
    def _is_a_store(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "")
        good = (parts.scheme == "s3" and parts.netloc) or (parts.scheme == "file" and parts.path.startswith("/"))
        if value not in {None, NO_ARCHIVE} and not good:
            raise ValueError("must look like s3://bucket/prefix or file:///mnt/archive, or be none")
        return value

    @field_validator("s3_endpoint_url")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "")
        if value is not None and (parts.scheme not in {"http", "https"} or not parts.hostname):
            raise ValueError("must look like https://host")
        return value


class BackupSettings(BaseModel):
    """Backups of the whole database cluster."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["external", "managed"] = Field(
        "external",
        description="external: others make backups and tell by factoryd backup record; managed: by pgBackRest, set up by us.",
    )
    stanza: str = Field("factoryd", pattern=r"^[a-z0-9_-]{1,50}$", description="pgBackRest's name for the cluster.")
    config_file: Path = Field(Path("/etc/pgbackrest/pgbackrest.conf"), description="Written by factoryd backup init.")
    path: Path = Field(Path("/var/lib/pgbackrest"), description="The local repository.")
    spool_path: Path = Field(
        Path("/var/spool/pgbackrest"), description="Where WAL on its way to the repositories is noted, and locks are kept."
    )
    processes: int = Field(2, ge=1, le=64, description="Processes that compress and transfer at the same time.")
    s3_url: str | None = Field(None, description="s3://bucket/path of the repository off-site; default: none.")
    s3_endpoint: str = Field("s3.amazonaws.com", description="host or host:port of its S3 server (TLS).")
    s3_region: str = Field("us-east-1", description="Its region.")
    s3_ca_file: Path | None = Field(None, description="CA certificates of the S3 server (PEM); default: the system's.")
    s3_path_style: bool = Field(False, description="true: the bucket is in the path and not in the host's name (MinIO, Ceph).")
    cipher_pass: SecretStr | None = Field(
        None, description="Encrypts the repositories (AES-256). Keep a copy elsewhere: without it no backup can be read."
    )
    retention_days: int = Field(30, ge=1, le=3660, description="Any moment of so many days can be restored.")
    full_max_age_h: float = Field(192.0, gt=0, description="Older: the last full backup is too old (weekly, and a day).")
    incr_max_age_h: float = Field(26.0, gt=0, description="Older: the last of any kind is too old (daily, and two hours).")
    drill_max_age_days: float = Field(100.0, gt=0, description="Older: the last recovery drill is too old.")

    @field_validator("s3_url")
    @classmethod
    def _is_a_bucket(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "")
        if value is not None and not (parts.scheme == "s3" and parts.netloc):
            raise ValueError("must look like s3://bucket/path")
        return value
