"""The plain device of docs/ota.md: its very lines, with the real mosquitto clients, complete an update."""

import asyncio
import json
import re
import shlex
from asyncio.subprocess import PIPE
from pathlib import Path
from urllib.parse import urlsplit

from tests.e2e.conftest import Plant
from tests.e2e.updates import OPEN, deployment, stands, until_outcome, until_phase, version

PAGE = (Path(__file__).parents[2] / "docs/ota.md").read_text(encoding="utf-8")
LINES = next(block for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) if "mosquitto_sub" in block).splitlines()


async def _started(plant: Plant, line: str) -> asyncio.subprocess.Process:
    url = urlsplit(plant.broker.tools_url)
    program, *words = shlex.split(line)
    account = ["-h", str(url.hostname), "-p", str(url.port), "-u", str(url.username), "-P", str(url.password)]
    return await asyncio.create_subprocess_exec(program, *account, *words, stdout=PIPE)


async def _run(plant: Plant, line: str) -> bytes:
    process = await _started(plant, line)
    output, _ = await process.communicate()
    assert process.returncode == 0, line
    return output


async def test_a_plain_device_completes_an_update(plant: Plant) -> None:
    await plant.register("press-7")
    birth, listen, first, second, last = LINES
    async with plant.running(**OPEN):
        listening = await _started(plant, listen)
        number = await deployment(plant, "press-7", await version(plant, "2.4.1"))
        assert number == 1
        await plant.until_sql("SELECT count(*) FROM daemon_state WHERE key = 'ota_seen_at'", 1)
        await _run(plant, birth)
        output, _ = await listening.communicate()
        command = json.loads(output)
        assert (command["type"], command["deployment_id"], command["version"]) == ("update", 1, "2.4.1")
        await _run(plant, first)
        await until_phase(plant, 1, "downloading")
        await _run(plant, second)
        await plant.until_sql("SELECT progress_percent FROM ota_deployments", 80)
        await _run(plant, last)
        await until_outcome(plant, 1, "succeeded")
    assert await stands(plant, 1) == ("completed", "done", "succeeded", 100, None)
