"""PURE. Thresholds compiled for the hot path: per device the metrics that are watched, per metric one pair of numbers.

A value from `low` to `high`, while every rule of the metric stands at normal, changes nothing: one comparison, whatever the
number of rules. While a rule stands elsewhere no value is between them, and each rule is asked; so it is where it counts when
the metric was heard last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from alerting.alert import Rule
from alerting.rules import NORMAL, Phase, RuleState
from ingest.reading import METRICS

NEVER = datetime.min.replace(tzinfo=UTC)
EVER = float("inf")
UNWATCHED = (-EVER, EVER) * len(METRICS)


@dataclass(slots=True, eq=False)
class Channel:
    """One metric of one device, with all its rules."""

    device_id: int
    metric: str
    place: int
    """Where the value is in a reading; 0: in `extra`."""
    rules: tuple[Rule, ...]
    """The most severe first."""
    low: float = EVER
    high: float = -EVER
    heard: datetime = NEVER
    """Last value received, by our clock; kept up to date while `low` > `high`, and from the first value beyond them on. Not
    undone by a failed commit: the value did come."""
    since: datetime = NEVER
    """Watched since then."""

    @property
    def listened(self) -> bool:
        """Silence of this metric is told of."""
        return any(rule.no_data_s is not None for rule in self.rules)

    def settle(self, states: Mapping[int, RuleState]) -> None:
        """Recomputes the two numbers."""
        if not self.listened and all(states.get(rule.threshold_id, NORMAL).phase is Phase.NORMAL for rule in self.rules):
            self.low = max((rule.low for rule in self.rules if rule.low is not None), default=-EVER)
            self.high = min((rule.high for rule in self.rules if rule.high is not None), default=EVER)
        else:
            self.low, self.high = EVER, -EVER


@dataclass(slots=True, eq=False)
class Watch:
    """One device."""

    device_id: int
    at: datetime = NEVER
    """Evaluation time of the last evaluated reading: what is older is late."""
    rules: tuple[Rule, ...] = ()
    channels: dict[str, Channel] = field(default_factory=dict)
    limits: tuple[float, ...] = UNWATCHED
    """Low and high of each of the six columns, in their order."""
    extras: bool = False
    """A metric beyond the six is watched."""
    listened: bool = False
    """Silence of one of its metrics is told of."""

    def set_rules(self, rules: Sequence[Rule], now: datetime) -> bool:
        """Takes these rules instead of all before, and tells whether they differ; what was heard stays known."""
        if self.rules == tuple(rules):
            return False
        self.rules = tuple(rules)
        by_metric: dict[str, list[Rule]] = {}
        for rule in sorted(rules, key=lambda rule: -rule.severity.rank):
            by_metric.setdefault(rule.metric, []).append(rule)
        before, self.channels = self.channels, {}
        for metric, its_rules in by_metric.items():
            place = METRICS.index(metric) + 1 if metric in METRICS else 0
            heard, since = (before[metric].heard, before[metric].since) if metric in before else (NEVER, now)
            self.channels[metric] = Channel(self.device_id, metric, place, tuple(its_rules), heard=heard, since=since)
        self.extras = any(not channel.place for channel in self.channels.values())
        self.listened = any(channel.listened for channel in self.channels.values())
        return True

    def settle(self, states: Mapping[int, RuleState]) -> None:
        """Recomputes the numbers of all channels."""
        for channel in self.channels.values():
            channel.settle(states)
        limits = list(UNWATCHED)
        for channel in self.channels.values():
            if channel.place:
                limits[2 * channel.place - 2 : 2 * channel.place] = channel.low, channel.high
        self.limits = tuple(limits)
