"""factoryd firmware release, and what comes after: what is refused, what is frozen."""

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg import errors

from config.ota_settings import OtaSettings
from factoryd.commands.firmware_fetch import read_back
from ota.firmware import Version
from storage.objects import Content
from tests.integration.command_line import CommandLine, rows
from tests.integration.conftest import Database
from tests.integration.firmware_plant import FILE, SHA256, added, refused, signed, site, stored, web_server


class Later(datetime):
    """In 200 days."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + timedelta(days=200)


@pytest.fixture
def factoryd(database: Database, tmp_path: Path) -> CommandLine:
    return site(database, tmp_path)


@pytest.fixture
def key(tmp_path: Path) -> str:
    return str(tmp_path / "keys/firmware.key")


def test_a_retired_signature_is_not_released(factoryd: CommandLine, tmp_path: Path, key: str) -> None:
    signed(factoryd, tmp_path, key)
    (listed,) = factoryd("firmware", "key", "list", "-o", "json").json()
    factoryd.good("firmware", "key", "retire", listed["keyid"])
    assert "is retired" in refused(factoryd, "firmware", "release", "2.4.1")


def test_unsigned_is_released_only_where_that_is_allowed(factoryd: CommandLine, database: Database, tmp_path: Path) -> None:
    added(factoryd, tmp_path)
    assert "it has no signature" in refused(factoryd, "firmware", "release", "2.4.1")
    trial = replace(factoryd, environment={**factoryd.environment, "FACTORYD_OTA__ALLOW_UNSIGNED": "true"})
    rows(database.daemon, """UPDATE ota_versions SET manifest = '{}', signatures = '[{"keyid": "x", "sig": "AAAA"}]'""")
    assert "not one of an active key" in refused(trial, "firmware", "release", "2.4.1"), "a bad signature is worse than none"
    rows(database.daemon, "UPDATE ota_versions SET manifest = NULL, signatures = '[]'")
    assert trial.good("firmware", "release", "2.4.1") == "firmware 2.4.1 released WITHOUT A SIGNATURE (ota.allow_unsigned)\n"


def test_a_sequence_must_rise(factoryd: CommandLine, tmp_path: Path, key: str) -> None:
    signed(factoryd, tmp_path, key, "1.0.0")
    signed(factoryd, tmp_path, key, "1.1.0")
    factoryd.good("firmware", "release", "1.1.0")
    told = refused(factoryd, "firmware", "release", "1.0.0")
    assert "manifest 1 is not above 2, that of the released 1.1.0" in told
    again = factoryd.good("firmware", "sign", "1.0.0", "--key", key, "--expires", "30d")
    assert "manifest 3" in again
    factoryd.good("firmware", "release", "1.0.0")


def test_an_expired_manifest_is_signed_anew(
    factoryd: CommandLine, database: Database, tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed(factoryd, tmp_path, key)
    monkeypatch.setattr("factoryd.commands.firmware_release.datetime", Later)
    assert "the manifest expired at" in refused(factoryd, "firmware", "release", "2.4.1")
    monkeypatch.setattr("factoryd.commands.firmware_sign.datetime", Later)
    factoryd.good("firmware", "sign", "2.4.1", "--key", key)
    factoryd.good("firmware", "release", "2.4.1")
    assert rows(database.daemon, "SELECT expires_at > now() + interval '360 days' FROM ota_versions") == [(True,)]


def test_a_file_that_was_exchanged_is_not_released(factoryd: CommandLine, tmp_path: Path, key: str) -> None:
    signed(factoryd, tmp_path, key)
    stored(tmp_path).write_bytes(FILE[:-1] + b"!")
    for command in ("release", "verify"):
        assert "it was damaged or exchanged" in refused(factoryd, "firmware", command, "2.4.1")
    assert "--skip-fetch is for versions added by --url" in refused(
        factoryd, "firmware", "release", "2.4.1", "--skip-fetch", code=2
    )
    stored(tmp_path).unlink()
    assert "there is no file" in refused(factoryd, "firmware", "release", "2.4.1")


def test_a_draft_that_changes_while_its_file_is_read_is_not_released(
    factoryd: CommandLine, database: Database, tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exchanged(settings: OtaSettings, version: Version) -> Content:
        rows(database.daemon, "UPDATE ota_versions SET firmware_url = firmware_url || '.other'")
        return read_back(settings, version)

    signed(factoryd, tmp_path, key)
    monkeypatch.setattr("factoryd.commands.firmware_release.read_back", exchanged)
    assert "was changed meanwhile" in refused(factoryd, "firmware", "release", "2.4.1")
    assert rows(database.daemon, "SELECT status::text FROM ota_versions") == [("draft",)]


def test_no_two_released_versions_differ_only_in_their_build(factoryd: CommandLine, tmp_path: Path, key: str) -> None:
    signed(factoryd, tmp_path, key, "2.4.1+a")
    signed(factoryd, tmp_path, key, "2.4.1+b")
    factoryd.good("firmware", "release", "2.4.1+a")
    assert "only in what follows +" in refused(factoryd, "firmware", "release", "2.4.1+b")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("firmware_url", "'https://evil.example/x'"),
        ("sha256", f"'{'00' * 32}'"),
        ("size_bytes", "1"),
        ("version", "'9.9.9'"),
        ("hardware", "'{}'"),
        ("min_version", "'0.0.1'"),
        ("downgrade", "true"),
        ("manifest", "'x'"),
        ("manifest_seq", "99"),
        ("signatures", "'[]'"),
        ("expires_at", "now()"),
        ("status", "'draft'"),
    ],
)
def test_what_is_released_is_frozen(
    factoryd: CommandLine, database: Database, tmp_path: Path, key: str, column: str, value: str
) -> None:
    signed(factoryd, tmp_path, key)
    factoryd.good("firmware", "release", "2.4.1")
    for url in (database.daemon, database.owner):
        with pytest.raises(errors.RestrictViolation, match=r"firmware 2\.4\.1 is released"):
            rows(url, f"UPDATE ota_versions SET {column} = {value}")
    with pytest.raises(errors.RestrictViolation):
        rows(database.owner, "DELETE FROM ota_versions")
    for command in (("sign", "2.4.1", "--key", key), ("manifest", "2.4.1", "--out", str(tmp_path / "m")), ("release", "2.4.1")):
        assert "is released: what was released stays" in refused(factoryd, "firmware", *command)


def test_deprecate_and_recall(factoryd: CommandLine, database: Database, tmp_path: Path, key: str) -> None:
    signed(factoryd, tmp_path, key)
    assert "is draft: only what is released" in refused(factoryd, "firmware", "deprecate", "2.4.1")
    assert "a draft, which nobody is sent" in refused(factoryd, "firmware", "recall", "2.4.1", "--reason", "x")
    factoryd.good("firmware", "release", "2.4.1")
    factoryd.good("firmware", "deprecate", "2.4.1")
    factoryd.good("device", "add", "press-1", "--type", "press")
    rows(
        database.daemon, "INSERT INTO ota_deployments (device_id, version_id) SELECT d.id, v.id FROM devices d, ota_versions v"
    )
    assert "--reason: give" in refused(factoryd, "firmware", "recall", "2.4.1", "--reason", " ", code=2)
    recalled = factoryd("firmware", "recall", "2.4.1", "--reason", "valve stays open")
    assert (recalled.code, recalled.out) == (0, "firmware 2.4.1 recalled: valve stays open\n")
    assert "1 deployments are live" in recalled.err
    shown = factoryd("firmware", "show", "2.4.1", "-o", "json").json()
    assert (shown["status"], shown["recall_reason"], shown["live"]) == ("recalled", "valve stays open", 1)
    assert "is recalled already" in refused(factoryd, "firmware", "recall", "2.4.1", "--reason", "again")


def test_a_url_is_fetched_at_release(factoryd: CommandLine, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with web_server() as host:
        listed = replace(factoryd, environment={"FACTORYD_OTA__ALLOWED_HOSTS": json.dumps([host])})
        for version, path in (
            ("1.0.0", "fw.bin"),
            ("1.0.1", "moved"),
            ("1.0.2", "missing"),
            ("1.0.3", "long"),
            ("1.0.4", "rubbish"),
        ):
            facts = ("--url", f"http://{host}/{path}", "--size", "100000", "--sha256", SHA256)
            listed.good("firmware", "add", version, *facts, "--hardware", "plc")
            listed.good("firmware", "sign", version, "--key", key)
        listed.good("firmware", "release", "1.0.0")
        assert "redirects" in refused(listed, "firmware", "release", "1.0.1")
        assert "answers 404" in refused(listed, "firmware", "release", "1.0.2")
        assert "damaged or exchanged" in refused(listed, "firmware", "release", "1.0.3")
        assert "cannot be fetched" in refused(listed, "firmware", "release", "1.0.4", code=69)
        assert "plain http only to hosts" in refused(factoryd, "firmware", "release", "1.0.2")
    skipped = listed("firmware", "release", "1.0.2", "--skip-fetch")
    assert (skipped.code, "WARNING: nobody has looked at the file" in skipped.err) == (0, True)
    assert refused(listed, "firmware", "verify", "1.0.0", code=69).startswith(
        f"factoryd: http://{host}/fw.bin cannot be fetched"
    )


def test_a_file_that_no_device_could_fetch_is_not_released(factoryd: CommandLine, tmp_path: Path, key: str) -> None:
    signed(factoryd, tmp_path, key)
    alone = {"FACTORYD_OTA__ARTIFACT_URL": f"file://{tmp_path}/store"}
    others = {**factoryd.environment, "FACTORYD_OTA__ALLOWED_HOSTS": '["other.example"]'}
    for command in ("release", "verify"):
        assert "artifact_base_url is not set" in refused(replace(factoryd, environment=alone), "firmware", command, "2.4.1")
        assert "not in ota.allowed_hosts" in refused(replace(factoryd, environment=others), "firmware", command, "2.4.1")


def test_verify_says_what_the_daemon_would(
    factoryd: CommandLine, database: Database, tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    added(factoryd, tmp_path)
    trial = replace(factoryd, environment={**factoryd.environment, "FACTORYD_OTA__ALLOW_UNSIGNED": "true"})
    assert "(unsigned)" in refused(factoryd, "firmware", "verify", "2.4.1")
    assert "NO SIGNATURE" in trial.good("firmware", "verify", "2.4.1")
    factoryd.good("firmware", "sign", "2.4.1", "--key", key)
    assert f"file as stated: 100,000 bytes, sha256 {SHA256}" in factoryd.good("firmware", "verify", "2.4.1")
    monkeypatch.setattr("factoryd.commands.firmware_attach.datetime", Later)
    assert "(manifest_expired)" in refused(factoryd, "firmware", "verify", "2.4.1")
    rows(database.daemon, "UPDATE ota_versions SET min_version = '1.0.0'")
    assert "min_version: signed None, stored 1.0.0 (manifest_mismatch)" in refused(factoryd, "firmware", "verify", "2.4.1")
