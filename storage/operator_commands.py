"""operator_commands, and alerts that plain SQL has changed: what people want, for the daemon to carry out."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from alerting.alert import Alert
from alerting.operators import Command
from storage.alert_book import ALERTS, alert_of
from storage.database import Pool, translated

PENDING = """
    SELECT c.id, c.login, c.action, c.alert_id, c.note, c.shelve_until, c.sticky, c.request_id, c.response_topic,
        c.correlation_data, c.created_at, u.id, u.role::text, a.id IS NOT NULL, a.user_id
    FROM operator_commands c LEFT JOIN users u ON u.login = c.login LEFT JOIN alerts a ON a.id = c.alert_id
    WHERE c.carried_out_at IS NULL ORDER BY c.id LIMIT %s"""

UNNOTICED = f"{ALERTS} WHERE NOT a.noticed ORDER BY a.id LIMIT %s"

INSERT = """
    INSERT INTO operator_commands (login, action, alert_id, note, shelve_until, sticky, origin, request_id, response_topic,
        correlation_data)
    SELECT * FROM unnest(%s::text[], %s::text[], %s::int8[], %s::text[], %s::timestamptz[], %s::bool[], %s::text[], %s::text[],
        %s::text[], %s::bytea[])"""


class NewCommand(NamedTuple):
    """A command as it came over MQTT."""

    login: str
    action: str
    alert_id: int | None
    note: str | None
    shelve_until: datetime | None
    sticky: bool
    origin: str
    request_id: str | None
    response_topic: str | None
    correlation_data: bytes | None


class CommandTable:
    """Through the pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add(self, commands: Iterable[NewCommand]) -> None:
        """Stores commands, for the daemon to carry out.

        Raises:
            DatabaseUnavailable: try again.
        """
        rows = [tuple(_clean(value) for value in command) for command in commands]
        if rows:
            with translated("storing operators' commands"):
                async with self._pool.connection() as connection:
                    await connection.execute(INSERT, [list(column) for column in zip(*rows, strict=True)])

    async def pending(self, limit: int) -> Sequence[Command]:
        """Returns commands not yet carried out, in order, with the person's role as it is now."""
        with translated("reading operators' commands"):
            async with self._pool.connection() as connection:
                return [Command(*row) for row in await (await connection.execute(PENDING, [limit])).fetchall()]

    async def unnoticed(self, limit: int) -> Sequence[Alert]:
        """Returns alerts that plain SQL has changed or made."""
        with translated("reading changed alerts"):
            async with self._pool.connection() as connection:
                return [alert_of(row) for row in await (await connection.execute(UNNOTICED.encode(), [limit])).fetchall()]


def _clean(value: object) -> object:
    """PostgreSQL's text refuses NUL."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value
