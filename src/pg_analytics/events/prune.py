"""Pruning: deleting the raw events of old days for good, while their snapshots stay, exact.

Days are pruned oldest first, some at a time. What makes it exact is one READ COMMITTED transaction for each chunk::

    1  lock_horizon    one prune at a time
    2  lock_days       every day of the chunk: no rebuild of one of them is under way until the commit
    3  take_changes    what is in the log of these days is about to be counted
    4  delete_events   DELETE … RETURNING into a table of its own, which is what is counted: not one event more or less
       others_changed  somebody has committed a change of these days since 3: once more from there
    5  merge_pruned    the rollups of these days become what that table adds up to
    6  publish_days    as in every rebuild
    7  forget_own      the triggers have logged 4; left there, it would mark each day as out of date
    8  move_horizon    the days are frozen: no rebuild touches them any more
       COMMIT          all of it, or nothing: kill it at any moment and start again

An event of these days that is committed before 4 is deleted and counted, one that comes later is neither: it stays in
`analytics_events`, its log row tells the refresher, and that marks the day as out of date for good. The loop over 3 and
4 matters for an update that 4 had to wait for: it has moved its event out of the day, so the day is right, and only
its log row would say otherwise.

A rebuild may have taken log rows of a day and be waiting for its lock (the steps of `snapshots` 1 and 2). It would be
given the lock after our commit, find the day frozen, and give its log rows back, which 4 has counted already. So where
such rows are seen after 3, the chunk is rolled back, the rebuild goes first, and the chunk is tried again.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

import asyncpg
import structlog

from pg_analytics.audit.store import append_entry
from pg_analytics.events import store
from pg_analytics.events.store import EventsBefore
from pg_analytics.postgres.pool import Connection, describe, transaction
from pg_analytics.snapshots import horizon_store
from pg_analytics.snapshots import store as snapshots
from pg_analytics.snapshots.horizon_store import EVENTS
from pg_analytics.snapshots.pace import Pace
from pg_analytics.snapshots.rebuild import MergedDays, publish_days
from pg_analytics.windows import DayRange

_log: Final = structlog.get_logger(__name__)

#: How long a transaction should take.
_CHUNK_S: Final = 0.5
#: How often a chunk looks for changes that came while it deleted. Whoever writes to these days without a pause is late.
_ROUNDS: Final = 10
#: A rebuild of a day waits no longer than this for a writer that keeps an event of it locked.
_LOCK_TIMEOUT: Final = "2s"
_RETRY_S: Final = 0.1


class _RebuildWaits(Exception):  # noqa: N818 - not an error of anybody: the chunk is tried again
    """A rebuild has taken log rows of these days, and waits for us."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many events were deleted, from which day on events are kept now, and how many of days before it are left,
    since they came after their day was frozen.
    """

    events: int
    kept_from: date
    late_events: int


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Days that were looked at, how many of their events were deleted, and from which day on events are kept now."""

    days: int
    events: int
    kept_from: date


async def plan_pruning(connection: Connection, before: date) -> EventsBefore:
    """What `prune_events` would find."""
    return await store.count_before(connection, before)


async def prune_events(
    connection: Connection, before: date, *, actor: str, progress: Callable[[int], None] = lambda _: None
) -> Pruned:
    """Delete the events of all days before `before` (not after today), freeze these days, and leave the events that
    had come too late. Works in transactions of its own on a connection of its own; `progress` is told after each how
    many events are deleted.
    """
    await connection.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
    await store.stage_pruned(connection)
    deleted = 0
    pace = Pace(target_s=_CHUNK_S)
    while True:
        started = time.monotonic()
        chunk = await _until_pruned(connection, before, pace.days, actor)
        deleted += chunk.events
        progress(deleted)
        if chunk.kept_from >= before:
            break
        pace.took(chunk.days, time.monotonic() - started)
    left = await store.count_before(connection, before)
    return Pruned(deleted, chunk.kept_from, left.late_events)


async def _until_pruned(connection: Connection, before: date, days: int, actor: str) -> _Chunk:
    while True:
        try:
            return await _prune_chunk(connection, before, days, actor)
        except (_RebuildWaits, asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            _log.info("prune_waits", reason=describe(error))
            await asyncio.sleep(_RETRY_S)


async def _prune_chunk(connection: Connection, before: date, days: int, actor: str) -> _Chunk:
    """Prune the oldest days that are not frozen, at most so many beyond those that have no events."""
    async with transaction(connection):
        kept_from = await horizon_store.lock_horizon(connection, EVENTS)
        if kept_from >= before:
            return _Chunk(0, 0, kept_from)
        first_day = await store.find_first_day(connection, kept_from, before)
        start = before if first_day is None else first_day
        chunk = DayRange(start, min(start + timedelta(days=days), before))
        events = await _delete_and_count(connection, chunk) if chunk.day_count else 0
        await horizon_store.move_horizon(connection, EVENTS, chunk.end)
        await append_entry(
            connection,
            actor=actor,
            action="events.pruned",
            resource_type="events",
            resource_id=None,
            metadata={"events": events, "date_from": kept_from, "date_to": chunk.end - timedelta(days=1)},
        )
    return _Chunk(chunk.day_count, events, chunk.end)


async def _delete_and_count(connection: Connection, chunk: DayRange) -> int:
    """Steps 2 to 7; how many events were deleted."""
    days = list(chunk)
    await snapshots.lock_days(connection, days)
    deleted = 0
    for _ in range(_ROUNDS):
        await snapshots.take_changes(connection, days)
        if await store.others_changed(connection, chunk):
            raise _RebuildWaits("a rebuild of the same days goes first")
        deleted += await store.delete_events(connection, chunk)
        if not await store.others_changed(connection, chunk):
            break
    horizons = await snapshots.read_horizons(connection)
    kept = {rollup: [day for day in days if day >= kept_from] for rollup, kept_from in horizons.rollups.items()}
    rows = {rollup: await snapshots.merge_pruned(connection, rollup, kept[rollup]) for rollup in snapshots.ROLLUPS}
    await publish_days(connection, MergedDays(kept, rows), run_id=None)
    await store.forget_own_changes(connection, chunk)
    return deleted
