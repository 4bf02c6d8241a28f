"""`factoryd user`: people."""

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from factoryd.commands.invocation import settings_of
from factoryd.commands.passwords import NO_PASSWORD, hash_password
from factoryd.commands.tables import Output, OutputOption, print_rows
from storage.users import NewUser, add_user, check_user, list_users

app = typer.Typer(no_args_is_help=True, help="People who own devices and act on alerts.")

COLUMNS = {
    "login": "LOGIN",
    "name": "NAME",
    "email": "E-MAIL",
    "role": "ROLE",
    "has_password": "PASSWORD",
    "devices": "DEVICES",
}


@app.command()
def add(
    ctx: typer.Context,
    login: Annotated[str, typer.Argument(help="1 to 64 of a-z 0-9 . _ -; part of topics.")],
    email: Annotated[str, typer.Option(help="E-mail address; nobody else's.")],
    role: Annotated[str, typer.Option(metavar="admin|operator|user", help="What this person may do.")] = "user",
    name: Annotated[str | None, typer.Option(help="Full name; default: the login.")] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read a password from standard input, to the end of its first line.")
    ] = False,
) -> None:
    """Makes a user. Without a password this person cannot log in, but can own devices."""
    settings = settings_of(ctx)
    user = NewUser(login, email, name or login, role, NO_PASSWORD)
    check_user(user)
    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
        user = NewUser(login, email, name or login, role, hash_password(password))
    add_user(settings.database, user)
    typer.echo(f"user {login} made, role {role}")


@app.command("list")
def list_(
    ctx: typer.Context,
    after: Annotated[str, typer.Option(metavar="LOGIN", help="Go on after this user.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most this many.")] = 1000,
    output: OutputOption = Output.TABLE,
) -> None:
    """Lists users by login."""
    users = list_users(settings_of(ctx).database, after=after, limit=limit + 1)
    print_rows([asdict(user) for user in users[:limit]], COLUMNS, output)
    if len(users) > limit:
        typer.echo(f"more: --after {users[limit - 1].login}", err=True)
