"""`factoryd backup init`: what a managed backup needs, said first and done on --yes."""

from pathlib import Path
from typing import Annotated

import typer

from config.loading import ConfigError
from config.storage_settings import BackupSettings
from factoryd.commands.invocation import settings_of
from storage.backup import PgBackRest
from storage.backup_config import Cluster, S3Keys, render
from storage.backup_setup import (
    Server,
    change_server,
    configuration_state,
    keys_of_environment,
    look_at_server,
    statement,
    write_configuration,
)
from storage.refusals import InvalidInput

RESTART = "next: restart PostgreSQL, then factoryd backup init --yes once more: it checks that WAL arrives"
FULL = "next: factoryd backup run full, and the timers of deploy/"


def init(
    ctx: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, it is only said.")] = False,
    admin_url: Annotated[
        str | None, typer.Option(metavar="URL", envvar="FACTORYD_ADMIN_URL", help="A superuser of the cluster on this machine.")
    ] = None,
    data_directory: Annotated[
        Path | None, typer.Option(help="For a restore after a total loss, with no server to ask: only write the configuration.")
    ] = None,
    port: Annotated[int, typer.Option(help="With --data-directory: the port it will have.")] = 5432,
    socket_directory: Annotated[Path, typer.Option(help="With --data-directory: where its socket will be.")] = Path(
        "/var/run/postgresql"
    ),
) -> None:
    """Sets pgBackRest up: its configuration (0600, for the cluster's owner), WAL archiving, the repositories. Safe to repeat.

    Keys of S3 are taken from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; without them from the machine's role.
    """
    settings, keys = settings_of(ctx), keys_of_environment()
    if settings.backup.mode != "managed":
        raise ConfigError('backup.mode: is external: others make the backups; set it to "managed" for pgBackRest')
    if data_directory is not None:
        cluster = Cluster(str(data_directory.absolute()), port, str(socket_directory), "postgres")
        _say_configuration(settings.backup, cluster, keys)
        if yes:
            write_configuration(settings.backup, cluster, keys)
        typer.echo(f"next: factoryd backup restore --into {cluster.data_directory}" if yes else _undone(), err=True)
        return
    if admin_url is None:
        raise InvalidInput("give --admin-url postgresql://…, or FACTORYD_ADMIN_URL; after a total loss: --data-directory")
    server = look_at_server(admin_url, settings.backup)
    _say_configuration(settings.backup, server.cluster, keys)
    _say_server(server)
    if not yes:
        typer.echo(_undone(), err=True)
        return
    write_configuration(settings.backup, server.cluster, keys)
    change_server(admin_url, server.changes)
    typer.echo(_finish(settings.backup, server), err=True)


def _say_configuration(settings: BackupSettings, cluster: Cluster, keys: S3Keys | None) -> None:
    text = render(settings, cluster, keys, masked=True)
    state = configuration_state(settings, render(settings, cluster, keys))
    typer.echo(f"# {settings.config_file}: {state}; mode 0600, for the owner of {cluster.data_directory}\n{text}")
    if settings.cipher_pass is None:
        typer.echo("note: backup.cipher_pass is not set: the backups are NOT encrypted", err=True)


def _say_server(server: Server) -> None:
    typer.echo(f"# PostgreSQL: {'unchanged' if not server.changes else 'changed'}")
    for change in server.changes:
        after = ", after a restart" if change.needs_restart else ""
        typer.echo(f"{statement(change).as_string()};  -- is {change.present!r}{after}")
    typer.echo("\n# Repositories: stanza-create; check, once WAL is archived")


def _finish(settings: BackupSettings, server: Server) -> str:
    tool = PgBackRest(settings)
    tool.create_stanza()
    if server.waits_for_restart or not server.archives or any(change.needs_restart for change in server.changes):
        return RESTART
    tool.check()
    return f"WAL arrives in every repository; {FULL}"


def _undone() -> str:
    return "nothing was changed; --yes does it"
