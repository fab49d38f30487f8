"""Databases with the events of a year and their snapshots, on servers of their own."""

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Final

import asyncpg

from bench import database as own
from bench.measuring import say
from pg_analytics.embedded import redis
from pg_analytics.embedded.binaries import Binaries
from pg_analytics.embedded.folder import reset
from pg_analytics.snapshots.rebuild import rebuild_days
from pg_analytics.windows import DayRange

YEAR: Final = 365
MONTH: Final = 30
_DAYS_PER_CHUNK: Final = 30


@dataclass(frozen=True, slots=True)
class Filled:
    """A database with the events of a year, `events` of them, and their snapshots."""

    events: int
    url: str
    redis_url: str
    first_day: date

    def environment(self, *, processes: int = 1) -> dict[str, str]:
        """Settings of a service over it."""
        return {"DATABASE_URL": self.url, "REDIS_URL": self.redis_url, "HTTP_PROCESSES": str(processes)}

    @property
    def cached(self) -> str:
        """The path of 30 days of volume."""
        return run_path("volume-by-period", self.first_day, self.first_day + timedelta(days=MONTH - 1))


def run_path(slug: str, first: date, last: date) -> str:
    """The path of a report over the days from `first` to `last`."""
    return f"/api/v1/reports/{slug}/run?date_from={first}&date_to={last}"


def databases(opened: ExitStack, events: Sequence[int]) -> Iterator[Filled]:
    """A database per number of events, on servers of their own."""
    folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="pg-analytics-bench-")))
    opened.callback(reset, folder)
    cache = opened.enter_context(redis.start(folder, binaries=Binaries("auto"), durable=False))
    server_url = opened.enter_context(own.server(None))
    runner = opened.enter_context(asyncio.Runner())
    databases = AsyncExitStack()
    opened.callback(lambda: runner.run(databases.aclose()))
    for number in sorted(events):
        url = runner.run(databases.enter_async_context(own.database(server_url)))
        yield Filled(number, url, cache.url, runner.run(_fill(url, number)))


async def _fill(url: str, events: int) -> date:
    """Events of a year, and their snapshots; its first day."""
    first_day = own.FIRST_DAY
    connection = await asyncpg.connect(url)
    await own.generate(connection, events=events, days=YEAR, first_day=first_day)
    say("snapshots of all of them")
    # Late events lie before the year.
    days = list(DayRange(first_day - timedelta(days=31), first_day + timedelta(days=YEAR)))
    for start in range(0, len(days), _DAYS_PER_CHUNK):
        async with connection.transaction():
            await rebuild_days(connection, days[start : start + _DAYS_PER_CHUNK], run_id=None)
    await connection.execute("VACUUM (ANALYZE)")
    await connection.close()
    return first_day
