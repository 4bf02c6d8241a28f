"""Rollouts, a step at a time: the dispatcher asks once a second what has become of them, and who may send.

Nothing is kept here: what holds is in the database, and two processes that step at once get in nobody's way.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

import structlog

from ota.candidates import OpenRollout
from ota.rollout import Rollout, Sending
from ota.rollout_metrics import RolloutMetrics
from ota.rollout_steps import advance
from ota.windows import BadWindow, read_windows

log = structlog.get_logger(__name__)


class Stepped(NamedTuple):
    """A rollout before and after a step that is committed."""

    before: Rollout
    after: Rollout

    @property
    def changed(self) -> bool:
        """True: more than numbers."""
        return _standing(self.before) != _standing(self.after)


class RolloutStore(Protocol):
    """Where rollouts are; raises ConnectionError for "try again"."""

    async def live(self) -> Sequence[int]:
        """Returns the numbers of those that are not over."""
        ...

    async def step(self, number: int, now: datetime, decide: Callable[[Rollout], Rollout]) -> Stepped | None:
        """Decides on a rollout; None: somebody else is at it, or it is over."""
        ...

    async def sending(self, now: datetime) -> Sequence[Sending]:
        """Returns those that are under way."""
        ...


class Rollouts:
    """All rollouts that are not over."""

    def __init__(self, store: RolloutStore, metrics: RolloutMetrics | None = None) -> None:
        self._store = store
        self._metrics = metrics

    async def step(self, now: datetime) -> bool:
        """Takes each rollout on by one step; returns True if something has changed: look again.

        Raises:
            ConnectionError: what is committed is committed, the rest has its turn with the next look.
        """
        steps = []
        for number in await self._store.live():
            stepped = await self._store.step(number, now, lambda rollout: advance(rollout, now))
            if stepped is not None:
                steps.append(stepped)
                self._tell(stepped)
        if self._metrics is not None:
            self._metrics.standing([stepped.after for stepped in steps])
        return any(stepped.changed for stepped in steps)

    async def open(self, now: datetime) -> tuple[list[OpenRollout], dict[int, str]]:
        """Returns the rollouts that may send now, and by number why the others may not: window, slot or rate.

        Raises:
            ConnectionError: try again.
        """
        sending = await self._store.sending(now)
        opened, closed = list[OpenRollout](), dict[int, str]()
        for rollout in sending:
            free, reason = room(rollout, now)
            if reason is None:
                opened.append(OpenRollout(rollout.id, free))
            else:
                closed[rollout.id] = reason
        if self._metrics is not None:
            self._metrics.sending(sending, closed)
        return opened, closed

    def _tell(self, stepped: Stepped) -> None:
        before, after = stepped
        if self._metrics is not None:
            self._metrics.decided(before, after)
        if not stepped.changed:
            return
        stage = before.current
        decision = after.stages[stage.stage_no].decision if stage is not None else None
        log.info(
            "rollout_stepped",
            rollout=after.id,
            name=after.name,
            status=after.status.value,
            stage=after.current.name if after.current is not None else None,
            decision=decision.reason if decision is not None else None,
            reason=after.pause_reason,
        )


def room(rollout: Sending, now: datetime) -> tuple[int | None, str | None]:
    """PURE. Returns to how many devices a rollout may send (None: any number), and what forbids it if to none."""
    if rollout.window is not None and not _is_open(rollout.window, now):
        return 0, "window"
    slots = None if rollout.max_in_progress is None else rollout.max_in_progress - rollout.in_progress
    if slots is not None and slots <= 0:
        return 0, "slot"
    tokens = None if rollout.max_per_minute is None else rollout.max_per_minute - rollout.sent
    if tokens is not None and tokens <= 0:
        return 0, "rate"
    return min((each for each in (slots, tokens) if each is not None), default=None), None


def _is_open(window: str, now: datetime) -> bool:
    """A window that plain SQL has written and that nobody can read is never open."""
    try:
        return read_windows(window).is_open(now)
    except BadWindow:
        return False


def _standing(rollout: Rollout) -> object:
    return rollout.status, [(stage.status, stage.started_at) for stage in rollout.stages]
