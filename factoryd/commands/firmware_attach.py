"""`factoryd firmware manifest`, `attach`, `verify`: what is signed elsewhere, out and in again."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from factoryd.commands.firmware_fetch import read_back, refuse_address
from factoryd.commands.firmware_files import load_manifest, load_signature, write_new
from factoryd.commands.firmware_sign import EXPIRES, Expires, expiry
from factoryd.commands.invocation import settings_of
from ota.firmware import Key, Version
from ota.manifest import mismatch, read
from ota.signing import why_not_trusted
from storage.firmware_admin import UNTRUSTED, attach_signature, next_manifest
from storage.firmware_release import refuse_content
from storage.firmware_views import load_signed
from storage.refusals import Conflict

VersionName = Annotated[str, typer.Argument(metavar="VERSION")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (manifest, attach, verify):
        app.command()(command)


def manifest(
    ctx: typer.Context,
    version: VersionName,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where it goes.")],
    expires: Expires = EXPIRES,
) -> None:
    """Writes what is to be signed on the machine that keeps the private key."""
    now = datetime.now(UTC)
    payload = next_manifest(settings_of(ctx).database, version, now, expiry(expires, now))
    write_new(out, payload)
    typer.echo(f"manifest {read(payload).seq} of firmware {version}: {out}")
    typer.echo(f"next, where the key is: factoryd firmware sign {out.name} --key firmware.key", err=True)


def attach(
    ctx: typer.Context,
    version: VersionName,
    manifest_file: Annotated[Path, typer.Option("--manifest", metavar="FILE", help="As factoryd firmware manifest wrote it.")],
    signature_file: Annotated[Path, typer.Option("--signature", metavar="FILE", help="As factoryd firmware sign wrote it.")],
) -> None:
    """Gives a draft the signature that was made elsewhere, if it is of an active key and over these facts."""
    payload, said = load_manifest(manifest_file)
    signature = load_signature(signature_file)
    count = attach_signature(settings_of(ctx).database, version, payload, signature, datetime.now(UTC))
    also = f", {count} signatures" if count > 1 else ""
    typer.echo(f"firmware {version} signed with {signature['keyid']}: manifest {said.seq}{also}")
    typer.echo(f"next: factoryd firmware release {version}", err=True)


def verify(
    ctx: typer.Context,
    version: VersionName,
    skip_fetch: Annotated[bool, typer.Option("--skip-fetch", help="Judge the signature alone.")] = False,
) -> None:
    """Judges a version as the daemon does: signatures, expiry, the URL for devices; and reads its file back."""
    settings, now = settings_of(ctx), datetime.now(UTC)
    row, keys = load_signed(settings.database, version)
    typer.echo(f"firmware {version}: {_judged(row.version, keys, now, allow_unsigned=settings.ota.allow_unsigned)}")
    refuse_address(settings.ota, row.version, now)
    if not skip_fetch:
        content = read_back(settings.ota, row.version)
        refuse_content(row.version, content)
        typer.echo(f"file as stated: {content.size_bytes:,} bytes, sha256 {content.sha256}")


def _judged(version: Version, keys: list[Key], now: datetime, *, allow_unsigned: bool) -> str:
    problem = why_not_trusted(version, keys)
    if problem == "unsigned" and allow_unsigned:
        return "NO SIGNATURE, which ota.allow_unsigned lets pass"
    if problem is not None:
        detail = f": {mismatch(version)}" if problem == "manifest_mismatch" else ""
        raise Conflict(f"{version.version} is not to be trusted: {UNTRUSTED[problem]}{detail} ({problem})")
    assert version.manifest is not None, "it is signed"
    said = read(version.manifest)
    if said.expires_at <= now:
        raise Conflict(f"{version.version}: the manifest expired at {said.expires_at:%Y-%m-%d %H:%M}Z (manifest_expired)")
    return f"signature good, manifest {said.seq}, accepted until {said.expires_at:%Y-%m-%d %H:%M}Z"
