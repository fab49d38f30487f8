"""What recomputation costs: `make bench-recompute`, or `python -m bench.recompute --help`.

The method, and what each line means, stand in docs/explanation/recomputation-cost.md.
"""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import date, timedelta
from typing import Final
from uuid import uuid4

import asyncpg

from bench import database as own
from bench import ingest
from bench.database import sql
from bench.measuring import Line, median, say, show, timed, wal_position
from pg_analytics import logs, settings
from pg_analytics.app import rebuilding
from pg_analytics.postgres.pool import Connection, Postgres, transaction
from pg_analytics.recompute import store
from pg_analytics.recompute.perform import Performance
from pg_analytics.recompute.store import Scope
from pg_analytics.recompute.worker import CONNECTIONS
from pg_analytics.redis.client import RedisClient
from pg_analytics.reports.cache import ReportCache
from pg_analytics.snapshots.pace import Pace
from pg_analytics.snapshots.rebuild import rebuild_days
from pg_analytics.snapshots.store import ROLLUPS, read_backlog
from pg_analytics.windows import DayRange, Window

_YEAR: Final = 365
#: Share of the days on which the original's strategy is tried: whole, it takes minutes.
_ORIGINAL_SHARE: Final = 10
_ORIGINAL_STATEMENTS: Final = [
    (slug, window, dimension)
    for slug, dimension in (("volume-by-period", "source"), ("status-counts", "status"), ("top-entities", "entity_id"))
    for window in ("day", "week")
]
_WORK_MEMS: Final = ("4MB", "64MB")
_PAIRS: Final = 7
_NEW_EVENTS: Final = 1000
_LATE_DAYS: Final = 200
_AN_HOUR: Final = timedelta(hours=1)
_NO_REDIS: Final = "redis://127.0.0.1:1"
_SNAPSHOTS: Final = (
    *("rollup_source_status", "rollup_source_status_margin", "rollup_entity", "rollup_entity_month"),
    "snapshot_buckets",
)
_DELETE_ONE_PERCENT: Final = "DELETE FROM analytics_events WHERE (hashtext(entity_id) & 2147483647) % 100 = 7"


class Bench:
    """One database full of events, and what is measured on it."""

    def __init__(self, connection: Connection, postgres: Postgres, days: DayRange) -> None:
        """`days` are those of the events."""
        self._connection = connection
        self._postgres = postgres
        self._days = days
        self._cache = ReportCache(RedisClient(_NO_REDIS, timeout=timedelta(milliseconds=100)))

    async def build(self) -> None:
        """All days from nothing, unmeasured."""
        say("all days are rebuilt from nothing")
        await self._measured(self._days)
        await self._settle()

    async def year(self, *, whole_original: bool) -> list[Line]:
        """All days from nothing, again with nothing changed, and by the strategy of the original."""
        before = await self._bare()
        say("all days are rebuilt from nothing")
        await self._connection.execute(f"TRUNCATE {', '.join(_SNAPSHOTS)}, event_changes")
        first, first_wal = await self._measured(self._days)
        await self._settle()
        say("all days are rebuilt again, nothing changed")
        again, again_wal = await self._measured(self._days)
        await self._assert_exact()
        bare = median([before, await self._bare()])
        original, tried = await self._original(whole=whole_original)
        return [
            Line("whole range from nothing / bare GROUP BYs", first, bare, "s", 1.8),
            Line(
                f"strategy of the original ({tried}) / whole range from nothing",
                original,
                first,
                "s",
                12,
                at_least=True,
            ),
            Line("again, nothing changed / from nothing", again, first, "s", 0.5),
            Line("WAL again / WAL from nothing", again_wal / 2**20, first_wal / 2**20, "MB", 0.01),
        ]

    async def one_day(self) -> tuple[float, float]:
        """Seconds to rebuild a day of which 1,000 events are new, commit included; and of the bare GROUP BYs."""
        day = self._days.start + timedelta(days=self._days.day_count // 2)
        rebuilt, bare = [], []
        for turn in range(_PAIRS):
            await self._insert(_NEW_EVENTS, f"new-{turn}-", [day])
            await self._connection.execute("CHECKPOINT")
            rebuilt.append(await timed(lambda: self._rebuild([day])))
            bare.append(await self._bare_of([day]))
            await self._connection.execute(
                "DELETE FROM analytics_events WHERE occurred_day = $1 AND external_ref LIKE $2", day, f"new-{turn}-%"
            )
            await self._rebuild([day])
        return median(rebuilt), median(bare)

    async def late(self) -> list[Line]:
        """1,000 late events over 200 days, and 1 % of the entities deleted."""
        spread = [self._days.start + timedelta(days=n) for n in range(self._days.day_count)][-_LATE_DAYS - 1 : -1]
        await self._insert(_NEW_EVENTS, "late-", spread)
        lines = await self._refreshed(f"{_NEW_EVENTS:,} late events over {len(spread)} days")
        await self._connection.execute(_DELETE_ONE_PERCENT, timeout=None)
        return lines + await self._refreshed("1 % of the entities deleted")

    async def disk(self) -> Line:
        """All snapshots against the raw events, indexes included."""
        size = "SELECT sum(pg_total_relation_size(c::regclass)) FROM unnest($1::text[]) AS c"
        await self._connection.execute(f"VACUUM {', '.join(_SNAPSHOTS)}", timeout=None)
        snapshots = await self._connection.fetchval(size, list(_SNAPSHOTS))
        events = await self._connection.fetchval(size, ["analytics_events"])
        return Line("disk of all snapshots / raw events", float(snapshots) / 2**20, float(events) / 2**20, "MB")

    async def _measured(self, days: DayRange) -> tuple[float, int]:
        """Seconds and bytes of WAL of a run over `days`: the code that a worker runs, but for the wait at its end."""
        await self._connection.execute("CHECKPOINT")
        await self._connection.execute("DELETE FROM recompute_runs")
        scope = Scope("volume-by-period", Window.DAY, days.start, days.last)
        await store.insert_run(self._connection, uuid4(), scope, "bench")
        claim = await store.claim_run(self._connection, _AN_HOUR)
        assert claim is not None  # noqa: S101 - it has just been entered
        performance = Performance(self._postgres, self._cache, claim.run, lease=_AN_HOUR)
        wal = await wal_position(self._connection)
        seconds = await timed(performance.perform)
        return seconds, await wal_position(self._connection) - wal

    async def _bare(self) -> float:
        """Seconds of the two bare GROUP BYs over all events."""
        say("the bare GROUP BYs")
        return sum([await self._best(f"bare_{rollup}") for rollup in ROLLUPS])

    async def _bare_of(self, days: Sequence[date]) -> float:
        """Seconds of the two bare GROUP BYs over some days."""
        return sum([await self._best(f"bare_{rollup}_of_days", days) for rollup in ROLLUPS])

    async def _best(self, name: str, *arguments: object) -> float:
        """Seconds of a statement with the work_mem that suits it best: a slow reference would flatter us."""
        times = []
        for work_mem in _WORK_MEMS:
            await self._connection.execute(f"SET work_mem = '{work_mem}'")
            times.append(await timed(lambda: self._connection.fetchval(sql(name), *arguments, timeout=None)))
        await self._connection.execute("RESET work_mem")
        return min(times)

    async def _settle(self) -> None:
        """As autovacuum leaves the rollups a minute later; it would otherwise work while something is measured."""
        await self._connection.execute(f"VACUUM (ANALYZE) {', '.join(_SNAPSHOTS)}", timeout=None)

    async def _rebuild(self, days: Sequence[date]) -> None:
        """One transaction, on a connection as a worker or the refresher has it."""
        async with self._postgres.borrowed() as connection, transaction(connection):
            await rebuild_days(connection, days, run_id=None)

    async def _refreshed(self, what: str) -> list[Line]:
        """Rebuild what stands in the log, in chunks as the refresher does, beside the bare GROUP BYs of these days."""
        say(what)
        days = [stale.day for stale in await read_backlog(self._connection)]
        bare = await self._bare_of(days)
        if len(days) >= self._days.day_count:
            bare = min(bare, await self._bare())
        await self._connection.execute("CHECKPOINT")
        wal = await wal_position(self._connection)
        pace, seconds, left = Pace(target_s=0.5), 0.0, days
        while left:
            chunk, left = left[: pace.days], left[pace.days :]
            took = await timed(lambda chunk=chunk: self._rebuild(chunk))  # type: ignore[misc]
            pace.took(len(chunk), took)
            seconds += took
        written = await wal_position(self._connection) - wal
        await self._assert_exact()
        return [
            Line(f"{what} / bare GROUP BYs of these days", seconds, bare, "s"),
            Line(f"{what}: WAL / all snapshots", written / 2**20, (await self.disk()).value, "MB"),
        ]

    async def _original(self, *, whole: bool) -> tuple[float, str]:
        """Seconds that the original's strategy takes for all days, and how many were tried: a share, unless `whole`."""
        share = 1 if whole else _ORIGINAL_SHARE
        days = self._days.newest(max(7, self._days.day_count // share))
        tried = f"from {days.day_count} of {self._days.day_count} days"
        say(f"the strategy of the original, {tried}")
        await self._connection.execute(sql("original_table"))
        try:
            await self._connection.execute("CHECKPOINT")
            await self._original_recompute(days)  # rows for the second pass to replace
            all_of_it = await timed(lambda: self._original_recompute(days))
        finally:
            await self._connection.execute("DROP TABLE original_snapshots")
        counts = [
            await self._connection.fetchval(
                "SELECT count(*) FROM analytics_events WHERE occurred_day >= $1 AND occurred_day < $2",
                part.start,
                part.end,
            )
            for part in (days, self._days)
        ]
        return all_of_it * float(counts[1]) / float(counts[0]), tried

    async def _original_recompute(self, days: DayRange) -> None:
        for slug, window, dimension in _ORIGINAL_STATEMENTS:
            async with self._connection.transaction():
                await self._connection.execute(
                    "DELETE FROM original_snapshots WHERE report_slug = $1 AND window_name = $2",
                    slug,
                    window,
                    timeout=None,
                )
                arguments = (slug, window, dimension, days.start, days.end)
                await self._connection.execute(sql("original_recompute"), *arguments, timeout=None)

    async def _insert(self, events: int, prefix: str, days: Sequence[date]) -> None:
        await self._connection.execute(sql("insert_batch"), events, prefix, days)

    async def _assert_exact(self) -> None:
        differences = await self._connection.fetchval(sql("differences"), timeout=None)
        if differences:
            sys.exit(f"{differences} rows of the rollups do not equal the events: this is a defect")


async def _measure(arguments: argparse.Namespace, server_url: str) -> list[Line]:
    lines: list[Line] = []
    async with own.database(server_url) as url, _opened(url) as (connection, postgres):
        if arguments.database is None:
            await own.generate(connection, events=arguments.events, days=_YEAR)
        else:
            await own.copy_events(connection, arguments.database)
        bench = Bench(connection, postgres, await _days_of(connection))
        lines += await bench.year(whole_original=arguments.whole_original)
        say("one changed day")
        day, bare = await bench.one_day()
        lines.append(
            Line(f"one changed day, {_NEW_EVENTS:,} of its events new / its bare GROUP BYs", day, bare, "s", 8)
        )
        lines += await bench.late()
        lines.append(await bench.disk())
        lines += await ingest.measure(connection, url)
    if arguments.database is None:
        per_day = arguments.events // _YEAR
        tenth = await _one_day_among(server_url, per_day=per_day, days=_YEAR // 10)
        lines.append(Line(f"one changed day among {_YEAR} / among {_YEAR // 10}", day, tenth, "s", 1.5))
        if arguments.ten_times:
            tenfold = await _one_day_among(server_url, per_day=per_day, days=_YEAR * 10)
            lines.append(Line(f"one changed day among {_YEAR * 10} / among {_YEAR}", tenfold, day, "s", 1.5))
    return lines


async def _one_day_among(server_url: str, *, per_day: int, days: int) -> float:
    """Seconds to rebuild a changed day in a database of so many equally full days."""
    async with own.database(server_url) as url, _opened(url) as (connection, postgres):
        await own.generate(connection, events=per_day * days, days=days)
        bench = Bench(connection, postgres, await _days_of(connection))
        await bench.build()
        say("one changed day")
        return (await bench.one_day())[0]


async def _days_of(connection: Connection) -> DayRange:
    """All days from the first event's to the last one's."""
    row = await connection.fetchrow(
        "SELECT min(occurred_day) AS first, max(occurred_day) AS last FROM analytics_events"
    )
    if row is None or row["first"] is None:
        sys.exit("there are no events to measure with")
    return DayRange.inclusive(row["first"], row["last"])


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[tuple[Connection, Postgres]]:
    """A connection to watch and prepare with, and the pool of a worker."""
    connection = await asyncpg.connect(url, server_settings={"jit": "off", "timezone": "UTC"})
    postgres = rebuilding(settings.load({"DATABASE_URL": url}), size=CONNECTIONS, name="bench")
    await postgres.open()
    try:
        yield connection, postgres
    finally:
        await postgres.close()
        await connection.close()


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.recompute", description=__doc__)
    parser.add_argument(
        "--events", type=int, default=10_000_000, help="how many events to generate (default: 10000000)"
    )
    parser.add_argument(
        "--database",
        metavar="URL",
        help="measure with a copy of the events of this database, which is only read, in a database beside it",
    )
    parser.add_argument("--ten-times", action="store_true", help="also a table of ten times as many days (much disk)")
    parser.add_argument("--whole-original", action="store_true", help="the original's strategy on all days (minutes)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    if arguments.events < _YEAR:
        parser.error(f"--events: at least {_YEAR}")
    logs.configure(format_="auto", level="error", env="bench")  # that there is no Redis is no news here
    try:
        with own.server(arguments.database) as url:
            show(asyncio.run(_measure(arguments, url)), as_json=arguments.json)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
