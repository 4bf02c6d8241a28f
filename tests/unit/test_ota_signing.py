"""Signatures: vectors of the standards, and what is trusted."""

import base64
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ota import payloads
from ota.firmware import Key, Version
from ota.manifest import MAX_BYTES
from ota.signing import (
    MOST_SIGNATURES,
    PAYLOAD_TYPE,
    BadKey,
    envelope,
    is_signature_of,
    keyid_of,
    new_private_key,
    pre_authentication_encoding,
    public_key_of,
    read_private_key,
    read_public_key,
    sign,
    why_not_trusted,
)
from simulator import ota_manifest
from tests.unit.firmware import NEW_KEY, NOW, OLD_KEY, VERSION, key_of, signed

# RFC 8032, 7.1, TEST 1 (empty message) and TEST 3 (af82): secret key, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC_8032)
def test_the_vectors_of_rfc_8032(secret: str, public: str, message: str, signature: str) -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
    assert public_key_of(key).hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature


def test_the_encoding_of_the_dsse_specification() -> None:
    encoded = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pre_authentication_encoding("\u00e9", b"") == b"DSSEv1 2 \xc3\xa9 0 "


def test_a_signature_is_over_bytes_and_their_type() -> None:
    version = signed(OLD_KEY)
    assert version.manifest is not None
    good, other = version.signatures[0], bytes(version.manifest[:-1]) + b" }"
    public = public_key_of(OLD_KEY)
    assert is_signature_of(public, good, version.manifest)
    assert not is_signature_of(public, good, other)
    assert not is_signature_of(public_key_of(NEW_KEY), good, version.manifest)
    bare = base64.b64encode(OLD_KEY.sign(version.manifest)).decode()
    assert not is_signature_of(public, {"keyid": good["keyid"], "sig": bare}, version.manifest)


def test_what_is_signed_as_another_type_is_no_firmware() -> None:
    version = signed()
    assert version.manifest is not None
    raw = OLD_KEY.sign(pre_authentication_encoding("application/vnd.factoryd.command+json", version.manifest))
    signature = {"keyid": key_of(OLD_KEY).keyid, "sig": base64.b64encode(raw).decode()}
    assert why_not_trusted(version._replace(signatures=[signature]), [key_of(OLD_KEY)]) == "bad_signature"


@pytest.mark.parametrize(
    ("signers", "keys", "verdict"),
    [
        ([OLD_KEY], [key_of(OLD_KEY)], None),
        ([OLD_KEY], [key_of(OLD_KEY, "retired")], None),
        ([OLD_KEY], [key_of(OLD_KEY, "revoked")], "revoked_key"),
        ([OLD_KEY, NEW_KEY], [key_of(OLD_KEY, "revoked"), key_of(NEW_KEY)], None),
        ([OLD_KEY, NEW_KEY], [key_of(OLD_KEY, "revoked")], "revoked_key"),
        ([OLD_KEY], [key_of(NEW_KEY)], "bad_signature"),
        ([OLD_KEY], [], "bad_signature"),
        ([], [key_of(OLD_KEY)], "unsigned"),
        ([OLD_KEY], [key_of(OLD_KEY)._replace(public_key=public_key_of(NEW_KEY))], "bad_signature"),
        ([OLD_KEY], [key_of(OLD_KEY, "revoked"), key_of(OLD_KEY)._replace(keyid="0" * 16)], "revoked_key"),
    ],
)
def test_whose_signature_counts(signers: Sequence[Ed25519PrivateKey], keys: Sequence[Key], verdict: str | None) -> None:
    assert why_not_trusted(signed(*signers), keys) == verdict


def test_a_revoked_key_does_not_come_back_under_another_name() -> None:
    version = signed(OLD_KEY)
    renamed = version._replace(signatures=[{**version.signatures[0], "keyid": "0" * 16}])
    keys = [key_of(OLD_KEY, "revoked"), key_of(OLD_KEY)._replace(keyid="0" * 16)]
    assert why_not_trusted(renamed, keys) == "bad_signature"


@pytest.mark.parametrize(
    "changes",
    [{"version": "9.9.9"}, {"sha256": "00" * 32}, {"hardware": ["other"]}, {"manifest_seq": 2000}, {"downgrade": True}],
    ids=str,
)
def test_a_row_that_says_otherwise_is_not_sent(changes: dict[str, Any]) -> None:
    assert why_not_trusted(signed(OLD_KEY)._replace(**changes), [key_of(OLD_KEY)]) == "manifest_mismatch"


@pytest.mark.parametrize(
    "signatures",
    [
        ["text"],
        [None],
        [{}],
        [{"keyid": 1, "sig": 2}],
        [{"keyid": key_of(OLD_KEY).keyid}],
        [{"keyid": key_of(OLD_KEY).keyid, "sig": None}],
        [{"keyid": key_of(OLD_KEY).keyid, "sig": "no base64 \u00e9"}],
        [{"keyid": key_of(OLD_KEY).keyid, "sig": "AAAA"}],
    ],
    ids=str,
)
def test_what_anybody_wrote_into_the_row_is_borne(signatures: list[Any]) -> None:
    version = signed(OLD_KEY)._replace(signatures=signatures)
    assert why_not_trusted(version, [key_of(OLD_KEY)]) == "bad_signature"
    msgspec.json.encode(envelope(version))
    whole = version._replace(signatures=[*signed(OLD_KEY).signatures, *signatures])
    assert why_not_trusted(whole, [key_of(OLD_KEY)]) is None
    assert envelope(whole)["signatures"]


def test_the_reference_device_opens_the_envelope() -> None:
    raw = msgspec.json.encode(envelope(signed(OLD_KEY, NEW_KEY)))
    for key in (OLD_KEY, NEW_KEY):
        manifest = ota_manifest.open_envelope(msgspec.json.decode(raw, type=ota_manifest.Envelope), [public_key_of(key)])
        assert (manifest.seq, manifest.version, manifest.size) == (1042, "2.4.1", 1_843_200)
    assert ota_manifest.PAYLOAD_TYPE == PAYLOAD_TYPE


@pytest.mark.parametrize(
    ("version", "most"),
    [
        (VERSION, 512),
        (signed(OLD_KEY), 1100),
        (signed(OLD_KEY, NEW_KEY, version=VERSION._replace(downgrade=True)), 2048),
    ],
    ids=["plain", "signed", "signed twice"],
)
def test_a_command_is_as_small_as_the_contract_says(version: Version, most: int) -> None:
    assert _command_bytes(version) <= most


def test_the_largest_manifest_fits_a_command() -> None:
    hardware = ["x" * 57] * 9
    version = signed(OLD_KEY, NEW_KEY, version=VERSION._replace(hardware=hardware))
    assert version.manifest is not None
    assert MAX_BYTES - 60 < len(version.manifest) <= MAX_BYTES
    assert len(version.signatures) == MOST_SIGNATURES
    assert _command_bytes(version) <= 2048


def _command_bytes(version: Version) -> int:
    facts: dict[str, object] = {"size_bytes": version.size_bytes, "sha256": version.sha256}
    if version.manifest is not None:
        facts["manifest"] = envelope(version)
    order = payloads.Order("press-line-2-gateway-17", 1_000_000, 3, version.version)
    end = NOW + timedelta(days=1)
    return len(payloads.update(order, "https://files.example/fw/2.4.1-0a1b2c3d4e5f.bin", end, NOW, end, facts))


def test_a_private_key_is_made_and_read() -> None:
    key = read_private_key(new_private_key())
    assert public_key_of(key) != public_key_of(read_private_key(new_private_key()))
    text = base64.b64encode(public_key_of(key)).decode()
    assert read_public_key(f" {text}\n") == public_key_of(key)
    assert keyid_of(public_key_of(OLD_KEY)) == "56475aa75463474c"


def test_other_keys_are_refused_in_words() -> None:
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    locked = OLD_KEY.private_bytes(pem, form, serialization.BestAvailableEncryption(b"secret"))
    other = generate_private_key(SECP256R1()).private_bytes(pem, form, serialization.NoEncryption())
    for raw, words in ((locked, "encrypted"), (other, "not an ed25519 key"), (b"rubbish", "not a private key")):
        with pytest.raises(BadKey, match=words):
            read_private_key(raw)
    for text in ("", "AAAA", "not base64", base64.b64encode(bytes(33)).decode()):
        with pytest.raises(BadKey, match="32 bytes in base64"):
            read_public_key(text)


def test_two_signatures_of_the_same_bytes_are_equal() -> None:
    assert sign(OLD_KEY, b"{}") == sign(OLD_KEY, b"{}"), "ed25519 needs no randomness"
