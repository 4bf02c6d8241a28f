"""Firmware files in a directory and in S3: stored, read back, and the URLs that devices get."""

import hashlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from config.ota_settings import OtaSettings
from ota.catalogue import NoAddress
from storage import objects
from storage.artifacts import Artifacts
from storage.objects import StoreUnavailable
from storage.refusals import Conflict, InvalidInput, NotFound
from tests.integration.s3_server import ACCESS, SECRET, S3Server, s3_server
from tests.unit.firmware import VERSION

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)


@pytest.fixture
def firmware(tmp_path: Path) -> Path:
    path = tmp_path / "fw.bin"
    path.write_bytes(os.urandom(3_000_001))
    return path


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_REGION", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with s3_server() as server:
        yield server


def in_directory(directory: Path) -> Artifacts:
    return Artifacts(OtaSettings(artifact_url=f"file://{directory}", artifact_base_url="https://files.example/fw/"))


def in_s3(server: S3Server, **changes: float) -> Artifacts:
    return Artifacts(OtaSettings(artifact_url="s3://plant/fw", s3_endpoint_url=server.url, **changes))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def device_url(store: Artifacts, url: str, now: datetime = NOW) -> str:
    return store.device_url(VERSION._replace(firmware_url=url), now).url


def test_a_directory_takes_a_file_whole(firmware: Path, tmp_path: Path) -> None:
    store, told = in_directory(tmp_path / "store"), list[int]()
    uploaded = store.upload(firmware, "2.4.1+b 7.bin", told.append)
    name = f"2.4.1_b_7-{sha256(firmware)[:12]}.bin"
    assert uploaded == (f"file://{tmp_path}/store/{name}", 3_000_001, sha256(firmware))
    assert sum(told) == 3_000_001
    assert len(told) > 1, "in pieces"
    assert [path.name for path in (tmp_path / "store").iterdir()] == [name]
    assert (tmp_path / "store" / name).stat().st_mode & 0o777 == 0o644
    assert store.read_back(uploaded.url) == (3_000_001, sha256(firmware))
    assert device_url(store, uploaded.url) == f"https://files.example/fw/{name}"


def test_a_copy_that_fails_leaves_nothing(firmware: Path, tmp_path: Path) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        in_directory(tmp_path / "store").upload(firmware, "2.4.1.bin", full)
    assert list((tmp_path / "store").iterdir()) == []


def test_other_bytes_never_take_a_name(firmware: Path, tmp_path: Path) -> None:
    store = in_directory(tmp_path / "store")
    first = store.upload(firmware, "2.4.1.bin")
    firmware.write_bytes(b"other")
    assert store.upload(firmware, "2.4.1.bin").url != first.url
    assert store.read_back(first.url).size_bytes == 3_000_001


def test_what_was_damaged_is_seen(firmware: Path, tmp_path: Path) -> None:
    store = in_directory(tmp_path / "store")
    uploaded = store.upload(firmware, "2.4.1.bin")
    path = Path(uploaded.url.removeprefix("file://"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert store.read_back(uploaded.url) != uploaded[1:]
    path.unlink()
    with pytest.raises(NotFound, match="there is no file"):
        store.read_back(uploaded.url)


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "%2e%2e/secret", "", "..", "a//b", "./x", "..\\x"])
def test_nothing_outside_the_store_is_given_out(tmp_path: Path, name: str) -> None:
    store = in_directory(tmp_path / "store")
    (tmp_path / "secret").write_text("secret")
    for url in (f"file://{tmp_path}/store/{name}", f"file://{tmp_path}/secret", "file:///etc/passwd", "s3://other/fw/x"):
        with pytest.raises(NoAddress, match="does not lie below"):
            device_url(store, url)
        with pytest.raises(InvalidInput, match="does not lie below"):
            store.read_back(url)


def test_without_a_place_there_are_words(firmware: Path) -> None:
    nowhere = Artifacts(OtaSettings())
    with pytest.raises(InvalidInput, match=r"ota\.artifact_url is not set"):
        nowhere.upload(firmware, "2.4.1.bin")
    with pytest.raises(NoAddress, match="artifact_base_url is not set"):
        device_url(Artifacts(OtaSettings(artifact_url="file:///srv/fw")), "file:///srv/fw/x")
    for url in ("s3://plant/fw/x", "ftp://files.example/x", "", "x", "https\u00e9://x"):
        with pytest.raises(NoAddress):
            device_url(nowhere, url)
    firmware.write_bytes(b"")
    with pytest.raises(InvalidInput, match="is empty"):
        nowhere.upload(firmware, "2.4.1.bin")


def test_an_https_url_is_as_it_was_given() -> None:
    assert Artifacts(OtaSettings()).device_url(VERSION, NOW) == ("https://files.example/2.4.1.bin", None)


def test_s3_takes_a_file_in_one_piece(firmware: Path, s3: S3Server) -> None:
    store, told = in_s3(s3), list[int]()
    uploaded = store.upload(firmware, "2.4.1.bin", told.append)
    assert uploaded == (f"s3://plant/fw/2.4.1-{sha256(firmware)[:12]}.bin", 3_000_001, sha256(firmware))
    assert sum(told) == 3_000_001
    assert s3.objects == {f"/plant/fw/2.4.1-{sha256(firmware)[:12]}.bin": firmware.read_bytes()}
    assert not s3.parts
    assert store.read_back(uploaded.url) == uploaded[1:]


def test_s3_takes_a_large_file_in_parts(tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "PART_BYTES", 5 << 20)
    large = tmp_path / "large.bin"
    large.write_bytes(os.urandom(1 << 20) * 12)
    store, told = in_s3(s3), list[int]()
    uploaded = store.upload(large, "3.0.0.bin", told.append)
    assert [len(part) for part in s3.parts["upload-0"].values()].count(5 << 20) == 2
    assert sum(told) == 12 << 20
    assert store.read_back(uploaded.url) == (12 << 20, sha256(large))


def test_a_device_fetches_by_a_presigned_url(firmware: Path, s3: S3Server) -> None:
    store, now = in_s3(s3, url_expires_s=600), datetime.now(UTC)
    uploaded = store.upload(firmware, "2.4.1.bin")
    address = store.device_url(VERSION._replace(firmware_url=uploaded.url), now)
    assert address.expires_at == now + timedelta(seconds=600)
    with urlopen(address.url) as response:
        assert hashlib.sha256(response.read()).hexdigest() == uploaded.sha256
    for wrong in (address.url.replace("2.4.1", "2.4.2"), address.url.partition("?")[0], address.url[:-1] + "g"):
        with pytest.raises(HTTPError, match="403") as refused:
            urlopen(wrong)
        refused.value.close()


def test_a_presigned_url_is_shared_for_a_minute(s3: S3Server) -> None:
    store, now = in_s3(s3), datetime.now(UTC)
    version = VERSION._replace(firmware_url="s3://plant/fw/x.bin")
    first = store.device_url(version, now)
    assert store.device_url(version, now + timedelta(seconds=59)) is first
    fresh = store.device_url(version, now + timedelta(seconds=61))
    assert fresh.expires_at == now + timedelta(seconds=86_461)
    assert store.device_url(version, now - timedelta(hours=1)) is not fresh, "a clock that was set back"
    brief = in_s3(s3, url_expires_s=20)
    first = brief.device_url(version, now)
    assert brief.device_url(version, now + timedelta(seconds=9)) is first
    assert brief.device_url(version, now + timedelta(seconds=11)) is not first, "half its life is over"


def test_only_what_lies_in_the_store_is_presigned(s3: S3Server) -> None:
    for url in ("s3://backups/fw/x", "s3://plant/other/x", "s3://plant/fw", "s3://plant/fw/../x", "s3://plant/fwx/y"):
        with pytest.raises(NoAddress, match="does not lie below"):
            device_url(in_s3(s3), url)


def test_s3_says_what_is_wrong(firmware: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store = in_s3(s3)
    with pytest.raises(NotFound, match="no such file or bucket"):
        store.read_back("s3://plant/fw/missing.bin")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    for refused in (lambda: store.read_back("s3://plant/fw/x"), lambda: store.upload(firmware, "2.4.1.bin")):
        with pytest.raises(Conflict, match="S3 refuses"):
            refused()
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    with pytest.raises(Conflict, match="set AWS_ACCESS_KEY_ID"):
        store.read_back("s3://plant/fw/x")
    with pytest.raises(NoAddress, match="credentials"):
        device_url(store, "s3://plant/fw/x")


def test_s3_may_stumble(firmware: Path, s3: S3Server) -> None:
    s3.failing = [503]
    assert in_s3(s3).upload(firmware, "2.4.1.bin").size_bytes == 3_000_001


def test_an_s3_in_trouble_is_to_be_tried_again(firmware: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # the library's pauses between its attempts
    store = in_s3(s3)
    for ask in (lambda: store.read_back("s3://plant/fw/x"), lambda: store.upload(firmware, "2.4.1.bin")):
        s3.failing = [503] * 4
        with pytest.raises(StoreUnavailable, match="in trouble"):
            ask()
        assert s3.failing == []


def test_no_password_in_a_url_is_told() -> None:
    for url in ("ftp://user:secret@files.example/x", "s3://user:secret@plant/x?key=secret"):
        with pytest.raises(NoAddress) as told:
            device_url(Artifacts(OtaSettings()), url)
        assert "secret" not in str(told.value)


def test_an_absent_s3_is_to_be_tried_again(monkeypatch: pytest.MonkeyPatch, s3: S3Server) -> None:
    store = Artifacts(OtaSettings(artifact_url="s3://plant/fw", s3_endpoint_url="http://127.0.0.1:9"))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreUnavailable):
        store.read_back("s3://plant/fw/x")
