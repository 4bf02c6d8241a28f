"""Files on the way to and from the machine that signs: keys, manifests, signatures."""

import os
from pathlib import Path

import msgspec
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ota.manifest import BadManifest, Manifest, read
from ota.signing import BadKey, read_private_key
from storage.refusals import Conflict, InvalidInput

MOST_BYTES = 65_536


class Signature(msgspec.Struct, frozen=True):
    """A signature's file: JSON with these two."""

    keyid: str
    sig: str


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """Returns the key of a file; says so if others can read it, too.

    Raises:
        InvalidInput: it is none.
    """
    try:
        key = read_private_key(load_bytes(path))
    except BadKey as error:
        raise InvalidInput(f"{path}: {error}") from error
    if path.stat().st_mode & 0o077:
        typer.echo(f"note: {path} can be read by others: chmod 600 {path}", err=True)
    return key


def load_manifest(path: Path) -> tuple[bytes, Manifest]:
    """Returns a manifest's bytes as they are, and what they say.

    Raises:
        InvalidInput: it is none.
    """
    raw = load_bytes(path)
    try:
        return raw, read(raw)
    except BadManifest as error:
        raise InvalidInput(f"{path}: {error}") from error


def load_signature(path: Path) -> dict[str, str]:
    """Returns a signature.

    Raises:
        InvalidInput: it is none.
    """
    try:
        signature = msgspec.json.decode(load_bytes(path), type=Signature)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: not a signature that factoryd firmware sign has written: {error}") from error
    return {"keyid": signature.keyid, "sig": signature.sig}


def load_bytes(path: Path) -> bytes:
    """Returns a small file.

    Raises:
        InvalidInput: it cannot be read, or is not small.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > MOST_BYTES:
        raise InvalidInput(f"{path}: too large to be a key, a manifest or a signature")
    return raw


def refuse_existing(path: Path) -> None:
    """Raises Conflict if there is such a file."""
    if path.is_symlink() or path.exists():
        raise Conflict(f"{path} exists, and is not overwritten; choose another place or move it away")


def write_new(path: Path, raw: bytes, mode: int = 0o644) -> None:
    """Writes a file that must not exist.

    Raises:
        Conflict: it does.
    """
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        refuse_existing(path)
        raise
    with os.fdopen(number, "wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
