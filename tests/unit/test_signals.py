"""Signals are a function of (seed, machine, time); faults change them as described."""

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from statistics import mean, pstdev

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.buffer import Buffer
from simulator.devices import SimulatedDevice, plan_devices
from simulator.faults import ActiveFault, Fault, apply_faults
from simulator.profiles import PROFILES, UNITS
from simulator.reading import MAX_BATCH, Encoding, Reading, encode
from simulator.signals import find_profile, load, measure, measure_extra
from simulator.sources import Source

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)
moments = st.datetimes(datetime(2021, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def over(start: datetime, step_s: float, count: int) -> list[datetime]:
    return [start + timedelta(seconds=step_s * n) for n in range(count)]


class TestHealthySignals:
    @given(seed=st.integers(0, 2**31), machine_type=st.sampled_from(sorted(PROFILES)), at=moments)
    def test_the_same_question_has_the_same_answer_in_any_zone(self, seed: int, machine_type: str, at: datetime) -> None:
        elsewhere = at.astimezone(timezone(timedelta(hours=9)))
        assert measure(seed, "m-1", machine_type, at) == measure(seed, "m-1", machine_type, elsewhere)

    @given(seed=st.integers(0, 2**31), machine_type=st.sampled_from(sorted(PROFILES)), at=moments)
    def test_values_are_finite_and_physical(self, seed: int, machine_type: str, at: datetime) -> None:
        values = measure(seed, "m-1", machine_type, at)
        assert values
        assert set(values) <= set(UNITS)
        assert all(math.isfinite(value) and value >= 0.0 for value in values.values())
        assert values.get("humidity", 0.0) <= 100.0
        assert values.get("vibration", 0.0) < 4.5, "a healthy machine stays out of ISO 10816's zone C"

    def test_seed_and_machine_make_a_difference(self) -> None:
        at = MONDAY + timedelta(hours=10)
        first = measure(1, "cnc-01", "cnc", at)
        assert first != measure(2, "cnc-01", "cnc", at)
        assert first != measure(1, "cnc-02", "cnc", at)

    @pytest.mark.parametrize("machine_type", ["press", "cnc", "oven", "compressor", "conveyor"])
    def test_a_shift_draws_more_power_than_the_night_and_the_weekend(self, machine_type: str) -> None:
        def power(start: datetime) -> float:
            return mean(measure(1, "m-1", machine_type, at)["power_consumption"] for at in over(start, 60, 240))

        shift = power(MONDAY + timedelta(hours=8))
        assert shift > 1.4 * power(MONDAY + timedelta(hours=1))
        assert shift > 1.4 * power(MONDAY + timedelta(days=5, hours=8))

    def test_temperature_lags_behind_the_load_with_its_time_constant(self) -> None:
        start = MONDAY + timedelta(hours=6)
        lag_s = next(c.lag_s for c in find_profile("press").channels if c.metric == "temperature")
        cold, later, warm = (
            mean(measure(3, "press-01", "press", at)["temperature"] for at in over(start + timedelta(seconds=s), 1, 30))
            for s in (-60.0, lag_s, 6 * lag_s)
        )
        assert cold < later < warm
        assert 0.4 < (later - cold) / (warm - cold) < 0.9

    def test_a_value_does_not_jump_between_load_blocks(self) -> None:
        temperatures = [measure(1, "oven-01", "oven", at)["temperature"] for at in over(MONDAY, 1, 7200)]
        assert max(abs(b - a) for a, b in pairwise(temperatures)) < 2.0

    def test_the_day_is_warmest_in_the_afternoon_and_noise_is_small(self) -> None:
        days = [
            mean(measure(1, "sensor-01", "sensor", MONDAY + timedelta(days=d, hours=hour))["temperature"] for d in range(5))
            for hour in (4, 15)
        ]
        assert days[1] > days[0] + 2.0
        minute = [measure(1, "sensor-01", "sensor", at)["temperature"] for at in over(MONDAY, 1, 60)]
        assert 0.02 < pstdev(minute) < 0.4

    def test_load_is_a_share(self) -> None:
        assert all(0.0 <= load(1, "m-1", "cnc", at) <= 1.0 for at in over(MONDAY, 600, 1008))

    def test_an_unknown_type_is_named_with_those_there_are(self) -> None:
        with pytest.raises(LookupError, match=r"'robot' is not known; take one of press, cnc"):
            measure(1, "m-1", "robot", MONDAY)

    @given(at=moments)
    def test_extras(self, at: datetime) -> None:
        extra = measure_extra(1, "press-01", at)
        assert 0.0 <= extra["oil_level"] <= 1.0
        assert isinstance(extra["door_open"], bool)


class TestFaults:
    HEALTHY = {"temperature": 50.0, "vibration": 1.0, "power_consumption": 1000.0}  # noqa: RUF012

    def faulted(self, fault: Fault, after_s: float, metric: str | None = None, rate: float = 1.0) -> dict[str, float]:
        active = ActiveFault(fault, MONDAY, metric, rate)
        at = MONDAY + timedelta(seconds=after_s)
        return apply_faults(self.HEALTHY, [active], at, {MONDAY: {"temperature": 47.0}})

    def test_overheating_rises_with_its_time_constant(self) -> None:
        assert self.faulted(Fault.OVERHEATING, 0)["temperature"] == 50.0
        assert self.faulted(Fault.OVERHEATING, 120)["temperature"] == pytest.approx(50.0 + 60 * 0.632, abs=0.1)
        assert self.faulted(Fault.OVERHEATING, 3600)["temperature"] == pytest.approx(110.0, abs=0.1)
        assert self.faulted(Fault.OVERHEATING, 12, rate=10.0) == self.faulted(Fault.OVERHEATING, 120)

    def test_bearing_wear_grows_and_stays(self) -> None:
        vibration = [self.faulted(Fault.BEARING_WEAR, s)["vibration"] for s in (0, 300, 600, 6000)]
        assert vibration == [1.0, pytest.approx(3.162, abs=0.01), 10.0, 10.0]

    def test_sensor_faults_hit_one_metric(self) -> None:
        assert self.faulted(Fault.STUCK, 60) == {**self.HEALTHY, "temperature": 47.0}
        assert math.isnan(self.faulted(Fault.NAN, 1, "vibration")["vibration"])
        assert self.faulted(Fault.SPIKE, 1)["temperature"] == 450.0


class TestSource:
    DEVICE = SimulatedDevice("press-01", "press", "hall 1", 1.0, has_extras=True)

    def test_readings_are_numbered_rise_in_time_and_carry_extras(self) -> None:
        source = Source(self.DEVICE, seed=1, boot_id="b1")
        clock = [MONDAY, MONDAY, MONDAY - timedelta(seconds=5), MONDAY + timedelta(microseconds=2_500)]
        readings = [source.read(now) for now in clock]
        assert [reading.seq for reading in readings] == [1, 2, 3, 4]
        times = [reading.recorded_at for reading in readings]
        assert times == sorted(set(times))
        assert all(at.microsecond % 1000 == 0 for at in times)
        assert {"oil_level", "door_open"} <= set(readings[0].values)

    def test_stuck_keeps_the_value_of_its_start(self) -> None:
        source = Source(self.DEVICE, seed=1, boot_id="b1")
        source.inject(ActiveFault(Fault.STUCK, MONDAY))
        values = {source.read(at).values["temperature"] for at in over(MONDAY, 60, 20)}
        assert values == {measure(1, "press-01", "press", MONDAY)["temperature"]}

    def test_a_spike_is_over_after_one_reading(self) -> None:
        source = Source(self.DEVICE, seed=1, boot_id="b1")
        source.inject(ActiveFault(Fault.SPIKE, MONDAY))
        first, second = (source.read(at).values["temperature"] for at in over(MONDAY, 1, 2))
        assert first > 200 > second

    def test_healing_ends_one_kind_or_all(self) -> None:
        source = Source(self.DEVICE, seed=1, boot_id="b1")
        source.inject(ActiveFault(Fault.NAN, MONDAY, "temperature"))
        source.inject(ActiveFault(Fault.BAD_PAYLOAD, MONDAY))
        source.heal(Fault.NAN, "temperature")
        still = source.read(MONDAY)
        assert still.truncated
        assert still.spoiled
        source.heal()
        assert not source.read(MONDAY).spoiled


class TestMessages:
    def reading(self, seq: int, **options: bool) -> Reading:
        return Reading("d", "b1", seq, MONDAY + timedelta(seconds=seq), {"temperature": 20.5}, **options)

    def test_one_reading_is_an_object_and_several_an_array(self) -> None:
        one = json.loads(encode([self.reading(1)], Encoding.JSON))
        assert one == {"recorded_at": "2026-11-23T00:00:01.000Z", "temperature": 20.5, "boot_id": "b1", "seq": 1}
        several = msgspec.msgpack.decode(encode([self.reading(1), self.reading(2)], Encoding.MSGPACK))
        assert [item["recorded_at"] for item in several] == [1795392001000, 1795392002000]

    def test_microseconds_survive(self) -> None:
        reading = Reading("d", "b1", 1, MONDAY + timedelta(microseconds=17), {})
        assert json.loads(encode([reading], Encoding.JSON))["recorded_at"] == "2026-11-23T00:00:00.000017Z"
        assert msgspec.msgpack.decode(encode([reading], Encoding.MSGPACK))["recorded_at"] == 1795392000000017

    def test_a_full_batch_fits_the_payload_limit(self) -> None:
        values = dict.fromkeys(UNITS, -12345.678901234567) | {"oil_level": 0.123, "door_open": False}
        batch = [Reading("d", "b1b1b1b1", 10**9, MONDAY, values)] * MAX_BATCH
        assert max(len(encode(batch, encoding)) for encoding in Encoding) < 65_536

    def test_a_bad_payload_is_no_json(self) -> None:
        with pytest.raises(json.JSONDecodeError):
            json.loads(encode([self.reading(1, spoiled=True, truncated=True)], Encoding.JSON))

    def test_spoiled_readings_travel_alone(self) -> None:
        buffer = Buffer(100)
        for seq in range(1, 7):
            buffer.add(self.reading(seq, spoiled=seq in {3, 4}))
        messages = []
        while batches := buffer.batches():
            messages.append([reading.seq for reading in batches[0]])
            buffer.remove(batches[0])
        assert messages == [[1, 2], [3], [4], [5, 6]]

    def test_a_full_buffer_drops_the_oldest_and_an_ack_removes_only_its_own(self) -> None:
        buffer = Buffer(2)
        assert [buffer.add(self.reading(seq)) for seq in (1, 2)] == [0, 0]
        in_flight = buffer.batches()[0]
        assert buffer.add(self.reading(3)) == 1
        buffer.remove(in_flight)
        assert [reading.seq for reading in buffer.batches()[0]] == [3]


class TestPlannedDevices:
    def test_twenty_machines_have_a_messagepack_speaker_and_a_gateway_with_children(self) -> None:
        devices = plan_devices(20, 2.0, prefix="h2.")
        assert sum(device.via is None for device in devices) == 20
        assert [d.device for d in devices if d.encoding is Encoding.MSGPACK] == ["h2.sensor-02"]
        assert {d.via for d in devices if d.via} == {"h2.gateway-01"}
        assert len({d.device for d in devices}) == len(devices) == 23
        assert all(device.machine_type in PROFILES for device in devices)
        assert devices == plan_devices(20, 2.0, prefix="h2.")
