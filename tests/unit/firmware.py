"""A version, keys and signatures for the tests of firmware."""

from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ota.firmware import Key, Version
from ota.manifest import build
from ota.signing import keyid_of, public_key_of, sign

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
END = datetime(2027, 5, 22, 10, 0, tzinfo=UTC)
OLD_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
NEW_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
VERSION = Version(
    id=7,
    version="2.4.1",
    firmware_url="https://files.example/2.4.1.bin",
    hardware=["plc-gw/rev-c"],
    min_version="2.2.0",
    size_bytes=1_843_200,
    sha256="5e" * 32,
    downgrade=False,
    manifest=None,
    manifest_seq=None,
    signatures=[],
    expires_at=None,
)


def key_of(private_key: Ed25519PrivateKey, status: str = "active") -> Key:
    public = public_key_of(private_key)
    return Key(keyid_of(public), public, status)


def signed(*private_keys: Ed25519PrivateKey, version: Version = VERSION, seq: int = 1042) -> Version:
    """Returns the version with its manifest, signed with each of these."""
    manifest = build(version, seq, NOW, END)
    signatures = [sign(each, manifest) for each in private_keys]
    return version._replace(manifest=manifest, manifest_seq=seq, expires_at=END, signatures=signatures)
