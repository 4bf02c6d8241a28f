"""The reads that must be fast use their indexes, and are as fast as the issue asks; on generated plants.

`make plans` makes ten million readings (about four minutes); the small plant of the normal suite has the same plans.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg import sql

from bench.past import Size, fill, name_of
from bench.reads import LIMITS_MS, Reads, medians_ms, reads
from config.settings import DatabaseSettings
from storage.database import connection_options
from storage.migrate import upgrade
from storage.roles import DAEMON_ROLE, TOOLS_ROLE, init_database
from tests.integration.examples import sql_examples
from tests.servers import POSTGRES_OPTIONS, postgres_binaries, postgres_server

OWNER_ROLE = "factoryd_owner"
BINARIES = postgres_binaries()
SMALL = Size(readings=200_000, alerts=20_000, deployments=3_000)
SHARED_BUFFERS = "shared_buffers=256MB"
"""As `--embedded` runs it."""

# Which index each read goes by; of a partition or a roll-up its primary key, (device_id, recorded_at) or (device_id, bucket).
INDEXES = {
    "real_time": {"devices_device_id_key", "sensor_readings_pkey"},
    "real_time_month": {"devices_device_id_key", "sensor_readings_pkey"},
    "active_alerts": {"alerts_open_idx", "devices_pkey", "users_pkey"},
    "active_alerts_later_page": {"alerts_open_idx", "devices_pkey", "users_pkey"},
    "overview": {"devices_device_id_key", "alerts_one_open_key", "device_latest_pkey", "users_pkey"},
    "overview_of_owner": {"alerts_one_open_key", "device_latest_pkey"},
    "hour_chart": {"devices_device_id_key", "sensor_readings_pkey"},
    "day_chart": {"devices_device_id_key", "sensor_readings_pkey", "readings_1m_pkey"},
    "month_chart": {"devices_device_id_key", "sensor_readings_pkey", "readings_1h_pkey"},
    "month_chart_of_extra": {"devices_device_id_key", "sensor_readings_pkey", "readings_1h_pkey"},
    "deployments": {"ota_versions_version_key", "ota_deployments_version_id_status_id_idx", "devices_pkey"},
    "deployments_failed": {"ota_versions_version_key", "ota_deployments_version_id_status_id_idx", "devices_pkey"},
}

CONDITIONS = {
    "sensor_readings_pkey": "device_id = ",
    "readings_1m_pkey": "device_id = ",
    "readings_1h_pkey": "device_id = ",
    "alerts_one_open_key": "device_id = ",
    "ota_deployments_version_id_status_id_idx": "version_id = ",
}
"""What an index is searched for: else it would be walked from end to end, which is no better than the table."""


@dataclass(frozen=True)
class Plant:
    daemon: str
    tools: str
    size: Size
    now: datetime

    def connect(self) -> psycopg.Connection:
        """As the daemon and the commands connect."""
        options = connection_options(DatabaseSettings.model_validate({"url": self.daemon}))
        return psycopg.connect(self.daemon, autocommit=True, **options)


class Remembering(psycopg.Cursor[Any]):
    """Keeps what was asked, as it went to the server."""

    asked: list["Asked"]

    def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        answer = super().execute(query, params, **options)
        sent = self._query
        assert sent is not None
        values = [params[name] for name in sent._order or []] if isinstance(params, dict) else list(params or [])
        self.asked.append(Asked(sent.query, tuple(sent.types), values))
        return answer


class Asked(NamedTuple):
    """A statement with $1, $2, …, the types that the driver gave them, and their values."""

    query: bytes
    types: tuple[int, ...]
    values: list[Any]


def plant_of(version: int, size: Size, directory: Path) -> Iterator[Plant]:
    with postgres_server(BINARIES[version], directory, (*POSTGRES_OPTIONS, SHARED_BUFFERS)) as server:
        passwords = init_database(server.url(), database="plant", owner=OWNER_ROLE).passwords
        owner, daemon, tools = (server.url("plant", role, passwords[role]) for role in (OWNER_ROLE, DAEMON_ROLE, TOOLS_ROLE))
        upgrade(owner)
        now = datetime.now(UTC)
        fill(server.url("plant"), owner, size, now)
        yield Plant(daemon, tools, size, now)


@pytest.fixture(scope="module", params=sorted({min(BINARIES), max(BINARIES)}), ids=lambda version: f"postgresql{version}")
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    yield from plant_of(request.param, SMALL, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    yield from plant_of(max(BINARIES), Size(), tmp_path_factory.mktemp("large"))


def test_plans_of_a_small_plant(small: Plant) -> None:
    check_plans(small)
    check_views(small)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_plans_and_times_of_ten_million_readings(large: Plant) -> None:
    check_plans(large)
    check_views(large)
    with large.connect() as connection:
        assert connection.execute("SELECT count(*) FROM sensor_readings").fetchone() == (large.size.readings,)
        times = medians_ms(reads(connection, large.size, large.now))
    print(f"\n{large.size.readings:,} readings, medians of 200 in ms")
    for name, median in times.items():
        limit = f"  <= {LIMITS_MS[name]:g}" if name in LIMITS_MS else ""
        print(f"  {name:26} {median:7.2f}{limit}")
    assert {name: times[name] for name, limit in LIMITS_MS.items() if times[name] > limit} == {}


def check_plans(plant: Plant) -> None:
    """Generic plans, as our connections have them: no table is scanned, and each read goes by its indexes."""
    with plant.connect() as connection:
        for name, indexes in INDEXES.items():
            found = [node for plan in plans(connection, reads(connection, plant.size, plant.now), name) for node in plan]
            assert [node["Relation Name"] for node in found if node["Node Type"] == "Seq Scan"] == [], name
            searched = {used(node): node.get("Index Cond", "") for node in found if "Index Name" in node}
            assert indexes <= set(searched), name
            assert [index for index, text in searched.items() if CONDITIONS.get(index, "") not in text] == [], name
            assert name != "active_alerts_later_page" or "ROW(severity, triggered_at, id) <" in searched["alerts_open_idx"]


def plans(connection: psycopg.Connection, chosen: Reads, name: str) -> Iterator[list[dict[str, Any]]]:
    """Yields the nodes of the generic plan of each statement of a read."""
    asked: list[Asked] = []
    connection.cursor_factory = type("Cursor", (Remembering,), {"asked": asked})
    try:
        assert chosen[name]() > 0, f"{name} found nothing"
    finally:
        connection.cursor_factory = psycopg.Cursor
    for each in asked:
        yield generic_plan(connection, each)


def generic_plan(connection: psycopg.Connection, asked: Asked) -> list[dict[str, Any]]:
    kinds = [connection.execute("SELECT format_type(%s, NULL)", [oid]).fetchone() for oid in asked.types]
    named = ", ".join(kind[0] if oid and kind else "unknown" for oid, kind in zip(asked.types, kinds, strict=True))
    connection.execute(f"PREPARE looked_at{f' ({named})' if named else ''} AS ".encode() + asked.query)
    values = sql.SQL(", ").join(map(sql.Literal, asked.values))
    found = explained(
        connection, sql.SQL("EXECUTE looked_at{}").format(sql.SQL("({})").format(values) if named else sql.SQL(""))
    )
    connection.execute("DEALLOCATE looked_at")
    return found


def explained(connection: psycopg.Connection, statement: sql.Composed) -> list[dict[str, Any]]:
    row = connection.execute(sql.SQL("EXPLAIN (ANALYZE, FORMAT JSON) {}").format(statement)).fetchone()
    assert row is not None
    return list(nodes(row[0][0]["Plan"]))


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def used(node: dict[str, Any]) -> str:
    """Returns an index by its name; of a partition by the table's."""
    return re.sub(r"^(sensor_readings)_\d{8}_", r"\1_", str(node["Index Name"]))


def check_views(plant: Plant) -> None:
    """As somebody's tools ask, with the server's own settings: no partition with rows is scanned, nor are alerts."""
    with psycopg.connect(plant.tools, autocommit=True) as connection:
        for text in sql_examples():
            for node in explained(connection, sql.Composed([sql.SQL(text.replace("press-7", name_of(7)))])):
                if node["Node Type"] == "Seq Scan" and node["Actual Rows"] > 0:
                    assert not re.match("sensor_readings|readings_1|alerts", node["Relation Name"]), text
