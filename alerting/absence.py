"""PURE. Alerts about silence: a device that is offline, metrics that no longer come, alerts whose evidence has grown old.

One alert for a gateway, none for the devices behind it. Nothing is judged while we are blind, and after that every device and
metric is granted its whole time again. Times are ours, never a device's clock.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Protocol

from alerting.alert import NO_DATA, NO_DATA_METRIC, OFFLINE, OFFLINE_METRIC, THRESHOLD, Place, Severity
from alerting.draft import Draft
from alerting.monitor import Monitor
from alerting.watches import NEVER, Channel
from config.settings import AlertingSettings
from ingest.births import Status

ROUND = 200
"""Most open alerts that one look examines for stale evidence, in turn: ten thousand must not hold up the readings."""


class Presence(Protocol):
    """One device's presence."""

    @property
    def status(self) -> Status:
        """Online, offline or error."""
        ...

    @property
    def last_seen(self) -> datetime | None:
        """Our clock."""
        ...

    @property
    def reason(self) -> str | None:
        """Why it is offline."""
        ...


class Absence:
    """Remembers since when who is silent; the alerts themselves are in the book."""

    def __init__(self, settings: AlertingSettings, monitor: Monitor, presence: Callable[[], Mapping[int, Presence]]) -> None:
        self._settings = settings
        self._monitor = monitor
        self._presence = presence
        self._offline_since: dict[int, datetime] = {}
        self._round: list[int] = []
        """Open alerts whose evidence is still to be looked at in this round."""
        self.last_offline: dict[int, datetime] = {}
        """By device: when its last alert of this kind was raised; one per episode, also when it is resolved by hand."""
        self.last_no_data: dict[int, datetime] = {}

    def look(self, granted: datetime | None, now: datetime) -> Draft:
        """Judges silence.

        Args:
            granted: since when we see, without interruption; None: we are blind.
            now: aware UTC.

        Raises:
            OutOfNumbers: as `Draft`.
        """
        draft = Draft(self._monitor.book)
        self._end_shelving(draft, now)
        presence = self._presence()
        self._judge_offline(draft, presence, granted, now)
        for watch in self._monitor.listened.values():
            place = draft.context.places.get(watch.device_id)
            if place is not None:
                silent = [channel for channel in watch.channels.values() if self._is_silent(channel, granted, now)]
                self._judge_metrics(draft, presence, place, silent, granted, now)
        for alert in self._monitor.book.absences.values():
            if alert.kind == NO_DATA and alert.device_id not in self._monitor.listened:
                draft.resolve(alert, "threshold_deleted", now)
        if granted is not None:
            self._mark_stale(draft, granted, now)
        return draft

    def committed(self, draft: Draft) -> None:
        """Remembers which episodes have their alert."""
        for entry in draft.entries:
            if entry.change == "raised" and entry.alert.kind == OFFLINE:
                self.last_offline[entry.alert.device_id] = entry.alert.triggered_at
            elif entry.change == "raised" and entry.alert.kind == NO_DATA:
                self.last_no_data[entry.alert.device_id] = entry.alert.triggered_at

    def _end_shelving(self, draft: Draft, now: datetime) -> None:
        for alert in self._monitor.book.shelved.values():
            if alert.shelved_until is not None and alert.shelved_until <= now:
                draft.release(alert, "unshelved", now)

    def _judge_offline(self, draft: Draft, presence: Mapping[int, Presence], granted: datetime | None, now: datetime) -> None:
        places = draft.context.places
        offline = [number for number, state in presence.items() if state.status is Status.OFFLINE]
        for alert in self._monitor.book.absences.values():
            if alert.kind == OFFLINE and (state := presence.get(alert.device_id)) and state.status is not Status.OFFLINE:
                draft.resolve(alert, "recovered", now)
        if self._offline_since:
            there = set(offline)
            self._offline_since = {number: since for number, since in self._offline_since.items() if number in there}
        if granted is None or self._settings.offline == "off":
            return
        for number in offline:
            place = places.get(number)
            if place is not None and not place.retired and draft.alert_of((number, OFFLINE, None)) is None:
                self._raise_offline(draft, presence, place, presence[number], granted, now)

    def _raise_offline(
        self, draft: Draft, presence: Mapping[int, Presence], place: Place, state: Presence, granted: datetime, now: datetime
    ) -> None:
        since = max(granted, self._offline_since.setdefault(place.id, now))
        if state.last_seen is None or (now - since).total_seconds() < self._settings.offline_delay_s:
            return
        if self.last_offline.get(place.id, NEVER) > state.last_seen or self._gateway_is_offline(draft, presence, place):
            return
        what = f"is offline ({state.reason})" if state.reason else "is offline"
        draft.raise_absence(place, OFFLINE, OFFLINE_METRIC, Severity(self._settings.offline), what, now)

    def _is_silent(self, channel: Channel, granted: datetime | None, now: datetime) -> bool:
        allowed_s = min((rule.no_data_s for rule in channel.rules if rule.no_data_s is not None), default=None)
        return allowed_s is not None and self._silence_s(channel, granted, now) > allowed_s

    def _silence_s(self, channel: Channel, granted: datetime | None, now: datetime) -> float:
        return (now - max(channel.heard, granted or now, channel.since)).total_seconds()

    def _judge_metrics(
        self,
        draft: Draft,
        presence: Mapping[int, Presence],
        place: Place,
        silent: list[Channel],
        granted: datetime | None,
        now: datetime,
    ) -> None:
        alert = draft.alert_of((place.id, NO_DATA, None))
        if not silent:
            if alert is not None and granted is not None and self._all_heard(place, alert.triggered_at):
                draft.resolve(alert, "recovered", now)
            return
        if alert is not None or granted is None:
            return
        heard = max(channel.heard for channel in silent)
        state = presence.get(place.id)
        is_offline = state is not None and state.status is Status.OFFLINE
        if is_offline or self._gateway_is_offline(draft, presence, place) or self.last_no_data.get(place.id, NEVER) > heard:
            return
        rules = [rule for channel in silent for rule in channel.rules if rule.no_data_s is not None]
        worst = max(rules, key=lambda rule: rule.severity.rank)
        names = ", ".join(sorted(channel.metric for channel in silent))
        since = f" since {self._monitor.book.texts.time(heard)}" if heard > NEVER else ""
        draft.raise_absence(place, NO_DATA, NO_DATA_METRIC, worst.severity, f"no {names}{since}", now, worst.owner_id)

    def _all_heard(self, place: Place, since: datetime) -> bool:
        watch = self._monitor.watches.get(place.id)
        watched = [
            channel
            for channel in (watch.channels.values() if watch is not None else ())
            if any(rule.no_data_s is not None for rule in channel.rules)
        ]
        return all(channel.heard >= since for channel in watched) or not watched

    def _mark_stale(self, draft: Draft, granted: datetime, now: datetime) -> None:
        alerts = self._monitor.book.alerts
        self._round = self._round or list(alerts)
        chunk, self._round = self._round[-ROUND:], self._round[:-ROUND]
        for number in chunk:
            alert = alerts.get(number)
            if alert is None or alert.kind != THRESHOLD or alert.stale:
                continue
            watch = self._monitor.watches.get(alert.device_id)
            channel = watch.channels.get(alert.metric) if watch is not None else None
            if channel is None or draft.alert(alert.id) is not alert:
                continue
            if self._silence_s(channel, granted, now) > self._stale_after_s(draft, channel):
                draft.change(alert, "stale", now, event=False, stale=True)

    def _stale_after_s(self, draft: Draft, channel: Channel) -> float:
        limits = [rule.no_data_s for rule in channel.rules if rule.no_data_s is not None]
        if limits:
            return min(limits)
        interval_s = draft.place(channel.device_id).interval_s
        return 3 * interval_s if interval_s is not None else self._settings.stale_after_s

    def _gateway_is_offline(self, draft: Draft, presence: Mapping[int, Presence], place: Place) -> bool:
        return any(
            (state := presence.get(gateway.id)) is not None and state.status is Status.OFFLINE
            for gateway in _gateways(draft, place)
        )


def _gateways(draft: Draft, place: Place) -> Iterator[Place]:
    seen = {place.id}
    while place.via_id is not None and place.via_id not in seen:
        seen.add(place.via_id)
        gateway = draft.context.places.get(place.via_id)
        if gateway is None:
            return
        yield gateway
        place = gateway
