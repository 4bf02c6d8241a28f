"""Alerts at a real Alertmanager (Debian's), and what it tells people through a webhook.

Its group waits 200 ms before it first tells of an alert, and looks every 50 ms after that: when a later alert has been told of,
all has been said of an earlier one.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bcrypt
import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from alerting.alert import Severity, Status
from alerting.alertmanager_api import AlertmanagerApi
from alerting.alertmanager_body import entries
from factoryd.embedded.directory import free_port
from tests.integration.alertmanager_plant import PLACE, Network, Plant, crossing, resolved


@pytest.fixture
async def plant(tmp_path: Path) -> AsyncIterator[Plant]:
    port = free_port()
    plant = Plant(tmp_path, port)
    async with await asyncio.start_server(plant.hear, "127.0.0.1", port):
        yield plant


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alerting.alertmanager.REPEAT_S", 0.02)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alerting.alertmanager.RETRY_MIN_S", 0.02)
    monkeypatch.setattr("alerting.alertmanager.RETRY_MAX_S", 0.05)


async def test_an_alert_is_told_of_once_however_often_it_is_sent_and_then_its_end(plant: Plant, often: None) -> None:
    with plant.server():
        async with plant.sending():
            alert = crossing(17, instruction="Open the cooling valve")
            plant.commit(alert)
            told = await plant.until_told(17, "firing")
            assert told["labels"] == {
                "alertname": "ThresholdCrossed",
                "alert_id": "17",
                "site": "factory",
                "device": "press-7",
                "location": "hall 2",
                "metric": "temperature",
                "severity": "warning",
                "kind": "threshold",
                "threshold_id": "12",
            }
            assert told["annotations"]["summary"] == "Press 7 (hall 2): temperature 84.5 °C above 80 °C"
            assert told["annotations"]["instruction"] == "Open the cooling valve"
            assert (told["annotations"]["value"], told["annotations"]["max_value"]) == ("84.5 °C", "80 °C")
            await plant.network.until(5)
            acknowledged = replace(alert, version=2, status=Status.ACKNOWLEDGED, peak_value=91.5, stale=True)
            plant.commit(acknowledged)
            await plant.network.until(2)
            (known,) = await plant.ask("GET", "alerts")
            assert known["annotations"]["status"] == "acknowledged"
            assert known["annotations"]["peak_value"] == "91.5 °C"
            plant.commit(resolved(acknowledged))
            await plant.until_told(17, "firing", "resolved")
            await plant.network.until(5)
            await plant.until_all_is_said()
            assert plant.of(17) == ["firing", "resolved"]
            assert await plant.ask("GET", "alerts", params={"filter": 'alert_id="17"'}) == []


async def test_what_happened_while_alertmanager_was_away_is_told_of_when_it_is_back(plant: Plant, impatient: None) -> None:
    first, second, brief = crossing(1), crossing(2), crossing(3)
    with capture_logs() as logs:
        async with plant.sending():
            with plant.server():
                plant.commit(first)
                await plant.until_told(1, "firing")
                await plant.until_all_is_said()
            plant.commit(second, brief, resolved(first), resolved(brief))
            await plant.network.until(2, answered=False)
            assert plant.metric("failures_total", reason="unreachable") >= 1
            assert plant.metric("up") == 0
            with plant.server():
                await plant.until_told(2, "firing")
                await plant.until_told(1, "firing", "resolved")
                await plant.until_all_is_said()
                assert plant.of(3) == [], "over before anybody could be told"
                assert plant.metric("up") == 1
    assert [line["event"] for line in logs] == ["alertmanager_reached", "alertmanager_lost", "alertmanager_reached"]


async def test_what_is_open_at_the_start_is_sent(plant: Plant) -> None:
    plant.open = {1: crossing(1), 2: crossing(2, shelved_until=datetime.now(UTC) + timedelta(hours=1), announced=False)}
    with plant.server():
        async with plant.sending():
            await plant.until_told(1, "firing")
            await plant.until_all_is_said()
            assert plant.of(2) == []


async def test_a_silence_holds_over_all_changes_of_an_alert(plant: Plant, often: None) -> None:
    with plant.server():
        names = {"device": "press-7", "metric": "temperature", "threshold_id": "12", "alert_id": "1"}
        silence = {
            "matchers": [{"name": name, "value": value, "isRegex": False} for name, value in names.items()],
            "startsAt": datetime.now(UTC).isoformat(),
            "endsAt": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
            "createdBy": "ada",
            "comment": "die is being changed",
        }
        identity = (await plant.ask("POST", "silences", json=silence))["silenceID"]
        async with plant.sending():
            alert = crossing(1)
            plant.commit(alert)
            await plant.network.until(1)
            plant.commit(replace(alert, version=2, flapping=True, value=95.0, severity=Severity.CRITICAL))
            await plant.until_all_is_said()
            assert plant.of(1) == []
            (known,) = await plant.ask("GET", "alerts", params={"filter": 'alert_id="1"'})
            assert (known["status"]["state"], known["status"]["silencedBy"]) == ("suppressed", [identity])


async def test_a_shelved_alert_ends_there_and_fires_again_when_it_is_unshelved(plant: Plant, often: None) -> None:
    with plant.server():
        async with plant.sending():
            alert = crossing(1)
            plant.commit(alert)
            await plant.until_told(1, "firing")
            plant.commit(replace(alert, version=2, shelved_until=datetime.now(UTC) + timedelta(hours=1)))
            await plant.until_told(1, "firing", "resolved")
            await plant.network.until(5)
            plant.commit(replace(alert, version=3))
            await plant.until_told(1, "firing", "resolved", "firing")
            await plant.network.until(5)
            await plant.until_all_is_said()
            assert plant.of(1) == ["firing", "resolved", "firing"], "an end is not repeated over a later raise"
            plant.commit(replace(alert, version=4, inhibited_by=5))
            await plant.until_told(1, "firing", "resolved", "firing", "resolved")


async def test_an_edited_severity_routes_anew_and_leaves_nothing_behind(plant: Plant, often: None) -> None:
    with plant.server():
        async with plant.sending():
            alert = crossing(1)
            plant.commit(alert)
            await plant.until_told(1, "firing")
            worse = replace(alert, version=2, severity=Severity.CRITICAL)
            plant.commit(worse)
            both = {("resolved", "warning"), ("firing", "critical")}
            await plant.until_heard(lambda: {(status, told["labels"]["severity"]) for status, told in plant.told[1:]} == both)
            (known,) = await plant.ask("GET", "alerts")
            assert known["labels"]["severity"] == "critical"
            plant.commit(resolved(worse))
            await plant.until_heard(
                lambda: plant.told[-1][0] == "resolved" and plant.told[-1][1]["labels"]["severity"] == "critical"
            )
            assert await plant.ask("GET", "alerts") == []


async def test_nothing_fires_for_ever_when_factoryd_is_gone(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alerting.alertmanager_body.HOLDS", timedelta(seconds=0.5))
    with plant.server():
        async with plant.sending():
            plant.commit(crossing(1))
            await plant.until_told(1, "firing")
        await plant.until_told(1, "firing", "resolved")


async def test_a_password_in_the_url_is_used_and_never_said(plant: Plant, tmp_path: Path, impatient: None) -> None:
    hashed = bcrypt.hashpw(b"s3cr:t/1", bcrypt.gensalt(4)).decode()
    (tmp_path / "web.yml").write_text(f"basic_auth_users: {{ada: '{hashed}'}}\n")
    with capture_logs() as logs, plant.server(f"--web.config.file={tmp_path / 'web.yml'}"):
        for password in ("wrong", "s3cr%3At%2F1"):
            plant.registry = CollectorRegistry()
            plant.network = Network()
            plant.sender = plant._sender(f"http://ada:{password}@127.0.0.1:{plant.port}/")
            async with plant.sending():
                plant.commit(crossing(1))
                await plant.network.until(1)
                if password == "wrong":
                    await plant.network.until(1)
                else:
                    await plant.until_told(1, "firing")
    assert [line["event"] for line in logs] == ["alertmanager_lost", "alertmanager_reached"]
    assert "HTTP 401" in logs[0]["error"]
    assert "s3cr" not in str(logs)
    assert "wrong" not in str(logs)


async def test_what_alertmanager_refuses_is_found_and_its_neighbours_are_taken(plant: Plant) -> None:
    now = datetime.now(UTC)
    posted = [entry for number in range(1, 8) for entry in entries(crossing(number), PLACE, "factory", now)]
    posted[4]["endsAt"] = posted[4]["startsAt"] - timedelta(seconds=1)
    with plant.server():
        async with AlertmanagerApi(plant.url, plant.network) as api:
            ((entry, answer),) = await api.post(posted)
        assert entry is posted[4]
        assert "HTTP 400: " in answer
        for number in (1, 2, 3, 4, 6, 7):
            await plant.until_told(number, "firing")
