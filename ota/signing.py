"""PURE. Signatures of manifests: ed25519 in a DSSE envelope (github.com/secure-systems-lab/dsse).

What is signed is bytes and their type: no canonical JSON to get wrong, and no other signed message passes for firmware.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ota.firmware import Key, Version
from ota.manifest import mismatch

PAYLOAD_TYPE = "application/vnd.factoryd.firmware+json"
MOST_SIGNATURES = 2
"""The old key's and the new one's, while keys are changed; a signed command stays below 2,048 bytes."""
TRUSTED = frozenset({"active", "retired"})


class BadKey(ValueError):
    """This is no key that we can use; the text says why."""


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """Returns the bytes that a DSSE signature covers (PAE, DSSE v1 protocol)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def keyid_of(public_key: bytes) -> str:
    """Returns a key's name: the first 16 hex digits of its sha256."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def public_key_of(private_key: Ed25519PrivateKey) -> bytes:
    """Returns the 32 bytes of the public key."""
    return private_key.public_key().public_bytes_raw()


def new_private_key() -> bytes:
    """Returns a new private key as PEM (PKCS #8, not encrypted)."""
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return Ed25519PrivateKey.generate().private_bytes(encoding, form, serialization.NoEncryption())


def read_private_key(pem: bytes) -> Ed25519PrivateKey:
    """Returns the key of a PEM file.

    Raises:
        BadKey: it is none of ours, or encrypted.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise BadKey("the private key is encrypted; decrypt it first: openssl pkey -in KEY -out PLAIN") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadKey("not a private key in PEM; factoryd firmware keygen makes one") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadKey("not an ed25519 key; factoryd firmware keygen makes one")
    return key


def read_public_key(text: str) -> bytes:
    """Returns the 32 bytes of a public key that is written in base64.

    Raises:
        BadKey: it is none.
    """
    raw = _from_base64(text.strip())
    if raw is None or len(raw) != 32:
        raise BadKey("not an ed25519 public key: 32 bytes in base64, as factoryd firmware keygen prints it")
    return raw


def sign(private_key: Ed25519PrivateKey, manifest: bytes) -> dict[str, str]:
    """Returns a DSSE signature of a manifest's bytes: `keyid`, and `sig` in base64."""
    signature = private_key.sign(pre_authentication_encoding(PAYLOAD_TYPE, manifest))
    return {"keyid": keyid_of(public_key_of(private_key)), "sig": base64.b64encode(signature).decode()}


def is_signature_of(public_key: bytes, signature: Mapping[str, object], manifest: bytes) -> bool:
    """Tells whether the key has signed these bytes as a firmware manifest."""
    raw = _from_base64(signature.get("sig"))
    return raw is not None and _verifies(public_key, raw, manifest)


def why_not_trusted(version: Version, keys: Sequence[Key]) -> str | None:
    """Returns None if a key that is active or retired has signed the manifest, and the manifest states the row's own facts.

    Otherwise `unsigned`, `revoked_key` (nobody else has signed it), `bad_signature` or `manifest_mismatch`.

    Args:
        version: the row; its signatures may have been written by anybody.
        keys: all that are known, whatever their status. One whose name is not that of its bytes counts for nothing: so that
            a revoked key cannot come back under another name.
    """
    manifest = version.manifest
    if manifest is None or not version.signatures:
        return "unsigned"
    by_name = {key.keyid: key for key in keys if key.keyid == keyid_of(key.public_key)}
    signers = [
        by_name[name].status
        for each in version.signatures[:MOST_SIGNATURES]
        if (name := _keyid(each)) in by_name and is_signature_of(by_name[name].public_key, each, manifest)
    ]
    if not TRUSTED.isdisjoint(signers):
        return "manifest_mismatch" if mismatch(version) is not None else None
    return "revoked_key" if signers else "bad_signature"


def envelope(version: Version) -> dict[str, object]:
    """Returns the DSSE envelope of a version that has a manifest, as it goes into a command."""
    assert version.manifest is not None, "only what has a manifest has an envelope"
    return {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(version.manifest).decode(),
        "signatures": [
            {"keyid": _keyid(each), "sig": each["sig"]} for each in version.signatures[:MOST_SIGNATURES] if _is_whole(each)
        ],
    }


@lru_cache(maxsize=1024)
def _verifies(public_key: bytes, signature: bytes, manifest: bytes) -> bool:
    """Remembered: the daemon asks about every released version whenever one of them changes."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, pre_authentication_encoding(PAYLOAD_TYPE, manifest))
    except (InvalidSignature, ValueError):
        return False
    return True


def _keyid(signature: object) -> str:
    """Whoever writes the row may have written anything."""
    name = signature.get("keyid") if isinstance(signature, Mapping) else None
    return name if isinstance(name, str) else ""


def _is_whole(signature: object) -> bool:
    return _keyid(signature) != "" and isinstance(signature, Mapping) and isinstance(signature.get("sig"), str)


def _from_base64(text: object) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except (binascii.Error, ValueError):
        return None
