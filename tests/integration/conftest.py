"""The oldest and the newest PostgreSQL here, each with a migrated template that every test gets a copy of."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from itertools import count

import pytest

from storage.migrate import upgrade
from storage.partitions import ensure_partitions
from storage.roles import DAEMON_ROLE, TOOLS_ROLE, init_database
from tests.servers import PostgresServer, postgres_binaries, postgres_server

OWNER_ROLE = "factoryd_owner"
TODAY = date(2026, 5, 20)
BINARIES = postgres_binaries()
NUMBERS = count()


@dataclass(frozen=True, slots=True)
class Cluster:
    """A server with the roles of `factoryd init`, and a template database migrated to head."""

    server: PostgresServer
    passwords: dict[str, str]

    def database(self, name: str) -> "Database":
        owner, daemon, tools = (
            self.server.url(name, role, self.passwords[role]) for role in (OWNER_ROLE, DAEMON_ROLE, TOOLS_ROLE)
        )
        return Database(name, self.server.url(name), owner, daemon, tools)


@dataclass(frozen=True, slots=True)
class Database:
    """One database, by the URL of each identity."""

    name: str
    admin: str
    owner: str
    daemon: str
    tools: str


@pytest.fixture(scope="session", params=sorted({min(BINARIES), max(BINARIES)}), ids=lambda version: f"postgresql{version}")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with roles, and the template database `migrated` (partitions for a week around TODAY)."""
    directory = tmp_path_factory.mktemp("postgresql")
    with postgres_server(BINARIES[request.param], directory) as server:
        result = init_database(server.url(), database="migrated", owner=OWNER_ROLE)
        cluster = Cluster(server, result.passwords)
        owner_url = cluster.database("migrated").owner
        upgrade(owner_url)
        ensure_partitions(owner_url, 3, 3, TODAY)
        yield cluster


@pytest.fixture
def empty_database(cluster: Cluster) -> Iterator[Database]:
    """Owned by the owner role, and not migrated."""
    yield from _fresh(cluster, "template1")


@pytest.fixture
def database(cluster: Cluster) -> Iterator[Database]:
    """Migrated to head, for one test."""
    yield from _fresh(cluster, "migrated")


@pytest.fixture(scope="session")
def shared_database(cluster: Cluster) -> Iterator[Database]:
    """Migrated to head, for all tests that commit nothing."""
    yield from _fresh(cluster, "migrated")


def _fresh(cluster: Cluster, template: str) -> Iterator[Database]:
    name = f"test_{next(NUMBERS)}"
    cluster.server.create_database(name, template, OWNER_ROLE)
    yield cluster.database(name)
    cluster.server.drop_database(name)
