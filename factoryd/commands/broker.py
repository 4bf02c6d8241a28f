"""`factoryd broker`: the broker's settings, and its account files."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

import typer

from config.loading import ConfigError
from config.settings import Settings
from factoryd.commands.invocation import settings_of
from factoryd.commands.tables import Output, OutputOption, print_rows
from factoryd.embedded.directory import write_private
from factoryd.exit_codes import ExitCode
from mqtt.access import Account, hash_secret, render_acl, render_passwords
from mqtt.check import Grade, judge, look
from storage.credentials import load_accounts

app = typer.Typer(no_args_is_help=True, help="The broker's settings, and its account files.")


@app.command()
def check(ctx: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Looks at the broker as far as a client can; exit code 1 if something is wrong."""
    settings = settings_of(ctx)
    _broker_user(settings)
    findings = list(judge(settings.mqtt, asyncio.run(look(settings.mqtt))))
    columns = {"grade": "", "subject": "WHAT", "text": "FINDING"}
    print_rows([{**asdict(finding), "grade": str(finding.grade)} for finding in findings], columns, output)
    if any(finding.grade is Grade.PROBLEM for finding in findings):
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def accounts(
    ctx: typer.Context,
    passwords: Annotated[Path, typer.Option(metavar="FILE", help="mosquitto's password_file, written anew.")],
    access: Annotated[Path, typer.Option(metavar="FILE", help="mosquitto's acl_file, written anew.")],
) -> None:
    """Writes the broker's two account files from the database; send the broker SIGHUP afterwards.

    factoryd's own account, the one of mqtt.url, is in them. Both files are readable by their owner only.
    """
    settings = settings_of(ctx)
    user, secret = _broker_user(settings)
    devices = [Account(*row) for row in load_accounts(settings.database)]
    sources = [source.filter for source in settings.ingest.source]
    for path, text in (
        (passwords, render_passwords([Account(user, hash_secret(secret)), *devices])),
        (access, render_acl(settings.mqtt.root, user, None, devices, sources)),
    ):
        write_private(path, text)
    typer.echo(f"{len(devices)} devices' accounts written; now send the broker SIGHUP: systemctl reload mosquitto")


def _broker_user(settings: Settings) -> tuple[str, str]:
    if settings.mqtt.url is None:
        raise ConfigError("mqtt.url: not set; give it in the settings file or in FACTORYD_MQTT__URL")
    url = urlsplit(settings.mqtt.url.get_secret_value())
    return unquote(url.username or ""), unquote(url.password or "")
