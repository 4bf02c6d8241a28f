"""The servers behind the fixtures of tests/conftest.py, embedded or in containers, under one shape each."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from factoryd.embedded.directory import LOOPBACK
from factoryd.embedded.mosquitto import DAEMON_USER, TOOLS_USER, EmbeddedMosquitto, changed_conf, conf_template
from factoryd.embedded.postgres import EmbeddedPostgres
from mqtt.access import Account, hash_secret, render_acl, render_passwords

OWNER_ROLE = "factoryd_owner"

FORGETFUL: Mapping[str, str] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
}
"""Fast: a test cluster is thrown away."""

POSTGRES_IMAGE = "postgres:17"
MOSQUITTO_IMAGE = "eclipse-mosquitto:2.0"


class PostgresService(Protocol):
    """A running PostgreSQL on loopback."""

    def url(self, database: str = "postgres", user: str = "postgres", password: str | None = None) -> str:
        """Returns a URL; without a user the superuser's."""
        ...


class Broker(Protocol):
    """A running broker on loopback."""

    @property
    def devices_port(self) -> int: ...
    @property
    def internal_port(self) -> int: ...
    @property
    def url(self) -> str: ...
    @property
    def tools_url(self) -> str: ...
    def set_accounts(self, accounts: Iterable[Account]) -> None: ...


@dataclass(frozen=True, slots=True)
class MigratedTemplate:
    """The database that tests get copies of, and the passwords of the roles on its server."""

    postgres: PostgresService
    name: str
    passwords: Mapping[str, str]

    def url(self, database: str, role: str) -> str:
        return self.postgres.url(database, role, self.passwords[role])


@dataclass(frozen=True, slots=True)
class FreshDatabase:
    """One test's database, by the URL of each identity."""

    name: str
    admin_url: str
    owner_url: str
    daemon_url: str
    tools_url: str


@contextmanager
def embedded_postgres(directory: Path) -> Iterator[PostgresService]:
    with EmbeddedPostgres(directory, settings=FORGETFUL) as service:
        yield service


@contextmanager
def embedded_broker(directory: Path) -> Iterator[Broker]:
    with EmbeddedMosquitto(directory) as broker:
        yield broker


@dataclass(frozen=True, slots=True)
class ContainerPostgres:
    port: int
    superuser_password: str

    def url(self, database: str = "postgres", user: str = "postgres", password: str | None = None) -> str:
        secret = self.superuser_password if password is None else password
        return f"postgresql://{user}:{quote(secret, safe='')}@{LOOPBACK}:{self.port}/{database}"


@contextmanager
def container_postgres() -> Iterator[PostgresService]:
    from testcontainers.postgres import PostgresContainer

    settings = " ".join(f"-c {name}={value}" for name, value in {**FORGETFUL, "max_connections": "60"}.items())
    container = PostgresContainer(POSTGRES_IMAGE, username="postgres", password="postgres", dbname="postgres")
    with container.with_command(f"postgres {settings}") as running:
        yield ContainerPostgres(int(running.get_exposed_port(5432)), "postgres")


class ContainerBroker:
    """Configuration and accounts lie in a directory that the container sees; SIGHUP makes it read them again."""

    SECRET = "tests-only"
    INSIDE = "/mosquitto/config"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._accounts: tuple[Account, ...] = ()
        paths = {name: f"{name} {self.INSIDE}/{name}" for name in ("password_file", "acl_file")}
        changes = {"listener 1884 127.0.0.1": "listener 1884", "persistence_location": "persistence_location /mosquitto/data/"}
        (directory / "mosquitto.conf").write_text(changed_conf(conf_template(), {**paths, **changes}))
        self._write_access()
        directory.chmod(0o755)
        from testcontainers.core.container import DockerContainer

        self.container = DockerContainer(MOSQUITTO_IMAGE).with_exposed_ports(1883, 1884)
        self.container.with_volume_mapping(str(directory), self.INSIDE, "ro")

    @property
    def devices_port(self) -> int:
        return int(self.container.get_exposed_port(1883))

    @property
    def internal_port(self) -> int:
        return int(self.container.get_exposed_port(1884))

    @property
    def url(self) -> str:
        return f"mqtt://{DAEMON_USER}:{self.SECRET}@{LOOPBACK}:{self.internal_port}"

    @property
    def tools_url(self) -> str:
        return f"mqtt://{TOOLS_USER}:{self.SECRET}@{LOOPBACK}:{self.internal_port}"

    def set_accounts(self, accounts: Iterable[Account]) -> None:
        self._accounts = tuple(accounts)
        self._write_access()
        self.container.get_wrapped_container().kill("SIGHUP")

    def _write_access(self) -> None:
        own = [Account(user, hash_secret(self.SECRET)) for user in (DAEMON_USER, TOOLS_USER)]
        (self._directory / "password_file").write_text(render_passwords([*own, *self._accounts]))
        (self._directory / "acl_file").write_text(render_acl("factory", DAEMON_USER, TOOLS_USER, self._accounts))


@contextmanager
def container_broker(directory: Path) -> Iterator[Broker]:
    from testcontainers.core.wait_strategies import PortWaitStrategy

    broker = ContainerBroker(directory)
    with broker.container.waiting_for(PortWaitStrategy(1884)):
        yield broker
