"""Triggers: logins, updated_at, cache versions with notifications, and the end of a deleted threshold's alerts."""

from alembic import op

revision = "0003"
down_revision = "0002"

# SECURITY DEFINER: whoever may insert a user need not be able to read all of them. The lock makes two
# concurrent inserts of the same local part take their turns.
LOGIN = """
CREATE FUNCTION fill_login() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    stem text := left(regexp_replace(lower(split_part(NEW.email, '@', 1)), '[^a-z0-9._-]+', '-', 'g'), 50);
    number integer := 1;
BEGIN
    stem := coalesce(nullif(stem, ''), 'user');
    NEW.login := stem;
    PERFORM pg_advisory_xact_lock(hashtextextended('factoryd login ' || stem, 0));
    WHILE EXISTS (SELECT FROM public.users WHERE login = NEW.login) LOOP
        number := number + 1;
        NEW.login := stem || '-' || number;
    END LOOP;
    RETURN NEW;
END $$;
CREATE TRIGGER users_login BEFORE INSERT ON users
    FOR EACH ROW WHEN (NEW.login IS NULL) EXECUTE FUNCTION fill_login();
"""

UPDATED_AT = """
CREATE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END $$;
CREATE TRIGGER users_updated_at BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER devices_updated_at BEFORE UPDATE ON devices FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER alert_thresholds_updated_at BEFORE UPDATE ON alert_thresholds
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
"""

# Raises the version once per transaction, whatever the number of rows. The mark is local to the transaction
# and goes away with a rolled-back savepoint, as the UPDATE does. SECURITY DEFINER: any writer of
# configuration raises the number, nobody sets it.
CACHE_VERSION = """
CREATE FUNCTION raise_cache_version() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    mark text := 'factoryd.raised_' || TG_ARGV[0];
    raised bigint;
BEGIN
    IF current_setting(mark, true) = pg_current_xact_id()::text THEN
        RETURN NULL;
    END IF;
    UPDATE public.cache_versions SET version = version + 1 WHERE name = TG_ARGV[0] RETURNING version INTO raised;
    PERFORM set_config(mark, pg_current_xact_id()::text, true);
    PERFORM pg_notify('factoryd_cache', TG_ARGV[0] || ':' || raised);
    RETURN NULL;
END $$;
"""

# (table, name of its cache, columns that are configuration). The other columns of devices are rewritten by
# presence all the time and must stay silent.
CACHED = (
    (
        "devices",
        "devices",
        ("device_id", "name", "type", "location", "user_id", "metadata", "via_id", "timezone", "interval_s", "retired_at"),
    ),
    (
        "alert_thresholds",
        "thresholds",
        ("device_id", "user_id", "metric_type", "min_value", "max_value", "severity", "enabled"),
    ),
    ("users", "users", ("email", "password_hash", "name", "role", "login")),
    ("device_credentials", "accounts", ("device_id", "secret_hash")),
)

# Not about a cache, but it wakes the same listener. No version: the rows themselves say what is to be done.
REPLAY = """
CREATE FUNCTION notify_replay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('factoryd_cache', 'replay:0');
    RETURN NULL;
END $$;
CREATE TRIGGER quarantine_replay AFTER UPDATE OF replay_requested_at ON quarantine FOR EACH ROW
    WHEN (NEW.replay_requested_at IS NOT NULL AND NEW.replay_requested_at IS DISTINCT FROM OLD.replay_requested_at)
    EXECUTE FUNCTION notify_replay();
"""

# The foreign key then sets threshold_id to NULL; two open alerts of one device would collide there.
THRESHOLD_DELETED = """
CREATE FUNCTION resolve_alerts_of_threshold() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE public.alerts SET status = 'resolved', resolved_at = now()
        WHERE threshold_id = OLD.id AND status <> 'resolved';
    RETURN OLD;
END $$;
CREATE TRIGGER alert_thresholds_deleted BEFORE DELETE ON alert_thresholds
    FOR EACH ROW EXECUTE FUNCTION resolve_alerts_of_threshold();
"""

FUNCTIONS = ("fill_login", "set_updated_at", "raise_cache_version", "notify_replay", "resolve_alerts_of_threshold")


def upgrade() -> None:
    for statements in (LOGIN, UPDATED_AT, CACHE_VERSION, REPLAY, THRESHOLD_DELETED):
        op.execute(statements)
    for table, cache, columns in CACHED:
        op.execute(cache_triggers(table, cache, columns))
    for function in FUNCTIONS:
        op.execute(f"REVOKE EXECUTE ON FUNCTION {function}() FROM PUBLIC")


def cache_triggers(table: str, cache: str, columns: tuple[str, ...]) -> str:
    """Deferred to the commit: an open transaction of a person must not hold the version's row against the daemon."""
    old = ", ".join(f"OLD.{column}" for column in columns)
    new = ", ".join(f"NEW.{column}" for column in columns)
    deferred = "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
    action = f"EXECUTE FUNCTION raise_cache_version('{cache}')"
    return f"""
CREATE CONSTRAINT TRIGGER {table}_cache_rows AFTER INSERT OR DELETE ON {table} {deferred} {action};
CREATE CONSTRAINT TRIGGER {table}_cache_changes AFTER UPDATE ON {table} {deferred}
    WHEN (({old}) IS DISTINCT FROM ({new})) {action};
CREATE TRIGGER {table}_cache_truncated AFTER TRUNCATE ON {table} FOR EACH STATEMENT {action};
"""
