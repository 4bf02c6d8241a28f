"""The HTTP door: /metrics for Prometheus, /livez and /readyz for whoever keeps us running. No authentication: loopback."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import structlog
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from config.settings import HttpSettings
from console.health import Health, Report

log = structlog.get_logger(__name__)

GRACE_S = 1
"""Longest wait for answers under way at the end."""
MAX_CONNECTIONS = 64

INDEX = """factoryd

/metrics  what it does, for Prometheus
/livez    200 while a restart would not help: event loop and receiver are alive
/readyz   200 while readings are being stored; else 503 and the reasons
"""


class HttpUnavailable(OSError):
    """The address cannot be listened on."""


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """Where we really listen; the port was chosen by the system if the settings said 0."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """Address for a browser or curl."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


@asynccontextmanager
async def serve_http(settings: HttpSettings, registry: CollectorRegistry, health: Health) -> AsyncIterator[HttpAddress]:
    """Serves in the running event loop until the block ends.

    Raises:
        HttpUnavailable: the address is taken or not ours.
    """
    listener = _listen(settings)
    server = _Server(_config(http_app(registry, health)))
    task = asyncio.create_task(server.serve([listener]), name="http")
    try:
        address = HttpAddress(*listener.getsockname()[:2])
        log.info("http_started", url=address.url)
        yield address
    finally:
        server.should_exit = True
        await task


def http_app(registry: CollectorRegistry, health: Health) -> Starlette:
    """Returns the ASGI application."""

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def livez(request: Request) -> Response:
        return _answer(health.liveness())

    async def readyz(request: Request) -> Response:
        return _answer(health.readiness())

    async def index(request: Request) -> Response:
        return PlainTextResponse(INDEX)

    endpoints = {"/": index, "/metrics": metrics, "/livez": livez, "/readyz": readyz}
    return Starlette(routes=[Route(path, endpoint) for path, endpoint in endpoints.items()])


def _answer(report: Report) -> Response:
    checks = [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in report.checks]
    content = {"status": report.status, "reasons": list(report.reasons), "checks": checks}
    return JSONResponse(content, 200 if report.ok else 503, {"Cache-Control": "no-store"})


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals to the daemon."""
        yield


def _config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=GRACE_S,
    )


def _listen(settings: HttpSettings) -> socket.socket:
    where = f"{settings.host}:{settings.port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise HttpUnavailable(f"HTTP cannot listen on {where}: {error}; change http.host or http.port") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise HttpUnavailable(f"HTTP cannot listen on {where}: {error}; change http.host or http.port") from error
    return listener
