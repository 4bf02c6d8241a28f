"""What a device still knows after a power cut: one small file, replaced as a whole.

A fact is written before anybody hears of it: before a command is acknowledged, and before a message with its number leaves.
"""

import os
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

DeploymentId = int | str
ATTEMPTS_KEPT = 16
"""Deployments whose last attempt is remembered against replays."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """The update in work."""

    deployment_id: DeploymentId
    attempt: int
    version: str
    url: str
    digest: str
    """Says what is to be installed: of the manifest, or of the plain command's facts."""
    url_expires_at: str | None = None
    size: int | None = None
    sha256: str | None = None
    manifest_seq: int | None = None
    phase: str = "acknowledged"
    percent: int = 0
    needs_url: bool = False
    cancelled: bool = False
    """Somebody has asked to stop."""
    failure: str | None = None
    """Why the new firmware has given itself up, for the old one to report."""


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How the last update ended: its terminal report, repeated at every boot until a new command comes."""

    deployment_id: DeploymentId
    attempt: int
    outcome: str
    phase: str
    """Where it stood when it ended."""
    percent: int
    error_code: str | None = None
    error_message: str | None = None
    told: bool = False
    """The broker has the report."""


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    seq: int = 0
    """Of the last message. It never falls, not even with a new attempt: so there is nothing to reset at the wrong moment."""
    attempts: dict[str, int] = {}
    """The newest attempt by deployment, oldest first."""
    manifest_seq: int = 0
    """Of the last committed update; never falls."""
    manifest_digest: str | None = None
    download_digest: str | None = None
    """Whose bytes lie in the unfinished download."""
    active: Order | None = None
    last: Ended | None = None

    def attempt_of(self, deployment_id: DeploymentId) -> int | None:
        """Returns the newest attempt seen of a deployment, or None."""
        return self.attempts.get(str(deployment_id))


def with_attempt(memory: Memory, deployment_id: DeploymentId, attempt: int) -> dict[str, int]:
    """Returns the remembered attempts with one more; the oldest deployment goes."""
    others = {key: value for key, value in memory.attempts.items() if key != str(deployment_id)}
    kept = list(others.items())[-(ATTEMPTS_KEPT - 1) :]
    return {**dict(kept), str(deployment_id): attempt}


def write_whole(path: Path, content: bytes) -> None:
    """Replaces a file at once; a real device also syncs it, which a simulated power cut does not need."""
    beside = path.with_suffix(".new")
    beside.write_bytes(content)
    os.replace(beside, path)  # noqa: PTH105 - the shortest name of what happens


class Notebook:
    """The memory of one device, read at boot."""

    def __init__(self, folder: Path) -> None:
        """Reads what is in the folder; makes it if there is none."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "memory.json"
        self.memory = msgspec.json.decode(self._path.read_bytes(), type=Memory) if self._path.exists() else Memory()

    def change(self, **fields: Any) -> None:
        """Sets fields of the memory, on disk when this returns."""
        self.memory = replace(self.memory, **fields)
        write_whole(self._path, msgspec.json.encode(self.memory))

    def change_order(self, **fields: Any) -> None:
        """Sets fields of the update in work."""
        assert self.memory.active is not None, "there is an update in work"
        self.change(active=replace(self.memory.active, **fields))

    def next_seq(self) -> int:
        """Takes the next message number."""
        self.change(seq=self.memory.seq + 1)
        return self.memory.seq
