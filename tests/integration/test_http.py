"""The HTTP door, over real sockets."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from config.settings import HttpSettings
from console.health import READINESS, Health
from console.http import HttpAddress, HttpUnavailable, serve_http

ANY_PORT = HttpSettings(port=0)


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("factoryd_things", "Things.", registry=registry).inc(3)
    return registry


@pytest.fixture
async def client(registry: CollectorRegistry, health: Health) -> AsyncIterator[httpx.AsyncClient]:
    async with serve_http(ANY_PORT, registry, health) as address, httpx.AsyncClient(base_url=address.url) as client:
        yield client


async def test_metrics(client: httpx.AsyncClient) -> None:
    response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    samples = {
        sample.name: sample.value for family in text_string_to_metric_families(response.text) for sample in family.samples
    }
    assert samples["factoryd_things_total"] == 3


async def test_ready(client: httpx.AsyncClient, health: Health) -> None:
    health.leadership_changed("active")
    for name in READINESS:
        health.passed(name, "fine")
    response = await client.get("/readyz")
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    assert response.json() == {
        "status": "ok",
        "reasons": [],
        "checks": [{"name": name, "ok": True, "detail": "fine"} for name in READINESS],
    }


@pytest.mark.parametrize("state", ["waiting", "standby", "draining", "failing"])
async def test_not_ready(state: str, client: httpx.AsyncClient, health: Health) -> None:
    health.leadership_changed("standby" if state == "standby" else "database" if state == "waiting" else "active")
    if state == "draining":
        health.draining()
    response = await client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["status"] == state
    assert "caches: not the active daemon" in response.json()["reasons"]


async def test_live_though_nothing_is_ready(client: httpx.AsyncClient, health: Health) -> None:
    assert (await client.get("/livez")).json()["status"] == "ok"
    health.failed("event_loop", "hangs")
    response = await client.get("/livez")
    assert (response.status_code, response.json()["reasons"]) == (503, ["event_loop: hangs"])


async def test_index_and_what_is_not_there(client: httpx.AsyncClient) -> None:
    assert "/readyz" in (await client.get("/")).text
    assert (await client.get("/nothing")).status_code == 404
    assert (await client.post("/metrics")).status_code == 405
    assert "server" not in (await client.get("/")).headers


async def test_leaves_signals_alone_and_ends_with_an_idle_client(registry: CollectorRegistry, health: Health) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    async with httpx.AsyncClient() as client:
        async with asyncio.timeout(10), serve_http(ANY_PORT, registry, health) as address:
            await client.get(address.url)
            assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
        with pytest.raises(httpx.ConnectError):
            await client.get(address.url)


async def test_an_error_inside_passes_unchanged(registry: CollectorRegistry, health: Health) -> None:
    with pytest.raises(LookupError, match="mine"):
        async with serve_http(ANY_PORT, registry, health):
            raise LookupError("mine")


async def test_a_taken_port_is_named(registry: CollectorRegistry, health: Health) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HttpUnavailable, match=rf"HTTP cannot listen on 127.0.0.1:{port}: .*in use.*change http.host"):
            async with serve_http(HttpSettings(port=port), registry, health):
                pass


async def test_a_host_that_is_not_ours(registry: CollectorRegistry, health: Health) -> None:
    with pytest.raises(HttpUnavailable, match=r"192\.0\.2\.1:0: "):
        async with serve_http(HttpSettings(host="192.0.2.1", port=0), registry, health):
            pass


def test_address_of_ipv6() -> None:
    assert HttpAddress("::1", 80).url == "http://[::1]:80"
