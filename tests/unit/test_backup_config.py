"""pgbackrest.conf and PostgreSQL's settings, as they follow from ours."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from config.storage_settings import BackupSettings
from storage.backup import restore_arguments
from storage.backup_config import (
    MASK,
    Cluster,
    S3Keys,
    archive_command,
    parse_cluster,
    render,
    repositories,
    restore_command,
    server_changes,
)
from storage.refusals import InvalidInput

CLUSTER = Cluster("/var/lib/postgresql/15/main", 5433, "/run/postgresql", "postgres")
KEYS = S3Keys("AKIDEXAMPLE", "wJalrXUtnFEMI", "session")
SECRETS = ("correct horse", KEYS.access_key_id, KEYS.secret_access_key, "session")
OFF: Mapping[str, str] = {"wal_level": "replica", "archive_mode": "off", "archive_command": "", "archive_timeout": "0"}
EVERYTHING = """\
# Written by factoryd backup init: a change made here is lost with its next run.

[global]
repo1-path=/backup
repo1-bundle=y
repo1-retention-full-type=time
repo1-retention-full=30
repo1-cipher-type=aes-256-cbc
repo1-cipher-pass=correct horse
repo2-type=s3
repo2-path=/site/a
repo2-s3-bucket=bucket
repo2-s3-endpoint=minio.example
repo2-storage-port=9000
repo2-s3-region=eu-west-1
repo2-s3-uri-style=path
repo2-storage-ca-file=/etc/ca.pem
repo2-s3-key=AKIDEXAMPLE
repo2-s3-key-secret=wJalrXUtnFEMI
repo2-s3-token=session
repo2-bundle=y
repo2-retention-full-type=time
repo2-retention-full=30
repo2-cipher-type=aes-256-cbc
repo2-cipher-pass=correct horse
compress-type=zst
process-max=2
start-fast=y
archive-async=y
spool-path=/var/spool/pgbackrest
lock-path=/var/spool/pgbackrest/lock
log-level-console=warn
log-level-file=off

[factoryd]
pg1-path=/var/lib/postgresql/15/main
pg1-port=5433
pg1-socket-path=/run/postgresql
pg1-user=postgres
"""


def settings(**values: Any) -> BackupSettings:
    return BackupSettings.model_validate({"mode": "managed", "path": "/backup", **values})


FULL = settings(
    s3_url="s3://bucket/site/a/",
    s3_endpoint="minio.example:9000",
    s3_region="eu-west-1",
    s3_ca_file="/etc/ca.pem",
    s3_path_style=True,
    cipher_pass="correct horse",
)


def test_everything_is_in_the_file() -> None:
    assert render(FULL, CLUSTER, KEYS) == EVERYTHING
    assert repositories(FULL) == [1, 2]
    assert parse_cluster(EVERYTHING, "factoryd") == CLUSTER


def test_no_secret_is_shown() -> None:
    shown = render(FULL, CLUSTER, KEYS, masked=True)
    assert not [secret for secret in SECRETS if secret in shown]
    assert shown.count(MASK) == 5
    assert not [secret for secret in SECRETS[2:] if secret in repr(KEYS)]


def test_a_local_repository_alone_has_no_other() -> None:
    text = render(settings(), CLUSTER, None)
    assert "repo2" not in text
    assert "cipher" not in text
    assert repositories(settings()) == [1]


def test_without_keys_the_machines_role_is_asked() -> None:
    assert "repo2-s3-key-type=auto" in render(settings(s3_url="s3://bucket"), CLUSTER, None).splitlines()


@pytest.mark.parametrize("secret", ["two\nlines", " blank", "blank ", ""])
def test_what_a_line_cannot_hold_is_refused_without_being_shown(secret: str) -> None:
    with pytest.raises(InvalidInput, match="repo1-cipher-pass: must be one line") as refusal:
        render(settings(cipher_pass=secret), CLUSTER, None)
    assert not secret.strip() or secret not in str(refusal.value)


@pytest.mark.parametrize(
    "text", ["", "[factoryd]\npg1-path=/x\n", "[other]\n", "no ini", "[factoryd]\npg1-path=/x\npg1-port=a\n"]
)
def test_another_configuration_is_not_taken_for_ours(text: str) -> None:
    with pytest.raises(InvalidInput, match="run factoryd backup init"):
        parse_cluster(text, "factoryd")


def test_postgresql_quotes_and_percent_signs() -> None:
    odd = settings(config_file="/etc/it's 100%/c.conf")
    assert archive_command(odd) == ("""pgbackrest '--config=/etc/it'"'"'s 100%%/c.conf' --stanza=factoryd archive-push %p""")
    assert restore_command(settings(), Path("/new")) == (
        "pgbackrest --config=/etc/pgbackrest/pgbackrest.conf --pg1-path=/new --stanza=factoryd --no-archive-async "
        'archive-get %f "%p"'
    )


@pytest.mark.parametrize(
    ("present", "changed", "restart"),
    [
        ({}, {"archive_mode": "on", "archive_timeout": "60"}, True),
        ({"wal_level": "minimal"}, {"wal_level": "replica", "archive_mode": "on", "archive_timeout": "60"}, True),
        ({"wal_level": "logical", "archive_mode": "on", "archive_timeout": "300"}, {"archive_timeout": "60"}, False),
        ({"archive_mode": "always", "archive_timeout": "30"}, {}, False),
    ],
)
def test_only_what_must_change_does(present: dict[str, str], changed: dict[str, str], restart: bool) -> None:
    changes = server_changes(settings(), {**OFF, **present})
    wanted = {change.name: change.wanted for change in changes}
    assert wanted == {**changed, "archive_command": archive_command(settings())}
    assert any(change.needs_restart for change in changes) is restart


def test_nothing_changes_twice() -> None:
    done = {change.name: change.wanted for change in server_changes(settings(), OFF)}
    assert server_changes(settings(), {**OFF, **done}) == []


def test_a_standby_elsewhere_may_archive_when_it_is_promoted() -> None:
    words = restore_arguments(settings(), Path("/new"), standby=True, primary="host=db1 user=replica")
    assert "--type=standby" in words
    assert "--recovery-option=primary_conninfo=host=db1 user=replica" in words
    assert "--archive-mode=off" not in words


def test_a_primary_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidInput, match="--primary: "):
        restore_arguments(settings(), Path("/new"), standby=True, primary="host")
