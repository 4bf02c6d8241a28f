"""Presence as a whole, on a clock of the test's own: what is written, when it is acknowledged, and when silence is judged."""

import asyncio
import tracemalloc
from datetime import timedelta
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from ingest.births import Status
from ingest.devices import DeviceRow
from ingest.liveness import Outcome, PresenceRow
from ingest.presence import HALT_S
from ingest.presence_writing import CHUNK
from ingest.unacknowledged import MOST
from tests.unit.presence_plant import (
    CHILD,
    GATEWAY,
    GRANDCHILD,
    LAST_SEEN_S,
    PRESS,
    START,
    Plant,
)


@pytest.fixture
def plant() -> Plant:
    return Plant()


async def test_changes_are_written_in_one_batch_in_order_and_only_once(plant: Plant) -> None:
    plant.say("press-1", '{"status":"online","version":"1.4.2"}')
    plant.send(CHILD, PRESS)
    plant.wait(1)
    plant.send(CHILD)
    await plant.presence.write()
    await plant.presence.write()
    child = PresenceRow(CHILD, Status.ONLINE, last_seen=plant.now)
    assert plant.table.saves == [[child, PresenceRow(PRESS, Status.ONLINE, version="1.4.2", last_seen=START)]]


async def test_a_status_is_acknowledged_after_the_write_that_contains_it(plant: Plant) -> None:
    plant.table.away = True
    plant.say("press-1", "online")
    await plant.presence.write()
    plant.say("press-1", "offline")
    assert plant.link.acknowledged == []
    plant.table.away = False
    await plant.presence.write()
    assert plant.link.acknowledged == [1, 2]
    assert plant.table.saves == [[PresenceRow(PRESS, last_seen=START)]]


async def test_what_could_not_be_written_is_written_later(plant: Plant) -> None:
    plant.table.away = True
    plant.send(PRESS)
    await plant.presence.write()
    plant.table.away = False
    await plant.presence.write()
    assert plant.table.rows[PRESS].status is Status.ONLINE


class TestManyStatusMessages:
    """The broker keeps them; what we keep of them is small, and bounded."""

    def test_of_a_waiting_message_only_its_number_is_kept(self, plant: Plant) -> None:
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(100):
                plant.say("press-1", "x" * 200_000)
            kept = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert kept < 200_000, "of 20 MB"
        assert plant.counted(Outcome.MALFORMED) == 100

    async def test_beyond_the_bound_the_receiver_is_held_until_they_are_stored(self, plant: Plant) -> None:
        plant.open_eyes()
        await plant.presence.write()
        plant.table.away = True
        for _ in range(MOST):
            plant.say("press-1", "online")
        assert not plant.is_held()
        plant.say("press-1", "online")
        assert plant.is_held()
        plant.look()
        assert plant.is_blind(), "a birth may be among those held back"
        await plant.presence.write()
        assert plant.is_held()
        plant.table.away = False
        await plant.presence.write()
        assert not plant.is_held()
        assert plant.link.acknowledged == list(range(1, MOST + 2))

    async def test_only_who_is_held_by_us_is_let_go(self, plant: Plant) -> None:
        plant.source.pause()
        plant.say("press-1", "online")
        await plant.presence.write()
        assert plant.is_held()

    def test_malformed_ones_are_one_line_a_minute(self, plant: Plant) -> None:
        with capture_logs() as logs:
            for second in range(61):
                for _ in range(10):
                    plant.say("press-1" if second % 2 else "gw-1", "sleeping")
                plant.wait(1)
        assert [line["messages"] for line in logs if line["event"] == "status_malformed"] == [1, 600]
        assert plant.counted(Outcome.MALFORMED) == 610

    def test_a_clock_set_back_does_not_silence_the_line(self, plant: Plant) -> None:
        with capture_logs() as logs:
            plant.say("press-1", "sleeping")
            plant.wait(-3600)
            plant.say("press-1", "sleeping")
        assert len(logs) == 2


class TestLastSeen:
    """Mere progress is not worth a write every two seconds; `MANY` devices are two and a half chunks."""

    MANY = 2 * CHUNK + CHUNK // 2
    HEARD = START + timedelta(seconds=1)

    @pytest.fixture
    async def crowd(self) -> Plant:
        """All online and stored, and heard again since."""
        numbers = range(1, self.MANY + 1)
        rows = [PresenceRow(number, Status.ONLINE, last_seen=START) for number in numbers]
        plant = Plant(rows, [DeviceRow(number, f"d-{number}") for number in numbers])
        await plant.presence.load()
        plant.wait(1)
        plant.send(*numbers)
        return plant

    def stored(self, plant: Plant) -> int:
        return sum(row.last_seen == self.HEARD for row in plant.table.rows.values())

    async def test_does_not_come_with_the_changes(self, crowd: Plant) -> None:
        crowd.say("d-7", "offline")
        await crowd.presence.write()
        assert crowd.table.saves == [[PresenceRow(7, last_seen=crowd.now)]]

    async def test_comes_with_them_the_first_time(self) -> None:
        plant = Plant([PresenceRow(PRESS)])
        await plant.presence.load()
        plant.presence.heard([PRESS], START - timedelta(hours=1))
        await plant.presence.write()
        assert plant.table.saves == [[PresenceRow(PRESS, last_seen=START - timedelta(hours=1))]]

    async def test_comes_in_chunks_spread_over_its_interval(self, crowd: Plant) -> None:
        spreading = asyncio.create_task(crowd.presence._writing.spread())
        async with asyncio.timeout(5):
            while self.stored(crowd) < self.MANY:
                await asyncio.sleep(0.01)
        spreading.cancel()
        assert [len(save) for save in crowd.table.saves] == [CHUNK, CHUNK, CHUNK // 2]
        assert all(later - earlier > 0.9 * LAST_SEEN_S / 3 for earlier, later in pairwise(crowd.table.times))

    async def test_is_written_once_at_an_orderly_end(self, crowd: Plant) -> None:
        await crowd.presence.flush()
        assert self.stored(crowd) == self.MANY
        assert [len(save) for save in crowd.table.saves] == [CHUNK, CHUNK, CHUNK // 2]
        await crowd.presence.flush()
        assert len(crowd.table.saves) == 3

    async def test_that_could_not_be_written_blinds_us_and_comes_later(self, crowd: Plant) -> None:
        crowd.open_eyes()
        crowd.table.away = True
        await crowd.presence.flush()
        crowd.look()
        assert crowd.is_blind()
        await crowd.presence.write()
        crowd.presence.look()
        crowd.mark_back()
        crowd.presence.look()
        assert crowd.is_blind(), "a write without changes tells nothing about the database"
        crowd.table.away = False
        await crowd.presence.write()
        crowd.open_eyes()
        await crowd.presence.flush()
        assert self.stored(crowd) == self.MANY

    async def test_many_changes_come_in_chunks_and_are_acknowledged_when_all_are_stored(self, crowd: Plant) -> None:
        for number in range(1, self.MANY + 1):
            crowd.say(f"d-{number}", "offline")
        crowd.table.saves_left = 1
        await crowd.presence.write()
        assert crowd.link.acknowledged == []
        crowd.table.saves_left = None
        await crowd.presence.write()
        assert [len(save) for save in crowd.table.saves] == [CHUNK, CHUNK, CHUNK // 2], "and none twice"
        assert len(crowd.link.acknowledged) == self.MANY


@pytest.mark.parametrize(
    ("device", "payload", "outcome"),
    [
        ("press-1", "online", Outcome.ACCEPTED),
        ("nobody", "online", Outcome.UNKNOWN_DEVICE),
        ("a b", "online", Outcome.UNKNOWN_DEVICE),
        ("old-1", "online", Outcome.RETIRED_DEVICE),
        ("press-1", "sleeping", Outcome.MALFORMED),
        ("press-1", "", Outcome.CLEARED),
    ],
)
async def test_every_status_is_counted_and_acknowledged(plant: Plant, device: str, payload: str, outcome: Outcome) -> None:
    plant.say(device, payload)
    await plant.presence.write()
    assert {each: plant.counted(each) for each in Outcome} == {each: float(each is outcome) for each in Outcome}
    assert plant.link.acknowledged == [1]
    assert bool(plant.table.saves) is (outcome is Outcome.ACCEPTED)


class TestGateways:
    def test_a_death_is_its_childrens_and_names_the_gateway(self, plant: Plant) -> None:
        plant.send(GATEWAY, CHILD, GRANDCHILD, PRESS)
        plant.say("gw-1", "offline")
        assert plant.status(CHILD) == plant.status(GRANDCHILD) == (Status.OFFLINE, "gateway gw-1 is offline")
        assert plant.status(PRESS) == (Status.ONLINE, None)

    def test_a_childs_own_traffic_brings_it_back_once_the_mark_is_back(self, plant: Plant) -> None:
        plant.send(CHILD)
        plant.say("gw-1", "offline")
        plant.wait(60)
        plant.send(CHILD)
        assert plant.status(CHILD)[0] is Status.OFFLINE
        plant.mark_back()
        plant.wait(1)
        plant.send(CHILD)
        assert plant.status(CHILD) == (Status.ONLINE, None)
        assert plant.status(GATEWAY)[0] is Status.OFFLINE

    def test_a_death_that_is_repeated_or_stale_buries_nobody(self, plant: Plant) -> None:
        plant.say("gw-1", '{"status":"online","session":"s2"}')
        plant.send(CHILD)
        plant.say("gw-1", '{"status":"offline","session":"s1"}')
        assert plant.status(CHILD)[0] is Status.ONLINE
        plant.say("gw-1", '{"status":"offline","session":"s2"}')
        plant.say("plc-1", "online")
        plant.say("gw-1", '{"status":"offline","session":"s2"}', retain=True)
        assert plant.status(CHILD)[0] is Status.ONLINE

    def test_a_circle_of_gateways_ends(self, plant: Plant) -> None:
        plant.registry.load([DeviceRow(GATEWAY, "gw-1", via_id=GRANDCHILD)])
        plant.send(CHILD, GRANDCHILD)
        plant.say("gw-1", "offline")
        assert plant.status(GATEWAY) == (Status.OFFLINE, None)


class TestSilence:
    def test_is_judged_after_three_intervals(self, plant: Plant) -> None:
        plant.open_eyes()
        plant.send(PRESS, GATEWAY)
        for _ in range(15):
            plant.look()
        assert plant.status(PRESS)[0] is Status.ONLINE
        plant.look()
        assert plant.status(PRESS) == (Status.OFFLINE, "silent for more than 30 s")
        assert plant.status(GATEWAY)[0] is Status.ONLINE, "it states no interval"

    @pytest.mark.parametrize(("control", "telemetry"), [(False, False), (True, False), (False, True)])
    def test_is_not_judged_before_the_mark_is_back_on_both_sessions(self, plant: Plant, control: bool, telemetry: bool) -> None:
        plant.send(PRESS)
        plant.look()
        plant.look()
        plant.mark_back(control=control, telemetry=telemetry)
        for _ in range(100):
            plant.look()
        assert plant.presence.blind
        assert plant.status(PRESS)[0] is Status.ONLINE

    @pytest.mark.parametrize("cause", ["broker", "database", "halt"])
    async def test_begins_anew_after_we_were_blind(self, plant: Plant, cause: str) -> None:
        plant.open_eyes()
        plant.send(PRESS)
        plant.wait(1 if cause != "halt" else 3 + HALT_S)
        plant.seeing = cause != "broker"
        plant.table.away = cause == "database"
        await plant.presence.write()
        plant.presence.look()
        assert plant.is_blind()
        plant.seeing, plant.table.away = True, False
        for _ in range(50):
            plant.look()
        await plant.presence.write()
        plant.look()
        plant.mark_back()
        plant.look()
        assert not plant.is_blind()
        for _ in range(15):
            plant.look()
        assert plant.status(PRESS)[0] is Status.ONLINE, "a fresh interval"
        plant.look()
        assert plant.status(PRESS)[0] is Status.OFFLINE


async def test_after_a_restart_backlog_of_the_dead_stays_deaf_until_the_mark() -> None:
    plant = Plant([PresenceRow(PRESS, Status.OFFLINE, None, "s1", None, START)])
    await plant.presence.load()
    plant.wait(600)
    plant.send(PRESS)
    assert plant.status(PRESS)[0] is Status.OFFLINE
    plant.mark_back()
    plant.wait(1)
    plant.send(PRESS)
    assert plant.status(PRESS)[0] is Status.ONLINE


async def test_a_death_heard_while_a_mark_is_under_way_waits_for_the_next(plant: Plant) -> None:
    plant.send(PRESS)
    marks = plant.presence._marks
    old = f"{marks._process} {marks._next}".encode()
    marks._next += 1
    plant.say("press-1", "offline")
    plant.presence.telemetry_mark(old, plant.now)
    plant.wait(1)
    plant.send(PRESS)
    assert plant.status(PRESS)[0] is Status.OFFLINE
    plant.mark_back()
    plant.wait(1)
    plant.send(PRESS)
    assert plant.status(PRESS)[0] is Status.ONLINE


@pytest.mark.parametrize(
    "payload", [b"", b"\xff", b"other 1", b"{process} 0", b"{process} 99", b"{process} -1", b"{process} x"]
)
async def test_foreign_marks_count_for_nothing(plant: Plant, payload: bytes) -> None:
    await plant.presence.load()
    marks = plant.presence._marks
    plant.presence.telemetry_mark(payload.replace(b"{process}", marks._process.encode()), START)
    assert marks._reached["telemetry"] == 0
