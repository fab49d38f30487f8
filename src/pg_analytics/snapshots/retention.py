"""Retention: a rollup keeps its days as long as any window of any report over it asks for, and forgets older ones.

Where a rollup begins stands in `horizons`, always a Monday, so that no week is halved. A sweep compares that with what
the windows ask for:

- **The horizon moves up** in one transaction, with its entry in the audit trail and the versions of the reports. From
  then on rebuilds leave the days before it out. Their rows are deleted afterwards, a chunk of days per transaction; a
  rebuild that had looked at the old horizon may still put a day back, and the next sweep deletes it again.
- **The horizon moves back**, since somebody wants more, but never to days whose events were pruned. The days that come
  back are entered into the change log, in the same transaction, and the refresher builds them.

Why nothing that is kept gets lost when it moves back. A rebuild leaves out of a rollup what the horizon says, and so
may use up the log row of an event without counting it. It holds the horizons until it is committed; the move waits for
every such rebuild, looks for events only then, and lets no other rebuild look at the horizons before its own commit.
Without that, an event that is committed after the move has looked, and whose log row a rebuild uses up by the old
horizon, would be lost. Deletions of dropped days hold the horizons too, so none of them hits a day that has come back.

Any number of processes may sweep: the row of a horizon is locked by whoever works on it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

import structlog

from pg_analytics.audit.store import append_entry
from pg_analytics.postgres.pool import Connection, transaction
from pg_analytics.snapshots import horizon_store, store
from pg_analytics.snapshots.pace import Pace
from pg_analytics.snapshots.rebuild import VERSIONS_CHANNEL
from pg_analytics.snapshots.store import Horizons
from pg_analytics.windows import DayRange, Window

_log: Final = structlog.get_logger(__name__)

#: Who drops days.
ACTOR: Final = "retention"
#: How often a process sweeps. Where nothing is to be done, a sweep reads some dozens of rows.
SWEEP_EVERY: Final = timedelta(minutes=1)

_CHUNK_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Retention:
    """Sweeps by `clock`."""

    clock: Callable[[], datetime]

    async def look(self, connection: Connection) -> None:
        """One sweep."""
        await sweep(connection, today=self.clock().date())


async def sweep(connection: Connection, *, today: date) -> None:
    """Keep of each rollup what its windows ask for, and no more. Works in transactions of its own."""
    for rollup, keep_from in (await horizon_store.read_retention(connection, today)).items():
        # Nearly always nothing is to be moved, and then nobody is to wait. Each of these looks again under its lock.
        horizons = await store.read_horizons(connection)
        if keep_from > horizons.rollups[rollup]:
            await _move_up(connection, rollup, keep_from)
        elif _regained_from(keep_from, horizons) < horizons.rollups[rollup]:
            await _regain(connection, rollup, keep_from)
        await _delete_dropped(connection, rollup)


async def _move_up(connection: Connection, rollup: str, keep_from: date) -> None:
    async with transaction(connection):
        kept_from = await horizon_store.lock_horizon(connection, rollup)
        if keep_from <= kept_from:
            return
        await horizon_store.move_horizon(connection, rollup, keep_from)
        dropped = await horizon_store.count_buckets_before(connection, rollup, keep_from)
        if dropped.days:
            await append_entry(
                connection,
                actor=ACTOR,
                action="snapshots.dropped",
                resource_type="rollup",
                resource_id=rollup,
                metadata={"days": dropped.days, "first_day": dropped.first_day, "kept_from": keep_from},
            )
            await _announce(connection, rollup)
    _log.info("retention_moved_up", rollup=rollup, kept_from=str(keep_from), days=dropped.days)


async def _regain(connection: Connection, rollup: str, keep_from: date) -> None:
    async with transaction(connection):
        await horizon_store.stop_horizons(connection)
        horizons = await store.read_horizons(connection)
        start, kept_from = _regained_from(keep_from, horizons), horizons.rollups[rollup]
        if start >= kept_from:
            return
        await horizon_store.move_horizon(connection, rollup, start)
        days = await horizon_store.log_regained_days(connection, rollup, start, kept_from)
        await _announce(connection, rollup)
    _log.info("retention_moved_back", rollup=rollup, kept_from=str(start), days=days)


def _regained_from(keep_from: date, horizons: Horizons) -> date:
    """From `keep_from` on, or from the first whole week on that can be built from its events."""
    return max(keep_from, Window.WEEK.bucket_start(horizons.events + timedelta(days=Window.WEEK.days - 1)))


async def _delete_dropped(connection: Connection, rollup: str) -> None:
    pace = Pace(target_s=_CHUNK_S)
    started = time.monotonic()
    while days := await _delete_chunk(connection, rollup, pace.days):
        pace.took(days, time.monotonic() - started)
        started = time.monotonic()


async def _delete_chunk(connection: Connection, rollup: str, days: int) -> int:
    """Delete the oldest of the days that are not kept, at most so many; how many it looked at, 0 if none is left."""
    async with transaction(connection):
        kept_from = await horizon_store.lock_horizon(connection, rollup)
        first_day = (await horizon_store.count_buckets_before(connection, rollup, kept_from)).first_day
        if first_day is None:
            return 0
        chunk = DayRange(first_day, min(first_day + timedelta(days=days), kept_from))
        await store.lock_days(connection, list(chunk))
        if await horizon_store.drop_days(connection, rollup, chunk.start, chunk.end):
            await _announce(connection, rollup)
    return chunk.day_count


async def _announce(connection: Connection, rollup: str) -> None:
    """The reports over `rollup` answer anew: what they can tell, or where it begins, has changed."""
    versions = await store.move_versions(connection, [rollup])
    await store.announce_versions(connection, VERSIONS_CHANNEL, versions)
