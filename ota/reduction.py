"""PURE. A batch of devices' messages, in order of arrival, against the deployments that they are about."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from ota.deployment import SUCCESSES, Command, Deployment, Timeouts
from ota.draft import DeviceState, Draft, Kind, Stray, greeted
from ota.machine import on_hello, on_report
from ota.reports import Ending, Hello, Report, Verdict, in_view_of
from ota.transitions import send


class Message(NamedTuple):
    """One message of a device that is registered; `at`: when we received it."""

    device_id: int
    device: str
    body: Report | Hello
    at: datetime


class Loaded(NamedTuple):
    """What the messages are about, locked: deployments by number, in order, and the devices' states."""

    deployments: Mapping[int, Deployment]
    states: Mapping[int, DeviceState]


def reduce(messages: Sequence[Message], loaded: Loaded, timeouts: Timeouts) -> Draft:
    """Returns what a batch comes to; every message gets a verdict."""
    reduction = _Reduction(loaded, timeouts)
    for message in messages:
        if isinstance(message.body, Report):
            reduction.take_report(message, message.body)
        else:
            reduction.take_hello(message, message.body)
    reduction.draft.end_states(dict(loaded.states))
    return reduction.draft


def limited(messages: Sequence[Message], most: int) -> tuple[list[Message], int]:
    """Returns at most so many messages per device, and how many were left out: endings and the newest ones are kept."""
    counts: dict[int, int] = {}
    kept: list[Message] = []
    for message in reversed(messages):
        count = counts[message.device_id] = counts.get(message.device_id, 0) + 1
        if count <= most or (count <= 2 * most and isinstance(message.body, Report) and isinstance(message.body.said, Ending)):
            kept.append(message)
    kept.reverse()
    return kept, len(messages) - len(kept)


class _Reduction:
    def __init__(self, loaded: Loaded, timeouts: Timeouts) -> None:
        self.draft = Draft()
        self._timeouts = timeouts
        self._loaded = loaded
        self._now: dict[int, Deployment] = dict(loaded.deployments)
        self._by_device: dict[int, list[int]] | None = None
        """Made by the first hello: reports need none."""

    def take_report(self, message: Message, report: Report) -> None:
        deployment = self._now.get(report.deployment_id)
        if deployment is None:
            self.draft.verdicts.append(Verdict.UNKNOWN_DEPLOYMENT)
            return
        if deployment.device_id != message.device_id:
            self.draft.verdicts.append(Verdict.FOREIGN_DEPLOYMENT)
            return
        step = on_report(deployment, report, message.at, self._timeouts)
        self.draft.verdicts.append(step.verdict)
        self._move(deployment, step.deployment, Kind.REPORT, message.at, step.verdict, report.seq)

    def take_hello(self, message: Message, hello: Hello) -> None:
        number = message.device_id
        state = self.draft.states.get(number) or self._loaded.states.get(number) or DeviceState(device_id=number)
        hello = in_view_of(hello, state.boot_id)
        greeting = greeted(state, hello, message.at)
        if greeting != state:
            self.draft.states[number] = greeting
        verdicts = [self._greet(deployment, hello, message.at, state.version) for deployment in self._concerned(number)]
        self.draft.verdicts.append(next((each for each in verdicts if each is Verdict.ACCEPTED), Verdict.NO_CHANGE))
        self._stop_strays(message, hello)

    def _greet(self, deployment: Deployment, hello: Hello, at: datetime, ran: str | None) -> Verdict:
        step = on_hello(deployment, hello, at, self._timeouts, ran)
        if step.drift:
            self.draft.drifted.add(deployment.device_id)
        self._move(deployment, step.deployment, Kind.HELLO, at, step.verdict, hello.seq)
        return step.verdict

    def _concerned(self, device_id: int) -> list[Deployment]:
        """The device's live deployments, or the last one if there is none."""
        if self._by_device is None:
            self._by_device = {}
            for deployment in self._loaded.deployments.values():
                self._by_device.setdefault(deployment.device_id, []).append(deployment.id)
        own = [self._now[number] for number in self._by_device.get(device_id, ())]
        return [each for each in own if not each.terminal] or own[-1:]

    def _stop_strays(self, message: Message, hello: Hello) -> None:
        work = hello.active
        if work is None:
            return
        deployment = self._now.get(work.deployment_id)
        if deployment is None or deployment.device_id != message.device_id:
            self.draft.strays.append(Stray(message.device, work.deployment_id, work.attempt or 1))
        elif deployment.outcome in SUCCESSES and hello.version == deployment.version:
            return  # it confirms what we take for done already: a cancel could make it fall back
        elif deployment.terminal and deployment.publish_pending is None:
            self._move(deployment, send(deployment, Command.CANCEL), Kind.COMMAND, message.at, "stray", None)

    def _move(self, before: Deployment, after: Deployment, kind: Kind, at: datetime, verdict: str, seq: int | None) -> None:
        self.draft.move(before, after, kind, at, verdict, seq)
        self._now[after.id] = self.draft.changed.get(after.id, after)


def numbers_in(messages: Iterable[Message]) -> tuple[list[int], list[int]]:
    """Returns which deployments a batch names, and which devices it has hellos of; sorted."""
    deployments, devices = set[int](), set[int]()
    for message in messages:
        if isinstance(message.body, Report):
            deployments.add(message.body.deployment_id)
        else:
            devices.add(message.device_id)
            deployments |= {work.deployment_id for work in (message.body.active, message.body.last) if work is not None}
    return sorted(deployments), sorted(devices)
