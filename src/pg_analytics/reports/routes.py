"""The public endpoints of the catalogue and of report runs."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pg_analytics.errors import not_found
from pg_analytics.http import envelope
from pg_analytics.http.params import OFFSET, Choice, Integer, Query, Text
from pg_analytics.postgres.pool import Postgres
from pg_analytics.reports import store
from pg_analytics.reports.definition import builtin_definitions

SEARCH: Final = Text("search", None)
LIMIT: Final = Integer("limit", 20, minimum=1, maximum=100)
SORT: Final = Choice("sort", "name", choices=("slug", "name", "updated_at", "cache_ttl_seconds"))
ORDER: Final = Choice("order", "asc", choices=("asc", "desc"))


def routes(postgres: Postgres) -> list[BaseRoute]:
    """`/reports` and `/reports/{slug}`. What answers `/reports/{slug}/run` is in `hits`."""

    async def list_reports(request: Request) -> Response:
        query = Query(request.scope["query_string"])
        query.allow([SEARCH, LIMIT, OFFSET, SORT, ORDER])
        limit, offset = query.value(LIMIT), query.value(OFFSET)
        search, sort, order = query.value(SEARCH), query.value(SORT), query.value(ORDER)
        async with postgres.connection() as connection:
            total = await store.count_reports(connection, search=search)
            reports = await store.list_reports(
                connection, search=search, sort=str(sort), descending=order == "desc", limit=limit, offset=offset
            )
        return envelope.success(reports, envelope.pagination(limit=limit, offset=offset, total=total))

    async def get_report(request: Request) -> Response:
        Query(request.scope["query_string"]).allow([])
        async with postgres.connection() as connection:
            entry = (await store.read_catalog(connection)).get(request.path_params["slug"])
            definition = builtin_definitions().get(request.path_params["slug"])
            if entry is None or definition is None:
                raise not_found("report")
            freshness = await store.read_freshness(connection, definition.rollup)
        return envelope.success(
            {
                "slug": entry.slug,
                "name": entry.name,
                "description": entry.description,
                "cache_ttl_seconds": entry.cache_ttl_seconds,
                "default_window": entry.default_window.value,
                "allowed_windows": [window.value for window in entry.allowed_windows],
                "supported_filters": entry.supported_filters,
                "dimensions": definition.dimensions,
                "measures": definition.measures,
                "breakdowns": [breakdown.name for breakdown in definition.breakdowns],
                "timezone": entry.timezone,
                "version": entry.version,
                "freshness": freshness,
            }
        )

    return [
        Route("/reports", list_reports),
        Route("/reports/{slug}", get_report),
    ]
