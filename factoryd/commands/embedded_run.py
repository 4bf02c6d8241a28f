"""`factoryd run --embedded`: brings the services up, then runs the daemon on them. The demo shares the pieces."""

import asyncio
from pathlib import Path

from pydantic import SecretStr

from config.settings import Settings
from factoryd.commands.invocation import Invocation
from factoryd.daemon import Daemon
from factoryd.embedded.services import EmbeddedServices, known_values
from factoryd.embedded.supervision import supervise
from mqtt.access import Account
from storage.credentials import accounts_version, load_accounts

ACCOUNTS_POLL_S = 0.5
BROKER_MAX_QUEUED_MESSAGES = 1_000_000
"""As in mosquitto.conf; a test compares."""


async def run_embedded(invocation: Invocation, directory: Path, mqtt_port: int | None, stop: asyncio.Event) -> None:
    """Runs until `stop` is set; the services end after the daemon."""
    async with embedded_services(invocation, directory, mqtt_port) as services:
        settings = embedded_settings(invocation, services)
        async with asyncio.TaskGroup() as group:
            beside = [
                group.create_task(keep_accounts(services, settings), name="broker accounts"),
                group.create_task(supervise(services.children), name="supervision"),
            ]
            await Daemon(settings).run(stop)
            for task in beside:
                task.cancel()


def embedded_services(invocation: Invocation, directory: Path, mqtt_port: int | None) -> EmbeddedServices:
    """Returns the services that the settings name no URL for, not yet started."""
    settings = invocation.settings()
    own = known_values(directory)  # a shell that has read DIR/services.env means these very services

    def given(url: SecretStr | None) -> str | None:
        return url.get_secret_value() if url is not None and url.get_secret_value() not in own else None

    return EmbeddedServices(
        directory,
        mqtt_port=mqtt_port,
        http_port=invocation.overrides.get("http", {}).get("port"),
        root=settings.mqtt.root,
        sources=[source.filter for source in settings.ingest.source],
        readings_days=settings.retention.readings_days,
        partitions_ahead_days=settings.retention.partitions_ahead_days,
        database_url=given(settings.database.url),
        owner_url=given(settings.database.owner_url),
        mqtt_url=given(settings.mqtt.url),
    )


def embedded_settings(invocation: Invocation, services: EmbeddedServices) -> Settings:
    """Returns the settings with the URLs of the running services in them."""
    urls = services.urls
    invocation.overrides["database"] = {"url": urls.database_url, "owner_url": urls.owner_url}
    invocation.overrides["mqtt"] = {"url": urls.mqtt_url}
    invocation.overrides["http"] = {"port": urls.http_port}
    if invocation.settings().archive.url is None:
        invocation.overrides["archive"] = {"url": urls.archive_url}
    if services.mosquitto is not None:
        invocation.overrides["mqtt"]["broker_max_queued_messages"] = BROKER_MAX_QUEUED_MESSAGES
    return invocation.settings()


async def keep_accounts(services: EmbeddedServices, settings: Settings) -> None:
    """Gives the broker the devices' accounts whenever they have changed in the database."""
    known = None
    while True:
        try:
            version = await asyncio.to_thread(accounts_version, settings.database)
            if version != known:
                accounts = await asyncio.to_thread(load_accounts, settings.database)
                services.set_accounts(Account(*account) for account in accounts)
                known = version
        except ConnectionError:
            pass  # the accounts that the broker has stay good
        await asyncio.sleep(ACCOUNTS_POLL_S)
