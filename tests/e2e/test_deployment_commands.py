"""`factoryd deployment`: made, explained, cancelled, tried again, held; the daemon acts on it."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from typing import Any

import pytest

from tests.e2e.conftest import Plant
from tests.e2e.updates import QUICK, birth, commands, report, state, until_outcome, until_phase, version
from tests.integration.command_line import Answer

UNSIGNED = {"FACTORYD_OTA__ALLOW_UNSIGNED": "true"}


class Shell:
    """The command line as a process of its own: the daemon runs, and logs, in this one."""

    def __init__(self, plant: Plant, **environment: str) -> None:
        self._environment = {**os.environ, "FACTORYD_DATABASE__URL": plant.database.daemon_url, **environment}

    async def __call__(self, *arguments: str) -> Answer:
        command = (sys.executable, "-m", "factoryd", "deployment", *arguments)
        process = await asyncio.create_subprocess_exec(*command, env=self._environment, stdout=PIPE, stderr=PIPE)
        out, err = await process.communicate()
        assert process.returncode is not None
        return Answer(process.returncode, out.decode(), err.decode())

    async def good(self, *arguments: str) -> str:
        answer = await self(*arguments)
        assert answer.code == 0, answer
        return answer.out

    async def explained(self, device: str) -> dict[str, Any]:
        (found,) = json.loads(await self.good("explain", device, "-o", "json"))
        return dict(found)


async def test_from_create_to_the_end(plant: Plant) -> None:
    await plant.register("press-1")
    shell = Shell(plant, **UNSIGNED)
    await version(plant, "2.4.1")
    async with commands(plant) as sent, plant.client() as client, plant.running(**QUICK):
        assert (await shell.explained("press-1"))["text"].startswith("there has never been a deployment")
        assert "deployment 1: 2.4.1 to press-1" in await shell.good("create", "press-1", "2.4.1")
        assert (await shell.explained("press-1"))["reason"] == "never_seen"
        watching = asyncio.create_task(shell("watch", "1"))
        await client.publish(birth("press-1"))
        await sent.until(1)
        await client.publish(report("press-1", 1, status="in_progress", progress_percent=40))
        await until_phase(plant, 1, "downloading")
        text = await shell.good("explain", "press-1")
        assert text.startswith("press-1: 2.4.1 (deployment 1): downloading since ")
        assert text.endswith(", 40 %, attempt 1\n")
        await client.publish(report("press-1", 1, status="completed"))
        await until_outcome(plant, 1, "succeeded")
        watched = await watching
        assert watched.code == 0
        assert "deployment 1: 2.4.1 to press-1: succeeded" in watched.err
        assert "succeeded" in await shell.good("show", "1")
        assert [each["id"] for each in json.loads(await shell.good("list", "--all", "-o", "json"))] == [1]


async def test_a_failed_one_is_tried_again_and_cancelled(plant: Plant) -> None:
    await plant.register("press-1")
    shell = Shell(plant, **UNSIGNED)
    await version(plant, "2.4.1")
    async with commands(plant) as sent, plant.client() as client, plant.running(**QUICK):
        await client.publish(birth("press-1"))
        await shell.good("create", "press-1", "2.4.1")
        await sent.until(1)
        await client.publish(report("press-1", 1, status="failed", error_code="flash_write", error_message="worn out"))
        await until_outcome(plant, 1, "failed")
        ended = await shell("watch", "1")
        assert ended.code != 0
        assert "worn out" in ended.err
        assert "deployment 2: instead of 1" in await shell.good("retry", "1")
        await sent.until(2)
        await client.publish(report("press-1", 2, status="in_progress"))
        await until_phase(plant, 2, "downloading")
        await shell.good("cancel", "2", "--reason", "wrong line")
        assert (await sent.until(3))[2]["reason"] == "wrong line"
        await client.publish(report("press-1", 2, phase="cancelled"))
        await until_outcome(plant, 2, "cancelled")
        assert (await shell("cancel", "2")).code != 0


async def test_why_it_waits(plant: Plant) -> None:
    await plant.register("press-1")
    shell = Shell(plant)
    await version(plant, "2.4.1")
    async with plant.client() as client, plant.running():
        await client.publish(state("press-1", version="2.4.0", hardware="gw/c", boot_id="a"))
        await plant.until_sql("SELECT count(*) FROM ota_device_state", 1)
        await shell.good("create", "press-1", "2.4.1")
        assert (await shell.explained("press-1"))["reason"] == "unsigned"
        permitted = Shell(plant, **UNSIGNED)
        await shell.good("hold", "press-1", "--reason", "audit")
        assert (await permitted.explained("press-1"))["reason"] == "hold"
        await shell.good("unhold", "press-1")
        assert (await permitted.explained("press-1"))["reason"] is None
        assert "was not in quarantine" in await shell.good("unquarantine", "press-1")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"hardware": ["other/a"]}, "other hardware"),
        ({"min_version": "2.4.1"}, "install its min_version first"),
        ({"status": "deprecated"}, "the version is deprecated"),
    ],
)
async def test_what_could_never_be_sent_is_refused(plant: Plant, columns: dict[str, Any], words: str) -> None:
    await plant.register("press-1")
    shell = Shell(plant, **UNSIGNED)
    await version(plant, "2.5.0", **columns)
    await plant.sql("INSERT INTO ota_device_state (device_id, version, hardware) SELECT id, '2.4.0', 'gw/c' FROM devices")
    answer = await shell("create", "press-1", "2.5.0")
    assert answer.code != 0
    assert words in answer.err
    assert (await shell("create", "nobody", "2.5.0")).code != 0
    assert (await shell("create", "press-1", "9.9.9")).code != 0
    assert await plant.value("SELECT count(*) FROM ota_deployments") == 0
