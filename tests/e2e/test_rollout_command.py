"""factoryd rollout as a whole: its page, what each command says, and a rollout on its way through the daemon to devices."""

import asyncio
import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Plant
from tests.e2e.updates import OPEN, Commands, birth, commands, report, state, version
from tests.integration.command_line import CommandLine, rows
from tests.services import FreshDatabase

PAGE = (Path(__file__).parents[2] / "docs/rollouts.md").read_text(encoding="utf-8")
PAGE_COMMANDS = "".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).splitlines()
PRESSES = """
    INSERT INTO devices (device_id, name, type, location)
    SELECT 'press-' || n, 'Press', 'press', 'hall-2' FROM generate_series(1, %s) AS n"""
RELEASED = """
    INSERT INTO ota_versions (version, firmware_url, status, hardware, min_version)
    VALUES ('2.4.1', 'https://files.example/a', 'released', '{plc}', '2.2.0')"""
RUNS = "INSERT INTO ota_device_state (device_id, version, hardware) SELECT id, %s, %s FROM devices WHERE device_id = %s"
TERMS = """
    SELECT max_in_progress, max_per_minute, max_failures, min_sample, success_threshold_pct, error_threshold_pct, soak_seconds,
        unreachable_after_seconds, verify_mode, on_error, on_stage_success, "window", created_by FROM ota_rollouts"""
ENDS = """
    SELECT count(DISTINCT d.queue_expires_at), bool_and(d.queue_expires_at = r.end_at) FROM ota_deployments d, ota_rollouts r"""
CREATE = ("rollout", "create", "--version", "2.4.1", "--select", "location=hall-2")


@pytest.fixture
def factoryd(database: FreshDatabase) -> CommandLine:
    """With twenty presses, of which some cannot be updated, and a released version."""
    rows(database.admin_url, PRESSES, 20)
    rows(database.admin_url, RELEASED)
    for number, (runs, hardware) in enumerate([("2.4.1", "plc"), ("2.1.0", "plc"), ("2.5.0", "plc"), ("2.3.0", "other")], 17):
        rows(database.admin_url, RUNS, runs, hardware, f"press-{number}")
    return CommandLine(database.daemon_url)


def refused(factoryd: CommandLine, *arguments: str, code: int = 1) -> str:
    answer = factoryd(*arguments)
    assert answer.code == code, answer
    assert answer.err.startswith("factoryd: ")
    return answer.err


def test_the_page_of_rollouts_is_run(factoryd: CommandLine, database: FreshDatabase) -> None:
    assert len(PAGE_COMMANDS) == 10
    for line in PAGE_COMMANDS:
        words = shlex.split(line)
        assert words[0] == "factoryd"
        if words[1:3] in (["rollout", "abort"], ["rollout", "start"]):  # the daemon would have brought it there
            status = {"abort": "aborted", "start": "scheduled"}[words[2]]
            factoryd.good(*words[1:])
            rows(database.admin_url, "UPDATE ota_rollouts SET status = %s WHERE id = %s", status, int(words[3]))
            rows(database.admin_url, "UPDATE ota_deployments SET status = 'failed', outcome = 'cancelled' WHERE rollout_id = 1")
            continue
        factoryd.good(*words[1:])
    listed = factoryd("rollout", "list", "-o", "json").json()
    assert [(each["id"], each["status"], each["devices"]) for each in listed] == [(1, "aborted", 16), (2, "scheduled", 16)]


def test_a_dry_run_lists_stages_and_reasons_and_writes_nothing(factoryd: CommandLine, database: FreshDatabase) -> None:
    said = factoryd.good(*CREATE, "--canary", "device=press-3", "--stages", "25,100", "--dry-run")
    lines = said.splitlines()
    assert lines[0] == "stage canary  1 device      press-3"
    assert lines[1].startswith("stage 25%     3 devices     press-")
    assert lines[2].startswith("stage 100%    12 devices    press-")
    assert "… and 4 more" in lines[2]
    assert "left out 1: the device runs this version: press-17" in lines
    assert any(line.startswith("left out 1: the device runs an older version than") and "press-18" in line for line in lines)
    assert any(line.startswith("left out 1: the device runs a newer version") and "press-19" in line for line in lines)
    assert "left out 1: the version is for other hardware: press-20" in lines
    assert any(line.startswith("note: 16 devices: the device has not said which hardware") for line in lines)
    assert lines[-1].startswith("dry run, nothing was written")
    facts = factoryd(*CREATE, "--stages", "50,100", "--dry-run", "--json").json()
    assert [len(stage["devices"]) for stage in facts["stages"]] == [8, 8]
    assert facts["excluded"]["already_installed"] == ["press-17"]
    assert rows(database.admin_url, "SELECT count(*) FROM ota_rollouts UNION ALL SELECT count(*) FROM ota_deployments") == [
        (0,),
        (0,),
    ]


def test_made_listed_shown(factoryd: CommandLine, database: FreshDatabase) -> None:
    limits = (
        "--stages",
        "25,100",
        "--max-in-progress",
        "5",
        "--max-per-minute",
        "9",
        "--max-failures",
        "3",
        "--name",
        "valves",
    )
    gate = ("--max-failures", "3", "--min-sample", "2", "--success-threshold", "90", "--error-threshold", "20", "--soak", "30m")
    how = ("--unreachable-after", "2h", "--verify", "report", "--on-error", "abort", "--on-stage-success", "pause")
    when = ("--window", "22:00-04:00 UTC", "--end-at", "7d")
    made = factoryd(*CREATE, *limits, *gate, *how, *when, "--yes", "--json").json()
    assert (made["id"], made["name"], made["devices"]) == (1, "valves", 16)
    expected = (5, 9, 3, 2, 90, 20, 1800, 7200, "report", "abort", "pause", "22:00-04:00 UTC", "system")
    assert rows(database.admin_url, TERMS) == [expected]
    assert rows(database.admin_url, ENDS) == [(1, True)]
    shown = factoryd("rollout", "show", "1", "-o", "json").json()
    assert [(stage["name"], stage["planned"], stage["pending"], stage["verdict"]) for stage in shown["stages"]] == [
        ("25%", 4, 4, None),
        ("100%", 12, 12, None),
    ]
    assert "left out 1: the device runs this version" in factoryd.good("rollout", "show", "1")
    assert "valves" in factoryd.good("rollout", "list", "--live")
    assert factoryd("rollout", "watch", "1", "--once").out.splitlines() == [
        "rollout 1 valves: scheduled, 0 of 16 succeeded",
        "  stage 25%     pending   0/4  4 waiting",
        "  stage 100%    pending   0/12  12 waiting",
    ]


def test_a_page_of_the_list_leads_to_the_next(factoryd: CommandLine) -> None:
    for number in (1, 2, 3):
        factoryd.good(*CREATE[:-1], f"device=press-{number}", "--yes")
    answer = factoryd("rollout", "list", "--limit", "2", "-o", "json")
    assert [each["id"] for each in answer.json()] == [1, 2]
    assert answer.err == "more: --after 2\n"
    assert [each["id"] for each in factoryd("rollout", "list", "--after", "2", "-o", "json").json()] == [3]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--stages", "10,50"), 2, "--stages: 10,50: the last stage must be 100"),
        (("--window", "at night"), 2, "window: 'at' is no span of times"),
        (("--window", "mon 01:00-02:00 UTC", "--end-at", "1m"), 2, "when the rollout is over"),
        (("--soak", "long"), 2, "--soak: 'long' is no duration"),
        (("--end-at", "yesterday"), 2, "--end-at: 'yesterday' is no time"),
        (("--end-at", "2020-01-01"), 2, "over before it begins"),
        (("--max-in-progress", "0"), 2, "max-in-progress: 0"),
        (("--success-threshold", "101"), 2, "success-threshold: must be from 0 to 100"),
        (("--error-threshold", "nan"), 2, "error-threshold: must be from 0 to 100"),
        (("--on-error", "panic"), 2, "on-error: 'panic' is none: use pause or abort"),
        (("--canary", "device=lathe-9"), 1, "canary: none of the 16 eligible devices is device=lathe-9"),
        (("--canary", "colour=red"), 2, "'colour=red' is not one of"),
        (("--actor", "nobody"), 1, "user nobody does not exist"),
        (("--version", "9.9.9"), 1, "there is no firmware 9.9.9"),
        (("--select", "location=hall-9"), 1, "no active device is location=hall-9"),
        (
            ("--select", "device=press-17"),
            1,
            "for none of the devices that are device=press-17: 1: the device runs this version",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    factoryd: CommandLine, database: FreshDatabase, options: tuple[str, ...], code: int, words: str
) -> None:
    assert words in refused(factoryd, *CREATE, *options, "--yes", code=code)
    assert rows(database.admin_url, "SELECT FROM ota_rollouts") == []


def test_drafts_and_recalled_versions_are_not_rolled_out(factoryd: CommandLine, database: FreshDatabase) -> None:
    rows(database.admin_url, "INSERT INTO ota_versions (version, firmware_url) VALUES ('3.0.0', 'https://files.example/b')")
    assert "firmware 3.0.0 is a draft; factoryd firmware release" in refused(factoryd, *CREATE, "--version", "3.0.0", "--yes")
    rows(database.admin_url, "UPDATE ota_versions SET recalled_at = now() WHERE version = '2.4.1'")
    assert "firmware 2.4.1 is recalled" in refused(factoryd, *CREATE, "--yes")


def test_without_a_terminal_it_wants_a_word(factoryd: CommandLine, database: FreshDatabase) -> None:
    answer = factoryd(*CREATE)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("stage 100%    16 devices")
    assert "factoryd: nobody is there to be asked: give --yes to make the rollout" in answer.err
    assert rows(database.admin_url, "SELECT FROM ota_rollouts") == []


def test_nothing_there_says_what_to_do(factoryd: CommandLine) -> None:
    assert factoryd("rollout", "list").err == "no rollouts; factoryd rollout create makes one\n"
    for command in ("show", "watch", "pause", "resume", "abort", "start"):
        assert "there is no rollout 7; factoryd rollout list shows all" in refused(factoryd, "rollout", command, "7")
    factoryd.good(*CREATE, "--yes")
    assert "is scheduled, not paused" in refused(factoryd, "rollout", "resume", "1")
    assert "-o csv: a stream is no list" in refused(factoryd, "rollout", "watch", "1", "-o", "csv", code=2)
    assert "--reason: 1 to 500" in refused(factoryd, "rollout", "pause", "1", "--reason", "\x1b[2J", code=2)


async def call(plant: Plant, *arguments: str) -> str:
    """A process of its own: the daemon runs in this one."""
    variables = {"FACTORYD_DATABASE__URL": plant.database.daemon_url, "FACTORYD_OTA__ALLOW_UNSIGNED": "true"}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "factoryd", *arguments), env={**os.environ, **variables}, stdout=pipe, stderr=pipe
    )
    try:
        out, err = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.communicate()
        raise
    assert process.returncode == 0, err
    return out.decode()


def device_of(command: dict[str, Any]) -> str:
    return str(command["topic"]).split("/")[2]


async def succeeds(plant: Plant, sent: Commands, client: Any, *, first: int, last: int) -> None:
    """The devices of these commands do what they are told."""
    for command in (await sent.until(last))[first:last]:
        device, number = device_of(command), command["deployment_id"]
        await client.publish(report(device, number, phase="installing", attempt=1, seq=1))
        await plant.until_sql(f"SELECT phase FROM ota_deployments WHERE id = {number}", "installing")
        await client.publish(state(device, retain=False, version="2.4.1", boot_id="b"))


async def test_a_rollout_reaches_its_devices_stage_by_stage(plant: Plant) -> None:
    names = [f"press-{number}" for number in range(1, 6)]
    await plant.register(*names)
    await version(plant, "2.4.1")
    async with commands(plant) as sent, plant.client() as client, plant.running(**OPEN) as running:
        # Not retained: the broker is the session's, and other tests have devices of these names.
        hellos = [state(name, retain=False, version="2.4.0", boot_id="a") for name in names]
        await client.publish(*(birth(name) for name in names), *hellos)
        await plant.until_sql("SELECT count(*) FROM ota_device_state WHERE version = '2.4.0'", 5)
        selection = ("--select", "location=hall", "--canary", "device=press-2", "--stages", "60,100")
        await call(plant, "rollout", "create", "--version", "2.4.1", *selection, "--yes")
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(call(plant, "rollout", "watch", "1", "-o", "json"))
            assert device_of((await sent.until(1))[0]) == "press-2"
            await succeeds(plant, sent, client, first=0, last=1)
            await sent.until(3)
            await call(plant, "rollout", "pause", "1", "--reason", "lunch")
            await succeeds(plant, sent, client, first=1, last=3)
            await plant.until_sql("SELECT count(*) FROM ota_deployments WHERE outcome = 'succeeded'", 3)
            assert len(sent.heard) == 3
            waiting = (set(names) - {device_of(each) for each in sent.heard}).pop()
            assert "its rollout is paused" in await call(plant, "deployment", "explain", waiting)
            await call(plant, "rollout", "resume", "1")
            await succeeds(plant, sent, client, first=3, last=5)
            await plant.until_sql("SELECT status FROM ota_rollouts", "completed")
        views = [json.loads(line) for line in watching.result().splitlines()]
        assert running.count("ota_gate_decisions_total", verdict="pass") == 3
    assert [stage["verdict"] for stage in views[-1]["stages"]] == ["pass"] * 3
    assert (views[-1]["status"], sum(stage["succeeded"] for stage in views[-1]["stages"])) == ("completed", 5)
    assert sorted(device_of(each) for each in sent.heard) == names
