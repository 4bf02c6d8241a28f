"""The README's alert, from raise to resolve: its very commands, with the real mosquitto clients, and the text that comes."""

import asyncio
import os
import re
import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.e2e.conftest import Plant, until

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("## An alert, from raise to resolve")[2].partition("\n## ")[0]
COMMANDS = re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)[0].splitlines()
SAID = re.findall(r"```json\n(.*?)```", SECTION, re.DOTALL)[0]
TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( UTC|Z)")


def _program(plant: Plant, words: list[str]) -> list[str]:
    if words[0] == "factoryd":
        return [sys.executable, "-m", "factoryd", *words[1:]]
    url = urlsplit(plant.broker.tools_url)
    account = ["-h", str(url.hostname), "-p", str(url.port), "-u", str(url.username), "-P", str(url.password)]
    return [*words[:1], *account, *words[1:]]


@asynccontextmanager
async def _heard_by(command: list[str]) -> AsyncIterator[list[str]]:
    """Runs mosquitto_sub, and yields what it prints, as it comes, once it is subscribed."""
    process = await asyncio.create_subprocess_exec("stdbuf", "-oL", *command, "-d", stdout=asyncio.subprocess.PIPE)
    lines: list[str] = []
    assert process.stdout is not None

    async def read(output: asyncio.StreamReader) -> None:
        while line := await output.readline():
            lines.append(line.decode())

    reading = asyncio.create_task(read(process.stdout))
    try:
        await until(lambda: any(line.startswith("Subscribed") for line in lines), lambda: lines)
        yield lines
    finally:
        process.terminate()
        await process.wait()
        await reading


async def test_from_raise_to_resolve(plant: Plant) -> None:
    environment = {**os.environ, "FACTORYD_DATABASE__URL": plant.database.daemon_url}
    listen = next(command for command in COMMANDS if command.endswith("&"))
    async with plant.running() as running, _heard_by(_program(plant, shlex.split(listen[:-1]))) as lines:
        for number, command in enumerate(other for other in COMMANDS if other != listen):
            process = await asyncio.create_subprocess_exec(
                *_program(plant, shlex.split(command)), env=environment, stdout=asyncio.subprocess.DEVNULL
            )
            assert await process.wait() == 0, command
            if "mosquitto_pub" in command:
                await running.until_settled(number - 1)
            else:
                await until(lambda: running.count("thresholds") == number)  # noqa: B023 - awaited here
        await until(lambda: sum(line.startswith("factory/") for line in lines) == 2, lambda: lines)
    said = "".join(line for line in lines if line.startswith("factory/"))
    assert TIME.sub("TIME", said) == TIME.sub("TIME", SAID), said
