"""`factoryd device credentials`: a device's account at the broker."""

import secrets
from typing import Annotated

import typer

from factoryd.commands.invocation import settings_of
from factoryd.commands.reserved_names import refuse_reserved
from mqtt.access import hash_secret, login_name
from storage.credentials import save_secret

SECRET_BYTES = 24


def credentials(
    ctx: typer.Context,
    device: Annotated[
        str, typer.Argument(metavar="ID", help="Device id; it is the user name at the broker, with ~ for each colon.")
    ],
) -> None:
    """Gives a device a new secret, shown this once; an old one ends.

    The embedded broker takes it over by itself. For another broker: factoryd broker accounts, or put the printed
    line in place of the device's old one in the password file, and send the broker SIGHUP.
    """
    settings = settings_of(ctx)
    refuse_reserved(settings, [device])
    secret = secrets.token_urlsafe(SECRET_BYTES)
    secret_hash = hash_secret(secret)
    replaced = save_secret(settings.database, device, secret_hash)
    login = login_name(device)
    typer.echo(f"username: {login}")
    typer.echo(f"password: {secret}")
    typer.echo(f"passwd line: {login}:{secret_hash}")
    typer.echo("the old secret ends now" if replaced else "keep it: it is not shown again", err=True)
