"""The refresher: keeps the snapshots up to date with the events, by itself.

Writers only ever append to the change log, and are never waited for nor made to wait. The refresher reads it at a
steady beat, and rebuilds what it finds by the protocol of this package. What is eager about it, and what is not:

- the newest day in the log, where nearly all events arrive, is rebuilt at every beat at which it has changed, and
  then rests for at least as long as that took;
- older days are gathered for some beats, then rebuilt together, newest first, in chunks of about half a second;
  between two chunks the newest day has its turn. An event years back thus costs its day, and a thousand late events
  of one day cost it once.

Any number of refreshers may run. Each takes the days whose lock is free, so that two of them share the work, and
a day that a run is rebuilding is left to that run. A refresher that is killed, paused or cut off at any moment leaves
either a day's rebuild and its empty log, or neither; a paused one is disconnected by the server's
`idle_in_transaction_session_timeout`, and its days are free again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import date, timedelta
from typing import Final

import asyncpg
import structlog

from pg_analytics.audit.store import REFRESHER, append_entry
from pg_analytics.postgres.pool import LOST, Connection, Postgres, describe, transaction
from pg_analytics.snapshots import store
from pg_analytics.snapshots.pace import Pace
from pg_analytics.snapshots.rebuild import DaysBusy, FrozenDays, rebuild_days

_log: Final = structlog.get_logger(__name__)

#: For how many beats older days are gathered, from the first change on.
_GATHER_BEATS: Final = 8
#: How long one transaction over older days should take.
_CHUNK_S: Final = 0.5
_RETRY_S: Final = 1.0


class Refresher:
    """Follows the change log from `start` to `stop`."""

    def __init__(
        self, postgres: Postgres, *, interval: timedelta, on_versions: Callable[[Mapping[str, int]], Awaitable[None]]
    ) -> None:
        """`postgres` must have room for one connection; `on_versions` is told of what a commit moved on."""
        self._postgres = postgres
        self._interval_s = interval.total_seconds()
        self._on_versions = on_versions
        self._pace = Pace(target_s=_CHUNK_S)
        self._round: list[date] = []
        self._beat_at = 0.0
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to follow, in the background."""
        self._task = asyncio.create_task(self._run(), name="refresher")

    async def stop(self) -> None:
        """End at the next commit, or after a few seconds without it."""
        self._stopping.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=5)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                async with self._postgres.borrowed() as connection:
                    await self._step(connection)
                pause = 0.0 if self._round else self._beat_at - time.monotonic()
            except (DaysBusy, asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
                _log.info(
                    "refresh_waits", error=describe(error)
                )  # somebody holds a table; the log rows are still there
                pause = self._interval_s
            except LOST as error:
                _log.warning("refresher_lost_postgres", error=describe(error))
                pause = max(self._interval_s, _RETRY_S)
            except Exception:  # noqa: BLE001 - a defect must not end it: nobody would follow the events any more
                _log.exception("refresher_defect")
                pause = max(self._interval_s, _RETRY_S)
            if pause > 0:
                await self._rest(pause)

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass

    async def _step(self, connection: Connection) -> None:
        """The newest day, if its beat has come, and a chunk of the older ones, if a round of them is on."""
        started = time.monotonic()
        if started >= self._beat_at:
            await self._refresh_newest(connection)
            took = time.monotonic() - started
            self._beat_at = started + max(self._interval_s, 2 * took)
        if self._round:
            chunk = self._round[: self._pace.days]
            del self._round[: len(chunk)]
            started = time.monotonic()
            await self._refresh(connection, chunk)
            self._pace.took(len(chunk), time.monotonic() - started)

    async def _refresh_newest(self, connection: Connection) -> None:
        backlog = await store.read_backlog(connection)
        if not backlog:
            return
        newest, *older = [stale.day for stale in backlog]
        await self._refresh(connection, [newest])
        gathered = max((stale.age_s for stale in backlog[1:]), default=0.0) >= self._interval_s * _GATHER_BEATS
        if gathered and not self._round:
            self._round = older

    async def _refresh(self, connection: Connection, days: list[date]) -> None:
        """Rebuild those of `days` that nobody else is rebuilding, and have it committed."""
        try:
            async with transaction(connection):
                free = await store.try_lock_days(connection, days)
                if not free:
                    return
                rebuilt = await rebuild_days(connection, free, run_id=None)
        except FrozenDays as frozen:
            await self._give_up_frozen(connection, [day for day in days if day < frozen.kept_from])
            if thawed := [day for day in days if day >= frozen.kept_from]:
                await self._refresh(connection, thawed)
            return
        await self._on_versions(rebuilt.versions)

    async def _give_up_frozen(self, connection: Connection, days: list[date]) -> None:
        """Take frozen days out of the log, and say for ever that their snapshots are out of date."""
        async with transaction(connection):
            await store.take_changes(connection, days)
            for day in await store.mark_frozen_days(connection, days):
                _log.error("frozen_day_changed", day=str(day))
                await append_entry(
                    connection,
                    actor=REFRESHER,
                    action="snapshot.out_of_date",
                    resource_type="day",
                    resource_id=str(day),
                    metadata={"reason": "events changed after the events of this day were pruned"},
                )
