"""factoryd firmware as a whole: its page, and a signed version on its way through the daemon to a device that checks it."""

import asyncio
import hashlib
import json
import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ota.signing import public_key_of, read_private_key
from simulator.ota_manifest import Envelope, ManifestRefused, open_envelope
from tests.e2e.conftest import Plant, until
from tests.e2e.updates import birth, commands, state
from tests.integration.command_line import Answer, CommandLine
from tests.services import FreshDatabase

PAGE = (Path(__file__).parents[2] / "docs/firmware.md").read_text(encoding="utf-8")
PAGE_COMMANDS = "".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).splitlines()
FILE = b"\x7fELF" * 1000
KIND = "plc-gw/rev-c"


def environment(directory: Path) -> dict[str, str]:
    return {
        "FACTORYD_OTA__ARTIFACT_URL": f"file://{directory}/store",
        "FACTORYD_OTA__ARTIFACT_BASE_URL": "https://files.example",
    }


def test_the_page_is_run(database: FreshDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fw.bin").write_bytes(FILE)
    factoryd = CommandLine(database.daemon_url, environment(tmp_path))
    assert len(PAGE_COMMANDS) > 15
    for line in PAGE_COMMANDS:
        if "KEYID" in line:
            keys = factoryd("firmware", "key", "list", "-o", "json").json()
            line = line.replace("KEYID", keys[0 if "retire" in line else 1]["keyid"])  # noqa: PLW2901
        words = shlex.split(line)
        assert words[0] == "factoryd"
        factoryd.good(*words[1:])
    statuses = {each["version"]: each["status"] for each in factoryd("firmware", "list", "-o", "json").json()}
    assert statuses == {"2.4.1": "recalled", "2.4.2": "released"}
    assert [each["status"] for each in factoryd("firmware", "key", "list", "-o", "json").json()] == ["retired", "revoked"]


@dataclass(frozen=True)
class Site:
    """A plant with firmware files; commands are processes of their own: the daemon runs in this one."""

    plant: Plant
    directory: Path

    async def good(self, *arguments: str) -> str:
        answer = await self(*arguments)
        assert answer.code == 0, answer
        return answer.out

    async def __call__(self, *arguments: str) -> Answer:
        variables = {"FACTORYD_DATABASE__URL": self.plant.database.daemon_url, **environment(self.directory)}
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "factoryd", *arguments), env={**os.environ, **variables}, stdout=pipe, stderr=pipe
        )
        out, err = await process.communicate()
        assert process.returncode is not None
        return Answer(process.returncode, out.decode(), err.decode())

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        return {"ota": {"artifact_url": f"file://{self.directory}/store", "artifact_base_url": "https://files.example"}}

    @property
    def key_file(self) -> str:
        return str(self.directory / "keys/firmware.key")

    @property
    def public_key(self) -> bytes:
        return public_key_of(read_private_key(Path(self.key_file).read_bytes()))

    async def released(self, version: str) -> None:
        await self.good("firmware", "add", version, "--file", str(self.directory / "fw.bin"), "--hardware", KIND)
        await self.good("firmware", "sign", version, "--key", self.key_file)
        await self.good("firmware", "release", version)


@pytest.fixture
async def site(plant: Plant, tmp_path: Path) -> Site:
    (tmp_path / "fw.bin").write_bytes(FILE)
    site = Site(plant, tmp_path)
    await plant.register("press-1")
    await site.good("firmware", "keygen", str(tmp_path / "keys"))
    await site.good("firmware", "key", "add", str(tmp_path / "keys/firmware.pub"))
    return site


async def test_a_signed_version_reaches_a_device_that_checks_it(site: Site) -> None:
    async with commands(site.plant) as heard, site.plant.client() as device, site.plant.running(**site.settings):
        await device.publish(birth("press-1"), state("press-1", version="2.4.0", hardware=KIND))
        await site.released("2.4.1")
        await site.good("deployment", "create", "press-1", "2.4.1")
        (command,) = await heard.until(1)
    sha256 = hashlib.sha256(FILE).hexdigest()
    assert command["firmware_url"] == f"https://files.example/2.4.1-{sha256[:12]}.bin"
    assert (command["size_bytes"], command["sha256"]) == (len(FILE), sha256)
    envelope = msgspec.convert(command["manifest"], Envelope)
    manifest = open_envelope(envelope, [site.public_key])
    assert (manifest.seq, manifest.version, manifest.hardware, manifest.sha256) == (1, "2.4.1", [KIND], sha256)
    with pytest.raises(ManifestRefused):
        open_envelope(envelope, [bytes(32)])
    body = {name: value for name, value in command.items() if name != "topic"}
    assert len(json.dumps(body, separators=(",", ":"))) <= 2048
    body.pop("manifest")
    assert len(json.dumps(body, separators=(",", ":"))) <= 512


async def test_what_a_revoked_key_has_signed_waits(site: Site) -> None:
    async with commands(site.plant) as heard, site.plant.client() as device, site.plant.running(**site.settings) as running:
        await device.publish(birth("press-1"), state("press-1", version="2.4.0", hardware=KIND))
        await site.released("2.4.1")
        keyid = (await site("firmware", "key", "list", "-o", "json")).json()[0]["keyid"]
        await site.good("firmware", "key", "revoke", keyid)
        await site.good("deployment", "create", "press-1", "2.4.1")
        explained = await site("deployment", "explain", "press-1")
        assert "its signature is of a revoked key" in explained.out
        count = running.daemon.registry.get_sample_value
        await until(lambda: count("factoryd_ota_versions_refused", {"reason": "revoked_key"}) == 1)
        assert heard.heard == []


async def test_a_version_that_plain_sql_wrote_is_not_sent_unsigned(site: Site) -> None:
    async with commands(site.plant) as heard, site.plant.client() as device, site.plant.running(**site.settings):
        await device.publish(birth("press-1"), state("press-1", version="2.4.0", hardware=KIND))
        await site.plant.sql(
            "INSERT INTO ota_versions (version, firmware_url, status) VALUES ('9.9.9', 'https://evil.example/x', 'released')"
        )
        await site.good("deployment", "create", "press-1", "9.9.9")
        assert "the version is not signed" in (await site("deployment", "explain", "press-1")).out
        await site.released("2.4.1")
        await site.good("deployment", "create", "press-1", "2.4.1")
        (command,) = await heard.until(1)
        assert command["version"] == "2.4.1"
