"""PURE. The manifest: what the release key signs about one firmware file. Its bytes are kept, and never written anew."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from ota.firmware import Version

SPEC = 1
FORMAT = "raw"
MAX_BYTES = 800
"""So that a signed command stays below 2,048 bytes (docs/mqtt.md)."""

Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class BadManifest(ValueError):
    """These bytes are no manifest; the text says why."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file, and what may run it. Sizes in bytes; times are aware UTC."""

    spec: int
    seq: int
    """Rises with every manifest, whatever the version: a device takes none that is older (RFC 9124, sequence number)."""
    version: str
    hardware: Sequence[str]
    min_version: str | None = None
    size: int
    sha256: str
    format: str
    issued_at: Moment
    expires_at: Moment
    downgrade: bool = False
    """It may replace a newer version."""


_decode = msgspec.json.Decoder(Manifest).decode


def build(version: Version, seq: int, issued_at: datetime, expires_at: datetime) -> bytes:
    """Returns the manifest of a version, ready to be signed.

    Raises:
        BadManifest: a fact is missing; nothing that is vague gets signed.
    """
    if version.size_bytes is None or version.sha256 is None:
        raise BadManifest(f"{version.version}: size and sha256 are not known")
    if not version.hardware:
        raise BadManifest(f"{version.version}: names no hardware; devices install nothing signed that does not name theirs")
    manifest = Manifest(
        spec=SPEC,
        seq=seq,
        version=version.version,
        hardware=tuple(version.hardware),
        min_version=version.min_version,
        size=version.size_bytes,
        sha256=version.sha256,
        format=FORMAT,
        issued_at=_whole_seconds(issued_at),
        expires_at=_whole_seconds(expires_at),
        downgrade=version.downgrade,
    )
    payload = msgspec.json.encode(manifest)
    if len(payload) > MAX_BYTES:
        raise BadManifest(f"{version.version}: {len(payload)} bytes; at most {MAX_BYTES}: name fewer kinds of hardware")
    return payload


def read(payload: bytes) -> Manifest:
    """Returns what a manifest says.

    Raises:
        BadManifest: it is none, or of a kind that we do not know.
    """
    if len(payload) > MAX_BYTES:
        raise BadManifest(f"{len(payload)} bytes; a manifest has at most {MAX_BYTES}")
    try:
        manifest = _decode(payload)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadManifest(f"not a manifest: {error}") from error
    if (manifest.spec, manifest.format) != (SPEC, FORMAT):
        raise BadManifest(f"spec {manifest.spec}, format {manifest.format[:40]!r}; this version knows {SPEC}, {FORMAT!r}")
    return manifest


def mismatch(version: Version) -> str | None:
    """Returns what the manifest says otherwise than its row, in words, or None if both say the same."""
    if version.manifest is None:
        return "there is no manifest"
    try:
        manifest = read(version.manifest)
    except BadManifest as error:
        return str(error)
    pairs: dict[str, tuple[object, object]] = {
        "seq": (manifest.seq, version.manifest_seq),
        "version": (manifest.version, version.version),
        "hardware": (sorted(manifest.hardware), sorted(version.hardware)),
        "min_version": (manifest.min_version, version.min_version),
        "size": (manifest.size, version.size_bytes),
        "sha256": (manifest.sha256, version.sha256),
        "expires_at": (manifest.expires_at, version.expires_at),
        "downgrade": (manifest.downgrade, version.downgrade),
    }
    wrong = [f"{name}: signed {signed}, stored {stored}" for name, (signed, stored) in pairs.items() if signed != stored]
    return "; ".join(wrong) or None


def _whole_seconds(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)
