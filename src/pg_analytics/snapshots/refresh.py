"""The refresher: keeps the snapshots up to date with the events, by itself.

Writers only ever append to the change log, and are never waited for nor made to wait. The refresher reads it at a
steady beat, and rebuilds what it finds by the protocol of this package. What is eager about it, and what is not:

- the newest day in the log, where nearly all events arrive, is rebuilt at every beat at which it has changed, and
  then rests for at least as long as that took;
- older days are gathered for some beats, then rebuilt together, newest first, in chunks of about half a second;
  between two chunks the newest day has its turn. An event years back thus costs its day, and a thousand late events
  of one day cost it once;
- a day that cannot be rebuilt (a table is locked, a statement fails or takes too long) is put off for a while, longer
  the longer it took, and then tried alone: it holds up no other day.

Any number of refreshers may run. Each takes the days whose lock is free, so that two of them share the work, and
a day that a run is rebuilding is left to that run. A refresher that is killed, paused or cut off at any moment leaves
either a day's rebuild and its empty log, or neither; a paused one is disconnected by the server's
`idle_in_transaction_session_timeout`, and its days are free again (see `transaction` for what it takes that it is).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import date, timedelta
from itertools import takewhile
from typing import Final

import asyncpg
import structlog

from pg_analytics.audit.store import REFRESHER, append_entry
from pg_analytics.postgres.pool import BLOCKED, LOST, Connection, Postgres, describe, transaction
from pg_analytics.snapshots import store
from pg_analytics.snapshots.pace import Pace
from pg_analytics.snapshots.rebuild import FrozenDays, rebuild_days
from pg_analytics.snapshots.store import StaleDay

_log: Final = structlog.get_logger(__name__)

#: For how many beats older days are gathered, from the first change on.
_GATHER_BEATS: Final = 8
#: How long one transaction over older days should take.
_CHUNK_S: Final = 0.5
_RETRY_S: Final = 1.0
#: For how long, at least, a day is left alone whose rebuild has failed.
_ASIDE_S: Final = 30.0


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
        #: Days whose rebuild failed, alone or among others, and until when each is left; then it is tried alone.
        self._aside: dict[date, float] = {}
        #: The last day that was rebuilt as the newest one, and until when it rests; a newer one need not.
        self._resting = date.min
        self._rests_until = 0.0
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
            pause = max(self._interval_s, _RETRY_S)
            try:
                async with self._postgres.borrowed() as connection:
                    await self._step(connection)
                pause = 0.0 if self._round else self._interval_s
            except BLOCKED as error:
                _log.info("refresher_waits", error=describe(error))
            except LOST as error:
                _log.warning("refresher_lost_postgres", error=describe(error))
            except Exception:  # noqa: BLE001 - a defect must not end it: nobody would follow the events any more
                _log.exception("refresher_defect")
            if pause > 0:
                await self._rest(pause)

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass

    async def _step(self, connection: Connection) -> None:
        """The newest day, unless it rests, and a chunk of the older ones, if a round of them is on."""
        started = time.monotonic()
        logged = {stale.day: stale for stale in await store.read_backlog(connection)}
        self._aside = {day: until for day, until in self._aside.items() if day in logged}
        due = [stale for day, stale in logged.items() if self._aside.get(day, 0.0) <= started]
        # What another refresher or a run has done meanwhile is out of the log, and out of the round.
        self._round = [day for day in self._round if day in logged]
        if due and (started >= self._rests_until or due[0].day > self._resting):
            self._resting = due[0].day
            await self._attempt(connection, [self._resting])
            self._gather(due)
            self._rests_until = started + max(self._interval_s, 2 * (time.monotonic() - started))
        if self._round:
            started = time.monotonic()
            if rebuilt := await self._attempt(connection, self._next_chunk()):
                self._pace.took(rebuilt, time.monotonic() - started)

    def _gather(self, due: list[StaleDay]) -> None:
        """Begin a round of the older days, once the first change to them has waited for long enough."""
        newest, *older = due
        self._round = [day for day in self._round if day != newest.day]
        waited_s = max((stale.age_s for stale in older), default=0.0)
        if not self._round and waited_s >= self._interval_s * _GATHER_BEATS:
            self._round = [stale.day for stale in older]

    def _next_chunk(self) -> list[date]:
        """Days of the round, as many as fit into a chunk; one that has failed goes alone."""
        together = list(takewhile(lambda day: day not in self._aside, self._round))
        chunk = together[: self._pace.days] or self._round[:1]
        del self._round[: len(chunk)]
        return chunk

    async def _attempt(self, connection: Connection, days: list[date]) -> int:
        """Rebuild `days`, and say how many; those that cannot be rebuilt now are put off, for the others' sake."""
        started = time.monotonic()
        try:
            rebuilt = await self._refresh(connection, days)
        except Exception as error:
            # A statement that took too long has a day to blame, and not the connection.
            if isinstance(error, LOST) and not isinstance(error, asyncpg.QueryCanceledError):
                raise
            self._put_off(days, error, time.monotonic() - started)
            return 0
        for day in days:
            self._aside.pop(day, None)
        return rebuilt

    def _put_off(self, days: list[date], error: Exception, took_s: float) -> None:
        if isinstance(error, BLOCKED):
            least_s = _RETRY_S
            _log.info("refresher_waits", days=[str(day) for day in days], error=describe(error))
        else:
            least_s = _ASIDE_S
            _log.error("refresher_defect", days=[str(day) for day in days], error=describe(error), exc_info=error)
        if len(days) == 1:
            self._aside[days[0]] = time.monotonic() + max(least_s, took_s)
        else:  # nobody knows which of them is to blame: each alone, and at once
            self._aside |= dict.fromkeys(days, 0.0)
            self._round = [*days, *self._round]

    async def _refresh(self, connection: Connection, days: list[date]) -> int:
        """Rebuild those of `days` that nobody else is rebuilding, and have it committed; how many they were."""
        try:
            async with transaction(connection):
                free = await store.try_lock_days(connection, days)
                if not free:
                    return 0
                rebuilt = await rebuild_days(connection, free, run_id=None)
        except FrozenDays as frozen:
            await self._give_up_frozen(connection, [day for day in days if day < frozen.kept_from])
            thawed = [day for day in days if day >= frozen.kept_from]
            return await self._refresh(connection, thawed) if thawed else 0
        await self._on_versions(rebuilt.versions)
        return len(free)

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
