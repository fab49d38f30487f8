"""The statements of the schedules, one function each."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from pg_analytics.postgres.pool import Connection
from pg_analytics.postgres.statements import statement
from pg_analytics.windows import Window

_LIST_SCHEDULES: Final = statement(__package__, "list_schedules")
_LOCK_SCHEDULE: Final = statement(__package__, "lock_schedule")
_CHANGE_SCHEDULE: Final = statement(__package__, "change_schedule")
_TAKE_DUE_SCHEDULE: Final = statement(__package__, "take_due_schedule")
_MOVE_SCHEDULE_ON: Final = statement(__package__, "move_schedule_on")


@dataclass(frozen=True, slots=True)
class ScheduleKey:
    """Which schedule: that of a report's window."""

    report_slug: str
    window: Window


@dataclass(frozen=True, slots=True)
class ScheduleSettings:
    """What an operator decides of a schedule. `retention_days` None: for ever."""

    refresh_interval_minutes: int
    retention_days: int | None
    paused: bool


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule as it stands. The run is the last one that it asked for, if there is one."""

    report_slug: str
    window_name: str
    refresh_interval_minutes: int
    retention_days: int | None
    paused: bool
    next_run_at: datetime
    updated_at: datetime
    run_id: UUID | None
    run_status: str | None
    run_requested_at: datetime | None


async def list_schedules(connection: Connection) -> list[Schedule]:
    """Every schedule, by report and window."""
    return [Schedule(**row) for row in await connection.fetch(_LIST_SCHEDULES, None, None)]


async def get_schedule(connection: Connection, key: ScheduleKey) -> Schedule | None:
    """The schedule `key`."""
    row = await connection.fetchrow(_LIST_SCHEDULES, key.report_slug, key.window.value)
    return None if row is None else Schedule(**row)


async def lock_schedule(connection: Connection, key: ScheduleKey) -> ScheduleSettings | None:
    """The settings of `key`, which nobody else changes until the transaction ends."""
    row = await connection.fetchrow(_LOCK_SCHEDULE, key.report_slug, key.window.value)
    return None if row is None else ScheduleSettings(**row)


async def change_schedule(connection: Connection, key: ScheduleKey, settings: ScheduleSettings) -> None:
    """Give `key` these settings. Its next run is a whole interval from now if the interval is another one, or if it is
    resumed with a run overdue.
    """
    await connection.execute(
        _CHANGE_SCHEDULE,
        key.report_slug,
        key.window.value,
        settings.refresh_interval_minutes,
        settings.retention_days,
        settings.paused,
    )


async def take_due_schedule(connection: Connection) -> ScheduleKey | None:
    """A schedule whose run is due and that no other scheduler holds, held until the transaction ends."""
    row = await connection.fetchrow(_TAKE_DUE_SCHEDULE)
    return None if row is None else ScheduleKey(row["report_slug"], Window(row["window_name"]))


async def move_schedule_on(connection: Connection, key: ScheduleKey) -> None:
    """Move `key` on to its next period that lies in the future."""
    await connection.execute(_MOVE_SCHEDULE_ON, key.report_slug, key.window.value)
