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
from pg_analytics.reports.hits import accepts_gzip, caching_headers, is_known, negotiated
from pg_analytics.reports.run import ReportRunner

SEARCH: Final = Text("search", None)
LIMIT: Final = Integer("limit", 20, minimum=1, maximum=100)
SORT: Final = Choice("sort", "name", choices=("slug", "name", "updated_at", "cache_ttl_seconds"))
ORDER: Final = Choice("order", "asc", choices=("asc", "desc"))


def routes(postgres: Postgres, runner: ReportRunner) -> list[BaseRoute]:
    """`/reports`, `/reports/{slug}` and `/reports/{slug}/run`."""

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

    async def run_report(request: Request) -> Response:
        asked, known = await runner.resolve(request.path_params["slug"], request.scope["query_string"])
        ttl_s = known.entry.cache_ttl_seconds
        if_none_match = request.headers.get("if-none-match")
        if if_none_match is not None and ttl_s and not known.degraded and not asked.asked.fresh:
            tag = asked.tag(known.entry.version)
            if is_known(tag, if_none_match.encode("latin-1")):
                return _response(304, b"", caching_headers(tag, ttl_s, 0))
        answer = await runner.answer(asked, known)
        gzip = accepts_gzip(request.headers.get("accept-encoding", "").encode("latin-1"))
        body, described = negotiated(answer.told, gzip=gzip)
        return _response(200, body, [*described, *caching_headers(answer.tag, answer.max_age_s, answer.age_s)])

    return [
        Route("/reports", list_reports),
        Route("/reports/{slug}", get_report),
        Route("/reports/{slug}/run", run_report),
    ]


def _response(status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> Response:
    response = Response(body, status_code=status)
    response.raw_headers = headers
    return response
