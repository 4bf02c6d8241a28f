"""What Alertmanager is told of an alert, and what becomes of a request that it does not take."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from alerting import alertmanager
from alerting.alert import NO_DATA_METRIC, OFFLINE_METRIC, Alert, Place, Severity, Status
from alerting.alertmanager import Alertmanager
from alerting.alertmanager_api import AlertmanagerApi
from alerting.alertmanager_body import HOLDS, entries, fires, labels_of
from alerting.alertmanager_metrics import AlertmanagerMetrics
from tests.unit.alarm_plant import NOW, PLACE, AlarmPlant, at, rule

SITE = "factory"
ALERT = Alert(
    id=17,
    device_id=1,
    kind="threshold",
    threshold_id=12,
    severity=Severity.WARNING,
    metric="temperature",
    topic="press-7/temperature/12",
    triggered_at=NOW,
    message="Press 7 (hall 2): temperature 84.5 °C above 80 °C",
    value=84.5,
    max_value=80.0,
    announced=True,
)
LATER = NOW + timedelta(hours=1)


@pytest.mark.parametrize(
    ("change", "ends_at"),
    [
        ({}, at(60) + HOLDS),
        ({"status": Status.ACKNOWLEDGED, "acknowledged_at": at(30), "acknowledged_by": 5}, at(60) + HOLDS),
        ({"stale": True, "flapping": True}, at(60) + HOLDS),
        ({"status": Status.RESOLVED, "resolved_at": at(40)}, at(40)),
        ({"status": Status.RESOLVED, "resolved_at": at(40), "announced": False}, None),
        ({"shelved_until": LATER}, at(60)),
        ({"shelved_until": LATER, "announced": False}, None),
        ({"inhibited_by": 3}, at(60)),
        ({"inhibited_by": 3, "announced": False}, None),
        ({"status": Status.RESOLVED, "resolved_at": at(40), "shelved_until": LATER}, at(40)),
        ({"triggered_at": at(90), "shelved_until": LATER}, at(90)),
        ({"status": Status.RESOLVED, "resolved_at": at(40), "origin": "retrospective"}, None),
        ({"origin": "retrospective"}, None),
    ],
)
def test_what_fires_and_what_has_ended(change: dict[str, Any], ends_at: datetime | None) -> None:
    told = entries(replace(ALERT, **change), PLACE, SITE, at(60))
    assert [entry["endsAt"] for entry in told] == ([] if ends_at is None else [ends_at])
    assert all(entry["startsAt"] == change.get("triggered_at", NOW) for entry in told)


def test_annotations_are_text_and_leave_out_what_is_not_there() -> None:
    alert = replace(ALERT, peak_value=float("inf"), min_value=None, instruction="Open the valve", stale=True, version=3)
    (entry,) = entries(alert, PLACE, SITE, NOW)
    assert entry["annotations"] == {
        "summary": "Press 7 (hall 2): temperature 84.5 °C above 80 °C",
        "device_name": "Press 7",
        "status": "active",
        "version": "3",
        "value": "84.5 °C",
        "max_value": "80 °C",
        "instruction": "Open the valve",
        "stale": "true",
    }


@pytest.mark.parametrize(
    ("kind", "metric", "name"),
    [
        ("offline", OFFLINE_METRIC, "DeviceOffline"),
        ("no_data", NO_DATA_METRIC, "NoData"),
        ("threshold", "rpm", "ThresholdCrossed"),
    ],
)
def test_each_kind_has_its_name(kind: str, metric: str, name: str) -> None:
    labels = labels_of(replace(ALERT, kind=kind, metric=metric, threshold_id=None), PLACE, SITE)
    assert (labels["alertname"], labels["kind"], labels["threshold_id"]) == (name, kind, "0")


def test_the_labels_are_the_same_from_raise_to_resolve() -> None:
    plant, labels = AlarmPlant(rule(high=80)), set()
    for moment in range(2_000):
        plant.temperatures((moment, 90 + moment if moment < 10 and moment % 2 == 0 else 70))
        labels |= {(alert.id, *labels_of(alert, PLACE, SITE).values()) for alert in plant.alerts.values()}
    assert plant.open == []
    assert any(alert.flapping for alert in plant.alerts.values())
    renamed = replace(PLACE, name="Press seven")
    labels |= {(alert.id, *labels_of(alert, renamed, SITE).values()) for alert in plant.alerts.values()}
    assert len(labels) == len(plant.alerts) > 1


def test_of_two_on_one_metric_the_worse_one_fires() -> None:
    plant = AlarmPlant(rule(1, high=80), rule(2, high=90, severity=Severity.CRITICAL))

    def firing() -> set[str]:
        told = [entry for alert in plant.alerts.values() for entry in entries(alert, PLACE, SITE, at(5))]
        return {entry["labels"]["severity"] for entry in told if entry["endsAt"] > at(5)}

    for moment, (value, expected) in enumerate([(85, {"warning"}), (95, {"critical"}), (85, {"warning"}), (70, set())]):
        plant.temperatures((moment, value))
        assert firing() == expected
        assert all(alert.announced for alert in plant.alerts.values() if fires(alert))


def test_an_edited_severity_or_location_ends_the_alert_under_its_old_labels() -> None:
    before = labels_of(ALERT, PLACE, SITE)
    moved = replace(PLACE, location="hall 3")
    old, new = entries(ALERT, moved, SITE, at(60), before)
    assert (old["labels"], old["endsAt"]) == (before, at(60))
    assert (new["labels"], new["endsAt"]) == ({**before, "location": "hall 3"}, at(60) + HOLDS)
    (ended,) = entries(replace(ALERT, status=Status.RESOLVED, resolved_at=at(50)), moved, SITE, at(60), before)
    assert (ended["labels"], ended["endsAt"]) == (before, at(50))


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://localhost:9093", "http://localhost:9093/api/v2/alerts"),
        ("https://am.example/alerts/", "https://am.example/alerts/api/v2/alerts"),
        ("http://ada:p%40ss@[::1]:9093", "http://[::1]:9093/api/v2/alerts"),
    ],
)
def test_the_address_without_its_password(url: str, endpoint: str) -> None:
    assert AlertmanagerApi(url).endpoint == endpoint


class Server:
    """Answers as `verdict` says, and keeps what it took."""

    def __init__(self, verdict: Callable[[list[dict[str, Any]]], int] = lambda body: 200) -> None:
        self.verdict = verdict
        self.requests: list[list[tuple[int, int]]] = []
        """(alert, version) of each."""
        self.took: list[tuple[int, int, bool]] = []
        """(alert, version, whether it fires)."""
        self.open: list[tuple[Alert, Place]] = []
        self.registry = CollectorRegistry()
        self.api = AlertmanagerApi("http://alertmanager", httpx.MockTransport(self._answer))
        self.sender = Alertmanager(self.api, SITE, lambda: self.open, lambda: at(60), AlertmanagerMetrics(self.registry))
        self._changed = asyncio.Event()

    def _answer(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        named = [(int(entry["labels"]["alert_id"]), int(entry["annotations"]["version"])) for entry in body]
        self.requests.append(named)
        status = self.verdict(body)
        if status == 200:
            fire = [datetime.fromisoformat(entry["endsAt"]) > at(60) for entry in body]
            self.took += [(*name, fires) for name, fires in zip(named, fire, strict=True)]
        self._changed.set()
        return httpx.Response(status, text="says why")

    def note(self, *alerts: Alert) -> None:
        self.sender.note((alert, PLACE) for alert in alerts)

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.sender.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def metric(self, name: str, **labels: str) -> float:
        value = self.registry.get_sample_value(f"factoryd_alertmanager_{name}", labels)
        assert value is not None
        return value


def numbered(*numbers: int) -> list[Alert]:
    return [replace(ALERT, id=number) for number in numbers]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alertmanager, "RETRY_MIN_S", 0.001)
    monkeypatch.setattr(alertmanager, "RETRY_MAX_S", 0.001)
    monkeypatch.setattr(alertmanager, "REPEAT_S", 0.01)


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_refused_body_is_halved_until_the_alert_is_found(status: int) -> None:
    server = Server(lambda body: status if any(entry["labels"]["alert_id"] in {"37", "80"} for entry in body) else 200)
    body = [entry for alert in numbered(*range(100)) for entry in entries(alert, PLACE, SITE, NOW)]
    async with server.api as api:
        refused = await api.post(body)
    assert [entry["labels"]["alert_id"] for entry, _ in refused] == ["37", "80"]
    assert all(f"HTTP {status}: says why" in answer for _, answer in refused)
    assert len(server.took) == 98
    assert len(server.requests) <= 2 * 2 * 7 + 1


async def test_a_refusal_is_counted_each_time_and_said_once(quick: None) -> None:
    server = Server(lambda body: 400 if any(entry["labels"]["alert_id"] == "2" for entry in body) else 200)
    server.open = [(alert, PLACE) for alert in numbered(1, 2, 3)]
    with capture_logs() as logs:
        async with server.sending():
            await server.until(lambda: server.requests.count([(2, 1)]) >= 3)
    assert {alert for alert, _, _ in server.took} == {1, 3}
    assert server.metric("failures_total", reason="refused") >= 2
    assert server.metric("failures_total", reason="unreachable") == 0
    assert server.metric("up") == 1
    events = [(line["event"], line.get("alert_id")) for line in logs]
    assert events == [("alertmanager_reached", None), ("alertmanager_refused_alert", 2)]


@pytest.mark.parametrize("status", [301, 401, 403, 404, 408, 429, 500, 503])
async def test_any_other_answer_is_tried_again(status: int, quick: None) -> None:
    server = Server(lambda body: status if len(server.requests) < 4 else 200)
    server.note(*numbered(1, 2))
    with capture_logs() as logs:
        async with server.sending():
            await server.until(lambda: bool(server.took))
            await asyncio.sleep(0)
    assert server.requests[:4] == [[(1, 1), (2, 1)]] * 4
    assert server.metric("failures_total", reason="unreachable") == 3
    assert server.metric("failures_total", reason="refused") == 0
    assert [line["event"] for line in logs] == ["alertmanager_lost", "alertmanager_reached"]
    assert f"HTTP {status}" in logs[0]["error"]


async def test_the_pauses_grow_from_one_second_to_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 9:
            raise asyncio.CancelledError

    monkeypatch.setattr("alerting.alertmanager.random.uniform", lambda low, high: high)
    monkeypatch.setattr("alerting.alertmanager.asyncio.sleep", sleep)
    server = Server(lambda body: 503)
    server.note(ALERT)
    with pytest.raises(asyncio.CancelledError):
        await server.sender.run()
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


async def test_after_a_failure_only_the_newest_version_is_sent(quick: None) -> None:
    def verdict(body: list[dict[str, Any]]) -> int:
        if len(server.requests) == 1:
            server.note(replace(ALERT, version=2), replace(ALERT, version=3, status=Status.RESOLVED, resolved_at=at(50)))
            return 503
        return 200

    server = Server(verdict)
    server.note(*numbered(1), ALERT, *numbered(2))
    async with server.sending():
        await server.until(lambda: bool(server.took))
    assert server.requests[:2] == [[(1, 1), (17, 1), (2, 1)], [(1, 1), (17, 3), (2, 1)]]
    assert server.took[1] == (17, 3, False)


async def test_many_changes_go_in_batches() -> None:
    server = Server()
    server.note(*numbered(*range(450)))
    async with server.sending():
        await server.until(lambda: len(server.took) == 450)
    assert [len(request) for request in server.requests] == [100, 100, 100, 100, 50]


async def test_what_waits_is_bounded_and_what_is_open_comes_again(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    monkeypatch.setattr(alertmanager, "MAX_KEPT", 5)
    server = Server()
    for number in range(100):
        server.note(*numbered(number))
    assert list(server.sender._waiting) == [95, 96, 97, 98, 99]
    server.open = [(alert, PLACE) for alert in numbered(3)]
    async with server.sending():
        await server.until(lambda: (3, 1, True) in server.took)


async def test_an_end_is_repeated_for_a_while_and_then_forgotten(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    monkeypatch.setattr(alertmanager, "ENDED_REPEATED_S", 0.2)
    server = Server()
    ended = replace(ALERT, version=2, status=Status.RESOLVED, resolved_at=at(50))
    server.note(ALERT)
    async with server.sending():
        await server.until(lambda: server.took == [(17, 1, True)])
        server.note(ended)
        await server.until(lambda: server.took.count((17, 2, False)) >= 3)
        server.open = [(alert, PLACE) for alert in numbered(1)]
        await server.until(lambda: server.took[-5:] == [(1, 1, True)] * 5)
    assert (server.sender._ended, list(server.sender._fired)) == ({}, [1])


async def test_an_alert_that_never_fired_is_not_sent_and_not_kept() -> None:
    server = Server()
    server.note(replace(ALERT, id=1, shelved_until=LATER, announced=False), replace(ALERT, id=2, origin="retrospective"), ALERT)
    async with server.sending():
        await server.until(lambda: bool(server.took))
        await asyncio.sleep(0)
    assert server.took == [(17, 1, True)]
    assert (server.sender._waiting, server.sender._ended, list(server.sender._fired)) == ({}, {}, [17])
