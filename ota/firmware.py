"""PURE. Nouns: a firmware version as it was released, and a key whose signatures count."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple


class Version(NamedTuple):
    """One row of ota_versions, as far as commands need it."""

    id: int
    version: str
    firmware_url: str
    hardware: Sequence[str]
    min_version: str | None
    size_bytes: int | None
    sha256: str | None
    downgrade: bool
    manifest: bytes | None
    """The signed bytes."""
    manifest_seq: int | None
    signatures: Sequence[Mapping[str, str]]
    """DSSE: `keyid`, and `sig` in base64."""
    expires_at: datetime | None


class Key(NamedTuple):
    """One row of ota_keys: an ed25519 public key of 32 bytes, and `active`, `retired` or `revoked`."""

    keyid: str
    public_key: bytes
    status: str
