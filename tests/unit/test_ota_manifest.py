"""What is signed about a firmware file, and whether it says what the row says."""

import json
from datetime import timedelta
from typing import Any

import pytest

from ota.manifest import MAX_BYTES, BadManifest, build, mismatch, read
from tests.unit.firmware import END, NOW, VERSION, signed


def test_a_manifest_is_these_bytes() -> None:
    assert json.loads(build(VERSION, 1042, NOW, END)) == {
        "spec": 1,
        "seq": 1042,
        "version": "2.4.1",
        "hardware": ["plc-gw/rev-c"],
        "min_version": "2.2.0",
        "size": 1_843_200,
        "sha256": "5e" * 32,
        "format": "raw",
        "issued_at": "2026-11-22T10:00:00Z",
        "expires_at": "2027-05-22T10:00:00Z",
    }


def test_a_manifest_is_read_as_it_was_built() -> None:
    version = VERSION._replace(min_version=None, downgrade=True, hardware=["a", "b"], size_bytes=2**40)
    manifest = read(build(version, 1, NOW + timedelta(milliseconds=900), END))
    assert (manifest.seq, manifest.version, list(manifest.hardware), manifest.size) == (1, "2.4.1", ["a", "b"], 2**40)
    assert (manifest.min_version, manifest.downgrade, manifest.issued_at, manifest.expires_at) == (None, True, NOW, END)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size_bytes": None}, "size and sha256"),
        ({"sha256": None}, "size and sha256"),
        ({"hardware": []}, "names no hardware"),
        ({"hardware": [f"kind-{number:020}" for number in range(40)]}, f"at most {MAX_BYTES}"),
    ],
)
def test_what_is_vague_is_not_signed(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadManifest, match=words):
        build(VERSION._replace(**changes), 1, NOW, END)


@pytest.mark.parametrize(
    "change",
    [{"spec": 2}, {"format": "delta"}, {"seq": "1042"}, {"size": 1.5}, {"hardware": "plc"}, {"expires_at": "2027-05-22"}],
    ids=str,
)
def test_what_is_no_manifest_is_told(change: dict[str, Any]) -> None:
    said = json.loads(build(VERSION, 1042, NOW, END)) | change
    with pytest.raises(BadManifest):
        read(json.dumps(said).encode())


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"\xff\xfe", b"[" * 500, b" " * (MAX_BYTES + 1)], ids=repr)
def test_bytes_that_are_nothing_are_told(raw: bytes) -> None:
    with pytest.raises(BadManifest):
        read(raw)


def test_the_same_facts_match() -> None:
    assert mismatch(signed()) is None
    assert mismatch(signed(version=VERSION._replace(hardware=["b", "a"]))._replace(hardware=["a", "b"])) is None
    assert mismatch(VERSION) == "there is no manifest"


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"manifest_seq": 1043}, "seq"),
        ({"version": "2.4.2"}, "version"),
        ({"hardware": ["plc-gw/rev-c", "plc-gw/rev-d"]}, "hardware"),
        ({"hardware": []}, "hardware"),
        ({"min_version": None}, "min_version"),
        ({"size_bytes": 1}, "size"),
        ({"sha256": "00" * 32}, "sha256"),
        ({"expires_at": END + timedelta(seconds=1)}, "expires_at"),
        ({"expires_at": None}, "expires_at"),
        ({"downgrade": True}, "downgrade"),
    ],
    ids=str,
)
def test_each_fact_is_compared(changes: dict[str, Any], fact: str) -> None:
    told = mismatch(signed()._replace(**changes))
    assert told is not None
    assert told.startswith(f"{fact}: signed ")


def test_where_the_file_lies_is_not_signed() -> None:
    assert mismatch(signed()._replace(firmware_url="https://mirror.example/other.bin")) is None
