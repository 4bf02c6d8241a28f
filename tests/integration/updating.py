"""What the tests of the reference device share: firmware, signed commands, and a device under observation."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiomqtt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ota.manifest import build
from ota.signing import sign
from simulator.artifact_server import ArtifactServer, serving
from simulator.connection import Broker
from simulator.ota_device import Habits, OtaDevice
from simulator.ota_faults import Faults
from simulator.ota_manifest import PAYLOAD_TYPE, pre_authentication_encoding
from tests.integration.simulating import ROOT, Mosquitto, Observer, observing
from tests.unit.firmware import END as SIGNED_UNTIL
from tests.unit.firmware import NOW, VERSION

NAME = "press-01"
HARDWARE = "gw/c"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
FIRMWARE = bytes(range(256)) * 400
HABITS = Habits(chunk_bytes=16_384, reconnect_max_s=0.05)
END = "2036-01-01T00:00:00Z"


def manifest(version: str = "2.0.0", seq: int = 1, content: bytes = FIRMWARE, **more: Any) -> dict[str, Any]:
    facts = {"spec": 1, "seq": seq, "version": version, "hardware": [HARDWARE], "size": len(content)}
    return facts | {"sha256": hashlib.sha256(content).hexdigest(), "format": "raw", "expires_at": END} | more


def released(url: str, version: str = "2.0.0") -> dict[str, Any]:
    """Returns the columns of a released version, signed with our key."""
    size, sha256 = len(FIRMWARE), hashlib.sha256(FIRMWARE).hexdigest()
    facts = VERSION._replace(version=version, min_version=None, size_bytes=size, sha256=sha256, hardware=[HARDWARE])
    proof = build(facts, 1, NOW, SIGNED_UNTIL)
    named = {"version": version, "firmware_url": url, "status": "released", "hardware": [HARDWARE]}
    signed = {"manifest": proof, "manifest_seq": 1, "signatures": json.dumps([sign(KEY, proof)]), "expires_at": SIGNED_UNTIL}
    return named | {"size_bytes": size, "sha256": sha256} | signed


def envelope(signed: dict[str, Any], key: Ed25519PrivateKey = KEY, kind: str = PAYLOAD_TYPE) -> dict[str, Any]:
    payload = json.dumps(signed).encode()
    signature = key.sign(pre_authentication_encoding(kind, payload))
    encoded = [base64.b64encode(each).decode() for each in (payload, signature)]
    return {"payloadType": kind, "payload": encoded[0], "signatures": [{"keyid": "k", "sig": encoded[1]}]}


def update(url: str, number: int = 7, attempt: int = 1, signed: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    facts = manifest() if signed is None else signed
    expires = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    body = {"v": 1, "type": "update", "device": NAME, "deployment_id": number, "attempt": attempt, "expires_at": expires}
    return body | {"version": facts["version"], "firmware_url": url, "manifest": envelope(facts)} | more


def cancel(number: int = 7, attempt: int = 1) -> dict[str, Any]:
    return {"v": 1, "type": "cancel", "device": NAME, "deployment_id": number, "attempt": attempt, "reason": "wrong line"}


@dataclass
class Bench:
    """One device, the file server, and somebody who plays the daemon."""

    broker: Mosquitto
    files: ArtifactServer
    folder: Path
    client: aiomqtt.Client
    seen: Observer
    faults: Faults = field(default_factory=Faults)
    habits: Habits = HABITS
    device: OtaDevice | None = None

    @property
    def url(self) -> str:
        return f"{self.files.url}/fw.bin"

    async def send(self, body: dict[str, Any]) -> None:
        await self.client.publish(f"{ROOT}/devices/{NAME}/ota/command", json.dumps(body), qos=1)

    @asynccontextmanager
    async def on(self) -> AsyncIterator[OtaDevice]:
        """The device, switched on, after its first words."""
        heard = len(self.states())
        where = Broker("127.0.0.1", self.broker.port, root=ROOT, timeout_s=5.0)
        self.device = OtaDevice(NAME, HARDWARE, where, self.folder / "device", (PUBLIC,), self.faults, self.habits)
        task = asyncio.create_task(self.device.run())
        try:
            await self.seen.until(lambda: len(self.states()) > heard and "online" in self.seen.statuses(NAME))
            yield self.device
        finally:
            task.cancel()
            (ended,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(ended, Exception):
                raise ended

    def states(self) -> list[dict[str, Any]]:
        return [json.loads(each) for each in self.seen.payloads(NAME, "ota/state")]

    def ended(self, name: str) -> str | None:
        """How the last update of a device has ended, as its state says."""
        last = json.loads(self.seen.payloads(name, "ota/state")[-1]).get("last")
        return str(last["outcome"]) if last is not None else None

    def reports(self) -> list[dict[str, Any]]:
        return [json.loads(each) for each in self.seen.payloads(NAME, "ota/progress")]

    def phases(self) -> list[str]:
        """Each phase once, in the order in which it was first reported."""
        return list(dict.fromkeys(each["phase"] for each in self.reports()))

    async def until(self, phase: str, count: int = 1) -> dict[str, Any]:
        """Waits for so many reports of a phase, and returns the last of them."""
        try:
            await self.seen.until(lambda: [each["phase"] for each in self.reports()].count(phase) >= count, 10)
        except TimeoutError:
            raise AssertionError(f"no {phase} among {self.reports()}; {self.states()}") from None
        return [each for each in self.reports() if each["phase"] == phase][-1]


@contextmanager
def firmware_server(folder: Path, content: bytes = FIRMWARE) -> Iterator[ArtifactServer]:
    folder.mkdir()
    (folder / "fw.bin").write_bytes(content)
    with serving(folder) as server:
        yield server


@asynccontextmanager
async def bench(broker: Mosquitto, files: ArtifactServer, folder: Path) -> AsyncIterator[Bench]:
    async with (
        observing(broker) as seen,
        aiomqtt.Client("127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5) as client,
    ):
        yield Bench(broker, files, folder, client, seen)
