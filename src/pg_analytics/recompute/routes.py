"""The management endpoints of recomputation."""

from datetime import date, timedelta
from typing import Final
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pg_analytics.errors import invalid, not_found
from pg_analytics.http import envelope
from pg_analytics.http.actor import actor_of, checked_name
from pg_analytics.http.auth import ManagementKey
from pg_analytics.http.body import read_json
from pg_analytics.http.params import OFFSET, Choice, Integer, Query, Text
from pg_analytics.postgres.pool import Postgres
from pg_analytics.recompute import store
from pg_analytics.recompute.plan import PLAN, plan
from pg_analytics.recompute.store import Mode, Run, Scope
from pg_analytics.recompute.stream import RunStreams
from pg_analytics.recompute.trigger import Trigger
from pg_analytics.recompute.view import STATUSES, view
from pg_analytics.windows import FIRST_DAY, LAST_DAY, Window, parse_day

STATUS: Final = Choice("status", None, choices=STATUSES)
REPORT_SLUG: Final = Text("report_slug", None)
MODE: Final = Choice("mode", None, choices=tuple(Mode))
LIMIT: Final = Integer("limit", 20, minimum=1, maximum=100)


class RecomputeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a trigger. Dates as `YYYY-MM-DD`, both included."""

    report_slug: str
    window: str
    date_from: str
    date_to: str
    requested_by: str = ""
    mode: str = Mode.REBUILD


def routes(
    postgres: Postgres, trigger: Trigger, streams: RunStreams, key: ManagementKey, *, body_timeout: timedelta
) -> list[BaseRoute]:
    """`/recomputations`, and below it `/{id}`, `/{id}/events` and `/{id}/cancel`."""

    async def collection(request: Request) -> Response:
        return await (trigger_run if request.method == "POST" else list_runs)(request)

    async def trigger_run(request: Request) -> Response:
        Query(request.scope["query_string"]).allow([])
        actor = actor_of(request)
        asked = await read_json(request, RecomputeRequest, within=body_timeout)
        requested_by = checked_name("requested_by", asked.requested_by.strip()) or actor
        if asked.mode == PLAN:
            return envelope.success(await plan(trigger, _scope(asked, Mode.REBUILD)))
        run = await trigger.trigger(_scope(asked, _mode(asked)), requested_by, via="http")
        location = f"{request.url.path}/{run.id}"
        return envelope.success(view(run), status=202, headers={"Location": location})

    async def list_runs(request: Request) -> Response:
        query = Query(request.scope["query_string"])
        query.allow([STATUS, REPORT_SLUG, MODE, LIMIT, OFFSET])
        status, report_slug, mode = query.value(STATUS), query.value(REPORT_SLUG), query.value(MODE)
        limit, offset = query.value(LIMIT), query.value(OFFSET)
        async with postgres.connection() as connection:
            total = await store.count_runs(connection, status=status, report_slug=report_slug, mode=mode)
            runs = await store.list_runs(
                connection, status=status, report_slug=report_slug, mode=mode, limit=limit, offset=offset
            )
        meta = envelope.pagination(limit=limit, offset=offset, total=total)
        return envelope.success([view(run) for run in runs], meta)

    async def get_run(request: Request) -> Response:
        return envelope.success(view(await found(request)))

    async def follow_run(request: Request) -> Response:
        run = await found(request)
        return streams.head() if request.method == "HEAD" else streams.follow(run)

    async def found(request: Request) -> Run:
        Query(request.scope["query_string"]).allow([])
        run_id = _run_id(request)
        async with postgres.connection() as connection:
            run = await store.get_run(connection, run_id)
        if run is None:
            raise not_found("recompute run")
        return run

    async def cancel_run(request: Request) -> Response:
        Query(request.scope["query_string"]).allow([])
        run = await trigger.cancel(_run_id(request), actor_of(request))
        return envelope.success(view(run))

    return [
        Route("/recomputations", key.protect(collection), methods=["GET", "POST"]),
        Route("/recomputations/{id}", key.protect(get_run)),
        Route("/recomputations/{id}/events", key.protect(follow_run)),
        Route("/recomputations/{id}/cancel", key.protect(cancel_run), methods=["POST"]),
    ]


def _scope(asked: RecomputeRequest, mode: Mode) -> Scope:
    window = asked.window.lower() if asked.window.isascii() else asked.window
    if window not in set(Window):
        raise invalid("window", f"must be one of {', '.join(Window)}")
    if not asked.report_slug:
        raise invalid("report_slug", "must have a value")
    return Scope(
        report_slug=checked_name("report_slug", asked.report_slug),
        window=Window(window),
        date_from=_day("date_from", asked.date_from),
        date_to=_day("date_to", asked.date_to),
        mode=mode,
    )


def _mode(asked: RecomputeRequest) -> Mode:
    if asked.mode not in set(Mode):
        raise invalid("mode", f"must be one of {', '.join((*Mode, PLAN))}")
    return Mode(asked.mode)


def _day(name: str, text: str) -> date:
    try:
        return parse_day(text)
    except ValueError:
        raise invalid(name, f"must be a date as YYYY-MM-DD, from {FIRST_DAY} to {LAST_DAY}") from None


def _run_id(request: Request) -> UUID:
    try:
        return UUID(request.path_params["id"])
    except ValueError:
        raise not_found("recompute run") from None
