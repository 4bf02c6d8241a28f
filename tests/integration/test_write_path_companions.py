"""What goes into the transaction beside the readings: latest values, sequences, flags, quarantine; and repetitions."""

from config.settings import IngestSettings
from mqtt.session import stored_publish
from tests.integration.conftest import Database
from tests.integration.writing import MANY, NOW, at, query, readings, store_on, verdicts

# What belongs to the readings


async def test_latest_is_the_newest_value_of_each_metric(database: Database) -> None:
    async with store_on(database) as store:
        await store.store({"recorded_at": at(0), "temperature": 1, "humidity": 1, "oil": 1, "load": 1})
        await store.store({"recorded_at": at(10), "temperature": 2, "oil": 2}, {"recorded_at": at(20), "rpm": 3})
        expected = {"at": 20.0, "temperature": 2, "humidity": 1, "rpm": 3, "oil": 2, "load": 1}
        assert store.latest() == expected
        await store.store({"recorded_at": at(5), "temperature": 99, "oil": 99, "rpm": 99})
        assert store.latest() == expected, "late data does not overwrite"
        query(database, "ALTER TABLE sensor_readings ADD CONSTRAINT sane CHECK (temperature < 1000)")
        poison = {"recorded_at": at(7), "temperature": 2000}
        await store.store(poison, {"recorded_at": at(6), "temperature": 98}, {"recorded_at": at(20), "rpm": 3, "load": 1})
        assert store.latest() == expected, "nor does it on the careful way"
        await store.store({"recorded_at": at(20), "vibration": 4})
        assert store.latest() == {**expected, "vibration": 4}
    async with store_on(database) as store:
        await store.store({"recorded_at": at(20), "temperature": 2.5})
        assert store.latest() == {**expected, "vibration": 4, "temperature": 2.5}


async def test_sequences_survive_a_restart(database: Database) -> None:
    async with store_on(database) as store:
        for seq in (1, 2, 5, 9, 7):
            store.batch({"temperature": 1, "seq": seq, "boot_id": "b"}, received=seq)
        store.batch({"temperature": 1, "seq": 100}, received=20)
        await store.commit()
        await store.store({"temperature": 1, "seq": 102}, received=30)
        before = store.registry.by_name["press-1"].streams
    async with store_on(database) as store:
        assert store.registry.by_name["press-1"].streams == before
        assert before["b"].missing == [(3, 5), (6, 7), (8, 9)]
        assert before[""].missing == [(101, 102)]


async def test_sequences_are_stored_as_of_their_batch(database: Database) -> None:
    """What waits behind the batch is noted, but not stored: after a crash it is delivered again, and is no repetition."""
    async with store_on(database, options=IngestSettings(batch_max_messages=1)) as store:
        for seq in (1, 2, 4, 3):
            store.batch({"temperature": seq, "seq": seq, "boot_id": "b"}, received=seq)
        await store.commit()
        await store.commit()
    async with store_on(database) as store:
        for seq in (1, 2, 4, 3):
            store.batch({"temperature": seq, "seq": seq, "boot_id": "b"}, received=60 + seq, again=True)
        assert verdicts(await store.commit()) == (2, 0, 2, 0)
        assert [row["temperature"] for row in store.rows()] == [1, 2, 4, 3]


async def test_committed_but_not_acknowledged(database: Database) -> None:
    """The broker delivers again, to a new process that knows only what is stored."""
    dated = [{**reading, "seq": n, "boot_id": "b"} for n, reading in enumerate(readings(MANY))]
    undated = [{"temperature": n, "seq": MANY + n, "boot_id": "b"} for n in range(3)]
    array = [{"recorded_at": at(MANY + n), "rpm": n} for n in range(3)]
    async with store_on(database) as store:
        assert verdicts(await store.store(*dated, *undated, array, received=0.25)) == (MANY + 6, 0, 0, 0)
        rows, latest = store.rows(), store.latest()
    async with store_on(database) as store:
        store.batch(*dated, *undated, array, received=60, again=True)
        assert verdicts(await store.commit()) == (0, 0, MANY + 6, 0)
        assert store.rows() == rows
        assert store.latest() == latest


async def test_undated_without_boot_is_stored_again(database: Database) -> None:
    """At least once: without boot_id a repeated seq may be another start of the device."""
    async with store_on(database) as store:
        assert verdicts(await store.store({"temperature": 1, "seq": 5}, {"temperature": 1, "seq": 5})) == (2, 0, 0, 0)


async def test_flags(database: Database) -> None:
    async with store_on(database) as store:
        assert verdicts(await store.store({"temperature": 1, "recorded_at": 5})) == (1, 0, 0, 0)
        assert query(database, "SELECT clock FROM devices WHERE device_id = 'press-1'") == [("unset",)]
        assert store.rows() == [{"at": 0.0, "temperature": 1}]


async def test_quarantine_rows_are_complete(database: Database) -> None:
    async with store_on(database) as store:
        store.batch(b"\x00\xff", device="press-1", received=1.5)
        await store.commit()
        ((received, topic, device, reason, payload, qos, repeats),) = query(
            database, "SELECT received_at, topic, device, reason, payload, qos, repeats FROM quarantine"
        )
        assert (received - NOW).total_seconds() == 1.5
        assert (topic, device) == ("factory/devices/press-1/telemetry", "press-1")
        assert (reason, payload, qos, repeats) == ("malformed", b"\x00\xff", 1, 1)


async def test_a_flood_is_counted(database: Database) -> None:
    async with store_on(database, options=IngestSettings(quarantine_per_device_hour=2)) as store:
        for number in range(3):
            store.batch(*[b"bad-%d" % n for n in range(4)], b'{"temperature":"x"}', received=number)
            await store.commit()
        store.batch(b"bad", received=3600)
        store.batch(b"other", device="lathe")
        await store.commit()
        found = query(
            database,
            "SELECT device, reason, payload, repeats, flood_hour IS NOT NULL AS f FROM quarantine ORDER BY f, id",
        )
        assert found[:4] == [
            ("press-1", "malformed", b"bad-0", 1, False),
            ("press-1", "malformed", b"bad-1", 1, False),
            ("press-1", "malformed", b"bad", 1, False),
            ("lathe", "malformed", b"other", 1, False),
        ]
        assert sorted(found[4:]) == [
            ("press-1", "bad_type", b'{"temperature":"x"}', 3, True),
            ("press-1", "malformed", b"bad-3", 10, True),
        ]


async def test_a_replay_leaves_the_quarantine_in_the_same_transaction(database: Database) -> None:
    async with store_on(database) as store:
        await store.store(b"bad", {"temperature": "x"})
        (number,) = query(database, "SELECT id FROM quarantine WHERE reason = 'bad_type'")[0]
        payload = b'{"temperature": 5}'
        store.intake.replay(stored_publish("factory/devices/press-1/telemetry", payload, None, 1), NOW, number)
        assert verdicts(await store.commit()) == (1, 0, 0, 0)
        assert [reason for _, reason, _ in store.quarantined()] == ["malformed"]
