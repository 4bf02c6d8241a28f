"""Why a device has not been updated yet: the daemon's own reasons, asked for from outside."""

from dataclasses import dataclass
from datetime import datetime

from config.settings import Settings
from ota.candidates import REASONS, Candidate, why_waiting
from ota.catalogue import catalogue
from ota.rollouts import Rollouts
from storage.artifacts import Artifacts
from storage.database import open_pool
from storage.ota_outbox import CommandOutbox
from storage.ota_queue import Standing, WaitingTable
from storage.refusals import NotFound
from storage.rollout_engine import RolloutTables


@dataclass(frozen=True, slots=True)
class Explanation:
    """One deployment of the device, or none."""

    deployment_id: int | None
    version: str | None
    reason: str | None
    """A word for programs, if it waits for something."""
    text: str


async def explain_device(settings: Settings, device: str, now: datetime) -> list[Explanation]:
    """Returns a line for each live deployment of a device, or one about the last.

    Raises:
        NotFound: no such device.
        DatabaseUnavailable: try again.
    """
    ota = settings.ota
    async with open_pool(settings.database) as pool:
        versions, keys = await CommandOutbox(pool).versions()
        known = catalogue(
            versions,
            keys,
            allow_unsigned=ota.allow_unsigned,
            allowed_hosts=ota.allowed_hosts,
            address=Artifacts(ota).device_url,
            now=now,
        )
        _, closed = await Rollouts(RolloutTables(pool)).open(now)
        table = WaitingTable(pool)
        standing = await table.standing(device)
        if standing is None:
            raise NotFound(f"device {device} is not registered; factoryd device list shows all")
        waiting = {each.id: each for each in await table.waiting(device, now, known.refused, closed)}
    if not standing:
        return [Explanation(None, None, None, "there has never been a deployment: factoryd deployment create")]
    live = [each for each in standing if each.outcome is None] or standing[:1]
    return [_explained(each, waiting.get(each.id)) for each in live]


def _explained(standing: Standing, candidate: Candidate | None) -> Explanation:
    number, version = standing.id, standing.version
    if candidate is not None:
        reason = why_waiting(candidate)
        text = REASONS.get(reason, reason) if reason is not None else "it is its turn: sent within a second, if factoryd runs"
        return Explanation(number, version, reason, text)
    if standing.outcome is not None:
        trouble = f": {standing.error_message}" if standing.error_message else ""
        return Explanation(number, version, None, f"ended {standing.outcome}{trouble}; nothing is under way")
    percent = f", {standing.progress_percent} %" if standing.progress_percent else ""
    since = f" since {standing.phase_since:%Y-%m-%d %H:%M:%S}Z" if standing.phase_since is not None else ""
    unsent = "; the command waits for the broker" if standing.unsent else ""
    return Explanation(number, version, None, f"{standing.phase}{since}{percent}, attempt {standing.attempt}{unsent}")
