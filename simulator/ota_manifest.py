"""PURE. What the release key has signed: a DSSE envelope around the firmware's manifest (ed25519).

The signature covers the payload's bytes and its type, so that no JSON is read before it is known to be genuine, and one kind
of signed message cannot pass for another.
"""

import base64
import binascii
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

PAYLOAD_TYPE = "application/vnd.factoryd.firmware+json"
MOST_SIGNATURES = 8
"""More would let a stranger keep the device busy with arithmetic."""
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class Signature(msgspec.Struct, frozen=True):
    """One signature; `keyid` is a hint that nothing vouches for."""

    sig: str
    keyid: str = ""


class Envelope(msgspec.Struct, frozen=True, rename={"payload_type": "payloadType"}):
    """A DSSE envelope as it stands in a command."""

    payload_type: str
    payload: str
    signatures: list[Signature]


class Manifest(msgspec.Struct, frozen=True):
    """What is signed about one firmware file."""

    spec: int
    seq: int
    version: str
    hardware: list[str]
    size: int
    sha256: str
    format: str = "raw"
    min_version: str | None = None
    downgrade: bool = False
    expires_at: Moment | None = None


class ManifestRefused(ValueError):
    """The envelope is not genuine, or what it holds is no manifest; `code` is the word to report."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """Returns the bytes that a DSSE signature covers."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def payload_of(envelope: Envelope) -> bytes:
    """Returns the manifest's bytes, not yet known to be genuine.

    Raises:
        ManifestRefused: not base64.
    """
    return _from_base64(envelope.payload, "the manifest")


def open_envelope(envelope: Envelope, trusted_keys: Sequence[bytes]) -> Manifest:
    """Returns the manifest after its checks, in this order: signature, payload type, spec, format.

    Args:
        envelope: from the command.
        trusted_keys: raw ed25519 public keys, 32 bytes each; one good signature by any of them is enough. None at all: a
            device that does not ask for signatures.

    Raises:
        ManifestRefused: a check failed.
    """
    payload = payload_of(envelope)
    if trusted_keys and not _is_genuine(envelope, payload, trusted_keys):
        raise ManifestRefused("signature_invalid", "no signature of the manifest is by a key that this device trusts")
    if envelope.payload_type != PAYLOAD_TYPE:
        raise ManifestRefused("signature_invalid", f"signed as {envelope.payload_type[:80]!r}, not as firmware")
    try:
        manifest = msgspec.json.decode(payload, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ManifestRefused("unknown", f"the manifest cannot be read: {error}") from None
    if manifest.spec != 1 or manifest.format != "raw":
        raise ManifestRefused("unknown", f"manifest spec {manifest.spec}, format {manifest.format!r}; this device knows 1, raw")
    return manifest


def _is_genuine(envelope: Envelope, payload: bytes, trusted_keys: Sequence[bytes]) -> bool:
    message = pre_authentication_encoding(envelope.payload_type, payload)
    signatures = [_from_base64(each.sig, "a signature") for each in envelope.signatures[:MOST_SIGNATURES]]
    return any(_verifies(key, signature, message) for signature in signatures for key in trusted_keys)


def _verifies(key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _from_base64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ManifestRefused("signature_invalid", f"{what} is not base64") from None
