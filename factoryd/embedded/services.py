"""Brings up what factoryd needs beside itself, as far as no URL was given for it: PostgreSQL, ready to use, and a broker.

`services.env` in the directory tells other programs where everything is. A shell reads it with

    set -a; . DIR/services.env; set +a

It holds (each only where known):

* `FACTORYD_DATABASE__URL`, `FACTORYD_DATABASE__OWNER_URL`: the database, as the daemon and as the owner of the schema;
* `FACTORYD_MQTT__URL`: the broker, as the daemon;
* `FACTORYD_HTTP__PORT`: metrics and health;
* `FACTORYD_ARCHIVE__URL`: where data goes that is past its time;
* `DATABASE_TOOLS_URL`: the database for a person's tools, such as psql: may read everything;
* `MQTT_TOOLS_URL`: the broker for a person's tools: may do everything;
* `MQTT_DEVICES_URL`: host and port for devices; each adds its own name and secret.
"""

import asyncio
import shlex
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from factoryd.embedded.child import hand_over
from factoryd.embedded.directory import LOOPBACK, kept_port, write_private
from factoryd.embedded.mosquitto import EmbeddedMosquitto
from factoryd.embedded.postgres import EmbeddedPostgres
from mqtt.access import Account
from storage.migrate import upgrade
from storage.partitions import ensure_partitions
from storage.roles import DAEMON_ROLE, TOOLS_ROLE, init_database

DATABASE = "factoryd"
ENVIRONMENT_FILE = "services.env"
OWNER_ROLE = "factoryd_owner"
ROLES = (OWNER_ROLE, DAEMON_ROLE, TOOLS_ROLE)


@dataclass(frozen=True, slots=True)
class ServiceUrls:
    """Where the services are. What was given by URL is repeated here; what is not known then is None."""

    database_url: str
    """As the daemon's role."""
    owner_url: str | None
    """As the owner of the schema."""
    database_tools_url: str | None
    """For a person's tools: may read everything."""
    mqtt_url: str
    """As the daemon."""
    mqtt_tools_url: str | None
    """For a person's tools: may do everything."""
    devices_host: str | None
    devices_port: int | None
    http_port: int
    archive_url: str
    """Below the directory."""

    def environment(self) -> dict[str, str]:
        """Returns the variables of `services.env`, as far as they are known."""
        devices = f"mqtt://{self.devices_host}:{self.devices_port}" if self.devices_host else None
        variables = {
            "FACTORYD_DATABASE__URL": self.database_url,
            "FACTORYD_DATABASE__OWNER_URL": self.owner_url,
            "FACTORYD_MQTT__URL": self.mqtt_url,
            "FACTORYD_HTTP__PORT": str(self.http_port),
            "FACTORYD_ARCHIVE__URL": self.archive_url,
            "DATABASE_TOOLS_URL": self.database_tools_url,
            "MQTT_TOOLS_URL": self.mqtt_tools_url,
            "MQTT_DEVICES_URL": devices,
        }
        return {name: value for name, value in variables.items() if value is not None}


def known_values(directory: Path) -> frozenset[str]:
    """Returns the values that `services.env` in the directory holds; none if there is no such file."""
    file = directory / ENVIRONMENT_FILE
    if not file.is_file():
        return frozenset()
    words = shlex.split(file.read_text(encoding="utf-8"), comments=True)
    return frozenset(word.partition("=")[2] for word in words)


class EmbeddedServices:
    """PostgreSQL and mosquitto below one directory, with secrets and ports that a restart keeps.

    Use with `async with`, in the main thread: the kernel ends the services with the thread that started them.
    """

    def __init__(
        self,
        directory: Path,
        *,
        mqtt_port: int | None = None,
        http_port: int | None = None,
        root: str = "factory",
        sources: Iterable[str] = (),
        readings_days: int = 90,
        partitions_ahead_days: int = 7,
        database_url: str | None = None,
        owner_url: str | None = None,
        mqtt_url: str | None = None,
        postgres_bin_dir: Path | None = None,
    ) -> None:
        """Prepares nothing yet.

        Args:
            directory: holds everything; used by one process at a time.
            mqtt_port: TCP port on loopback for devices; default: the last one used, else a free one.
            http_port: TCP port for metrics and health, only remembered here; default as above.
            root: first levels of every topic.
            sources: templates of further telemetry topics, e.g. `tele/{device}/SENSOR`.
            readings_days: days of partitions of readings made behind today.
            partitions_ahead_days: and ahead of it.
            database_url: given, no PostgreSQL is started, and the given one's schema is left alone.
            owner_url: belongs to database_url.
            mqtt_url: given, no broker is started.
            postgres_bin_dir: where PostgreSQL's programs are; default: see `find_postgres`.
        """
        self._directory = directory.absolute()
        self._http_port = http_port
        self._days = readings_days, partitions_ahead_days
        self._given = database_url, owner_url, mqtt_url
        postgres_directory, mosquitto_directory = self._directory / "postgres", self._directory / "mosquitto"
        self.postgres = None if database_url else EmbeddedPostgres(postgres_directory, bin_dir=postgres_bin_dir)
        """The running PostgreSQL; None if a URL was given."""
        self.mosquitto = (
            None if mqtt_url else EmbeddedMosquitto(mosquitto_directory, devices_port=mqtt_port, root=root, sources=sources)
        )
        """The running broker; None if a URL was given."""
        self._urls: ServiceUrls | None = None
        self._stack = AsyncExitStack()

    @property
    def urls(self) -> ServiceUrls:
        """Where everything is; known once started."""
        assert self._urls is not None, "enter the services first"
        return self._urls

    @property
    def children(self) -> list[EmbeddedPostgres | EmbeddedMosquitto]:
        """The services that are our children."""
        return [service for service in (self.postgres, self.mosquitto) if service is not None]

    def set_accounts(self, accounts: Iterable[Account]) -> None:
        """Lets these devices in at the embedded broker; nothing to do for a given one, which keeps its own accounts."""
        if self.mosquitto is not None:
            self.mosquitto.set_accounts(accounts)

    async def __aenter__(self) -> Self:
        """Starts the services and prepares the database: roles, schema, partitions.

        Raises:
            EmbeddedServiceError: a service cannot run here.
            SchemaError: the database was not made by this version or an older one.
        """
        self._make_directory()
        async with AsyncExitStack() as stack:
            if self.postgres is not None:
                await stack.enter_async_context(self.postgres)
            if self.mosquitto is not None:
                await stack.enter_async_context(self.mosquitto)
            await asyncio.to_thread(self._finish)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def _make_directory(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        hand_over(self._directory)

    def _finish(self) -> None:
        database_url, owner_url, database_tools_url = self._database_urls()
        broker = self.mosquitto
        self._urls = ServiceUrls(
            database_url=database_url,
            owner_url=owner_url,
            database_tools_url=database_tools_url,
            mqtt_url=broker.url if broker else self._given[2] or "",
            mqtt_tools_url=broker.tools_url if broker else None,
            devices_host=LOOPBACK if broker else None,
            devices_port=broker.devices_port if broker else None,
            http_port=kept_port(self._directory / "http_port", self._http_port),
            archive_url=(self._directory / "archive").resolve().as_uri(),
        )
        lines = (f"{name}={shlex.quote(value)}\n" for name, value in self._urls.environment().items())
        write_private(self._directory / ENVIRONMENT_FILE, "".join(lines))

    def _database_urls(self) -> tuple[str, str | None, str | None]:
        if self.postgres is None:
            return self._given[0] or "", self._given[1], None
        owner_url, daemon_url, tools_url = self._ready_database(self.postgres)
        return daemon_url, owner_url, tools_url

    def _ready_database(self, postgres: EmbeddedPostgres) -> list[str]:
        """Makes roles, schema and partitions as far as they are missing; returns a URL per role."""
        passwords = {role: self._directory / "postgres" / f"{role}.secret" for role in ROLES}
        # A lost secret, or one that a killed first start did not write, is replaced: PostgreSQL knows verifiers only.
        lost = not all(path.exists() for path in passwords.values())
        for path in passwords.values() if lost else ():
            path.unlink(missing_ok=True)
        result = init_database(postgres.url(), database=DATABASE, owner=OWNER_ROLE, reset_passwords=lost)
        for role, password in result.passwords.items():
            write_private(passwords[role], password)
        urls = [postgres.url(DATABASE, role, path.read_text(encoding="utf-8")) for role, path in passwords.items()]
        upgrade(urls[0])
        ensure_partitions(urls[0], *self._days, datetime.now(UTC).date())
        return urls
