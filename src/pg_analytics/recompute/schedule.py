"""The scheduler: enters a run for each period of each schedule, and once only, however many processes look.

A schedule belongs to a window of a report: a run every `refresh_interval_minutes`, over the last days. What makes it
once per period is its row in `aggregate_windows`: the transaction that enters the run holds that row, and moves its
`next_run_at` on. Whoever comes next finds nothing due, and a process that dies leaves the run and the move, or neither.

The refresher keeps the snapshots right by itself. A schedule is the safety net below it: it also finds what never came
into the change log, since somebody wrote past the triggers.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import asyncpg
import structlog

from pg_analytics.audit.store import append_entry
from pg_analytics.errors import not_found
from pg_analytics.postgres.pool import Connection, transaction
from pg_analytics.postgres.statements import statement, statements
from pg_analytics.recompute import schedule_store, store
from pg_analytics.recompute.schedule_store import Schedule, ScheduleKey
from pg_analytics.recompute.store import Scope
from pg_analytics.recompute.trigger import metadata
from pg_analytics.snapshots.store import read_horizons

_log: Final = structlog.get_logger(__name__)

#: What a change of a schedule runs, on a connection that others may not have run it on (see `transaction`).
_CHANGING: Final = [
    *statements(__package__, "lock_schedule", "change_schedule", "list_schedules"),
    statement("pg_analytics.audit", "append_entry"),
]

#: Who asks for the runs of a schedule.
REQUESTED_BY: Final = "schedule"
#: How many days a run covers, today included.
DAYS: Final = 30
#: How often a process looks for what is due.
LOOK_EVERY: Final = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Scheduler:
    """Enters the runs that are due. `clock` says what day today is; whether a run is due, PostgreSQL's clock does."""

    queue_size: int
    clock: Callable[[], datetime]

    async def look(self, connection: Connection) -> None:
        """Enter every run that is due, unless the backlog is full."""
        while await self._enter_one(connection):
            pass

    async def _enter_one(self, connection: Connection) -> bool:
        """Whether a schedule was due and has moved on to its next period."""
        async with transaction(connection):
            key = await schedule_store.take_due_schedule(connection)
            if key is None:
                return False
            scope = _scope(key, self.clock().date(), kept_from=(await read_horizons(connection)).events)
            if scope is not None:
                await store.lock_backlog(connection)
                if await store.count_pending(connection) >= self.queue_size:
                    _log.warning(
                        "schedule_waits", report_slug=key.report_slug, window=key.window, reason="backlog full"
                    )
                    return False
                await _enter(connection, scope)
            await schedule_store.move_schedule_on(connection, key)
        return True


def _scope(key: ScheduleKey, today: date, *, kept_from: date) -> Scope | None:
    """The last days, without a bucket that holds a frozen day; None if no bucket is left."""
    # The first whole bucket after the frozen days, which lie before `kept_from`.
    first = key.window.bucket_start(kept_from + timedelta(days=key.window.days - 1))
    if first > today:
        return None
    return Scope(key.report_slug, key.window, max(today - timedelta(days=DAYS - 1), first), today)


async def _enter(connection: Connection, scope: Scope) -> None:
    """Enter a run of `scope`, unless there is an active one: that one does what this one would."""
    try:
        async with transaction(connection):
            run = await store.insert_run(connection, uuid4(), scope, REQUESTED_BY, scheduled=True)
    except asyncpg.UniqueViolationError:
        _log.info("schedule_skipped", report_slug=scope.report_slug, window=scope.window, reason="its scope is active")
        return
    await append_entry(
        connection,
        actor=REQUESTED_BY,
        action="recompute.triggered",
        resource_id=str(run.id),
        metadata=metadata(scope) | {"requested_via": "schedule"},
    )
    await store.wake_workers(connection)


async def change_schedule(
    connection: Connection, key: ScheduleKey, given: Mapping[str, Any], *, actor: str
) -> Schedule:
    """Give the settings in `given`, by their names in `ScheduleSettings`, to the schedule `key`; the schedule as it is
    now. `ServiceError` 404 if there is none.
    """
    async with transaction(connection, prepare=_CHANGING):
        before = await schedule_store.lock_schedule(connection, key)
        if before is None:
            raise not_found("schedule")
        after = replace(before, **given)
        if after != before:
            await schedule_store.change_schedule(connection, key, after)
            await append_entry(
                connection,
                actor=actor,
                action="schedule.changed",
                resource_type="schedule",
                resource_id=f"{key.report_slug}/{key.window}",
                metadata={"before": asdict(before), "after": asdict(after)},
            )
        return await get_schedule(connection, key)


async def get_schedule(connection: Connection, key: ScheduleKey) -> Schedule:
    """The schedule `key`. `ServiceError` 404 if there is none."""
    schedule = await schedule_store.get_schedule(connection, key)
    if schedule is None:
        raise not_found("schedule")
    return schedule
