"""From messages to a batch: what the decoder's tests do not see, because it needs the device's own state."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from config.settings import IngestSettings
from config.storage_settings import RetentionSettings
from ingest.batch import Batch
from ingest.devices import MAX_STREAMS, DeviceRow, Registry
from ingest.intake import Intake
from ingest.metrics import IngestMetrics
from ingest.reading import Reason
from ingest.routes import Routes
from mqtt.connection import Connection, Deliveries
from mqtt.session import stored_publish

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)


class Plant:
    """An intake with one device, and messages for it."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.registry.load([DeviceRow(1, "press-1")])
        self.metrics = IngestMetrics(CollectorRegistry())
        routes = Routes("factory", ())
        self.intake = Intake(IngestSettings(), RetentionSettings(), self.registry, routes, self.metrics)

    @property
    def device(self) -> Any:
        return self.registry.by_name["press-1"]

    def take(self, *messages: object, at: datetime = NOW) -> Batch:
        """Takes each message as one delivery, and returns the batch so far."""
        for message in messages:
            payload = message if isinstance(message, bytes) else json.dumps(message).encode()
            publish = stored_publish("factory/devices/press-1/telemetry", payload, None, 1)
            self.intake.take(Deliveries([publish], at, cast("Connection", None)))
        return self.intake.waiting[-1]


@pytest.fixture
def plant() -> Plant:
    return Plant()


@pytest.mark.parametrize(
    "time",
    [{}, {"ts": 12}, {"recorded_at": (NOW + timedelta(hours=1)).isoformat()}],
    ids=["none", "clock not set", "clock ahead"],
)
def test_without_a_usable_time_seq_and_boot_id_show_a_repetition(plant: Plant, time: dict[str, object]) -> None:
    message = {"temperature": 1, "seq": 5, "boot_id": "b", **time}
    batch = plant.take(message, message)
    assert (len(batch.fresh) + len(batch.rest), batch.duplicates) == (1, 1)


def test_a_refused_reading_is_not_missing(plant: Plant) -> None:
    good = [{"temperature": 1, "seq": seq, "boot_id": "b"} for seq in (1, 3)]
    plant.take(good[0], {"temperature": "hot", "seq": 2, "boot_id": "b"}, good[1])
    assert plant.device.streams["b"].missing == []


@pytest.mark.parametrize(
    ("seqs", "missing", "filled"),
    [((1, 5), 3, 0), ((1, 5, 3), 3, 1), ((5, 4), 0, 0), ((5, 2), 2, 0), ((5, 2, 3, 3), 2, 1), ((5, 5), 0, 0)],
)
def test_what_is_missing_and_what_came_late_is_counted(plant: Plant, seqs: list[int], missing: int, filled: int) -> None:
    """Their difference is what is missing now, also if the daemon meets a device in the middle of its numbers."""
    plant.take(*({"temperature": 1, "seq": seq, "boot_id": "b"} for seq in seqs))
    assert (plant.metrics.missing._value.get(), plant.metrics.filled._value.get()) == (missing, filled)
    assert plant.device.streams["b"].missing_count == missing - filled


@pytest.mark.parametrize("messages", [1, 100])
def test_a_device_that_always_boots_does_not_fill_the_memory(plant: Plant, messages: int) -> None:
    """In one message as in many: what its batch stores stays known to the batch."""
    boots = [{"temperature": 1, "seq": 1, "boot_id": f"b{number}"} for number in range(100)]
    batch = plant.take(boots) if messages == 1 else plant.take(*boots)
    assert len(plant.device.streams) == MAX_STREAMS
    assert "b99" in plant.device.streams
    batch.close()
    assert len(batch.sequences) == 100


def test_the_longest_unused_boot_makes_room(plant: Plant) -> None:
    plant.take(*({"temperature": 1, "seq": 1, "boot_id": f"b{number}"} for number in range(MAX_STREAMS)))
    plant.take({"temperature": 1, "seq": 2, "boot_id": "b0"}, {"temperature": 1, "seq": 1, "boot_id": "new"})
    assert "b0" in plant.device.streams
    assert "b1" not in plant.device.streams


def test_a_replay_keeps_its_time_of_receipt(plant: Plant) -> None:
    plant.take({"temperature": 1})
    early = NOW - timedelta(hours=5)
    for number in range(2):
        publish = stored_publish("factory/devices/press-1/telemetry", b'{"temperature":2}', None, 1)
        plant.intake.replay(publish, early, number)
    batch = plant.take({"temperature": 3}, at=NOW + timedelta(seconds=1))
    assert [row.recorded_at for row in batch.rest] == [early, early + timedelta(microseconds=1)]
    assert [row.recorded_at for row in batch.fresh] == [NOW, NOW + timedelta(seconds=1)]


def test_many_readings_in_few_bytes_are_too_many(plant: Plant) -> None:
    """Memory is bounded by readings, too: 1,000 of them fit into 9 kB."""
    assert not plant.intake.is_full(None)
    for _ in range(100):
        plant.take([{"rpm": 1}] * 1000)
    assert plant.intake.is_full(None)


def test_a_fault_of_ours_costs_one_message(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a message does to the decoder, the next one is read, and its own bytes are kept."""
    monkeypatch.setattr("ingest.intake.decode", _broken)
    batch = plant.take(b"{odd", {"recorded_at": NOW.isoformat(), "rpm": 1})
    assert [row.reason for row in batch.refused.kept] == [Reason.REFUSED, Reason.REFUSED]
    assert batch.refused.kept[0].payload == b"{odd"


def _broken(*_: object, **__: object) -> None:
    raise KeyError("a fault")


@pytest.mark.parametrize(
    ("payload", "clock"),
    [
        ({"ts": 12, "temperature": 1}, "unset"),
        ({"recorded_at": (NOW + timedelta(hours=1)).isoformat(), "temperature": 1}, "ahead"),
        ({"recorded_at": "2026-11-22T10:00:00", "temperature": 1}, "naive"),
    ],
)
def test_a_wrong_clock_is_marked_until_it_is_right_again(plant: Plant, payload: object, clock: str) -> None:
    plant.take({"recorded_at": NOW.isoformat(), "temperature": 1})
    batch = plant.take(payload)
    assert plant.device.clock == clock
    assert plant.device in batch.flagged
    plant.take({"recorded_at": (NOW + timedelta(seconds=1)).isoformat(), "temperature": 1})
    assert plant.device.clock == "ok"


def test_every_reading_is_received_once_and_accounted_for(plant: Plant) -> None:
    batch = plant.take([{"temperature": 1}, {}, {"rpm": "x"}], b"{", {"temperature": 2}, {"seq": -1, "rpm": 1})
    reasons = [row.reason for row in batch.refused.kept]
    assert reasons == [Reason.NO_METRICS, Reason.BAD_TYPE, Reason.MALFORMED, Reason.BAD_SEQUENCE]
    assert batch.readings == 6
    assert plant.metrics.received._value.get() == 6
