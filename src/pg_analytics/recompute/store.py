"""The statements of the runs, one function each."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from pg_analytics.postgres.pool import Connection
from pg_analytics.postgres.statements import statement
from pg_analytics.windows import DayRange, Window

#: Channel on which whoever enters a run wakes the workers.
BACKLOG_CHANNEL: Final = "pg_analytics_backlog"
#: Key of the advisory lock on the backlog.
BACKLOG_LOCK_KEY: Final = 0x7067_6162

_INSERT_RUN: Final = statement(__package__, "insert_run")
_LOCK_BACKLOG: Final = statement(__package__, "lock_backlog")
_WAKE_WORKERS: Final = statement(__package__, "wake_workers")
_COUNT_PENDING: Final = statement(__package__, "count_pending")
_FIND_ACTIVE_RUN: Final = statement(__package__, "find_active_run")
_GET_RUN: Final = statement(__package__, "get_run")
_LIST_RUNS: Final = statement(__package__, "list_runs")
_COUNT_RUNS: Final = statement(__package__, "count_runs")
_CLAIM_RUN: Final = statement(__package__, "claim_run")
_RENEW_LEASE: Final = statement(__package__, "renew_lease")
_RECORD_PROGRESS: Final = statement(__package__, "record_progress")
_RECORD_WAITING: Final = statement(__package__, "record_waiting")
_NAME_BLOCKERS: Final = statement(__package__, "name_blockers")
_PERSON_WAITS: Final = statement(__package__, "person_waits")
_COMPLETE_RUN: Final = statement(__package__, "complete_run")
_FAIL_RUN: Final = statement(__package__, "fail_run")
_HAND_BACK_RUN: Final = statement(__package__, "hand_back_run")
_CANCEL_RUN: Final = statement(__package__, "cancel_run")
_PLAN_BUCKETS: Final = statement(__package__, "plan_buckets")
_READ_THROUGHPUT: Final = statement(__package__, "read_throughput")


class Summary(msgspec.Struct, frozen=True):
    """What a run has done so far, over all rollups. Rows: written, removed or replaced, and found equal. A
    verification counts the days whose snapshots drifted, and those that it could not judge as they wait for a rebuild.
    """

    rows_deleted: int = 0
    rows_inserted: int = 0
    bucket_count: int = 0
    rows_unchanged: int = 0
    events_read: int = 0
    duration_ms: int = 0
    drifted_days: int = 0
    stale_days: int = 0


class Mode(StrEnum):
    """What a run does with its days."""

    REBUILD = "rebuild"
    VERIFY = "verify"


class Drift(msgspec.Struct, frozen=True):
    """A day of a rollup that does not equal its events although no change of them is waiting: a defect, or somebody
    wrote into the rollup. Rows that are missing, that no event accounts for, and whose count is wrong.
    """

    rollup: str
    day: date
    rows_missing: int
    rows_surplus: int
    rows_different: int


@dataclass(frozen=True, slots=True)
class Scope:
    """What a run rebuilds, as asked for: two runs of one scope are never active together."""

    report_slug: str
    window: Window
    date_from: date
    date_to: date
    mode: Mode = Mode.REBUILD

    @property
    def days(self) -> DayRange:
        """The whole buckets to rebuild."""
        return DayRange.inclusive(self.date_from, self.date_to).whole_buckets(self.window)


@dataclass(frozen=True, slots=True)
class Run:
    """A row of `recompute_runs`. `remaining` (the oldest days of `covers`) is still to be rebuilt;
    `failures` counts the attempts since the last progress that failed or went silent, `waiting_for` says what keeps it
    from going on.
    """

    id: UUID
    scope: Scope
    requested_by: str
    status: str
    requested_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error_message: str | None
    summary: Summary | None
    covers: DayRange
    remaining: DayRange
    attempt: int
    failures: int
    scheduled: bool
    waiting_for: str | None
    drift: list[Drift]

    @classmethod
    def of(cls, row: asyncpg.Record) -> "Run":
        """The run that `row` holds."""
        summary = msgspec.json.decode(row["summary"])
        return cls(
            id=row["id"],
            scope=Scope(
                row["report_slug"], Window(row["window_name"]), row["date_from"], row["date_to"], Mode(row["mode"])
            ),
            requested_by=row["requested_by"],
            status=row["status"],
            requested_at=row["requested_at"],
            started_at=row["started_at"],
            finished_at=row["finished_at"],
            error_message=row["error_message"],
            summary=msgspec.convert(summary, Summary) if summary else None,
            covers=DayRange(row["covers_from"], row["covers_until"]),
            remaining=DayRange(row["covers_from"], row["remaining_until"]),
            attempt=row["attempt"],
            failures=row["failures"],
            scheduled=row["scheduled"],
            waiting_for=row["waiting_for"],
            drift=msgspec.json.decode(row["drift"], type=list[Drift]),
        )


@dataclass(frozen=True, slots=True)
class PlannedBucket:
    """A bucket that a run would rebuild, as the last rebuilds of its days left it; the oldest of them was at
    `computed_at`. A frozen bucket has days whose events were pruned. How many events an uncounted one has is not known:
    it has a day with changes that was never rebuilt.
    """

    bucket_date: date
    event_count: int
    computed_at: datetime | None
    is_stale: bool
    is_frozen: bool
    is_uncounted: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """A run that the caller now holds; `rescued` if another worker had let it go without a word."""

    run: Run
    rescued: bool


async def insert_run(
    connection: Connection, run_id: UUID, scope: Scope, requested_by: str, *, scheduled: bool = False
) -> Run:
    """Put a run into the backlog; `asyncpg.UniqueViolationError` if its scope has an active run."""
    days = scope.days
    arguments: tuple[Any, ...] = (
        scope.report_slug,
        scope.window.value,
        scope.date_from,
        scope.date_to,
        requested_by,
        days.start,
        days.end,
        run_id,
        scope.mode.value,
        scheduled,
    )
    return Run.of((await connection.fetch(_INSERT_RUN, *arguments))[0])


async def lock_backlog(connection: Connection) -> None:
    """Be the only trigger until the transaction ends."""
    await connection.execute(_LOCK_BACKLOG, BACKLOG_LOCK_KEY)


async def wake_workers(connection: Connection) -> None:
    """Tell the workers of a new run, once the transaction is committed."""
    await connection.execute(_WAKE_WORKERS, BACKLOG_CHANNEL)


async def count_pending(connection: Connection) -> int:
    """How many runs wait."""
    return int(await connection.fetchval(_COUNT_PENDING))


async def find_active_run(connection: Connection, scope: Scope) -> UUID | None:
    """The active run of exactly `scope`."""
    found: UUID | None = await connection.fetchval(
        _FIND_ACTIVE_RUN, scope.report_slug, scope.window.value, scope.date_from, scope.date_to, scope.mode.value
    )
    return found


async def get_run(connection: Connection, run_id: UUID) -> Run | None:
    """The run `run_id`."""
    row = await connection.fetchrow(_GET_RUN, run_id)
    return None if row is None else Run.of(row)


async def list_runs(
    connection: Connection, *, status: str | None, report_slug: str | None, mode: str | None, limit: int, offset: int
) -> list[Run]:
    """A page of the runs that match, newest first."""
    return [Run.of(row) for row in await connection.fetch(_LIST_RUNS, status, report_slug, mode, limit, offset)]


async def count_runs(connection: Connection, *, status: str | None, report_slug: str | None, mode: str | None) -> int:
    """How many runs match."""
    return int(await connection.fetchval(_COUNT_RUNS, status, report_slug, mode))


async def claim_run(connection: Connection, lease: timedelta) -> Claim | None:
    """Claim the oldest run that is due, for `lease`; None if there is none."""
    row = await connection.fetchrow(_CLAIM_RUN, lease)
    return None if row is None else Claim(Run.of(row), row["was_running"])


async def renew_lease(connection: Connection, run: Run, lease: timedelta) -> bool:
    """Whether the caller still holds `run`; if so, for another `lease`."""
    return await connection.fetchval(_RENEW_LEASE, run.id, run.attempt, lease) is not None


async def record_progress(
    connection: Connection,
    run: Run,
    *,
    remaining: DayRange,
    summary: Summary,
    lease: timedelta,
    drift: Sequence[Drift] = (),
) -> bool:
    """Record that only `remaining` is left, and the whole `drift` so far; False if the caller does not hold `run` any
    more and must roll back.
    """
    encoded = msgspec.json.encode(summary).decode(), msgspec.json.encode(drift).decode()
    held = await connection.fetchval(_RECORD_PROGRESS, run.id, run.attempt, remaining.end, *encoded, lease)
    return held is not None


async def record_waiting(connection: Connection, run: Run, reason: str) -> bool:
    """Record what `run` waits for; False if the caller does not hold it any more."""
    return await connection.fetchval(_RECORD_WAITING, run.id, run.attempt, reason) is not None


async def name_blockers(connection: Connection) -> list[str]:
    """Locks that keep a rebuild from its tables, each in a line for a person."""
    return [row["blocker"] for row in await connection.fetch(_NAME_BLOCKERS)]


async def person_waits(connection: Connection) -> bool:
    """Whether a run that somebody asked for is due."""
    return bool(await connection.fetchval(_PERSON_WAITS))


async def complete_run(connection: Connection, run: Run, summary: Summary) -> bool:
    """End `run` well; False if the caller does not hold it any more."""
    encoded = msgspec.json.encode(summary).decode()
    return await connection.fetchval(_COMPLETE_RUN, run.id, run.attempt, encoded) is not None


async def fail_run(connection: Connection, run: Run, reason: str) -> bool:
    """End `run` as failed; False if the caller does not hold it any more."""
    return await connection.fetchval(_FAIL_RUN, run.id, run.attempt, reason) is not None


async def hand_back_run(connection: Connection, run: Run, *, delay: timedelta, reason: str | None) -> bool:
    """Put `run` back into the backlog, due after `delay`; False if the caller does not hold it any more."""
    return await connection.fetchval(_HAND_BACK_RUN, run.id, run.attempt, delay, reason) is not None


async def cancel_run(connection: Connection, run_id: UUID) -> Run | None:
    """Cancel `run_id`; None if it has ended or does not exist."""
    row = await connection.fetchrow(_CANCEL_RUN, run_id)
    return None if row is None else Run.of(row)


async def plan_buckets(connection: Connection, scope: Scope) -> list[PlannedBucket]:
    """The buckets of `scope`, ascending, as the rollup of its report stands."""
    days = scope.days
    rows = await connection.fetch(_PLAN_BUCKETS, scope.report_slug, days.start, days.end, scope.window.days)
    return [PlannedBucket(**row) for row in rows]


async def read_throughput(connection: Connection) -> float | None:
    """Events that a second of rebuilding takes in, over the last runs; None if there were none."""
    events_per_second: float | None = await connection.fetchval(_READ_THROUGHPUT)
    return events_per_second
