"""PURE. Step 4 of a reading's walk: a batch's readings against the thresholds. No await, no I/O; the draft is committed with
the readings, and only then adopted.

Evaluation time is min(recorded_at, received_at): a clock that is ahead cannot blind us when it is put right. A reading older
than the last evaluated one of its device is late: it never moves live state; its time is noted, and `alerting.late` looks at
that part of the past again.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import cast

from msgspec.structs import replace

from alerting.alert import THRESHOLD, Rule
from alerting.book import Book, Snapshot
from alerting.draft import Draft
from alerting.rules import Phase, RuleState, Step, advance
from alerting.watches import NEVER, Channel, Watch
from ingest.reading import Reading

SETTLED = timedelta(seconds=2)
"""A latent alert that our own absence delayed is raised when nothing newer has come for this long."""
LAST_VALUE_GOOD = timedelta(hours=24)
"""How old a last known value may be that a new or changed threshold is held against."""

LastValues = Mapping[tuple[int, str], tuple[float, datetime]]
"""By device and metric: the last known value and its evaluation time."""


class Monitor:
    """Evaluates readings; owns what is watched."""

    def __init__(self, book: Book, late_after_s: float) -> None:
        self.book = book
        self._late_after = timedelta(seconds=late_after_s)
        self.watches: dict[int, Watch] = {}
        self.listened: dict[int, Watch] = {}
        """Those with a metric whose silence is told of."""
        self.blind_from: datetime | None = None
        """We, or the broker, were away from then …"""
        self.blind_to: datetime | None = None
        """… to then (None: still): what was recorded in between is late through no fault of its device."""
        self._latent: dict[int, datetime] = {}
        """Rules with a latent alert from that time: when they were heard last, by our clock."""

    def evaluate(self, readings: Iterable[Reading]) -> Draft:
        """Returns what these readings change: stored by the same transaction, in order of arrival, no duplicates.

        Raises:
            OutOfNumbers: fetch numbers for new alerts, and call again.
        """
        draft, watches = Draft(self.book), self.watches
        marks, touched, moved = draft.marks, set[int](), set[Channel]()
        if not watches:
            return draft
        # Exact tuples, unpacked at once, and one expression: this runs for every reading, and nearly always stops there.
        for reading in cast("Iterable[Reading]", map(tuple, readings)):
            device_id, a, b, c, d, e, f, recorded_at, received_at, extra = reading
            watch = watches.get(device_id)
            if watch is None:
                continue
            at = recorded_at if recorded_at <= received_at else received_at
            if at < marks.get(device_id, watch.at):
                draft.note_late(device_id, recorded_at, recorded_at)
                continue
            marks[device_id] = at
            a0, a1, b0, b1, c0, c1, d0, d1, e0, e1, f0, f1 = watch.limits
            if (
                (a is None or a0 <= a <= a1)
                and (b is None or b0 <= b <= b1)
                and (c is None or c0 <= c <= c1)
                and (d is None or d0 <= d <= d1)
                and (e is None or e0 <= e <= e1)
                and (f is None or f0 <= f <= f1)
                and (extra is None or not watch.extras)
                and (not touched or device_id not in touched)
            ):
                continue
            touched.add(device_id)
            for channel in watch.channels.values():
                value = _value(reading, channel)
                if value is None:
                    continue
                if not channel.low <= value <= channel.high or channel in moved:
                    channel.heard = received_at
                    moved.add(channel)
                    self._sample(draft, channel, at, value, received_at)
        return draft

    def adopt(self, draft: Draft, now: datetime) -> None:
        """Takes a committed draft as the truth."""
        book = self.book
        if draft.snapshot is not None:
            book.snapshot = draft.snapshot
        book.states.update(draft.states)
        book.keep(draft.alerts.values())
        if draft.taken:
            del book.ids[: draft.taken]
        if draft.snapshot is not None:
            self._watch(draft.snapshot, now)
        for device_id, at in draft.marks.items():
            if (watch := self.watches.get(device_id)) is not None:
                watch.at = at
        rules = book.snapshot.rules
        for device_id in {rules[number].device_id for number in draft.states if number in rules}:
            if (its_watch := self.watches.get(device_id)) is not None:
                its_watch.settle(book.states)
        self._latent = {number: heard for number, heard in self._latent.items() if book.state(number).latent}

    def restore(self, snapshot: Snapshot, marks: Mapping[int, datetime], now: datetime) -> None:
        """Takes what was loaded before CONNECT; the book has states and open alerts already."""
        self.book.snapshot = snapshot
        self._watch(snapshot, now)
        for device_id, at in marks.items():
            if (watch := self.watches.get(device_id)) is not None:
                watch.at = at
                for channel in watch.channels.values():
                    channel.heard = at
        for threshold_id, state in self.book.states.items():
            if state.latent:
                self._latent[threshold_id] = NEVER

    def changed_rules(self, snapshot: Snapshot, since: Iterable[int] = ()) -> list[Rule]:
        """Returns rules that are new or whose condition is, and those in `since`: their last known value is needed."""
        old, forced = self.book.snapshot.rules, set(since)
        return [
            rule
            for number, rule in snapshot.rules.items()
            if number in forced or number not in old or (old[number] != rule and old[number].condition != rule.condition)
        ]

    def change_rules(self, snapshot: Snapshot, changed: Sequence[Rule], last: LastValues, now: datetime) -> Draft:
        """Returns what other thresholds change: pending begins anew, active stays and is held against the last known value."""
        draft = Draft(self.book, snapshot=snapshot)
        for (device_id, _), (_, at) in last.items():
            if device_id not in self.watches:
                draft.marks[device_id] = max(at, draft.marks.get(device_id, at))
        for alert in sorted(draft.open_alerts(), key=lambda alert: alert.severity.rank):
            rule = snapshot.rules.get(alert.threshold_id) if alert.threshold_id is not None else None
            place = snapshot.places.get(alert.device_id)
            if place is not None and place.retired:
                draft.resolve(alert, "device_retired", now)
            elif alert.kind == THRESHOLD and rule is None and alert.threshold_id is not None:
                disabled = alert.threshold_id in snapshot.disabled
                draft.resolve(alert, "threshold_disabled" if disabled else "threshold_deleted", now)
            elif rule is not None and (rule.severity, rule.low, rule.high) != (
                alert.severity,
                alert.min_value,
                alert.max_value,
            ):
                worse = rule.severity.rank > alert.severity.rank
                draft.change(
                    alert, "changed", now, event=worse, severity=rule.severity, min_value=rule.low, max_value=rule.high
                )
        for number, state in self.book.states.items():
            if state.phase is not Phase.NORMAL and number not in snapshot.rules:
                draft.states[number] = replace(state, phase=Phase.NORMAL, since=None, peak=None, side=None, latent=False)
        for rule in sorted(changed, key=lambda rule: -rule.severity.rank):
            self._hold_against(draft, rule, last.get((rule.device_id, rule.metric)), now)
        return draft

    def _hold_against(self, draft: Draft, rule: Rule, last: tuple[float, datetime] | None, now: datetime) -> None:
        state = draft.state(rule.threshold_id)
        if state.phase is Phase.PENDING:
            state = draft.states[rule.threshold_id] = replace(state, phase=Phase.NORMAL, since=None, side=None)
        elif state.phase is Phase.RECOVERING:
            state = draft.states[rule.threshold_id] = replace(state, phase=Phase.ACTIVE, since=None)
        value, at = last if last is not None else (None, NEVER)
        if state.raised and state.value is not None and state.at is not None and state.at >= at:
            value, at = state.value, state.at
        if value is not None and now - at <= LAST_VALUE_GOOD:
            self._apply(draft, [rule], max(now, at), value, fresh=True)

    def settle_latent(self, now: datetime) -> Draft:
        """Raises what our own absence delayed, once nothing newer has come for a while: it is still true."""
        draft = Draft(self.book)
        for number, heard in self._latent.items():
            rule, state = self.book.snapshot.rules.get(number), self.book.state(number)
            if rule is not None and state.phase is Phase.ACTIVE and state.value is not None and now - heard >= SETTLED:
                at = state.at or now
                self._apply(draft, [rule], at, state.value, fresh=True)
        return draft

    def end_rule(self, draft: Draft, threshold_id: int, at: datetime) -> None:
        """An alert was resolved by hand: the rule is at normal; the next breach raises anew."""
        state = draft.state(threshold_id)
        if state.phase is not Phase.NORMAL:
            ended = replace(state, phase=Phase.NORMAL, since=None, peak=None, side=None, crossed_at=None, flapping=False)
            draft.states[threshold_id] = replace(ended, at=state.at or at, latent=False)

    def _watch(self, snapshot: Snapshot, now: datetime) -> None:
        by_device: dict[int, list[Rule]] = {}
        for rule in snapshot.rules.values():
            by_device.setdefault(rule.device_id, []).append(rule)
        self.watches = {number: self.watches.get(number) or Watch(number) for number in by_device}
        for number, rules in by_device.items():
            watch = self.watches[number]
            if watch.set_rules(rules, now):
                watch.settle(self.book.states)
        self.listened = {number: watch for number, watch in self.watches.items() if watch.listened}

    def _sample(self, draft: Draft, channel: Channel, at: datetime, value: float, received_at: datetime) -> None:
        fresh = received_at - at <= self._late_after
        self._apply(draft, channel.rules, at, value, fresh=fresh)
        if fresh:
            return
        for rule in channel.rules:
            if draft.state(rule.threshold_id).latent and self._was_blind_at(at):
                self._latent[rule.threshold_id] = received_at

    def _apply(self, draft: Draft, rules: Sequence[Rule], at: datetime, value: float, *, fresh: bool) -> None:
        """Gives one sample to all rules of a metric, the worst first: a raise silences what is less severe from the start.

        What resolves does so before, the least severe first: nothing speaks up for the moment in which all end.
        """
        moves = [(rule, draft.state(rule.threshold_id)) for rule in rules]
        taken = [(rule, before, *advance(rule, before, at, value, fresh=fresh)) for rule, before in moves]
        for rule, before, after, step in reversed(taken):
            if step is Step.RESOLVE:
                self._move(draft, rule, before, after, step, at, value)
        for rule, before, after, step in taken:
            if step is not Step.RESOLVE:
                self._move(draft, rule, before, after, step, at, value)

    def _move(
        self, draft: Draft, rule: Rule, before: RuleState, after: RuleState, step: Step | None, at: datetime, value: float
    ) -> None:
        if after is not before:
            draft.states[rule.threshold_id] = after
        if step is Step.RAISE:
            draft.raise_crossing(rule, after, value, at)
            return
        if step is Step.PASSED:
            draft.note_late(rule.device_id, before.crossed_at or at, at)
        if before.phase is Phase.NORMAL or before.latent:
            return
        alert = draft.alert_of((rule.device_id, THRESHOLD, rule.threshold_id))
        if alert is None:
            return
        if step is Step.RESOLVE:
            draft.resolve(alert, "recovered", at, value=value, peak_value=before.peak)
        elif step is Step.FLAP:
            draft.change(alert, "flapping", at, event=True, flapping=True, value=value, peak_value=before.peak)
        elif alert.stale:
            draft.change(alert, "heard", at, event=False, stale=False, value=value, peak_value=after.peak)
        elif after.side is not None and after.side is not alert.side:
            draft.change(alert, "side", at, event=False, side=after.side, value=value, peak_value=after.peak)

    def _was_blind_at(self, at: datetime) -> bool:
        if self.blind_from is None or at < self.blind_from - self._late_after:
            return False
        return self.blind_to is None or at <= self.blind_to


def _value(reading: Reading, channel: Channel) -> float | None:
    if channel.place:
        return reading[channel.place]  # type: ignore[return-value]
    value = None if reading[9] is None else reading[9].get(channel.metric)
    return None if value is None or isinstance(value, str) else float(value)


def is_durable_change(before: RuleState, after: RuleState, rule: Rule | None) -> bool:
    """Tells whether a state must be written: the last sample alone matters only where gaps count."""
    if rule is not None and rule.max_gap is not None and after.phase in {Phase.PENDING, Phase.RECOVERING}:
        return before != after
    return replace(before, at=None, value=None) != replace(after, at=None, value=None)
