"""The management endpoints of the schedules."""

from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pg_analytics.errors import invalid, not_found
from pg_analytics.http import envelope
from pg_analytics.http.actor import actor_of
from pg_analytics.http.auth import ManagementKey
from pg_analytics.http.body import read_json
from pg_analytics.http.params import Integer, Query
from pg_analytics.postgres.pool import Postgres
from pg_analytics.recompute import schedule, schedule_store
from pg_analytics.recompute.schedule_store import Schedule, ScheduleKey
from pg_analytics.windows import Window

INTERVAL: Final = Integer("refresh_interval_minutes", 60, minimum=1, maximum=525_600)
RETENTION: Final = Integer("retention_days", 365, minimum=1, maximum=36_600)


class ScheduleChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a change, with at least one of: minutes from one run to the next; days that are kept, null for ever; no
    runs at all.
    """

    refresh_interval_minutes: int | UnsetType = UNSET
    retention_days: int | UnsetType | None = UNSET
    paused: bool | UnsetType = UNSET


class LastRun(msgspec.Struct, frozen=True):
    """The last run that a schedule asked for."""

    id: UUID
    status: str
    requested_at: datetime


class ScheduleView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A schedule as clients see it. `next_run_at` does not count while it is paused."""

    report_slug: str
    window: str
    refresh_interval_minutes: int
    retention_days: int | None
    paused: bool
    next_run_at: datetime
    updated_at: datetime
    last_run: LastRun | None = None


def view(found: Schedule) -> ScheduleView:
    """`found` as clients see it."""
    last_run = None
    if found.run_id is not None and found.run_status is not None and found.run_requested_at is not None:
        last_run = LastRun(found.run_id, found.run_status, found.run_requested_at)
    return ScheduleView(
        report_slug=found.report_slug,
        window=found.window_name,
        refresh_interval_minutes=found.refresh_interval_minutes,
        retention_days=found.retention_days,
        paused=found.paused,
        next_run_at=found.next_run_at,
        updated_at=found.updated_at,
        last_run=last_run,
    )


def routes(postgres: Postgres, key: ManagementKey, *, body_timeout: timedelta) -> list[BaseRoute]:
    """`/schedules` and `/schedules/{slug}/{window}`."""

    async def list_schedules(request: Request) -> Response:
        Query(request.scope["query_string"]).allow([])
        async with postgres.connection() as connection:
            schedules = await schedule_store.list_schedules(connection)
        return envelope.success([view(found) for found in schedules])

    async def one(request: Request) -> Response:
        Query(request.scope["query_string"]).allow([])
        return await (change_schedule if request.method == "PATCH" else get_schedule)(request)

    async def get_schedule(request: Request) -> Response:
        async with postgres.connection() as connection:
            return envelope.success(view(await schedule.get_schedule(connection, _key(request))))

    async def change_schedule(request: Request) -> Response:
        actor = actor_of(request)
        asked_for = _key(request)
        given = _given(await read_json(request, ScheduleChange, within=body_timeout))
        async with postgres.connection() as connection:
            return envelope.success(view(await schedule.change_schedule(connection, asked_for, given, actor=actor)))

    return [
        Route("/schedules", key.protect(list_schedules)),
        Route("/schedules/{slug}/{window}", key.protect(one), methods=["GET", "PATCH"]),
    ]


def _key(request: Request) -> ScheduleKey:
    slug, window = request.path_params["slug"], request.path_params["window"]
    if window not in set(Window):
        raise not_found("schedule")
    return ScheduleKey(slug, Window(window))


def _given(change: ScheduleChange) -> dict[str, Any]:
    given = {name: value for name, value in msgspec.structs.asdict(change).items() if value is not UNSET}
    if not given:
        raise invalid("body", f"must hold at least one of {', '.join(change.__struct_fields__)}")
    for bounds, beside in ((INTERVAL, ""), (RETENTION, ", or null: for ever")):
        value = given.get(bounds.name)
        if value is not None and not bounds.minimum <= value <= bounds.maximum:
            raise invalid(bounds.name, bounds.allowed + beside)
    return given
