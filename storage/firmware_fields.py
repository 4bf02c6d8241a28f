"""PURE. What may be said about a firmware version, checked before anything is stored or uploaded."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ota.versions import is_newer, is_semver
from storage.refusals import InvalidInput

MAX_VERSION = 50
MAX_URL = 500
MAX_HARDWARE = 100
MAX_NOTES = 10_000
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version to be made; a draft, until it is released."""

    version: str
    actor: str
    hardware: Sequence[str] = ()
    min_version: str | None = None
    downgrade: bool = False
    notes: str | None = None


@dataclass(frozen=True, slots=True)
class Artifact:
    """Where a version's file lies, and what it must hold."""

    url: str
    size_bytes: int
    sha256: str


def check_version(new: NewVersion) -> None:
    """Raises InvalidInput if a field cannot be used."""
    if not is_semver(new.version) or len(new.version) > MAX_VERSION:
        raise InvalidInput(f"{new.version[:60]!r} is no version; write it like 2.4.1 or 2.5.0-rc.1 (semver.org)")
    for name in new.hardware:
        if not 0 < len(name) <= MAX_HARDWARE or not name.isprintable() or name != name.strip():
            raise InvalidInput(f"hardware {name[:60]!r}: give 1 to {MAX_HARDWARE} printable characters, as devices report it")
    if new.min_version is not None and not is_semver(new.min_version):
        raise InvalidInput(f"--min-version {new.min_version[:60]!r} is no version; write it like 2.2.0")
    if new.min_version is not None and is_newer(new.min_version, new.version) and not new.downgrade:
        raise InvalidInput(f"--min-version {new.min_version} is newer than {new.version} itself; a step back needs --downgrade")
    if len(new.notes or "") > MAX_NOTES:
        raise InvalidInput(f"--notes: at most {MAX_NOTES} characters")


def check_artifact(artifact: Artifact) -> None:
    """Raises InvalidInput if a field cannot be used."""
    if len(artifact.url) > MAX_URL:
        raise InvalidInput(f"the URL has {len(artifact.url)} characters; at most {MAX_URL}")
    if artifact.size_bytes <= 0:
        raise InvalidInput("--size: bytes, at least 1")
    if SHA256.fullmatch(artifact.sha256) is None:
        raise InvalidInput("--sha256: 64 hex digits in lower case, as sha256sum prints them")
