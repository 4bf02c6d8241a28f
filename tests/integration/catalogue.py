"""What a database's schema consists of, as comparable lines."""

import psycopg

OURS = r"relnamespace = 'public'::regnamespace AND relname !~ '^alembic_version|^sensor_readings_\d{8}'"

QUERIES = (
    f"""SELECT 'column', c.relname, attname, format_type(atttypid, atttypmod), attnotnull, attidentity::text,
        pg_get_expr(adbin, adrelid), col_description(c.oid, attnum)
        FROM pg_attribute JOIN pg_class c ON c.oid = attrelid LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE relkind IN ('r', 'p') AND attnum > 0 AND NOT attisdropped AND {OURS}""",
    f"""SELECT 'constraint', c.relname, conname, pg_get_constraintdef(o.oid)
        FROM pg_constraint o JOIN pg_class c ON c.oid = conrelid WHERE contype IN ('c', 'f', 'p', 'u') AND {OURS}""",
    f"""SELECT 'index', relname, pg_get_indexdef(oid) FROM pg_class WHERE relkind IN ('i', 'I') AND {OURS}""",
    f"""SELECT 'storage', relname, reloptions::text, pg_get_partkeydef(oid)
        FROM pg_class WHERE relkind IN ('r', 'p') AND {OURS}""",
    f"""SELECT 'sequence', relname, seqcache FROM pg_sequence JOIN pg_class ON oid = seqrelid WHERE {OURS}""",
    """SELECT 'enum', typname, string_agg(enumlabel, ',' ORDER BY enumsortorder)
        FROM pg_enum JOIN pg_type t ON t.oid = enumtypid GROUP BY typname""",
)
BEHAVIOUR_QUERIES = (
    f"""SELECT 'trigger', relname, tgname, pg_get_triggerdef(g.oid)
        FROM pg_trigger g JOIN pg_class c ON c.oid = tgrelid WHERE NOT tgisinternal AND {OURS}""",
    """SELECT 'function', proname, prosrc, prosecdef, proconfig::text, proacl::text FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace""",
    f"SELECT 'grant', relname, relacl::text, relowner::regrole::text FROM pg_class WHERE relkind IN ('r', 'p') AND {OURS}",
    f"""SELECT 'column grant', relname, attname, attacl::text FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
        WHERE attacl IS NOT NULL AND {OURS}""",
)


def structure(url: str) -> list[str]:
    """Tables, columns, constraints, indexes, sequences, enums."""
    return _lines(url, QUERIES)


def behaviour(url: str) -> list[str]:
    """Triggers, functions, grants."""
    return _lines(url, BEHAVIOUR_QUERIES)


def _lines(url: str, queries: tuple[str, ...]) -> list[str]:
    with psycopg.connect(url) as connection:
        return sorted(repr(row) for query in queries for row in connection.execute(query.encode()))
