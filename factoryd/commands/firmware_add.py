"""`factoryd firmware add`: a new version, from a file or from where one lies already."""

from pathlib import Path
from typing import Annotated

import typer

from config.settings import Settings
from factoryd.commands.firmware_progress import shown_progress
from factoryd.commands.invocation import settings_of
from ota.urls import why_refused
from storage.artifacts import Artifacts
from storage.firmware_admin import add_version, check_addable
from storage.firmware_fields import Artifact, NewVersion, check_artifact
from storage.operator_requests import SYSTEM
from storage.refusals import InvalidInput


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(add)


def add(
    ctx: typer.Context,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Semantic version, such as 2.4.1.")],
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="Uploaded to ota.artifact_url.", exists=True, dir_okay=False)
    ] = None,
    url: Annotated[str | None, typer.Option("--url", metavar="URL", help="Lies there already; needs --size, --sha256.")] = None,
    size: Annotated[int | None, typer.Option("--size", metavar="BYTES", min=1)] = None,
    sha256: Annotated[str | None, typer.Option("--sha256", metavar="HEX", help="As sha256sum prints it.")] = None,
    hardware: Annotated[
        list[str] | None, typer.Option("--hardware", metavar="NAME", help="Runs on it; as often as needed. None: on any.")
    ] = None,
    min_version: Annotated[
        str | None, typer.Option("--min-version", metavar="VERSION", help="Devices must run at least this.")
    ] = None,
    downgrade: Annotated[bool, typer.Option("--downgrade", help="May replace a newer version.")] = False,
    notes: Annotated[str | None, typer.Option("--notes", metavar="TEXT", help="Release notes.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Write a draft of this version anew, unsigned.")] = False,
    actor: Annotated[str, typer.Option("--actor", metavar="LOGIN", help="Who adds it.")] = SYSTEM,
) -> None:
    """Makes a draft, which nobody is sent until it is released.

    factoryd firmware add 2.4.1 --file fw.bin --hardware plc-gw/rev-c
    """
    settings = settings_of(ctx)
    new = NewVersion(version, actor, tuple(hardware or ()), min_version, downgrade, notes)
    linked = _linked(settings, file, url, size, sha256)
    check_addable(settings.database, new, replace=replace)
    artifact = linked if file is None else _uploaded(settings, version, file)
    assert artifact is not None, "_linked has refused it otherwise"
    add_version(settings.database, new, artifact, replace=replace)
    typer.echo(f"firmware {version} added: {artifact.size_bytes:,} bytes, sha256 {artifact.sha256}")
    if not new.hardware:
        typer.echo("note: it names no --hardware; it cannot be signed so, and devices of any kind may get it", err=True)
    typer.echo(f"next: factoryd firmware sign {version} --key KEY, then factoryd firmware release {version}", err=True)


def _linked(settings: Settings, file: Path | None, url: str | None, size: int | None, sha256: str | None) -> Artifact | None:
    """Returns what lies there already, checked; None: a file is to be uploaded."""
    if file is not None:
        if url is not None or size is not None or sha256 is not None:
            raise InvalidInput("--file alone is enough: leave --url, --size and --sha256 out")
        return None
    if url is None or size is None or sha256 is None:
        raise InvalidInput("say which file: --file FILE, or --url URL with --size BYTES and --sha256 HEX")
    problem = why_refused(url, settings.ota.allowed_hosts, signed=not settings.ota.allow_unsigned)
    if problem is not None:
        raise InvalidInput(problem)
    artifact = Artifact(url, size, sha256.strip().lower())
    check_artifact(artifact)
    return artifact


def _uploaded(settings: Settings, version: str, file: Path) -> Artifact:
    with shown_progress(f"storing {file.name}", file.stat().st_size) as progress:
        stored = Artifacts(settings.ota).upload(file, f"{version}{file.suffix or '.bin'}", progress)
    return Artifact(*stored)
