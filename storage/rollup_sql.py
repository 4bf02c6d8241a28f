"""The statements that make roll-ups: minutes from readings, hours from minutes. Whole buckets are written, so again is no harm.

A value beyond ±1e290 counts as that much in a sum, and not at all in `extra`: one broken sensor must not stop the roll-ups of
all by an overflow.
"""

from ingest.reading import METRICS

HUGE = "1e290"
MINUTE, HOUR = "readings_1m", "readings_1h"
PARTS = ("count", "sum", "min", "max", "first", "last")
ORIGIN = "timestamptz '2000-01-01 00:00Z'"
EXTRA_NUMBER = (
    "CASE WHEN jsonb_typeof(value) = 'boolean' THEN value::boolean::int::float8 "
    f"WHEN jsonb_typeof(value) = 'number' AND abs(value::numeric) < {HUGE} THEN value::float8 END"
)
"""A `value` of the column extra, as a number."""


def minutes_from(relation: str) -> str:
    """Returns the statement for minutes out of a relation with the columns of sensor_readings.

    Parameters: from_at, until_at; devices: their numbers, or null for all.
    """
    given = f"""
        SELECT device_id, date_bin('1 minute', recorded_at, {ORIGIN}) AS bucket, recorded_at, {", ".join(METRICS)}, extra
        FROM {relation} WHERE recorded_at >= %(from_at)s AND recorded_at < %(until_at)s
            AND (%(devices)s::int8[] IS NULL OR device_id = ANY(%(devices)s))"""  # noqa: S608 - our constants
    values = ", ".join(_of_readings(metric) for metric in METRICS)
    parts = (
        "jsonb_build_array(count(v), sum(v), min(v), max(v), (array_agg(v ORDER BY recorded_at))[1],"
        " (array_agg(v ORDER BY recorded_at DESC))[1])"
    )
    extra = f"""
        SELECT device_id, bucket, jsonb_object_agg(key, parts) AS extra FROM (
            SELECT device_id, bucket, key, {parts} AS parts
            FROM given, jsonb_each(extra), LATERAL (SELECT {EXTRA_NUMBER} AS v) AS number
            WHERE extra IS NOT NULL AND v IS NOT NULL GROUP BY device_id, bucket, key) AS named
        GROUP BY device_id, bucket"""  # noqa: S608
    buckets = f"SELECT device_id, bucket, count(*), {values} FROM given GROUP BY device_id, bucket"  # noqa: S608
    return _written(MINUTE, given, buckets, extra)


def hours() -> str:
    """Returns the statement for hours out of minutes. Parameters as in `minutes_from`; both moments are whole hours."""
    given = f"""
        SELECT m.*, date_bin('1 hour', bucket, {ORIGIN}) AS hour FROM {MINUTE} m
        WHERE bucket >= %(from_at)s AND bucket < %(until_at)s
            AND (%(devices)s::int8[] IS NULL OR device_id = ANY(%(devices)s))"""  # noqa: S608
    values = ", ".join(_of_minutes(metric) for metric in METRICS)
    parts = (
        "jsonb_build_array(sum((value->>0)::int8), sum((value->>1)::float8), min((value->>2)::float8),"
        " max((value->>3)::float8), (array_agg(value->4 ORDER BY bucket))[1], (array_agg(value->5 ORDER BY bucket DESC))[1])"
    )
    extra = f"""
        SELECT device_id, hour AS bucket, jsonb_object_agg(key, parts) AS extra FROM (
            SELECT device_id, hour, key, {parts} AS parts FROM given, jsonb_each(extra)
            WHERE extra IS NOT NULL GROUP BY device_id, hour, key) AS named
        GROUP BY device_id, hour"""  # noqa: S608
    buckets = f"SELECT device_id, hour AS bucket, sum(readings), {values} FROM given GROUP BY device_id, hour"  # noqa: S608
    return _written(HOUR, given, buckets, extra)


def bounded(value: str) -> str:
    """Returns a value as it counts in a sum."""
    return f"greatest(least({value}, {HUGE}), -{HUGE})"


def _written(table: str, given: str, buckets: str, extra: str) -> str:
    names = ["readings", *(f"{metric}_{part}" for metric in METRICS for part in PARTS)]
    columns = ", ".join(names)
    updates = ", ".join(f"{name} = excluded.{name}" for name in (*names, "extra"))
    return f"""
        WITH given AS MATERIALIZED ({given}), buckets (device_id, bucket, {columns}) AS ({buckets}), more AS ({extra})
        INSERT INTO {table} (device_id, bucket, {columns}, extra)
        SELECT b.*, more.extra FROM buckets b LEFT JOIN more USING (device_id, bucket)
        ON CONFLICT (device_id, bucket) DO UPDATE SET {updates}"""  # noqa: S608


def _of_readings(metric: str) -> str:
    there = f"FILTER (WHERE {metric} IS NOT NULL)"
    return (
        f"nullif(count({metric}), 0), sum({bounded(metric)}) {there}, min({metric}), max({metric}),"
        f" (array_agg({metric} ORDER BY recorded_at) {there})[1], (array_agg({metric} ORDER BY recorded_at DESC) {there})[1]"
    )


def _of_minutes(metric: str) -> str:
    there = f"FILTER (WHERE {metric}_count IS NOT NULL)"
    return (
        f"sum({metric}_count), sum({metric}_sum), min({metric}_min), max({metric}_max),"
        f" (array_agg({metric}_first ORDER BY bucket) {there})[1], (array_agg({metric}_last ORDER BY bucket DESC) {there})[1]"
    )
