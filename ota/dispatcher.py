"""What is due: once a second, and when somebody has changed something, while we see the devices.

No timer lives in memory: every deadline is a column. Nothing fires before the backlog and the retained messages are drained
(`granted`), and the time in which we could not hear the devices is given back to them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

import structlog

from ota.candidates import Candidate, choose
from ota.deployment import WAITING, Deployment, Outcome, Status, Timeouts
from ota.draft import Draft, Kind
from ota.metrics import OtaMetrics
from ota.reduction import Loaded
from ota.timers import charge, expire, recall, remove, request_cancel, supersede
from ota.transitions import dispatch, succeed

log = structlog.get_logger(__name__)

LOOK_S = 1.0
SEE_S = 5.0
THOROUGH_S = 10.0
CHUNK = 200
ROUNDS = 50
"""Of one kind in one look; the others have their turn then."""


class Look(StrEnum):
    """Why a deployment is looked at."""

    DUE = "due"
    WAITED = "waited"
    CANCEL = "cancel"
    RECALLED = "recalled"
    RETIRED = "retired"


class DispatchStore(Protocol):
    """Where deployments are; raises ConnectionError for "try again"."""

    async def settle(self, look: Look, now: datetime, limit: int, decide: Callable[[Loaded], Draft]) -> tuple[int, Draft]:
        """Decides on what a look finds."""
        ...

    async def dispatch(self, deployment_ids: Sequence[int], decide: Callable[[Loaded], Draft]) -> Draft:
        """Decides on these, and on the others of the same devices."""
        ...

    async def see(self, now: datetime) -> None:
        """Notes that up to now we have heard the devices."""
        ...

    async def give_back(self, granted: datetime, decide: Callable[[Sequence[Deployment], timedelta], Draft]) -> timedelta:
        """Moves deadlines by our absence."""
        ...


class Dispatcher:
    """The clock of deployments."""

    def __init__(
        self,
        store: DispatchStore,
        candidates: Callable[[datetime], Awaitable[Sequence[Candidate]]],
        timeouts: Timeouts,
        *,
        granted: Callable[[], datetime | None],
        step_rollouts: Callable[[datetime], Awaitable[bool]],
        committed: Callable[[Draft], None],
        clock: Callable[[], datetime],
        metrics: OtaMetrics,
    ) -> None:
        self._store = store
        self._candidates = candidates
        self._timeouts = timeouts
        self._granted = granted
        self._step_rollouts = step_rollouts
        self._committed = committed
        self._clock = clock
        self._metrics = metrics
        self._since: datetime | None = None
        self._seen: datetime | None = None
        self._thorough_at: datetime | None = None
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Something has changed: look now."""
        self._woken.set()

    async def run(self) -> None:
        """Looks until cancelled."""
        failed = False
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._woken.wait()
            except TimeoutError:
                pass
            woken = self._woken.is_set()
            self._woken.clear()
            try:
                await self.look(woken)
                failed = False
            except ConnectionError as error:
                if not failed:
                    log.warning("deployments_not_looked_at", error=str(error))
                failed = True

    async def look(self, woken: bool = True) -> None:
        """One look at everything that is due; what is rare and dear to look for only if woken, or every ten seconds.

        Raises:
            ConnectionError: the database is away; what is committed is committed, the rest is looked at again.
        """
        granted = self._granted()
        if granted is None:
            self._since = None
            return
        now = self._clock()
        await self._see(granted, now)
        await self._settle(Look.DUE, now, lambda each: expire(each, now, self._timeouts), Kind.TIMEOUT)
        await self._settle(Look.CANCEL, now, lambda each: request_cancel(each, now, self._timeouts), Kind.OPERATOR)
        if woken or self._thorough_at is None or not 0 <= (now - self._thorough_at).total_seconds() < THOROUGH_S:
            self._thorough_at = now
            await self._settle(Look.WAITED, now, lambda each: expire(each, now, self._timeouts), Kind.TIMEOUT)
            await self._settle(Look.RECALLED, now, lambda each: recall(each, now, self._timeouts), Kind.OPERATOR)
            await self._settle(Look.RETIRED, now, lambda each: remove(each, now), Kind.OPERATOR)
        if await self._step_rollouts(now):
            self._woken.set()
        await self._dispatch(now)

    async def _see(self, granted: datetime, now: datetime) -> None:
        if self._since != granted:
            absence = await self._store.give_back(granted, lambda held, absence: _charged(held, absence, now, self._timeouts))
            self._metrics.recovery_seconds.set(absence.total_seconds())
            if absence.total_seconds() > 2 * SEE_S:
                log.info("absence_credited", seconds=round(absence.total_seconds(), 1))
            self._since = self._seen = granted
        if self._seen is None or (now - self._seen).total_seconds() >= SEE_S:
            await self._store.see(now)
            self._seen = now

    async def _settle(self, look: Look, now: datetime, move: Callable[[Deployment], Deployment], kind: Kind) -> None:
        def decide(loaded: Loaded) -> Draft:
            draft = Draft()
            for deployment in loaded.deployments.values():
                draft.move(deployment, move(deployment), kind, now, look.value)
            draft.end_states(dict(loaded.states))
            return draft

        for _ in range(ROUNDS):
            count, draft = await self._store.settle(look, now, CHUNK, decide)
            self._note(draft)
            if count < CHUNK:
                return

    async def _dispatch(self, now: datetime) -> None:
        chosen = choose(await self._candidates(now))
        for first in range(0, len(chosen), CHUNK):
            numbers = [candidate.id for candidate in chosen[first : first + CHUNK]]
            self._note(await self._store.dispatch(numbers, lambda loaded: dispatched(loaded, numbers, now, self._timeouts)))  # noqa: B023

    def _note(self, draft: Draft) -> None:
        if draft.moves:
            self._metrics.note(draft)
            self._committed(draft)


def dispatched(loaded: Loaded, numbers: Sequence[int], now: datetime, timeouts: Timeouts) -> Draft:
    """PURE. Returns the first commands of these deployments; what else waits for the same devices gives way."""
    draft = Draft()
    for number in numbers:
        deployment = loaded.deployments.get(number)
        if deployment is None or deployment.phase not in WAITING or deployment.cancel_requested_at is not None:
            continue  # somebody was quicker
        rivals = [each for each in loaded.deployments.values() if each.device_id == deployment.device_id and each.id != number]
        if any(each.status is Status.IN_PROGRESS for each in rivals):
            continue
        for rival in rivals:
            if rival.id < number or rival.holds_device:
                draft.move(rival, supersede(rival, now, deployment.version), Kind.DISPATCH, now, "superseded")
        state = loaded.states.get(deployment.device_id)
        if state is not None and state.version == deployment.version:
            after = succeed(deployment, Outcome.ALREADY_INSTALLED, now, state.version)
        else:
            after = dispatch(deployment, now, timeouts, state.version if state is not None else None)
        draft.move(deployment, after, Kind.DISPATCH, now, after.outcome or "sent")
    draft.end_states(dict(loaded.states))
    return draft


def _charged(held: Sequence[Deployment], absence: timedelta, now: datetime, timeouts: Timeouts) -> Draft:
    draft = Draft()
    for deployment in held:
        draft.move(deployment, charge(deployment, absence, now, timeouts), Kind.TIMEOUT, now, "absence")
    return draft
