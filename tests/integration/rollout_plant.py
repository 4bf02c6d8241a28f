"""Rollouts on a real database, by a clock that the test turns; devices are played by plain SQL."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from config.settings import DatabaseSettings
from ota.candidates import Candidate
from ota.deployment import Timeouts
from ota.dispatcher import Dispatcher
from ota.metrics import OtaMetrics
from ota.rollouts import Rollouts
from storage.database import Pool, open_pool
from storage.ota_queue import WaitingTable
from storage.ota_tables import OtaTables
from storage.rollout_admin import Created, create_rollout
from storage.rollout_engine import RolloutTables
from storage.rollout_fields import Terms
from tests.integration.command_line import rows
from tests.integration.conftest import Database

START = datetime(2026, 3, 2, 12, tzinfo=UTC)
"""A Monday."""
VERSION = "2.4.1"
RELEASED = "INSERT INTO ota_versions (version, firmware_url, status) VALUES (%s, 'https://files.example/a', 'released')"
DEVICES = """
    INSERT INTO devices (device_id, name, type, location, status, last_seen)
    SELECT 'press-' || n, 'Press', 'press', 'hall-2', 'online', %s FROM generate_series(1, %s) AS n"""
SEEN = "UPDATE devices SET status = %s, last_seen = coalesce(%s, last_seen) WHERE device_id = ANY(%s)"
OF_DEVICES = "FROM devices v WHERE v.id = d.device_id AND v.device_id = ANY(%s) AND d.status IN ('pending', 'in_progress')"
WORK = f"""
    UPDATE ota_deployments d SET status = 'in_progress', phase = %s, holds_device = true, dispatched_at = %s, phase_since = %s,
        phase_deadline_at = NULL, next_action_at = NULL
    {OF_DEVICES}"""
END = f"""
    UPDATE ota_deployments d SET status = %s::ota_deployment_status, phase = 'done', outcome = %s, holds_device = false,
        publish_pending = NULL, next_action_at = NULL, completed_at = %s
    {OF_DEVICES}"""
SUCCESSES = {"succeeded", "already_installed", "late_success"}
STANDS = "SELECT v.device_id, {} FROM ota_deployments d JOIN devices v ON v.id = d.device_id"


@dataclass
class Engine:
    """One process's rollouts and dispatcher."""

    plant: "RolloutPlant"
    pool: Pool
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        metrics = OtaMetrics(self.registry)
        self.rollouts = Rollouts(RolloutTables(self.pool), metrics.rollouts)
        self.waiting = WaitingTable(self.pool)
        self.dispatcher = Dispatcher(
            OtaTables(self.pool),
            self.candidates,
            Timeouts(),
            granted=lambda: START,
            step_rollouts=self.rollouts.step,
            committed=lambda _: None,
            clock=lambda: self.plant.now,
            metrics=metrics,
        )

    async def candidates(self, now: datetime) -> Sequence[Candidate]:
        opened, _ = await self.rollouts.open(now)
        return await self.waiting.candidates(now, {}, opened)

    async def step(self) -> None:
        """Steps until nothing changes any more."""
        for _ in range(20):
            if not await self.rollouts.step(self.plant.now):
                return
        raise AssertionError("it never comes to rest")

    async def look(self) -> None:
        """What the dispatcher does when it is woken; twice, for what the first look has changed."""
        await self.dispatcher.look()
        await self.dispatcher.look()

    async def why_closed(self) -> dict[int, str]:
        _, closed = await self.rollouts.open(self.plant.now)
        return closed

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"factoryd_ota_{name}", labels)


@dataclass
class RolloutPlant:
    """A hall of presses, a released version, and what tests do to them."""

    database: Database
    now: datetime = START

    def __post_init__(self) -> None:
        self.settings = DatabaseSettings(url=SecretStr(self.database.daemon))
        self.sql(
            "INSERT INTO ota_versions (version, firmware_url, status) VALUES (%s, 'https://x.example/a', 'released')", VERSION
        )

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        return rows(self.database.admin, statement, *values)

    def presses(self, count: int) -> None:
        self.sql(DEVICES, self.now, count)

    def create(self, **terms: Any) -> Created:
        bare: dict[str, Any] = {"version": VERSION, "selector": {"location": "hall-2"}, "percents": (100.0,), "actor": "system"}
        return create_rollout(self.settings, Terms(**(bare | terms)), self.now, max_attempts=3, salt="salt")

    @asynccontextmanager
    async def engine(self) -> AsyncIterator[Engine]:
        async with open_pool(self.settings) as pool:
            yield Engine(self, pool)

    def later(self, **by: float) -> None:
        self.now += timedelta(**by)

    def offline(self, *names: str) -> None:
        self.sql(SEEN, "offline", None, list(names))

    def online(self, *names: str) -> None:
        self.sql(SEEN, "online", self.now, list(names))

    def begins(self, *names: str, phase: str = "downloading") -> None:
        """Their deployments are with them."""
        self.sql(WORK, phase, self.now, self.now, list(names))

    def ends(self, outcome: str, *names: str) -> None:
        """Their deployments end."""
        self.sql(END, "completed" if outcome in SUCCESSES else "failed", outcome, self.now, list(names))

    def stands(self, column: str = "coalesce(d.outcome, d.phase)") -> dict[str, Any]:
        """How each device's deployment stands."""
        return dict(self.sql(STANDS.format(column)))

    def rollout(self) -> tuple[str, str | None]:
        """Returns status and reason of the only one."""
        ((status, reason),) = self.sql("SELECT status, pause_reason FROM ota_rollouts")
        return status, reason

    def stages(self) -> list[str]:
        return [status for (status,) in self.sql("SELECT status FROM ota_rollout_stages ORDER BY stage_no")]

    def decision(self, stage_no: int = 0) -> dict[str, Any]:
        ((decision,),) = self.sql("SELECT decision FROM ota_rollout_stages WHERE stage_no = %s", stage_no)
        assert decision is not None
        return dict(decision)
