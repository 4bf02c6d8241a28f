"""The reads that must be fast, as the product calls them, and their times on one warm connection."""

import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import psycopg

from bench.ground import Ground
from bench.measures import Figures
from bench.past import VERSIONS, Size, fill, name_of
from config.settings import DatabaseSettings
from storage.charts import chart
from storage.database import connection_options
from storage.migrate import upgrade
from storage.queries import AlertPlace, active_alerts, deployments_of, device_overview, recent_readings

DATABASE = "past"
RUNS = 200
WARM_UP = 10
"""psycopg prepares a statement when it runs for the sixth time."""
LIMITS_MS = {"real_time": 3.0, "active_alerts": 5.0, "overview": 15.0, "month_chart": 30.0}
"""What the issue asks for, as medians."""

Reads = dict[str, Callable[[], int]]


def measure(ground: Ground) -> Figures:
    """Fills a database of its own, so that nothing of it is in the way of other measurements, and asks it as a command does."""
    assert ground.services.postgres is not None
    owner = urlsplit(ground.owner_url)
    ground.superuser(f"CREATE DATABASE {DATABASE} OWNER {owner.username}")
    owner_url = owner._replace(path=f"/{DATABASE}").geturl()
    daemon_url = urlsplit(ground.services.urls.database_url)._replace(path=f"/{DATABASE}").geturl()
    upgrade(owner_url)
    size, now = Size(), datetime.now(UTC)
    fill(ground.services.postgres.url(DATABASE), owner_url, size, now)
    options = connection_options(DatabaseSettings.model_validate({"url": daemon_url}))
    with psycopg.connect(daemon_url, autocommit=True, **options) as connection:
        figures = {f"{name}_ms": median for name, median in medians_ms(reads(connection, size, now)).items()}
    ground.superuser(f"DROP DATABASE {DATABASE} WITH (FORCE)")
    return figures


def reads(connection: psycopg.Connection, size: Size, now: datetime) -> Reads:
    """Returns the reads by name; each returns how many rows it got."""
    device, hour, day = name_of(size.devices // 2), timedelta(hours=1), timedelta(days=1)
    middle = AlertPlace("warning", now - hour, 0)

    def drawn(metric: str, span: timedelta) -> int:
        return len(chart(connection, device, metric, since=now - span, until=now).bins)

    return {
        "select_1": lambda: len(connection.execute("SELECT 1").fetchall()),
        "real_time": lambda: len(recent_readings(connection, device, since=now - hour, limit=100)),
        "real_time_month": lambda: len(recent_readings(connection, device, since=now - 30 * day, limit=100)),
        "active_alerts": lambda: len(active_alerts(connection, limit=100)),
        "active_alerts_later_page": lambda: len(active_alerts(connection, after=middle, limit=100)),
        "overview": lambda: len(device_overview(connection, limit=1000)),
        "overview_of_owner": lambda: len(device_overview(connection, owner="person7", limit=1000)),
        "hour_chart": lambda: drawn("temperature", hour),
        "day_chart": lambda: drawn("temperature", day),
        "month_chart": lambda: drawn("temperature", 30 * day),
        "month_chart_of_extra": lambda: drawn("torque", 30 * day),
        "deployments": lambda: len(deployments_of(connection, VERSIONS[0], limit=100)),
        "deployments_failed": lambda: len(deployments_of(connection, VERSIONS[0], status="failed", limit=100)),
    }


def medians_ms(chosen: Reads, runs: int = RUNS) -> dict[str, float]:
    """Returns the median time of each read in ms."""
    return {name: _median_ms(read, runs) for name, read in chosen.items()}


def _median_ms(read: Callable[[], int], runs: int) -> float:
    times = []
    for number in range(WARM_UP + runs):
        started = time.perf_counter()
        read()
        if number >= WARM_UP:
            times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000
