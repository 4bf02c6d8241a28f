"""`factoryd firmware key`: whose signatures count."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from factoryd.commands.firmware_files import load_bytes
from factoryd.commands.invocation import settings_of
from factoryd.commands.tables import Output, OutputOption, print_rows
from ota.signing import BadKey, read_public_key
from storage.firmware_keys import add_key, end_key, list_keys
from storage.refusals import InvalidInput

app = typer.Typer(no_args_is_help=True, help="Whose signatures count.")

COLUMNS = {
    "keyid": "KEY ID",
    "status": "STATUS",
    "versions": "VERSIONS",
    "public_key": "PUBLIC KEY",
    "created_at": "ADDED",
    "ended_at": "ENDED",
    "note": "NOTE",
}
KeyId = Annotated[str, typer.Argument(metavar="KEYID", help="As factoryd firmware key list shows it.")]


@app.command()
def add(
    ctx: typer.Context,
    key: Annotated[str, typer.Argument(metavar="FILE|BASE64", help="A public key: firmware.pub, or what it holds.")],
    note: Annotated[str | None, typer.Option("--note", metavar="TEXT", help="Whose it is, where it is kept.")] = None,
) -> None:
    """Trusts what a key signs. Devices keep their own list: bring the key to them first."""
    path = Path(key)
    try:
        public_key = read_public_key(load_bytes(path).decode("ascii", "replace") if path.is_file() else key)
    except BadKey as error:
        raise InvalidInput(f"{key[:200]}: {error}") from error
    typer.echo(f"key {add_key(settings_of(ctx).database, public_key, note)} is active")


@app.command("list")
def list_(ctx: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Lists keys; VERSIONS are released ones that say to be signed with it."""
    rows = [asdict(key) for key in list_keys(settings_of(ctx).database)]
    print_rows(rows, COLUMNS, output, nothing="no keys; factoryd firmware keygen makes one, key add trusts it")


@app.command()
def retire(ctx: typer.Context, keyid: KeyId) -> None:
    """Ends a key in peace: it signs nothing new, and what it has signed goes on being sent."""
    end_key(settings_of(ctx).database, keyid, "retired")
    typer.echo(f"key {keyid} is retired")


@app.command()
def revoke(ctx: typer.Context, keyid: KeyId) -> None:
    """Ends a key that somebody else may have: nothing that it alone has signed is sent any more. There is no way back."""
    key = end_key(settings_of(ctx).database, keyid, "revoked")
    typer.echo(f"key {keyid} is revoked")
    if key.versions:
        typer.echo(f"note: it has signed {key.versions} released versions; those that no other key has signed stop", err=True)
    typer.echo("devices trust it until their own lists change", err=True)
