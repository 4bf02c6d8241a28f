"""factoryd alert, and the whole daemon that does what it asks for."""

import asyncio
import os
import sys

import pytest

from factoryd.commands import alert_acts
from tests.e2e.alarms import listening, person, reading, threshold
from tests.e2e.conftest import Plant, telemetry
from tests.integration.command_line import Answer, CommandLine


async def factoryd(plant: Plant, *arguments: str) -> Answer:
    """Runs the command line as a process of its own: the daemon runs in this one."""
    environment = {**os.environ, "FACTORYD_DATABASE__URL": plant.database.daemon_url}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "factoryd", *arguments, env=environment, stdout=pipe, stderr=pipe
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return Answer(process.returncode, out.decode(), err.decode())


async def test_acts_from_the_command_line(plant: Plant) -> None:
    await plant.register("press-1")
    await person(plant, "ada")
    await person(plant, "bob", "user")
    async with listening(plant) as ears, plant.client() as client, plant.running():
        added = await factoryd(plant, "threshold", "add", "press-1", "temperature", "--max", "80")
        assert added.out.startswith("threshold 1 added"), added
        await client.publish(*telemetry("press-1", reading(90.0)))
        (raised,) = await ears.until(1)
        number = str(raised.body["alert_id"])
        refused = await factoryd(plant, "alert", "ack", number, "--actor", "bob")
        assert (refused.code, refused.out) == (1, "")
        assert refused.err.startswith("factoryd: bob has the role user and is not the owner of alert")
        done = await factoryd(plant, "alert", "ack", number, "--actor", "ada", "--note", "on my way")
        assert (done.code, done.out, done.err) == (0, f"alert {number} acknowledged\n", "")
        told = await ears.until(2)
        assert (told[-1].body["status"], told[-1].body["acknowledged_by"]) == ("acknowledged", "ada")
        shelved = await factoryd(plant, "alert", "shelve", number, "--for", "8h")
        assert (shelved.code, shelved.err) == (0, "")
        assert shelved.out.startswith(f"alert {number} shelved until ")
        assert (await factoryd(plant, "alert", "unshelve", number)).out == f"alert {number} unshelved\n"
        assert (await factoryd(plant, "alert", "comment", number, "belt")).out == f"comment on alert {number} kept\n"
        assert (await factoryd(plant, "alert", "resolve", number)).out == f"alert {number} resolved\n"
        late = await factoryd(plant, "alert", "resolve", number)
        assert (late.code, late.err) == (1, f"factoryd: alert {number} is resolved already\n")
    shown = await factoryd(plant, "alert", "show", number)
    changes = [line.split()[3] for line in shown.out.partition("\n\n")[2].splitlines()[1:]]
    assert changes == ["raised", "acknowledged", "shelved", "unshelved", "comment", "resolved"]


async def test_a_request_that_nobody_was_there_for_is_carried_out_later(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert_acts, "PATIENCE_S", 0.1)
    await plant.register("press-1")
    await person(plant, "ada")
    await threshold(plant, "press-1", max_value=80)
    async with listening(plant) as ears, plant.client() as client:
        async with plant.running():
            await client.publish(*telemetry("press-1", reading(90.0)))
            await ears.until(1)
        answer = await asyncio.to_thread(CommandLine(plant.database.daemon_url), "alert", "ack", "1", "--actor", "ada")
        assert answer.code == 69
        assert "the request is stored, and is carried out when the daemon runs" in answer.err
        async with plant.running():
            told = await ears.until(2)
            assert (told[-1].body["status"], told[-1].body["acknowledged_by"]) == ("acknowledged", "ada")
    assert await plant.sql("SELECT outcome, detail FROM operator_commands") == [("done", "alert 1 acknowledged")]
