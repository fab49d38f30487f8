"""What a worker does with a run that it holds: rebuild its days, or verify them, chunk by chunk, newest first.

Two lanes work side by side, since PostgreSQL writes with one core per session. Each takes the newest chunk that is
left, merges it in a transaction of its own, and then waits for the chunk before it to commit, so that what remains of a
run is always one range of days::

    lane 1   merge 25-31 ── publish, commit ── merge 11-17 ─────────── publish, commit
    lane 2   merge 18-24 ──────────────────── publish, commit ── merge 4-10 ──────────── …

When all are committed, the months that they lie in are mended, or verified (`snapshots.months`, `snapshots.verify`). A
chunk is as many days as fit into `CHUNK_S`. Where a lock cannot be had, the chunk is rolled back, the run says
what it waits for, and tries again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Final

import msgspec
import structlog

from pg_analytics.postgres.pool import BLOCKED, Connection, Postgres, transaction
from pg_analytics.recompute import store
from pg_analytics.recompute.store import Drift, Mode, Run, Summary
from pg_analytics.reports.cache import ReportCache
from pg_analytics.snapshots.months import mend_months
from pg_analytics.snapshots.pace import Pace
from pg_analytics.snapshots.rebuild import DaysBusy, Rebuilt, merge_days, publish_days
from pg_analytics.snapshots.verify import Verified, verify_days, verify_months
from pg_analytics.windows import DayRange, month_of

_log: Final = structlog.get_logger(__name__)

#: Chunks of one run that are in work at once; each needs a connection.
LANES: Final = 2
#: How long the transaction of a chunk should take: so soon does a run notice that it was cancelled or is to stop.
CHUNK_S: Final = 0.75
#: How long a merged chunk may keep its locks while the one before it is not committed.
_TURN_S: Final = 2.0
_RETRY_S: Final = 0.5
#: Days whose drift a run lists; the summary counts them all.
_MAX_DRIFT: Final = 1000


class Fenced(Exception):  # noqa: N818 - not an error of anybody: the run is in other hands
    """The run was cancelled or is held by another worker: nothing may be written for it any more."""


class GaveWay(Exception):  # noqa: N818 - not an error of anybody: the run goes on later
    """A run of a schedule lets one go first that somebody asked for."""


class _NotYet(Exception):  # noqa: N818 - see `_turn`
    """The chunk before this one is not committed yet: let go of the locks."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Days in work; `remaining` is what is left of the run once they, and all chunks before them, are committed."""

    days: DayRange
    remaining: DayRange
    previous: asyncio.Event
    committed: asyncio.Event


class Performance:
    """One attempt at a run."""

    def __init__(self, postgres: Postgres, cache: ReportCache, run: Run, *, lease: timedelta) -> None:
        """`postgres` must have room for `LANES` connections."""
        self._postgres = postgres
        self._cache = cache
        self._run = run
        self._lease = lease
        self._left = run.remaining
        self._pace = Pace(target_s=CHUNK_S)
        self._summary = run.summary or Summary(bucket_count=run.covers.bucket_count(run.scope.window))
        self._drift = list(run.drift)
        self._started = time.perf_counter()
        self._newest_committed = asyncio.Event()
        self._newest_committed.set()

    async def perform(self) -> Summary:
        """Do what is left of the run. Raises `Fenced` if it is not the caller's any more, `GaveWay` if another goes
        first, `FrozenDays` if its events are gone, besides what the driver raises.
        """
        verifies = self._run.scope.mode is Mode.VERIFY
        do, finish = (self._verify, self._verify_months) if verifies else (self._rebuild, self._mend_months)
        await _together(self._lane(do) for _ in range(LANES))
        covers = self._run.covers
        whole = _Chunk(covers, DayRange(covers.start, covers.start), self._newest_committed, asyncio.Event())
        await self._until_done(finish, whole)
        return self._summary

    async def _lane(self, do: Callable[[_Chunk], Awaitable[None]]) -> None:
        while True:
            await self._give_way()
            if not self._left.day_count:
                return
            days = self._left.newest(self._pace.days)
            self._left = DayRange(self._left.start, days.start)
            chunk = _Chunk(days, self._left, self._newest_committed, asyncio.Event())
            self._newest_committed = chunk.committed
            await self._until_done(do, chunk)
            chunk.committed.set()

    async def _until_done(self, do: Callable[[_Chunk], Awaitable[None]], chunk: _Chunk) -> None:
        while True:
            try:
                return await do(chunk)
            except _NotYet:
                await chunk.previous.wait()
            except DaysBusy:
                await self._wait_because(f"another rebuild of days from {chunk.days.start} to {chunk.days.last}")
            except BLOCKED:
                async with self._postgres.borrowed() as connection:
                    blockers = await store.name_blockers(connection)
                await self._wait_because("; ".join(blockers) or "a lock that another session held")

    async def _wait_because(self, reason: str) -> None:
        _log.info("run_waits", waiting_for=reason)
        with suppress(*BLOCKED):  # it may be the table of the runs that is locked
            async with self._postgres.borrowed() as connection:
                if not await store.record_waiting(connection, self._run, reason):
                    raise Fenced
        await asyncio.sleep(_RETRY_S)
        await self._give_way()

    async def _give_way(self) -> None:
        if not self._run.scheduled:
            return
        with suppress(*BLOCKED):  # while the table of the runs is locked, nobody could claim the other run
            async with self._postgres.borrowed() as connection:
                if await store.person_waits(connection):
                    raise GaveWay

    async def _rebuild(self, chunk: _Chunk) -> None:
        started = time.perf_counter()
        async with self._postgres.borrowed() as connection, transaction(connection):
            merged = await merge_days(connection, chunk.days)
            self._pace.took(chunk.days.day_count, time.perf_counter() - started)
            await _turn(chunk)
            rebuilt = await publish_days(connection, merged, run_id=self._run.id)
            summary = self._added(rebuilt)
            await self._record(connection, chunk, summary, self._drift)
        self._summary = summary
        await self._cache.mirror_versions(rebuilt.versions)

    async def _verify(self, chunk: _Chunk) -> None:
        started = time.perf_counter()
        async with self._postgres.borrowed() as connection:
            found = await verify_days(connection, chunk.days)
            self._pace.took(chunk.days.day_count, time.perf_counter() - started)
            await chunk.previous.wait()
            await self._record_verified(connection, chunk, found)

    async def _verify_months(self, whole: _Chunk) -> None:
        """What the days add up to, once it is known which of them are right."""
        drifted = {day.day for day in self._drift if day.rollup == "entity"}
        told = {(day.rollup, day.day) for day in self._drift}  # by an attempt that went no further
        async with self._postgres.borrowed() as connection:
            found = await verify_months(connection, whole.days, drifted=drifted)
            new = [month for month in found if (month.rollup, month.day) not in told]
            await self._record_verified(connection, whole, Verified(new, stale_days=0, events_read=0))

    async def _record_verified(self, connection: Connection, chunk: _Chunk, found: Verified) -> None:
        drift = [Drift(**asdict(day)) for day in found.drifted]
        summary = msgspec.structs.replace(
            self._summary,
            drifted_days=self._summary.drifted_days + len(drift),
            stale_days=self._summary.stale_days + found.stale_days,
            events_read=self._summary.events_read + found.events_read,
            duration_ms=self._duration_ms(),
        )
        drift = (self._drift + drift)[:_MAX_DRIFT]
        await self._record(connection, chunk, summary, drift)
        self._summary, self._drift = summary, drift

    async def _mend_months(self, whole: _Chunk) -> None:
        """What the days add up to, where somebody has written into it: the run is the remedy for that, too."""
        months = sorted({month_of(day).start for day in whole.days})

        async def mend(lane: int) -> None:
            async with self._postgres.borrowed() as connection:
                versions = await mend_months(connection, months[lane::LANES])
            await self._cache.mirror_versions(versions)

        await _together(mend(lane) for lane in range(LANES))

    async def _record(self, connection: Connection, chunk: _Chunk, summary: Summary, drift: list[Drift]) -> None:
        if not await store.record_progress(
            connection, self._run, remaining=chunk.remaining, summary=summary, lease=self._lease, drift=drift
        ):
            raise Fenced

    def _added(self, rebuilt: Rebuilt) -> Summary:
        before = self._summary
        return Summary(
            rows_deleted=before.rows_deleted + rebuilt.rows_deleted,
            rows_inserted=before.rows_inserted + rebuilt.rows_inserted,
            bucket_count=before.bucket_count,
            rows_unchanged=before.rows_unchanged + rebuilt.rows_unchanged,
            events_read=before.events_read + rebuilt.events_read,
            duration_ms=self._duration_ms(),
        )

    def _duration_ms(self) -> int:
        """Time that the run was worked on, over all attempts."""
        earlier = self._run.summary.duration_ms if self._run.summary else 0
        return earlier + round((time.perf_counter() - self._started) * 1000)


async def _turn(chunk: _Chunk) -> None:
    """Wait until the chunk before this one is committed: what publishing locks must never be held while waiting."""
    try:
        async with asyncio.timeout(_TURN_S):
            await chunk.previous.wait()
    except TimeoutError:
        raise _NotYet from None


async def _together(lanes: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Until all have ended; what the first that fails raises, once the others have been stopped."""
    try:
        async with asyncio.TaskGroup() as group:
            for number, lane in enumerate(lanes):
                group.create_task(lane, name=f"lane-{number}")
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
