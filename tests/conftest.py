"""Real servers for every test that asks for them: PostgreSQL and mosquitto, once per session, on loopback and free ports.

The project's own embedded ones by default; with FACTORYD_TEST_SERVICES=containers those of container images.
"""

import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import psycopg
import pytest
import structlog
from psycopg import sql

from simulator.artifact_server import ArtifactServer
from storage.migrate import upgrade
from storage.partitions import ensure_partitions
from storage.roles import DAEMON_ROLE, TOOLS_ROLE, init_database
from tests.integration.updating import firmware_server
from tests.services import (
    OWNER_ROLE,
    Broker,
    FreshDatabase,
    MigratedTemplate,
    PostgresService,
    container_broker,
    container_postgres,
    embedded_broker,
    embedded_postgres,
)

TEMPLATE = "factoryd_template"
NUMBERS = count(1)
IN_CONTAINERS = os.environ.get("FACTORYD_TEST_SERVICES", "embedded") == "containers"


@pytest.fixture
def files(tmp_path: Path) -> Iterator[ArtifactServer]:
    """A file server that has one firmware, `fw.bin`."""
    with firmware_server(tmp_path / "files") as server:
        yield server


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A test that configures logging, as every command does, must not decide what the next one can see."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    structlog.reset_defaults()
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresService]:
    """A running PostgreSQL without fsync; `postgres.url()` is its superuser's."""
    directory = tmp_path_factory.mktemp("postgres_service")
    with container_postgres() if IN_CONTAINERS else embedded_postgres(directory) as service:
        yield service


@pytest.fixture(scope="session")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A running broker; its `tools_url` may do everything below any root."""
    directory = tmp_path_factory.mktemp("mosquitto_service")
    with container_broker(directory) if IN_CONTAINERS else embedded_broker(directory) as broker:
        yield broker


@pytest.fixture(scope="session")
def migrated_template(postgres: PostgresService) -> MigratedTemplate:
    """Roles, and a database with the schema of this version and partitions from 3 days back to 3 ahead."""
    passwords = init_database(postgres.url(), database=TEMPLATE, owner=OWNER_ROLE).passwords
    owner_url = postgres.url(TEMPLATE, OWNER_ROLE, passwords[OWNER_ROLE])
    upgrade(owner_url)
    ensure_partitions(owner_url, 3, 3, datetime.now(UTC).date())
    return MigratedTemplate(postgres, TEMPLATE, passwords)


@pytest.fixture
def database(migrated_template: MigratedTemplate) -> Iterator[FreshDatabase]:
    """A database of the test's own, migrated and empty."""
    template, name = migrated_template, f"fresh_{next(NUMBERS)}"
    identifiers = {"name": sql.Identifier(name), "template": sql.Identifier(TEMPLATE), "owner": sql.Identifier(OWNER_ROLE)}
    with psycopg.connect(template.postgres.url(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {name} TEMPLATE {template} OWNER {owner}").format(**identifiers))
        urls = [template.url(name, role) for role in (OWNER_ROLE, DAEMON_ROLE, TOOLS_ROLE)]
        yield FreshDatabase(name, template.postgres.url(name), *urls)
        connection.execute(sql.SQL("DROP DATABASE {name} WITH (FORCE)").format(**identifiers))


@pytest.fixture
def mqtt_root() -> str:
    """First levels of the test's own topics, so that tests share a broker without seeing each other."""
    return f"test-{os.getpid()}/{next(NUMBERS)}"
