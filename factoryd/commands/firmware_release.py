"""`factoryd firmware release`, `deprecate`, `recall`."""

from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import urlsplit

import typer

from factoryd.commands.firmware_fetch import read_back, refuse_address
from factoryd.commands.invocation import settings_of
from storage.firmware_release import deprecate_version, recall_version, release_version
from storage.firmware_views import load_signed
from storage.operator_requests import SYSTEM
from storage.refusals import InvalidInput

MAX_REASON = 200
VersionName = Annotated[str, typer.Argument(metavar="VERSION")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (release, deprecate, recall):
        app.command()(command)


def release(
    ctx: typer.Context,
    version: VersionName,
    skip_fetch: Annotated[
        bool, typer.Option("--skip-fetch", help="Of a version that was added by --url: do not read the file back.")
    ] = False,
    actor: Annotated[str, typer.Option("--actor", metavar="LOGIN", help="Who releases it.")] = SYSTEM,
) -> None:
    """Lets devices get a version, after its file was read back and its signature judged; it never changes again."""
    settings, now = settings_of(ctx), datetime.now(UTC)
    draft = load_signed(settings.database, version)[0].version
    if skip_fetch and urlsplit(draft.firmware_url).scheme not in {"http", "https"}:
        raise InvalidInput("--skip-fetch is for versions added by --url: what was uploaded is read back")
    refuse_address(settings.ota, draft, now)
    content = None if skip_fetch else read_back(settings.ota, draft)
    unsigned = settings.ota.allow_unsigned
    release_version(settings.database, draft, content, actor, now, allow_unsigned=unsigned)
    typer.echo(f"firmware {version} released" + ("" if draft.signatures else " WITHOUT A SIGNATURE (ota.allow_unsigned)"))
    if skip_fetch:
        typer.echo("WARNING: nobody has looked at the file: if it is another one, every device will refuse it", err=True)
    typer.echo(f"next: factoryd deployment create DEVICE {version}", err=True)


def deprecate(ctx: typer.Context, version: VersionName) -> None:
    """Marks a version as not to be chosen any more; deployments of it go on."""
    deprecate_version(settings_of(ctx).database, version)
    typer.echo(f"firmware {version} deprecated")


def recall(
    ctx: typer.Context, version: VersionName, reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Kept.")]
) -> None:
    """Stops a version: it is sent to nobody any more. Devices that run it keep it, until they get another one."""
    if not 0 < len(reason.strip()) <= MAX_REASON:
        raise InvalidInput(f"--reason: give 1 to {MAX_REASON} characters")
    live = recall_version(settings_of(ctx).database, version, reason.strip())
    typer.echo(f"firmware {version} recalled: {reason.strip()}")
    if live:
        typer.echo(f"note: {live} deployments are live: factoryd deployment list --version {version}, and cancel", err=True)
