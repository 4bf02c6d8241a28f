"""`factoryd init` and `factoryd migrate`: the database, once, and after each upgrade."""

from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import quote, urlsplit

import typer

from config.loading import ConfigError
from config.settings import Settings
from factoryd.commands.invocation import settings_of
from factoryd.exit_codes import ExitCode
from storage.database import DatabaseUnavailable
from storage.migrate import SchemaOutdated, check_schema, current_revision, head_revision, upgrade, upgrade_sql
from storage.partitions import PartitionsBlocked, ensure_partitions
from storage.refusals import InvalidInput
from storage.roles import DAEMON_ROLE, TOOLS_ROLE, InitResult, init_database, init_sql

OWNER_ROLE = "factoryd_owner"
DATABASE = "factoryd"
VARIABLES = {DAEMON_ROLE: "FACTORYD_DATABASE__URL", TOOLS_ROLE: "DATABASE_TOOLS_URL"}


def init(
    admin_url: Annotated[
        str | None,
        typer.Option(metavar="URL", envvar="FACTORYD_ADMIN_URL", help="A superuser, or a role with CREATEROLE and CREATEDB."),
    ] = None,
    database: Annotated[str, typer.Option(help="Name of the database; made if it is missing.")] = DATABASE,
    owner: Annotated[str, typer.Option(help="Role that owns database and schema; made if it is missing.")] = OWNER_ROLE,
    print_sql: Annotated[
        bool, typer.Option("--print-sql", help="Print a psql script for a database administrator, and do nothing.")
    ] = False,
    reset_passwords: Annotated[
        bool, typer.Option("--reset-passwords", help="Also give new passwords to roles that exist.")
    ] = False,
) -> None:
    """Makes the database, its three roles and their rights. A second run changes nothing.

    The new passwords are printed once, as settings for the environment; PostgreSQL keeps verifiers only.
    """
    if print_sql:
        typer.echo(init_sql(database=database, owner=owner), nl=False)
        return
    if admin_url is None:
        raise InvalidInput("give --admin-url postgresql://…, or FACTORYD_ADMIN_URL, or --print-sql for an administrator")
    if urlsplit(admin_url).scheme not in {"postgresql", "postgres"}:
        raise InvalidInput("--admin-url must start with postgresql://")
    result = init_database(admin_url, database=database, owner=owner, reset_passwords=reset_passwords)
    for line in _report(result, admin_url):
        typer.echo(line)
    for note in result.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo("next: factoryd migrate", err=True)


def migrate(
    ctx: typer.Context,
    check: Annotated[bool, typer.Option("--check", help="Only tell whether the schema fits; exit code 1 if not.")] = False,
    print_sql: Annotated[bool, typer.Option("--sql", help="Print the SQL of all revisions, and do nothing.")] = False,
) -> None:
    """Brings the schema to this version, in one transaction, and makes the partitions of readings.

    Uses database.owner_url, --check also database.url.
    """
    if print_sql:
        typer.echo(upgrade_sql(), nl=False)
        return
    settings = settings_of(ctx)
    if check:
        _check(settings)
        return
    url = owner_url(settings)
    applied = upgrade(url)
    typer.echo(f"migrated to {applied[-1]}" if applied else f"schema is {current_revision(url)}: nothing to migrate")
    made = _make_partitions(settings, url)
    if made:
        typer.echo(f"{len(made)} partitions made, {made[0]} to {made[-1]}")


def owner_url(settings: Settings) -> str:
    """Returns the URL of the schema's owner.

    Raises:
        ConfigError: it is not set.
    """
    if settings.database.owner_url is None:
        raise ConfigError("database.owner_url: not set; give it in the settings file or in FACTORYD_DATABASE__OWNER_URL")
    return settings.database.owner_url.get_secret_value()


def _check(settings: Settings) -> None:
    url = settings.database.url.get_secret_value() if settings.database.url else owner_url(settings)
    try:
        typer.echo(f"schema is {check_schema(url)}, this version needs {head_revision()}: good")
    except SchemaOutdated as error:
        typer.echo(f"factoryd: {error}", err=True)
        raise typer.Exit(ExitCode.FAILED) from error


def _make_partitions(settings: Settings, url: str) -> list[str]:
    days = settings.retention
    try:
        return ensure_partitions(url, days.readings_days, days.partitions_ahead_days, datetime.now(UTC).date())
    except PartitionsBlocked as error:
        raise DatabaseUnavailable(f"the schema is good, but {error}; then run factoryd migrate again") from error


def _report(result: InitResult, admin_url: str) -> list[str]:
    host = urlsplit(admin_url)
    address = f"{host.hostname or 'localhost'}:{host.port or 5432}"
    lines = [f"# database {result.database}, owned by {result.owner}"]
    for role, password in result.passwords.items():
        variable = "FACTORYD_DATABASE__OWNER_URL" if role == result.owner else VARIABLES[role]
        lines.append(f"{variable}=postgresql://{quote(role, safe='')}:{password}@{address}/{quote(result.database, safe='')}")
    if not result.passwords:
        lines.append("# all roles exist and keep their passwords (--reset-passwords gives new ones)")
    return lines
