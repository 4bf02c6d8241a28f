"""What /livez and /readyz say, state by state."""

import asyncio
import math
import time

import pytest
from prometheus_client import CollectorRegistry, Counter

from console.database_watch import watch_database
from console.headroom import QueueHeadroom
from console.health import LIVENESS, READINESS, Health, lag_probe, subscribed_probe, tasks_probe
from console.heartbeat import BEAT_S, Heartbeat
from console.metrics import HealthCollector, metric_total, register_process_metrics, watch_pipeline
from console.rates import RateMeter
from ingest.metrics import IngestMetrics


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def active() -> Health:
    """Active, with every check passing."""
    health = Health()
    health.leadership_changed("active")
    for name in set(READINESS) - {"lock"}:
        health.passed(name)
    return health


class TestReadiness:
    def test_at_first_it_waits(self, health: Health) -> None:
        report = health.readiness()
        assert (report.ok, report.status) == (False, "waiting")
        assert [check.name for check in report.checks] == list(READINESS)
        assert not any(check.ok for check in report.checks)

    def test_active_with_all_checks(self, active: Health) -> None:
        assert active.readiness().ok
        assert active.readiness().reasons == ()
        assert active.readiness().summary == "ok"
        assert active.passes("lag")

    @pytest.mark.parametrize("name", READINESS)
    def test_one_failing_check_is_enough(self, name: str, active: Health) -> None:
        active.failed(name, "broken")
        report = active.readiness()
        assert (report.status, report.reasons) == ("failing", (f"{name}: broken",))
        assert report.summary == f"failing: {name}: broken"
        assert not active.passes(name)

    def test_standby_says_why(self, active: Health) -> None:
        active.leadership_changed("standby")
        report = active.readiness()
        assert (report.ok, report.status) == (False, "standby")
        assert "lock: another factoryd is active on this database" in report.reasons

    def test_draining_outranks_everything(self, active: Health) -> None:
        active.draining()
        assert (active.readiness().ok, active.readiness().status) == (False, "draining")
        active.leadership_changed("standby")
        assert active.readiness().status == "draining"

    @pytest.mark.parametrize("lose", ["database", "lost"])
    def test_lost_leadership_forgets_what_belonged_to_it(self, lose: str, active: Health) -> None:
        active.watch("receiver", lambda: (False, "ended"))
        if lose == "lost":
            active.leadership_lost()
        else:
            active.leadership_changed(lose)
        failing = {check.name for check in active.readiness().checks if not check.ok}
        assert failing == {"lock", "caches", "subscribed", "lag"}
        assert active.liveness().ok, "the receiver of a lost term is nobody's fault"

    def test_a_misspelt_check_is_refused(self, health: Health) -> None:
        with pytest.raises(ValueError, match="no health check is named 'lagg'"):
            health.passed("lagg")


class TestLiveness:
    def test_alive_before_anything_was_started(self, health: Health) -> None:
        assert health.liveness().ok
        assert [check.name for check in health.liveness().checks] == list(LIVENESS)

    @pytest.mark.parametrize("name", LIVENESS)
    def test_fails_by_its_own_checks(self, name: str, active: Health) -> None:
        active.failed(name, "hangs")
        assert active.liveness().reasons == (f"{name}: hangs",)
        assert active.readiness().ok

    @pytest.mark.parametrize("name", READINESS)
    def test_never_looks_at_database_or_broker(self, name: str, active: Health) -> None:
        active.failed(name, "away")
        assert active.liveness().ok

    def test_a_receiver_ends_without_blame_while_draining(self, active: Health) -> None:
        active.failed("receiver", "ended")
        active.draining()
        assert active.liveness().ok


class TestProbes:
    def test_subscribed_names_what_is_missing(self) -> None:
        assert subscribed_probe({"telemetry": lambda: True, "control": lambda: False})() == (False, "not subscribed: control")
        assert subscribed_probe({"telemetry": lambda: True})() == (True, "telemetry")

    @pytest.mark.parametrize(("lag_s", "ok"), [(0.0, True), (59.9, True), (60.0, False)])
    def test_lag(self, lag_s: float, ok: bool) -> None:
        assert lag_probe(lambda: lag_s, 60.0)()[0] is ok

    async def test_tasks(self) -> None:
        task = asyncio.create_task(asyncio.Event().wait())
        probe = tasks_probe({"telemetry": lambda: not task.done()})
        assert probe() == (True, "running")
        task.cancel()
        await asyncio.wait({task})
        assert probe() == (False, "ended: telemetry")


async def _asked(health: Health, answers: list[Exception | None]) -> list[tuple[bool, str]]:
    seen: list[tuple[bool, str]] = []
    everything = asyncio.Event()

    async def ask() -> None:
        if seen or len(answers) < total:
            seen.append(next((check.ok, check.detail) for check in health.readiness().checks if check.name == "database"))
        if not answers:
            everything.set()
            await asyncio.Event().wait()
        if (answer := answers.pop(0)) is not None:
            raise answer

    total = len(answers)
    task = asyncio.create_task(watch_database(health, ask, interval_s=0))
    await everything.wait()
    task.cancel()
    await asyncio.wait({task})
    return seen


async def test_the_database_is_asked_again_and_again(active: Health) -> None:
    seen = await _asked(active, [None, ConnectionError("refused"), TimeoutError(), None])
    assert seen == [(True, "writable"), (False, "refused"), (False, "no answer within 3 s"), (True, "writable")]


class TestHeartbeat:
    async def test_notes_how_long_the_loop_was_held(self) -> None:
        registry = CollectorRegistry()
        heartbeat = Heartbeat(registry)
        assert heartbeat.probe() == (True, "not started yet")
        task = asyncio.create_task(heartbeat.run())
        await asyncio.sleep(0)
        time.sleep(BEAT_S + 0.1)  # noqa: ASYNC251 - this is the fault under test
        await asyncio.sleep(0.01)  # its own sleep was over before this one
        assert registry.get_sample_value("factoryd_event_loop_lag_seconds_count") == 1
        assert heartbeat.take_worst_s() >= 0.1
        assert heartbeat.take_worst_s() == 0
        assert heartbeat.probe()[0]
        task.cancel()


class TestHeadroom:
    def test_rate_of_a_window(self) -> None:
        meter = RateMeter(window_s=10)
        rates: list[float | None] = []
        for at_s, total in [(0, 0), (5, 25), (10, 75), (15, 75), (20, 75), (30, 175)]:
            meter.sample(at_s, total)
            rates.append(meter.per_second)
        assert rates == [None, 5, 7.5, 5, 0, 10]

    def test_absent_without_a_limit(self) -> None:
        registry = CollectorRegistry()
        QueueHeadroom(registry, None, Counter("messages", "", registry=None), lambda: True)
        assert registry.get_sample_value("factoryd_broker_queue_headroom_seconds") is None

    def test_limit_by_rate_and_the_last_rate_while_nothing_flows(self) -> None:
        registry, messages = CollectorRegistry(), Counter("messages", "", registry=None)
        flowing = True
        headroom = QueueHeadroom(registry, 1_000_000, messages, lambda: flowing)

        def seconds() -> float | None:
            return registry.get_sample_value("factoryd_broker_queue_headroom_seconds")

        headroom.sample(0)
        assert seconds() == math.inf
        messages.inc(10_000)
        headroom.sample(10)
        assert seconds() == 1000
        flowing = False
        headroom.sample(20)
        headroom.sample(600)
        assert seconds() == 1000
        flowing = True
        headroom.sample(601)
        messages.inc(500)
        headroom.sample(602)
        assert seconds() == 2000


def test_health_is_a_metric_too(active: Health) -> None:
    registry = CollectorRegistry()
    HealthCollector(registry, active)
    active.failed("lag", "old")
    assert registry.get_sample_value("factoryd_state", {"state": "active"}) == 1
    assert registry.get_sample_value("factoryd_state", {"state": "standby"}) == 0
    assert registry.get_sample_value("factoryd_ready_check", {"check": "lag"}) == 0
    assert registry.get_sample_value("factoryd_ready_check", {"check": "caches"}) == 1


def test_the_process_is_described() -> None:
    registry = CollectorRegistry()
    register_process_metrics(registry, "1.2.3")
    assert registry.get_sample_value("factoryd_build_info", {"version": "1.2.3"}) == 1
    assert "process_start_time_seconds" in {metric.name for metric in registry.collect()}


def test_total_over_all_labels() -> None:
    metrics = IngestMetrics(CollectorRegistry())
    metrics.readings.labels("stored").inc(3)
    metrics.readings.labels("duplicate").inc(4)
    metrics.in_flight.set(5)
    assert (metric_total(metrics.readings), metric_total(metrics.in_flight), metric_total(metrics.retries)) == (7, 5, 0)


def test_lag_is_asked_of_the_pipeline_at_each_scrape() -> None:
    class Pipeline:
        lag_s, in_flight = 1.5, 7

    registry = CollectorRegistry()
    pipeline = Pipeline()

    def values() -> tuple[float | None, float | None]:
        names = ("factoryd_ingest_lag_seconds", "factoryd_ingest_readings_in_flight")
        first, second = (registry.get_sample_value(name) for name in names)
        return first, second

    metrics = IngestMetrics(registry)
    with watch_pipeline(metrics, pipeline):
        assert values() == (1.5, 7)
        pipeline.lag_s = 2.5
        assert values() == (2.5, 7)
    assert values() == (0, 0)
