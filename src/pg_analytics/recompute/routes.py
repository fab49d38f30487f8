"""The management endpoints of recomputation."""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pg_analytics.errors import invalid, not_found
from pg_analytics.http import envelope
from pg_analytics.http.auth import ManagementKey
from pg_analytics.http.body import read_json
from pg_analytics.http.params import MAX_TEXT_CHARACTERS, OFFSET, Choice, Integer, Query, Text
from pg_analytics.postgres.pool import Postgres
from pg_analytics.recompute import store
from pg_analytics.recompute.store import Run, Scope
from pg_analytics.recompute.trigger import Trigger
from pg_analytics.windows import FIRST_DAY, LAST_DAY, Window, parse_day

STATUSES: Final = ("pending", "running", "completed", "failed", "cancelled")
STATUS: Final = Choice("status", None, choices=STATUSES)
REPORT_SLUG: Final = Text("report_slug", None)
LIMIT: Final = Integer("limit", 20, minimum=1, maximum=100)

_FALLBACK_ACTOR: Final = "management-api"


class RecomputeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a trigger. Dates as `YYYY-MM-DD`, both included."""

    report_slug: str
    window: str
    date_from: str
    date_to: str
    requested_by: str = ""


class Progress(msgspec.Struct, frozen=True):
    """How far a run is."""

    buckets_done: int
    buckets_total: int


class RunView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run as clients see it. `covers` holds the first and the last day that are rebuilt."""

    id: UUID
    report_slug: str
    window: str
    date_from: date
    date_to: date
    requested_by: str
    status: str
    requested_at: Any
    summary: Mapping[str, int]
    covers: Mapping[str, date]
    progress: Progress
    attempt: int
    started_at: Any = None
    finished_at: Any = None
    error_message: str | None = None


def view(run: Run) -> RunView:
    """`run` as clients see it: a summary is shown once the run has completed."""
    total = run.covers.bucket_count(run.scope.window)
    remaining = run.remaining.bucket_count(run.scope.window)
    summary = msgspec.to_builtins(run.summary) if run.summary is not None and run.status == "completed" else {}
    return RunView(
        id=run.id,
        report_slug=run.scope.report_slug,
        window=run.scope.window.value,
        date_from=run.scope.date_from,
        date_to=run.scope.date_to,
        requested_by=run.requested_by,
        status=run.status,
        requested_at=run.requested_at,
        summary=summary,
        covers={"from": run.covers.start, "to": run.covers.last},
        progress=Progress(total - remaining, total),
        attempt=run.attempt,
        started_at=run.started_at,
        finished_at=run.finished_at,
        error_message=run.error_message,
    )


def routes(postgres: Postgres, trigger: Trigger, key: ManagementKey, *, body_timeout: timedelta) -> list[BaseRoute]:
    """`/recomputations`, `/recomputations/{id}` and `/recomputations/{id}/cancel`."""

    async def collection(request: Request) -> Response:
        return await (trigger_run if request.method == "POST" else list_runs)(request)

    async def trigger_run(request: Request) -> Response:
        Query(request.scope["query_string"]).allow([])
        actor = _actor(request)
        asked = await read_json(request, RecomputeRequest, within=body_timeout)
        requested_by = _name("requested_by", asked.requested_by.strip()) or actor
        run = await trigger.trigger(_scope(asked), requested_by, via="http")
        location = f"{request.url.path}/{run.id}"
        return envelope.success(view(run), status=202, headers={"Location": location})

    async def list_runs(request: Request) -> Response:
        query = Query(request.scope["query_string"])
        query.allow([STATUS, REPORT_SLUG, LIMIT, OFFSET])
        status, report_slug = query.value(STATUS), query.value(REPORT_SLUG)
        limit, offset = query.value(LIMIT), query.value(OFFSET)
        async with postgres.connection() as connection:
            total = await store.count_runs(connection, status=status, report_slug=report_slug)
            runs = await store.list_runs(connection, status=status, report_slug=report_slug, limit=limit, offset=offset)
        meta = envelope.pagination(limit=limit, offset=offset, total=total)
        return envelope.success([view(run) for run in runs], meta)

    async def get_run(request: Request) -> Response:
        Query(request.scope["query_string"]).allow([])
        run_id = _run_id(request)
        async with postgres.connection() as connection:
            run = await store.get_run(connection, run_id)
        if run is None:
            raise not_found("recompute run")
        return envelope.success(view(run))

    async def cancel_run(request: Request) -> Response:
        Query(request.scope["query_string"]).allow([])
        run = await trigger.cancel(_run_id(request), _actor(request))
        return envelope.success(view(run))

    return [
        Route("/recomputations", key.protect(collection), methods=["GET", "POST"]),
        Route("/recomputations/{id}", key.protect(get_run)),
        Route("/recomputations/{id}/cancel", key.protect(cancel_run), methods=["POST"]),
    ]


def _scope(asked: RecomputeRequest) -> Scope:
    window = asked.window.lower() if asked.window.isascii() else asked.window
    if window not in set(Window):
        raise invalid("window", f"must be one of {', '.join(Window)}")
    if not asked.report_slug:
        raise invalid("report_slug", "must have a value")
    return Scope(
        report_slug=_name("report_slug", asked.report_slug),
        window=Window(window),
        date_from=_day("date_from", asked.date_from),
        date_to=_day("date_to", asked.date_to),
    )


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


def _actor(request: Request) -> str:
    """Who acts: the `X-Actor` header, or the name that stands for the interface itself."""
    raw = next((value for name, value in request.scope["headers"] if name == b"x-actor"), b"")
    try:
        return _name("X-Actor", raw.decode("utf-8").strip()) or _FALLBACK_ACTOR
    except UnicodeDecodeError:
        raise invalid("X-Actor", "must be UTF-8") from None


def _name(parameter: str, text: str) -> str:
    if len(text) > MAX_TEXT_CHARACTERS or not text.isprintable():
        raise invalid(parameter, f"must be printable text of at most {MAX_TEXT_CHARACTERS} characters")
    return text
