"""PURE. What a device does about a command: read it, check it in the guide's order, and say why (docs/ota-device-guide.md).

Order of the checks on `update`: size of the message, addressee, attempt, expiry, one at a time, then the manifest: signature,
payload type, spec, hardware, expiry, sequence, downgrade, least version, and that the command's version is the signed one. The
attempt comes before the expiry: a late copy of what is accepted already must not end it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from hashlib import sha256
from typing import NamedTuple

import msgspec

from simulator.ota_manifest import Envelope, Manifest, ManifestRefused, Moment, open_envelope
from simulator.ota_memory import DeploymentId, Memory, Order
from simulator.ota_versions import is_older

MOST_COMMAND_BYTES = 16_384
COMMITTED = frozenset({"installed", "rebooting", "confirming"})
"""The next boot is the new firmware's: nothing can be called back."""


class Update(msgspec.Struct, frozen=True, tag_field="type", tag="update"):
    """Install this."""

    deployment_id: DeploymentId
    attempt: int
    version: str
    firmware_url: str
    device: str | None = None
    url_expires_at: Moment | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    expires_at: Moment | None = None
    manifest: Envelope | None = None

    @property
    def digest(self) -> str:
        """Says what is to be installed; equal in a re-sent command, whatever its URL."""
        plain = f"{self.version}\n{self.size_bytes}\n{self.sha256}"
        return sha256((self.manifest.payload if self.manifest is not None else plain).encode()).hexdigest()


class Cancel(msgspec.Struct, frozen=True, tag_field="type", tag="cancel"):
    """Stop this."""

    deployment_id: DeploymentId
    attempt: int
    device: str | None = None
    reason: str | None = None


class Query(msgspec.Struct, frozen=True, tag_field="type", tag="query"):
    """Say how you are."""

    device: str | None = None


Command = Update | Cancel | Query


class Verb(Enum):
    """What to do."""

    ACCEPT = "accept"
    """Begin the order."""
    ADOPT = "adopt"
    """Go on, under the order's new attempt and URL."""
    ALREADY = "already"
    """It runs: report success, install nothing."""
    REPEAT = "repeat"
    """Say again what is so; do nothing else."""
    REFUSE = "refuse"
    STOP = "stop"
    """Cancel the update in work at its next check."""
    NOTHING_TO_STOP = "nothing to stop"
    TOO_LATE = "too late"
    IGNORE = "ignore"
    """There is nobody to answer."""


class Decision(NamedTuple):
    """What to do, and why."""

    verb: Verb
    reason: str
    error_code: str | None = None
    order: Order | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What a device is."""

    device: str
    hardware: str
    version: str
    """Running now."""
    slot_bytes: int = 64 * 1024 * 1024
    trusted_keys: Sequence[bytes] = ()
    """Raw ed25519 public keys; a device that has any takes nothing unsigned."""


def read_command(payload: bytes) -> Command | None:
    """Returns the command, or None: too large, or none that we know. Unknown fields are ignored, so that commands can grow."""
    if len(payload) > MOST_COMMAND_BYTES:
        return None
    try:
        command: Command = msgspec.json.decode(payload, type=Command)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    return command


def decide(command: Command | None, memory: Memory, facts: Facts, now: datetime | None) -> Decision:
    """Returns what to do about a command.

    Args:
        command: as read.
        memory: what the device knows.
        facts: what the device is.
        now: None: the device has no clock that it trusts, and skips expiry.
    """
    match command:
        case None:
            return Decision(Verb.IGNORE, "no command that this device knows")
        case Update():
            return _on_update(command, memory, facts, now)
        case _ if command.device not in {None, facts.device}:
            return Decision(Verb.IGNORE, f"addressed to {command.device}")
        case Query():
            return Decision(Verb.REPEAT, "asked")
        case Cancel():
            return _on_cancel(command, memory)


def _on_cancel(cancel: Cancel, memory: Memory) -> Decision:
    active = memory.active
    if active is None or active.deployment_id != cancel.deployment_id:
        if memory.last is not None and memory.last.deployment_id == cancel.deployment_id:
            return Decision(Verb.REPEAT, "it has ended already")
        return Decision(Verb.NOTHING_TO_STOP, "this device does not work on it")
    if cancel.attempt < active.attempt:
        return Decision(Verb.REPEAT, f"attempt {cancel.attempt} is over, this is {active.attempt}")
    if active.phase in COMMITTED:
        return Decision(Verb.TOO_LATE, f"already {active.phase}")
    return Decision(Verb.STOP, cancel.reason or "cancelled")


def _on_update(update: Update, memory: Memory, facts: Facts, now: datetime | None) -> Decision:
    if update.device not in {None, facts.device}:
        return _refuse("wrong_device", f"addressed to {update.device}")
    known = _on_known(update, memory)
    if known is not None and known.verb is Verb.REPEAT:
        return known
    if now is not None and update.expires_at is not None and update.expires_at <= now:
        return _refuse("command_expired", f"expired at {update.expires_at.isoformat()}")
    if known is not None:
        return known
    if memory.active is not None:
        return _refuse("busy_with_other", f"deployment {memory.active.deployment_id} is in work")
    try:
        manifest = _manifest(update, facts)
    except ManifestRefused as error:
        return _refuse(error.code, str(error))
    unfit = _unfit(update, manifest, memory, facts, now) if manifest is not None else None
    order = _order(update, manifest)
    if unfit is None and order.size is not None and order.size > facts.slot_bytes:
        return _refuse("no_space", f"{order.size} bytes; a slot holds {facts.slot_bytes}")
    if unfit is None and update.version == facts.version:
        return Decision(Verb.ALREADY, f"{facts.version} runs already", order=order)
    return unfit or Decision(Verb.ACCEPT, "all checks passed", order=order)


def _on_known(update: Update, memory: Memory) -> Decision | None:
    """The fence: what an attempt that is not newer, or is newer of the same firmware, is worth."""
    stored = memory.attempt_of(update.deployment_id)
    if stored is None or update.attempt < 1:
        return None if update.attempt >= 1 else Decision(Verb.REPEAT, "attempts count from 1")
    active = memory.active
    same = active is not None and active.deployment_id == update.deployment_id and active.digest == update.digest
    if update.attempt > stored:
        return Decision(Verb.ADOPT, f"attempt {update.attempt} of the same firmware", order=_order(update)) if same else None
    if same and active is not None and active.needs_url and update.attempt == stored and update.firmware_url != active.url:
        return Decision(Verb.ADOPT, "a fresh URL", order=_order(update))
    return Decision(Verb.REPEAT, f"attempt {update.attempt} is not newer than {stored}")


def _manifest(update: Update, facts: Facts) -> Manifest | None:
    if update.manifest is None and facts.trusted_keys:
        raise ManifestRefused("signature_invalid", "this device takes signed firmware only")
    return open_envelope(update.manifest, facts.trusted_keys) if update.manifest is not None else None


def _unfit(update: Update, manifest: Manifest, memory: Memory, facts: Facts, now: datetime | None) -> Decision | None:
    if facts.hardware not in manifest.hardware:
        return _refuse("wrong_hardware", f"made for {', '.join(manifest.hardware)[:200]}, this is {facts.hardware}")
    if now is not None and manifest.expires_at is not None and manifest.expires_at <= now:
        return _refuse("manifest_expired", f"the manifest expired at {manifest.expires_at.isoformat()}")
    same = update.digest == memory.manifest_digest
    if manifest.seq < memory.manifest_seq or (manifest.seq == memory.manifest_seq and not same):
        return _refuse("sequence_too_old", f"manifest {manifest.seq}; {memory.manifest_seq} has been installed")
    if not manifest.downgrade and is_older(manifest.version, facts.version):
        return _refuse("sequence_too_old", f"{manifest.version} is older than {facts.version}, and not meant as a downgrade")
    if manifest.min_version is not None and is_older(facts.version, manifest.min_version):
        return _refuse("min_version", f"needs {manifest.min_version} first, this is {facts.version}")
    if manifest.version != update.version:
        return _refuse("signature_invalid", f"the command says {update.version}, signed is {manifest.version}")
    return None


def _order(update: Update, manifest: Manifest | None = None) -> Order:
    """What is signed wins over what the command says beside it."""
    return Order(
        deployment_id=update.deployment_id,
        attempt=update.attempt,
        version=update.version,
        url=update.firmware_url,
        digest=update.digest,
        url_expires_at=update.url_expires_at.isoformat() if update.url_expires_at is not None else None,
        size=manifest.size if manifest is not None else update.size_bytes,
        sha256=(manifest.sha256 if manifest is not None else update.sha256 or "").lower() or None,
        manifest_seq=manifest.seq if manifest is not None else None,
    )


def _refuse(error_code: str, reason: str) -> Decision:
    return Decision(Verb.REFUSE, reason, error_code)
