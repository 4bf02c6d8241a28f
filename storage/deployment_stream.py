"""What happens to deployments as it happens, as the database has it."""

import time
from collections.abc import Callable, Iterator, Sequence

from config.settings import DatabaseSettings
from storage.command_connection import command_connection
from storage.deployment_views import DeploymentView, EventView, events_after, last_event, views_of

POLL_S = 0.25


def stream_events(settings: DatabaseSettings, ids: Sequence[int], begun: Callable[[], None]) -> Iterator[EventView]:
    """Yields events from now on; of named deployments only theirs, until all have ended.

    Raises:
        NotFound: one is missing.
        DatabaseUnavailable: the connection failed or ended.
    """
    with command_connection(settings) as connection:
        last = last_event(connection)
        begun()
        while True:
            live = [view for view in views_of(connection, ids) if view.completed_at is None] if ids else []
            events = events_after(connection, last)
            for event in events:
                last = event.id
                if not ids or event.deployment_id in ids:
                    yield event
            if ids and not live:
                return
            if not events:
                time.sleep(POLL_S)


def ended_deployments(settings: DatabaseSettings, ids: Sequence[int]) -> list[DeploymentView]:
    """Returns how they stand.

    Raises:
        NotFound: one is missing.
    """
    with command_connection(settings) as connection:
        return views_of(connection, ids)
