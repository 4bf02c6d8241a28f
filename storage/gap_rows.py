"""The ledger of gaps, written with the batch that notices or fills them: what never reached us, since when, and until when.

Only what changed is written, found by index: a device that loses every second message for a year costs no more per batch
than on its first day. Gaps of one run of numbers do not overlap.
"""

from collections.abc import Iterable, Sequence

from ingest.gaps import Range, filled, noticed
from ingest.sequences import Stream
from storage.database import Connection

# The open rows that a filled range touches: the last that begins at or before it, and those that begin within it.
FILLED = """
    UPDATE sequence_gaps g
    SET missing = int8multirange(int8range(g.first_seq, g.last_seq, '[]')) * t.missing,
        closed_at = CASE WHEN isempty(int8multirange(int8range(g.first_seq, g.last_seq, '[]')) * t.missing) THEN now() END
    FROM (SELECT d, b, f::int8multirange AS filled, m::int8multirange AS missing
        FROM unnest(%s::int8[], %s::text[], %s::text[], %s::text[]) AS u (d, b, f, m)) t, unnest(t.filled) AS r
    WHERE g.device_id = t.d AND g.boot_id = t.b AND g.closed_at IS NULL AND g.lost_at IS NULL AND g.first_seq < upper(r)
        AND g.first_seq >= coalesce((SELECT max(o.first_seq) FROM sequence_gaps o WHERE o.device_id = t.d AND o.boot_id = t.b
            AND o.closed_at IS NULL AND o.lost_at IS NULL AND o.first_seq <= lower(r)), lower(r))
        AND g.missing && r"""

LOST = """
    UPDATE sequence_gaps g SET lost_at = now() FROM unnest(%s::int8[], %s::text[]) AS t (d, b)
    WHERE g.device_id = t.d AND g.boot_id = t.b AND g.closed_at IS NULL AND g.lost_at IS NULL"""

NOTICED = """
    INSERT INTO sequence_gaps (device_id, boot_id, first_seq, last_seq, missing, lost_at)
    SELECT d, b, f, l, int8multirange(int8range(f, l, '[]')), CASE WHEN lost THEN now() END
    FROM unnest(%s::int8[], %s::text[], %s::int8[], %s::int8[], %s::bool[]) WITH ORDINALITY AS t (d, b, f, l, lost, place)
    JOIN devices ON devices.id = d -- a device that was deleted must not stop its neighbours
    ORDER BY place"""


async def write_gaps(connection: Connection, streams: Iterable[tuple[tuple[int, str], Stream]]) -> None:
    """Brings the ledger up to the streams of a batch, by device and boot, inside the caller's transaction (and pipeline)."""
    changed = [(key, stream) for key, stream in streams if stream.before is not None or stream.anew]
    runs = [(key, run, run is not stream) for key, stream in changed for run in (*stream.ended, stream)]
    await _write(
        connection, FILLED, [(*key, multirange(come), multirange(run.missing)) for key, run, _ in runs if (come := filled(run))]
    )
    await _write(connection, LOST, [key for key, stream in changed if stream.anew])
    await _write(
        connection, NOTICED, [(*key, start, end - 1, ended) for key, run, ended in runs for start, end in noticed(run)]
    )


async def _write(connection: Connection, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
    if rows:
        await connection.execute(statement, [list(column) for column in zip(*rows, strict=True)])


def multirange(ranges: Iterable[Range]) -> str:
    """Returns half-open ranges as PostgreSQL reads them."""
    return "{" + ",".join(f"[{start},{end})" for start, end in ranges) + "}"
