"""What goes into a batch's transaction beside its readings: latest values, sequences and gaps, device flags, quarantine."""

from collections.abc import Collection, Sequence
from operator import itemgetter

from ingest.batch import Batch
from ingest.flood import Refusals
from ingest.reading import METRICS, Quarantined, Reading
from storage.database import Connection
from storage.gap_rows import multirange, write_gaps
from storage.upsert import COLUMNS, GIVEN, given

# A newer reading replaces what it says, and so does one of the same moment, which can only have completed it; an older one
# completes.
_latest_values = ", ".join(
    f"{name} = CASE WHEN excluded.recorded_at >= l.recorded_at THEN coalesce(excluded.{name}, l.{name})"
    f" ELSE coalesce(l.{name}, excluded.{name}) END"
    for name in METRICS
)
ON_LATEST_CONFLICT = f"""
    ON CONFLICT (device_id) DO UPDATE SET {_latest_values},
        extra = CASE WHEN excluded.extra IS NULL THEN l.extra
                     WHEN excluded.recorded_at >= l.recorded_at THEN coalesce(l.extra, '{{}}') || excluded.extra
                     ELSE excluded.extra || coalesce(l.extra, '{{}}') END,
        received_at = greatest(l.received_at, excluded.received_at),
        recorded_at = greatest(l.recorded_at, excluded.recorded_at),
        evaluated_at = greatest(l.evaluated_at, excluded.evaluated_at)"""

LATEST = f"""
    INSERT INTO device_latest AS l ({", ".join(COLUMNS)}, evaluated_at)
    SELECT *, least(recorded_at, received_at) FROM {GIVEN} {ON_LATEST_CONFLICT}"""  # noqa: S608 - our constants

SEQUENCES = """
    INSERT INTO device_sequences AS s (device_id, boot_id, first_seq, last_seq, missing)
    SELECT d, b, f, l, m::int8multirange
    FROM unnest(%s::int8[], %s::text[], %s::int8[], %s::int8[], %s::text[]) AS t (d, b, f, l, m)
    JOIN devices ON devices.id = d -- a device that was deleted must not stop its neighbours
    ON CONFLICT (device_id, boot_id) DO UPDATE
        SET first_seq = excluded.first_seq, last_seq = excluded.last_seq, missing = excluded.missing, updated_at = now()"""

FLAGS = """
    UPDATE devices SET clock = t.clock, qos0_seen = t.qos0
    FROM unnest(%s::int8[], %s::text[], %s::bool[]) AS t (id, clock, qos0) WHERE devices.id = t.id"""

QUARANTINE = """
    INSERT INTO quarantine (received_at, topic, device, reason, detail, payload, content_type, qos)
    SELECT * FROM unnest(%s::timestamptz[], %s::text[], %s::text[], %s::text[], %s::text[], %s::bytea[], %s::text[],
        %s::int2[])"""

FLOODS = """
    INSERT INTO quarantine AS q (received_at, topic, device, reason, detail, payload, content_type, qos, flood_hour, repeats)
    SELECT * FROM unnest(%s::timestamptz[], %s::text[], %s::text[], %s::text[], %s::text[], %s::bytea[], %s::text[], %s::int2[],
        %s::timestamptz[], %s::int8[])
    ON CONFLICT (device, reason, flood_hour) WHERE flood_hour IS NOT NULL DO UPDATE SET repeats = q.repeats + excluded.repeats,
        payload = excluded.payload, received_at = excluded.received_at, topic = excluded.topic, detail = excluded.detail"""

REPLAYED = "DELETE FROM quarantine WHERE id = ANY(%s)"


async def write_side_rows(connection: Connection, batch: Batch, latest: Collection[Reading], refused: Refusals) -> None:
    """Writes them, as far as there are any, inside the caller's transaction (and pipeline)."""
    if latest:
        ordered = sorted(latest)  # always in the same order: two writers could else wait for each other
        await connection.execute(LATEST, given(ordered))
    batch.close()
    if batch.sequences:
        streams = sorted(batch.sequences.items(), key=itemgetter(0))
        rows = [(*key, stream.first, stream.last, multirange(stream.missing)) for key, stream in streams]
        await connection.execute(SEQUENCES, _columns(rows))
        await write_gaps(connection, streams)
    if batch.flagged:
        await connection.execute(FLAGS, _columns([(device.id, device.clock, device.qos0_seen) for device in batch.flagged]))
    await _write_refused(connection, refused)
    if batch.replayed:
        await connection.execute(REPLAYED, [batch.replayed])


async def _write_refused(connection: Connection, refused: Refusals) -> None:
    if refused.kept:
        await connection.execute(QUARANTINE, _columns([_quarantine_row(row) for row in refused.kept]))
    if refused.floods:
        rows = [(*_quarantine_row(flood.sample), hour, flood.count) for (_, _, hour), flood in refused.floods.items()]
        await connection.execute(FLOODS, _columns(rows))


def _quarantine_row(row: Quarantined) -> tuple[object, ...]:
    return (row.received_at, row.topic, row.device, row.reason.value, row.detail, row.payload, row.content_type, row.qos)


def _columns(rows: Sequence[tuple[object, ...]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]
