"""Keeps the caches true: whatever any writer commits takes effect here within a second.

`storage.changes` says what has changed; here it is loaded again, complete or not at all. A load that fails leaves the old
state in use, is tried again, and shows in the metrics.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from config.settings import DatabaseSettings
from ingest.devices import Registry
from ingest.intake import Intake
from storage.changes import POLL_S, ChangeListener
from storage.devices import DeviceStore

log = structlog.get_logger(__name__)

Load = Callable[[], Awaitable[object]]
"""Loads one cache anew; raises for whatever kept it from doing so, and has then changed nothing."""

PAUSE_S = 0.2
"""Rest after a load: a thousand changes one by one cost five loads a second, and each is in effect well within one."""
RETRY_MAX_S = 5.0


class CacheMetrics:
    """How old what we go by may be."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.age = Gauge(
            "factoryd_cache_age_seconds",
            "Time since the cache was last known to be what the database holds.",
            ("cache",),
            registry=registry,
        )
        self.reloads = Counter("factoryd_cache_reloads", "Loads that succeeded.", ("cache",), registry=registry)
        self.failures = Counter("factoryd_cache_reload_failures", "Loads that failed.", ("cache",), registry=registry)


class _Cache:
    """One cache: stale from the moment we hear of a change until a load that began later has succeeded."""

    def __init__(self, name: str, load: Load, metrics: CacheMetrics) -> None:
        self.name = name
        self._load = load
        self._metrics = metrics
        self._changed = asyncio.Event()
        self._loading = False
        self._fresh_at = monotonic()
        metrics.age.labels(name).set_function(lambda: monotonic() - self._fresh_at)
        metrics.reloads.labels(name)
        metrics.failures.labels(name)

    def change(self) -> None:
        self._changed.set()

    def confirm(self) -> None:
        if not self._changed.is_set() and not self._loading:
            self._fresh_at = monotonic()

    async def run(self) -> None:
        attempt = 0
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._loading, began = True, monotonic()
            try:
                await self._load()
            except Exception as error:  # any: what we have stays in use, and the metric tells
                attempt += 1
                self._changed.set()
                self._note(error, attempt)
                await asyncio.sleep(random.uniform(0.05, min(RETRY_MAX_S, 0.1 * 2 ** min(attempt, 8))))  # noqa: S311
                continue
            finally:
                self._loading = False
            attempt, self._fresh_at = 0, began
            self._metrics.reloads.labels(self.name).inc()
            await asyncio.sleep(PAUSE_S)

    def _note(self, error: Exception, attempt: int) -> None:
        self._metrics.failures.labels(self.name).inc()
        if attempt == 1 or attempt % 20 == 0:
            unexpected = None if isinstance(error, ConnectionError) else error
            log.warning("cache_not_reloaded", cache=self.name, error=str(error), attempt=attempt, exc_info=unexpected)


class Caches:
    """All caches, by the names that the notifications use ("devices", "replay", later "thresholds" and "users")."""

    def __init__(
        self, settings: DatabaseSettings, loads: Mapping[str, Load], metrics: CacheMetrics, poll_s: float = POLL_S
    ) -> None:
        self._caches = {name: _Cache(name, load, metrics) for name, load in loads.items()}
        self._listener = ChangeListener(settings, self._change, self._confirm, poll_s)

    @property
    def listening(self) -> asyncio.Event:
        """Set while every change is heard."""
        return self._listener.listening

    async def run(self) -> None:
        """Listens and loads until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listener.run(), name="cache listener")
            for cache in self._caches.values():
                group.create_task(cache.run(), name=f"cache {cache.name}")

    def _change(self, name: str) -> None:
        if (cache := self._caches.get(name)) is not None:
            cache.change()

    def _confirm(self) -> None:
        for cache in self._caches.values():
            cache.confirm()


def device_load(store: DeviceStore, registry: Registry, intake: Intake) -> Load:
    """Returns what loads "devices": all rows first, then configuration is replaced in place. What is in flight stays."""

    async def load() -> None:
        registry.load(await store.load_configuration())
        intake.forget_routes()

    return load
