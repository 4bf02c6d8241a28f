"""deploy/prometheus-alerts.yml names only what exists, and each alert has its page in the runbook."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import cast

import pytest
from prometheus_client import CollectorRegistry, Counter

from alerting.alertmanager_metrics import AlertmanagerMetrics
from alerting.metrics import AlertMetrics
from config.settings import HttpSettings, Settings
from console.headroom import QueueHeadroom
from console.health import READINESS, Health, State
from console.heartbeat import Heartbeat
from console.metrics import HealthCollector, register_process_metrics
from factoryd.backup_watch import BackupMetrics
from factoryd.caches import CacheMetrics
from factoryd.partitioning import HousekeepingMetrics
from factoryd.rollups import RollupMetrics
from factoryd.upkeep import UpkeepMetrics
from factoryd.voice import Voice
from ingest.metrics import IngestMetrics
from ingest.presence_metrics import PresenceMetrics
from mqtt.metrics import PublisherMetrics, ReceiverMetrics
from mqtt.publisher import Publisher
from ota.metrics import OtaMetrics

ROOT = Path(__file__).parents[2]
RULES = (ROOT / "deploy" / "prometheus-alerts.yml").read_text()
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
UNIT = ROOT / "deploy" / "factoryd.service"
PROMETHEUS_OWN = {"up"}


@pytest.fixture(scope="module")
def samples() -> dict[str, list[dict[str, str]]]:
    """Every sample that /metrics can have, with its labels."""
    registry = CollectorRegistry()
    register_process_metrics(registry, "0")
    IngestMetrics(registry)
    ReceiverMetrics(registry)
    PresenceMetrics(registry)
    caches = CacheMetrics(registry)
    for cached in (caches.age, caches.reloads, caches.failures):
        cached.labels("devices")
    HousekeepingMetrics(registry)
    RollupMetrics(registry)
    UpkeepMetrics(registry)
    BackupMetrics(registry)
    PublisherMetrics(registry)
    AlertMetrics(registry)
    AlertmanagerMetrics(registry)
    OtaMetrics(registry)
    Voice(registry, cast("Publisher", None), Health())
    Heartbeat(registry)
    HealthCollector(registry, Health())
    QueueHeadroom(registry, 1, Counter("messages", "", registry=None), lambda: True)
    found: dict[str, list[dict[str, str]]] = {}
    for metric in registry.collect():
        for sample in metric.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def _expressions() -> list[str]:
    return re.findall(r"^ +expr: (.+)$", RULES, re.MULTILINE)


def test_every_metric_exists(samples: dict[str, list[dict[str, str]]]) -> None:
    recorded = set(re.findall(r"record: (\S+)", RULES))
    named = {name for expression in _expressions() for name in re.findall(r"\b(?:factoryd|process|up)[a-z0-9_:]*", expression)}
    named -= {"factoryd"}  # the job's name
    assert len(named) > 15
    assert named - recorded - PROMETHEUS_OWN <= set(samples)


def test_every_label_value_exists(samples: dict[str, list[dict[str, str]]]) -> None:
    selected = [
        (name, label, value)
        for expression in _expressions()
        for name, label, value in re.findall(r'(factoryd_\w+){(\w+)="([^"]+)"}', expression)
    ]
    assert selected
    for name, label, value in selected:
        assert value in {labels.get(label) for labels in samples[name]}, f'{name}{{{label}="{value}"}} never exists'


def test_labels_that_summaries_show_exist(samples: dict[str, list[dict[str, str]]]) -> None:
    known = {label for labels in samples.values() for each in labels for label in each}
    assert set(re.findall(r"\$labels\.(\w+)", RULES)) <= known


def test_each_alert_is_explained_and_nothing_else() -> None:
    alerts = re.findall(r"alert: (\w+)", RULES)
    assert re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE) == alerts
    assert len(re.findall(r"severity: (?:page|ticket)}", RULES)) == len(re.findall("summary: ", RULES)) == len(alerts)


def test_the_runbook_speaks_of_what_exists(samples: dict[str, list[dict[str, str]]]) -> None:
    assert set(re.findall(r"\b(?:factoryd|process)_[a-z_]+\b", RUNBOOK)) - {"factoryd_ingest_commit_seconds"} <= set(samples)
    assert "factoryd_ingest_commit_seconds_bucket" in samples
    assert str(HttpSettings().port) in RUNBOOK
    checks = set(re.findall(r"`(\w+)`:", RUNBOOK.partition("## NotReady")[2].partition("## ")[0]))
    assert checks == set(READINESS)
    assert all(f"`{state}`" in RUNBOOK for state in (State.WAITING, State.STANDBY))


class TestUnit:
    def test_agrees_with_the_settings(self) -> None:
        unit = UNIT.read_text()
        stop = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
        assert stop is not None
        assert int(stop[1]) > Settings().shutdown_timeout_s
        assert {"Type=notify", "NotifyAccess=main", "RestartPreventExitStatus=78"} <= set(unit.splitlines())

    def test_is_hardened(self) -> None:
        """systemd's own score where systemd is installed; the directives that make it everywhere."""
        assert {"CapabilityBoundingSet=", "NoNewPrivileges=yes", "ProtectSystem=strict", "IPAddressDeny=any"} <= set(
            UNIT.read_text().splitlines()
        )
        if analyze := shutil.which("systemd-analyze"):
            command = [analyze, "security", "--offline=true", "--threshold=20", "--no-pager", str(UNIT)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            assert result.returncode == 0, result.stdout[-300:] + result.stderr
