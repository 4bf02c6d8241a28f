"""A rollout to a fleet of reference devices, and what is done to it meanwhile: kills of the daemon, restarts of the broker."""

import asyncio
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psycopg

from ota.signing import keyid_of
from simulator.connection import Broker
from simulator.ota_device import Habits
from simulator.ota_faults import Faults
from simulator.ota_fleet import OtaFleet
from tests.faults.conftest import ROOT, Plant
from tests.integration.updating import HARDWARE, PUBLIC, released

TARGET, FACTORY = "2.0.0", "1.0.0"
SETTINGS = {
    "FACTORYD_OTA__ALLOWED_HOSTS": '["127.0.0.1"]',
    "FACTORYD_OTA__ACK_S": "5",
    "FACTORYD_OTA__RETRY_BASE_S": "0.5",
    "FACTORYD_OTA__RETRY_CAP_S": "1",
}
GATE = ("--min-sample", "100", "--unreachable-after", "3s", "--max-in-progress", "80")
CUTS = ("heard", "acknowledged", "downloading", "downloaded", "verifying", "installing", "installed", "rebooting", "ended")
STAGES = "SELECT stage_no, name, started_at, decided_at, decision, planned_count FROM ota_rollout_stages ORDER BY stage_no"
IN_STAGE = """
    SELECT count(*) FILTER (WHERE outcome IN ('succeeded', 'already_installed', 'late_success')),
        count(*) FILTER (WHERE outcome IN ('failed', 'timed_out', 'rolled_back', 'version_mismatch'))
    FROM ota_deployments WHERE stage_no = %s AND completed_at <= %s::timestamptz - make_interval(secs => %s)"""


class Plan(NamedTuple):
    """How large, how hard."""

    devices: int
    stages: str = "100"
    kills: int = 0
    broker_restarts: tuple[int, ...] = ()
    """After which kills; every second one is a kill, too, and what the broker had not saved is gone."""
    pace_s: float = 0.0
    success_threshold: int = 95


class Campaign:
    """One rollout; `run` it to its end."""

    def __init__(self, plant: Plant, plan: Plan, files_url: str, seed: int) -> None:
        self._plant, self._plan, self._url = plant, plan, f"{files_url}/fw.bin"
        self._random = random.Random(seed)
        self.names = [f"gw-{number:04}" for number in range(plan.devices)]
        self.late = set(self._random.sample(self.names, plan.devices * 30 // 100))
        """Off when it begins."""
        self.expected: dict[str, str] = {}
        """The outcome of devices that cannot be updated."""
        self.broken: list[str] = []
        """What must not be, seen on the way."""
        self._port = 0
        plant.settings |= SETTINGS
        self._register()

    async def run(self) -> OtaFleet:
        """Brings everybody there, and returns the fleet, switched off."""
        async with self.fleet() as fleet:
            self._port = self._plant.start_daemon()
            await self._plant.connected(self._port)
            fleet.switch_on(set(self.names) - self.late)
            await self.until("SELECT count(*) FROM ota_device_state", len(self.names) - len(self.late))
            await self._create()
            self._spread_faults(fleet)
            for kill in range(1, self._plan.kills + 1):
                await self._until_done(kill * self._plan.devices // (self._plan.kills + 2))
                await self._strike(kill)
                if kill == (self._plan.kills + 1) // 2:
                    # Somebody is impatient: the newer deployment goes, the rollout's gives way.
                    self.order_by_hand(sorted(self.late)[: max(2, self._plan.devices // 50)])
                    fleet.switch_on()
            await self.until("SELECT count(*) FROM ota_deployments WHERE outcome IS NULL", 0)
            await self.until("SELECT count(*) FROM ota_rollouts WHERE status = 'completed'", 1)
        self._plant.kill_daemon(self._port)
        return fleet

    def fleet(self) -> OtaFleet:
        """Returns devices that are off; leaving the block switches them off."""
        tools = urlsplit(self._plant.services.urls.mqtt_tools_url or "")
        where = Broker("127.0.0.1", tools.port or 0, ROOT, (tools.username or "", tools.password or ""))
        habits = Habits(FACTORY, chunk_bytes=32_768, pace_s=self._plan.pace_s, reconnect_max_s=2.0)
        faults = {name: Faults() for name in self.names}
        return OtaFleet(self.names, HARDWARE, where, self._plant.directory / "fleet", (PUBLIC,), faults, habits)

    def _register(self) -> None:
        with psycopg.connect(self._plant.services.urls.owner_url or "", autocommit=True) as connection:
            connection.execute(
                "INSERT INTO devices (device_id, name, type, location)"
                " SELECT n, n, 'gateway', 'hall-2' FROM unnest(%s::text[]) AS n",
                [self.names],
            )
            connection.execute("INSERT INTO ota_keys (keyid, public_key) VALUES (%s, %s)", [keyid_of(PUBLIC), PUBLIC])
            columns = released(self._url)
            marks = ", ".join(["%s"] * len(columns))
            statement = f"INSERT INTO ota_versions ({', '.join(columns)}) VALUES ({marks})"
            connection.execute(statement.encode(), list(columns.values()))

    async def _create(self) -> None:
        words = ("rollout", "create", "--version", TARGET, "--select", "location=hall-2", "--stages", self._plan.stages, *GATE)
        threshold = ("--success-threshold", str(self._plan.success_threshold))
        environment = {**os.environ, **self._plant.services.urls.environment()}
        command = [sys.executable, "-m", "factoryd", *words, *threshold, "--yes"]
        done = await asyncio.to_thread(subprocess.run, command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def _spread_faults(self, fleet: OtaFleet) -> None:
        """Two of a hundred fail, one in each of the later two stages; of the others some have accidents, and get over them."""
        rows = self._plant.execute(
            "SELECT v.device_id, d.stage_no FROM ota_deployments d JOIN devices v ON v.id = d.device_id ORDER BY 1"
        )
        last = max(int(str(stage)) for _, stage in rows)
        for stage, half in ((last - 1, "failed"), (last, "rolled_back")):
            here = [str(name) for name, number in rows if number == stage and name not in self.late]
            self.expected |= dict.fromkeys(self._random.sample(here, max(1, self._plan.devices // 100)), half)
        for name, device in fleet.devices.items():
            faults = device.faults
            if name in self.expected:
                faults.boot_failed = self.expected[name] == "rolled_back"
                faults.failures = {} if faults.boot_failed else {"installing": "flash_write"}
                continue
            dice = self._random.random()
            if dice < 0.15:
                faults.power_cuts += self._random.sample(CUTS, 2)
            elif dice < 0.20:
                faults.network_errors = 1
            elif dice < 0.23:
                faults.loses_success = True
            elif dice < 0.25:
                faults.silent = True

    async def _strike(self, kill: int) -> None:
        self._plant.kill_daemon(self._port)
        broker = self._plant.services.mosquitto
        assert broker is not None
        if kill in self._plan.broker_restarts:
            await asyncio.to_thread(broker.crash if self._plan.broker_restarts.index(kill) % 2 else broker.stop)
            await broker.astart()
        self._port = self._plant.start_daemon()

    def order_by_hand(self, names: Sequence[str]) -> None:
        """Makes a deployment for each, by plain SQL."""
        listed = ",".join(f"'{name}'" for name in names)
        self._plant.execute(
            "INSERT INTO ota_deployments (device_id, version_id)"
            f" SELECT d.id, v.id FROM devices d CROSS JOIN ota_versions v WHERE d.device_id IN ({listed})"
        )

    async def _until_done(self, count: int) -> None:
        await self.until(f"SELECT least({count}, count(*)) FROM ota_deployments WHERE outcome IS NOT NULL", count)

    async def until(self, statement: str, expected: int, within_s: float = 240) -> None:
        """Waits, and looks at what must never be."""
        found: object = None
        try:
            async with asyncio.timeout(within_s):
                while found != expected:
                    ((found,),) = await asyncio.to_thread(self._plant.execute, statement)
                    self.broken += await asyncio.to_thread(self._wrongs)
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"{statement}: {found}, not {expected}\n{self._standing()}") from None

    def _wrongs(self) -> list[str]:
        twice = self._plant.execute(
            "SELECT device_id FROM ota_deployments WHERE holds_device AND outcome IS NULL GROUP BY 1 HAVING count(*) > 1"
        )
        ((held,),) = self._plant.execute(
            "SELECT count(*) FROM ota_deployments WHERE holds_device AND rollout_id IS NOT NULL AND phase <> 'deferred'"
        )
        limit = int(GATE[GATE.index("--max-in-progress") + 1])
        over = [f"{held} in progress, at most {limit} were allowed"] if int(str(held)) > limit else []
        return [f"two live deployments on device {device}" for (device,) in twice] + over

    def _standing(self) -> str:
        rows = self._plant.execute(
            "SELECT v.device_id, v.status::text, d.id, d.stage_no, d.phase, d.attempt, d.sends, d.outcome, d.error_code"
            " FROM ota_deployments d JOIN devices v ON v.id = d.device_id WHERE d.outcome IS NULL ORDER BY 1 LIMIT 20"
        )
        stages = self._plant.execute("SELECT status, pause_reason FROM ota_rollouts") + self._plant.execute(STAGES)
        return "\n".join(map(str, [*stages, *rows, self._plant.log(self._port)[-2000:]]))

    def ends(self) -> dict[str, Counter[str]]:
        """Returns how the deployments of each device have ended."""
        found: dict[str, Counter[str]] = {name: Counter() for name in self.names}
        for name, outcome in self._plant.execute(
            "SELECT v.device_id, d.outcome FROM ota_deployments d JOIN devices v ON v.id = d.device_id"
        ):
            found[str(name)][str(outcome)] += 1
        return found

    def stages(self) -> list[tuple[Any, ...]]:
        return list(self._plant.execute(STAGES))

    def counted(self, stage: int, moment: str, earlier_s: float = 0) -> tuple[int, int]:
        """Returns how many of a stage had succeeded and failed by then, as their rows say."""
        with psycopg.connect(self._plant.services.urls.owner_url or "") as connection:
            row = connection.execute(IN_STAGE, [stage, moment, earlier_s]).fetchone()
        assert row is not None
        return int(row[0]), int(row[1])
