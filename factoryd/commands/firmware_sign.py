"""`factoryd firmware keygen`, `sign`: on the machine that keeps the private key, which needs no database for it."""

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from factoryd.commands.durations import read_duration
from factoryd.commands.firmware_files import load_manifest, load_private_key, refuse_existing, write_new
from factoryd.commands.invocation import settings_of
from ota.manifest import mismatch, read
from ota.signing import keyid_of, new_private_key, public_key_of, read_private_key, sign
from ota.versions import is_semver
from storage.firmware_admin import attach_signature, next_manifest
from storage.firmware_views import load_signed
from storage.refusals import InvalidInput

EXPIRES = "180d"
LONGEST = timedelta(days=36_525)
KeyFile = Annotated[Path, typer.Option("--key", metavar="FILE", help="Private key, as keygen makes it.")]
Expires = Annotated[
    str, typer.Option("--expires", metavar="DURATION", help="How long devices accept it; those that have it keep it.")
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(keygen)
    app.command("sign")(sign_)


def keygen(directory: Annotated[Path, typer.Argument(metavar="DIRECTORY", file_okay=False)]) -> None:
    """Makes a release key: firmware.key, which stays on this machine, and firmware.pub.

    Make it on a machine that nobody reaches over the network, and keep a copy: who loses it must bring a new public key to
    every device by hand.
    """
    pem = new_private_key()
    public = public_key_of(read_private_key(pem))
    text = base64.b64encode(public).decode()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    refuse_existing(directory / "firmware.pub")
    write_new(directory / "firmware.key", pem, 0o600)
    write_new(directory / "firmware.pub", f"{text}\n".encode())
    typer.echo(f"key id      {keyid_of(public)}\npublic key  {text}")
    typer.echo(f"next: factoryd firmware key add {directory / 'firmware.pub'}, and the public key into the devices", err=True)


def sign_(
    ctx: typer.Context,
    what: Annotated[str, typer.Argument(metavar="FILE|VERSION", help="A manifest's file, or a draft in the database.")],
    key: KeyFile,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Of a file: where the signature goes; default: FILE.sig")
    ] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="DURATION", help=f"Of a version: how long devices accept it; {EXPIRES}.")
    ] = None,
) -> None:
    """Signs a manifest's file without any database, or a draft straight away.

    factoryd firmware sign 2.4.1.json --key firmware.key, on a machine that is kept apart

    factoryd firmware sign 2.4.1 --key firmware.key
    """
    path = Path(what)
    if path.is_file():
        _sign_file(path, key, out or path.with_name(f"{path.name}.sig"))
    elif is_semver(what):
        if out is not None:
            raise InvalidInput("--out: the signature of a version is stored with it; leave --out out")
        _sign_version(ctx, what, key, expires)
    else:
        raise InvalidInput(f"{what[:200]} is neither a file nor a version such as 2.4.1")


def expiry(text: str, now: datetime) -> datetime:
    """Returns until when devices accept a manifest.

    Raises:
        InvalidInput: no duration, none at all, or more than a hundred years.
    """
    life = read_duration(text)
    if not timedelta() < life <= LONGEST:
        raise InvalidInput("--expires: give more than nothing, and at most 36525d, which is a hundred years")
    return now + life


def _sign_file(path: Path, key: Path, out: Path) -> None:
    raw, manifest = load_manifest(path)
    signature = sign(load_private_key(key), raw)
    write_new(out, msgspec.json.encode(signature) + b"\n")
    typer.echo(f"signed with {signature['keyid']}: {manifest.version}, manifest {manifest.seq}, {', '.join(manifest.hardware)}")
    typer.echo(f"{manifest.size:,} bytes, sha256 {manifest.sha256}, accepted until {manifest.expires_at:%Y-%m-%d %H:%M}Z")
    typer.echo(f"next: factoryd firmware attach {manifest.version} --manifest {path.name} --signature {out.name}", err=True)


def _sign_version(ctx: typer.Context, version: str, key: Path, expires: str | None) -> None:
    settings, now = settings_of(ctx).database, datetime.now(UTC)
    private_key = load_private_key(key)
    draft = load_signed(settings, version)[0].version
    # A second key signs the same bytes: the old one's signature stays good beside it.
    whole = draft.manifest is not None and mismatch(draft) is None and draft.expires_at is not None and draft.expires_at > now
    kept = draft.manifest if whole and expires is None else None
    manifest = kept or next_manifest(settings, version, now, expiry(expires or EXPIRES, now))
    signature = sign(private_key, manifest)
    count = attach_signature(settings, version, manifest, signature, now)
    said = read(manifest)
    also = f", {count} signatures" if count > 1 else ""
    typer.echo(f"firmware {version} signed with {signature['keyid']}: manifest {said.seq}{also}")
    typer.echo(f"accepted until {said.expires_at:%Y-%m-%d %H:%M}Z")
    typer.echo(f"next: factoryd firmware release {version}", err=True)
