"""factoryd firmware, against a real database: drafts, keys and signatures."""

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ota.signing import public_key_of, read_private_key
from tests.integration.command_line import CommandLine, rows
from tests.integration.conftest import Database
from tests.integration.firmware_plant import FILE, SHA256, added, refused, signed, site, stored, trusted

ROW = "SELECT status::text, manifest_seq, created_by, released_by, jsonb_array_length(signatures) FROM ota_versions"


@pytest.fixture
def factoryd(database: Database, tmp_path: Path) -> CommandLine:
    return site(database, tmp_path)


@pytest.fixture
def key(tmp_path: Path) -> str:
    return str(tmp_path / "keys/firmware.key")


def test_from_file_to_released(factoryd: CommandLine, database: Database, tmp_path: Path, key: str) -> None:
    factoryd.good("user", "add", "anna", "--email", "anna@example.com")
    answer = factoryd(
        *("firmware", "add", "2.4.1", "--file", str(tmp_path / "fw.bin"), "--hardware", "plc-gw/rev-c"),
        *("--hardware", "plc-gw/rev-d", "--min-version", "2.2.0", "--notes", "quieter", "--actor", "anna"),
    )
    assert answer.out == f"firmware 2.4.1 added: 100,000 bytes, sha256 {SHA256}\n"
    assert stored(tmp_path).read_bytes() == FILE
    assert rows(database.daemon, ROW) == [("draft", None, "anna", None, 0)]
    assert trusted(database) == "unsigned"
    assert factoryd.good("firmware", "sign", "2.4.1", "--key", key).startswith("firmware 2.4.1 signed with ")
    assert trusted(database) is None
    assert "signature good, manifest 1" in factoryd.good("firmware", "verify", "2.4.1")
    assert factoryd.good("firmware", "release", "2.4.1", "--actor", "anna") == "firmware 2.4.1 released\n"
    assert rows(database.daemon, ROW) == [("released", 1, "anna", "anna", 1)]
    (listed,) = factoryd("firmware", "list", "-o", "json").json()
    assert (listed["version"], listed["status"], listed["hardware"]) == ("2.4.1", "released", ["plc-gw/rev-c", "plc-gw/rev-d"])
    assert listed["firmware_url"] == f"file://{stored(tmp_path)}"
    shown = factoryd("firmware", "show", "2.4.1", "-o", "json").json()
    assert (shown["min_version"], shown["release_notes"], shown["size_bytes"]) == ("2.2.0", "quieter", 100_000)
    assert "plc-gw/rev-c, plc-gw/rev-d" in factoryd.good("firmware", "list")
    assert "min version" in factoryd.good("firmware", "show", "2.4.1")


def test_signed_on_a_machine_without_a_database(factoryd: CommandLine, database: Database, tmp_path: Path, key: str) -> None:
    added(factoryd, tmp_path)
    manifest, signature = tmp_path / "2.4.1.json", tmp_path / "2.4.1.json.sig"
    factoryd.good("firmware", "manifest", "2.4.1", "--expires", "90d", "--out", str(manifest))
    said = json.loads(manifest.read_bytes())
    assert (said["seq"], said["version"], said["size"], said["sha256"]) == (1, "2.4.1", 100_000, SHA256)
    assert datetime.fromisoformat(said["expires_at"]) - datetime.fromisoformat(said["issued_at"]) == timedelta(days=90)
    offline = replace(factoryd, database_url="postgresql://nobody@127.0.0.1:9/none")
    out = offline.good("firmware", "sign", str(manifest), "--key", key)
    assert "2.4.1, manifest 1, plc-gw/rev-c" in out
    assert f"100,000 bytes, sha256 {SHA256}, accepted until " in out
    assert "exists" in refused(offline, "firmware", "sign", str(manifest), "--key", key)
    factoryd.good("firmware", "attach", "2.4.1", "--manifest", str(manifest), "--signature", str(signature))
    assert trusted(database) is None
    assert rows(database.daemon, "SELECT manifest FROM ota_versions") == [(manifest.read_bytes(),)]
    factoryd.good("firmware", "release", "2.4.1")


def test_only_a_manifest_is_signed(factoryd: CommandLine, tmp_path: Path, key: str) -> None:
    other = tmp_path / "contract.json"
    other.write_text('{"pay": "everything"}')
    assert "not a manifest" in refused(factoryd, "firmware", "sign", str(other), "--key", key, code=2)
    assert "neither a file nor a version" in refused(factoryd, "firmware", "sign", "nothing", "--key", key, code=2)
    assert "there is no firmware 9.9.9" in refused(factoryd, "firmware", "sign", "9.9.9", "--key", key)
    added(factoryd, tmp_path)
    assert "not a private key" in refused(factoryd, "firmware", "sign", "2.4.1", "--key", str(other), code=2)


def test_what_is_attached_must_fit(factoryd: CommandLine, database: Database, tmp_path: Path, key: str) -> None:
    added(factoryd, tmp_path)
    added(factoryd, tmp_path, "2.4.2")
    manifest = tmp_path / "m"
    factoryd.good("firmware", "manifest", "2.4.1", "--out", str(manifest))
    factoryd.good("firmware", "sign", str(manifest), "--key", key)
    attach = ("--manifest", str(manifest), "--signature", f"{manifest}.sig")
    told = refused(factoryd, "firmware", "attach", "2.4.2", *attach)
    assert "the manifest says something else" in told
    assert "version: signed 2.4.1, stored 2.4.2" in told
    manifest.write_bytes(manifest.read_bytes().replace(b'"seq":1', b'"seq":9'))
    assert "not one of an active key" in refused(factoryd, "firmware", "attach", "2.4.1", *attach)
    Path(f"{manifest}.sig").write_text("[]")
    assert "not a signature" in refused(factoryd, "firmware", "attach", "2.4.1", *attach, code=2)
    assert rows(database.daemon, "SELECT count(*) FROM ota_versions WHERE manifest IS NOT NULL") == [(0,)]


def test_a_key_is_made_once_and_kept_to_oneself(factoryd: CommandLine, tmp_path: Path, key: str) -> None:
    assert Path(key).stat().st_mode & 0o777 == 0o600
    public = public_key_of(read_private_key(Path(key).read_bytes()))
    before = Path(key).read_bytes()
    assert "is not overwritten" in refused(factoryd, "firmware", "keygen", str(tmp_path / "keys"))
    assert Path(key).read_bytes() == before
    (listed,) = factoryd("firmware", "key", "list", "-o", "json").json()
    assert (listed["status"], listed["note"]) == ("active", "in the safe")
    assert base64.b64decode(listed["public_key"]) == public
    assert "is known already" in refused(factoryd, "firmware", "key", "add", base64.b64encode(public).decode())
    assert "32 bytes in base64" in refused(factoryd, "firmware", "key", "add", "AAAA", code=2)
    Path(key).chmod(0o644)
    added(factoryd, tmp_path)
    assert "can be read by others" in factoryd("firmware", "sign", "2.4.1", "--key", key).err


def test_keys_are_changed_while_releases_go_on(factoryd: CommandLine, database: Database, tmp_path: Path, key: str) -> None:
    signed(factoryd, tmp_path, key, "1.0.0")
    factoryd.good("firmware", "release", "1.0.0")
    factoryd.good("firmware", "keygen", str(tmp_path / "new"))
    factoryd.good("firmware", "key", "add", str(tmp_path / "new/firmware.pub"))
    old, new = (each["keyid"] for each in factoryd("firmware", "key", "list", "-o", "json").json())
    signed(factoryd, tmp_path, key, "1.1.0")
    twice = factoryd.good("firmware", "sign", "1.1.0", "--key", str(tmp_path / "new/firmware.key"))
    assert "manifest 2, 2 signatures" in twice
    factoryd.good("firmware", "key", "retire", old)
    factoryd.good("firmware", "release", "1.1.0")
    added(factoryd, tmp_path, "1.2.0")
    assert "is retired; sign it with an active one" in refused(factoryd, "firmware", "sign", "1.2.0", "--key", key)
    assert trusted(database, "1.0.0") is None, "what a retired key has signed goes on"
    revoked = factoryd("firmware", "key", "revoke", old)
    assert "it has signed 2 released versions" in revoked.err
    assert trusted(database, "1.0.0") == "revoked_key"
    assert trusted(database, "1.1.0") is None, "the other one has signed it, too"
    assert "the key is revoked" in refused(factoryd, "firmware", "verify", "1.0.0")
    assert f"key {old} is revoked already" in refused(factoryd, "firmware", "key", "retire", old)
    assert "there is no key 00" in refused(factoryd, "firmware", "key", "revoke", "00")
    assert "is known already" in refused(factoryd, "firmware", "key", "add", str(tmp_path / "keys/firmware.pub"))
    assert new in factoryd.good("firmware", "key", "list")


def test_a_signature_goes_with_its_own_manifest(factoryd: CommandLine, database: Database, tmp_path: Path, key: str) -> None:
    factoryd.good("firmware", "keygen", str(tmp_path / "new"))
    factoryd.good("firmware", "key", "add", str(tmp_path / "new/firmware.pub"))
    signed(factoryd, tmp_path, key)
    factoryd.good("firmware", "sign", "2.4.1", "--key", str(tmp_path / "new/firmware.key"), "--expires", "30d")
    assert rows(database.daemon, "SELECT jsonb_array_length(signatures) FROM ota_versions") == [(1,)]
    assert trusted(database) is None


def test_a_draft_is_written_anew(factoryd: CommandLine, database: Database, tmp_path: Path, key: str) -> None:
    signed(factoryd, tmp_path, key)
    again = ("firmware", "add", "2.4.1", "--file", str(tmp_path / "fw.bin"), "--hardware", "other")
    assert "--replace writes it anew" in refused(factoryd, *again)
    factoryd.good(*again, "--replace")
    assert trusted(database) == "unsigned"
    factoryd.good("firmware", "sign", "2.4.1", "--key", key)
    factoryd.good("firmware", "release", "2.4.1")
    assert "choose another version" in refused(factoryd, *again, "--replace")
    assert rows(database.daemon, "SELECT hardware FROM ota_versions") == [(["other"],)]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("2.4",), 2, "is no version"),
        (("2.4.1", "--min-version", "new"), 2, "is no version"),
        (("2.4.1", "--min-version", "3.0.0"), 2, "needs --downgrade"),
        (("2.4.1", "--hardware", ""), 2, "printable characters"),
        (("2.4.1", "--actor", "nobody"), 1, "user nobody does not exist"),
        (("2.4.1", "--sha256", "00" * 32), 2, "--file alone is enough"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_stored(
    factoryd: CommandLine, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    told = refused(factoryd, "firmware", "add", *arguments, "--file", str(tmp_path / "fw.bin"), code=code)
    assert words in told
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "say which file"),
        (("--url", "https://files.example/x"), "say which file"),
        (("--url", "https://files.example/x", "--size", "1", "--sha256", "00"), "64 hex digits"),
        (("--url", "http://files.example/x", "--size", "1", "--sha256", "00" * 32), "plain http"),
        (("--url", "https://u:p@files.example/x", "--size", "1", "--sha256", "00" * 32), "user name"),
        (("--url", f"https://files.example/{'x' * 500}", "--size", "1", "--sha256", "00" * 32), "at most 500"),
    ],
)
def test_a_url_needs_all_that_a_device_must_know(factoryd: CommandLine, arguments: tuple[str, ...], words: str) -> None:
    assert words in refused(factoryd, "firmware", "add", "2.4.1", *arguments, code=2)


def test_nothing_is_signed_that_names_no_hardware(factoryd: CommandLine, tmp_path: Path, key: str) -> None:
    note = factoryd("firmware", "add", "2.4.1", "--file", str(tmp_path / "fw.bin"))
    assert "it names no --hardware" in note.err
    assert "names no hardware" in refused(factoryd, "firmware", "sign", "2.4.1", "--key", key)


@pytest.mark.parametrize("expires", ["0s", "36526d", "999999w", "soon"])
def test_a_manifest_lives_for_a_while(factoryd: CommandLine, tmp_path: Path, key: str, expires: str) -> None:
    added(factoryd, tmp_path)
    out = tmp_path / "m"
    for command in (("manifest", "2.4.1", "--out", str(out)), ("sign", "2.4.1", "--key", key)):
        told = refused(factoryd, "firmware", *command, "--expires", expires, code=2)
        assert "--expires: give more than nothing" in told or "is no duration" in told
    assert not out.exists()


def test_a_public_key_is_not_overwritten_either(factoryd: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/firmware.pub").write_text("of somebody")
    assert "is not overwritten" in refused(factoryd, "firmware", "keygen", str(tmp_path / "other"))
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["firmware.pub"], "and no private key without it"


def test_signatures_that_are_rubbish_are_borne(factoryd: CommandLine, database: Database, tmp_path: Path, key: str) -> None:
    added(factoryd, tmp_path)
    rows(database.daemon, """UPDATE ota_versions SET signatures = '["keyid", 3, null, {"keyid": null}]'""")
    assert "2.4.1" in factoryd.good("firmware", "list")
    assert factoryd.good("firmware", "show", "2.4.1")
    factoryd.good("firmware", "sign", "2.4.1", "--key", key)
    assert trusted(database) is None


def test_empty_lists_say_what_to_do(factoryd: CommandLine, database: Database) -> None:
    assert factoryd("firmware", "list").err == "no firmware; factoryd firmware add makes a draft\n"
    assert "there is no firmware 2.4.1" in refused(factoryd, "firmware", "show", "2.4.1")
    rows(database.owner, "DELETE FROM ota_keys")
    assert factoryd("firmware", "key", "list").err.startswith("no keys")


def test_a_version_that_plain_sql_wrote_says_what_it_lacks(factoryd: CommandLine, database: Database, key: str) -> None:
    rows(database.daemon, "INSERT INTO ota_versions (version, firmware_url) VALUES ('1.0.0', 'https://files.example/x')")
    assert "size and sha256 are not known" in refused(factoryd, "firmware", "sign", "1.0.0", "--key", key)
    assert "size and sha256 are not known" in refused(factoryd, "firmware", "release", "1.0.0", "--skip-fetch")
    assert factoryd.good("firmware", "show", "1.0.0")
    assert datetime.now(UTC) > datetime.fromisoformat(factoryd("firmware", "show", "1.0.0", "-o", "json").json()["created_at"])
