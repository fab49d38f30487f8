"""The health endpoints: one for people and dashboards, two for whatever starts and stops the process."""

from collections.abc import Callable
from datetime import datetime
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pg_analytics.errors import unavailable
from pg_analytics.health.probes import Probes
from pg_analytics.http import envelope
from pg_analytics.http.params import Query

SERVICE: Final = "pg-analytics-service"
_WORDS: Final = {True: "ok", False: "unavailable"}


def routes(probes: Probes, *, version: str, clock: Callable[[], datetime]) -> list[BaseRoute]:
    """`/health`, below the base path."""

    async def health(request: Request) -> Response:
        Query(request.scope["query_string"]).allow([])
        found = await probes.check()
        well = found.postgres and found.redis
        report = {
            "status": "ok" if well else "degraded",
            "service": SERVICE,
            "version": version,
            "timestamp": clock(),
            "dependencies": {"postgres": _WORDS[found.postgres], "redis": _WORDS[found.redis]},
        }
        return envelope.success(report, status=200 if well else 503, headers={"Cache-Control": "no-store"})

    return [Route("/health", health)]


def probe_routes(probes: Probes) -> list[BaseRoute]:
    """`/livez` and `/readyz`, outside the base path."""

    async def livez(request: Request) -> Response:
        Query(request.scope["query_string"]).allow([])
        return envelope.success({"status": "alive"})

    async def readyz(request: Request) -> Response:
        Query(request.scope["query_string"]).allow([])
        found = await probes.check()
        if not found.postgres:
            raise unavailable("PostgreSQL cannot be reached")
        if not found.migrated:
            raise unavailable("the database is not migrated")
        return envelope.success({"status": "ready"})

    return [Route("/livez", livez), Route("/readyz", readyz)]
