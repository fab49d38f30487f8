"""How soon reports count what is written: `make bench-follow`, or `python -m bench.follow --help`.

The method, and what each line means, stand in docs/explanation/recomputation-cost.md.

A writer commits a batch of 1,000 events each second, 2 % of them late by up to 30 days, while `pg-analytics serve`
follows the events. Today's events are counted when the report says so over HTTP; a late day, when the change log holds
no row of it any more that is as old as the batch.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

import asyncpg
import httpx

from bench import database as own
from bench.database import sql
from bench.measuring import Line, median, say, show
from bench.serving import serving
from pg_analytics.embedded import redis
from pg_analytics.embedded.binaries import Binaries
from pg_analytics.embedded.folder import reset
from pg_analytics.postgres.pool import Connection
from pg_analytics.snapshots.rebuild import rebuild_days
from pg_analytics.windows import DayRange

_YEAR: Final = 365
_BATCH: Final = 1000
_LATE: Final = 20
_LATE_BY_DAYS: Final = 30
_TODAY_TARGET_S: Final = 2.0
_LATE_TARGET_S: Final = 10.0
_POLL_S: Final = 0.05
_SETTLE_S: Final = 5
_COUNT_TODAY: Final = "SELECT count(*) FROM analytics_events WHERE occurred_day = $1"
_BACKLOG: Final = """
    SELECT count(DISTINCT occurred_day) AS days,
        coalesce(extract(EPOCH FROM clock_timestamp() - min(logged_at)), 0)::double precision AS oldest_s
    FROM event_changes
"""


@dataclass(slots=True)
class Seen:
    """What was observed. Latencies in seconds from a batch's commit."""

    today: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    commits: list[float] = field(default_factory=list)
    backlog: list[int] = field(default_factory=list)
    oldest: list[float] = field(default_factory=list)


class Follow:
    """The writer, and who watches what becomes of its batches."""

    def __init__(self, url: str, service: httpx.AsyncClient) -> None:
        """`service` answers reports over the database at `url`."""
        self._url = url
        self._service = service
        self._today = datetime.now(UTC).date()

    async def run(self, seconds: int) -> Seen:
        """Write for `seconds`, and wait until everything is counted."""
        seen = Seen()
        writer, watcher, reader = [await asyncpg.connect(self._url) for _ in range(3)]
        answering = asyncio.create_task(self._watch_today(reader, seen, seconds))
        watching: list[asyncio.Task[None]] = []
        by = (watcher, asyncio.Lock())
        for _ in range(seconds):
            started = time.perf_counter()
            days = self._days_of_a_batch()
            await writer.execute(sql("insert_batch"), _BATCH, f"follow-{time.time_ns()}-", days)
            committed, at = time.perf_counter(), await writer.fetchval("SELECT clock_timestamp()")
            seen.commits.append(committed - started)
            watching.append(
                asyncio.create_task(
                    self._watch_late(seen, set(days) - {self._today}, at=at, committed=committed, by=by)
                )
            )
            backlog = await writer.fetchrow(_BACKLOG)
            assert backlog is not None  # noqa: S101 - an aggregate has one row
            seen.backlog.append(backlog["days"])
            seen.oldest.append(backlog["oldest_s"])
            await asyncio.sleep(max(0.0, 1 - (time.perf_counter() - started)))
        await asyncio.gather(answering, *watching)
        for connection in (writer, watcher, reader):
            await connection.close()
        return seen

    async def commits_alone(self, seconds: int) -> list[float]:
        """Seconds per batch where nobody follows."""
        writer = await asyncpg.connect(self._url)
        took = []
        for _ in range(seconds):
            started = time.perf_counter()
            await writer.execute(sql("insert_batch"), _BATCH, f"alone-{time.time_ns()}-", self._days_of_a_batch())
            took.append(time.perf_counter() - started)
            await asyncio.sleep(max(0.0, 1 - took[-1]))
        await writer.close()
        return took

    def _days_of_a_batch(self) -> list[date]:
        """The day of each event of a batch."""
        late = [self._today - timedelta(days=random.randint(1, _LATE_BY_DAYS)) for _ in range(_LATE)]
        return [*([self._today] * (_BATCH - _LATE)), *late]

    async def _watch_today(self, reader: Connection, seen: Seen, seconds: int) -> None:
        """For every count of today's events that becomes visible: how long until the report says so, over HTTP."""
        waiting: list[tuple[int, float]] = []
        known, ends = await reader.fetchval(_COUNT_TODAY, self._today), time.perf_counter() + seconds
        while waiting or time.perf_counter() < ends:
            count = await reader.fetchval(_COUNT_TODAY, self._today)
            if count > known:
                known = count
                waiting.append((count, time.perf_counter()))
            reported = await self._reported_today()
            now = time.perf_counter()
            seen.today += [now - since for wanted, since in waiting if reported >= wanted]
            waiting = [(wanted, since) for wanted, since in waiting if reported < wanted]
            await asyncio.sleep(_POLL_S)

    async def _reported_today(self) -> int:
        day = str(self._today)
        answer = await self._service.get(
            "/api/v1/reports/volume-by-period/run", params={"date_from": day, "date_to": day, "window": "day"}
        )
        rows = answer.raise_for_status().json()["data"]["rows"]
        return int(rows[0]["event_count"]) if rows else 0

    async def _watch_late(
        self, seen: Seen, days: set[date], *, at: datetime, committed: float, by: tuple[Connection, asyncio.Lock]
    ) -> None:
        """Until each of `days` is rebuilt, and how long that took since `committed`."""
        watcher, watched = by
        while days:
            async with watched:
                unseen = {row["occurred_day"] for row in await watcher.fetch(sql("unseen"), list(days), at)}
            seen.late += [time.perf_counter() - committed] * len(days - unseen)
            days &= unseen
            await asyncio.sleep(_POLL_S)


async def _measure(arguments: argparse.Namespace, server_url: str, redis_url: str) -> list[Line]:
    async with own.database(server_url) as url:
        connection = await asyncpg.connect(url)
        # The year ends yesterday: late events hit days that are as full as any.
        first_day = datetime.now(UTC).date() - timedelta(days=_YEAR)
        await own.generate(connection, events=arguments.events, days=_YEAR, first_day=first_day)
        say("snapshots of all of them")
        async with connection.transaction():
            await rebuild_days(
                connection, DayRange(first_day - timedelta(days=31), first_day + timedelta(days=_YEAR)), run_id=None
            )
        environment = {"DATABASE_URL": url, "REDIS_URL": redis_url}
        with serving(environment | {"REFRESH_INTERVAL": "0"}) as service_url:
            async with httpx.AsyncClient(base_url=service_url, timeout=30) as service:
                say("the writer alone")
                alone = await Follow(url, service).commits_alone(max(10, arguments.seconds // 3))
        with serving(environment) as service_url:
            async with httpx.AsyncClient(base_url=service_url, timeout=30) as service:
                say("the service catches up")
                while await connection.fetchval(_BACKLOG):  # noqa: ASYNC110 - another process works on it
                    await asyncio.sleep(_SETTLE_S / 10)
                say(f"the writer for {arguments.seconds} seconds, followed")
                seen = await Follow(url, service).run(arguments.seconds)
        await connection.close()
    third = max(1, len(seen.backlog) // 3)
    return [
        Line("today's events: until a report counts them, median", median(seen.today), _TODAY_TARGET_S, "s"),
        Line("today's events: 99th percentile", _percentile(seen.today, 0.99), _TODAY_TARGET_S, "s", 1),
        Line("today's events: longest", max(seen.today), _TODAY_TARGET_S, "s"),
        Line("late events: until counted, median", median(seen.late), _LATE_TARGET_S, "s"),
        Line("late events: 99th percentile", _percentile(seen.late, 0.99), _LATE_TARGET_S, "s", 1),
        Line("late events: longest", max(seen.late), _LATE_TARGET_S, "s"),
        Line(
            "days that wait: median of the last third / of the middle third",
            median(seen.backlog[-third:]),
            max(1, median(seen.backlog[third : 2 * third] or seen.backlog)),
            "days",
            1.5,
        ),
        Line(
            "oldest change that waits: longest of the last third / of the middle third",
            max(seen.oldest[-third:]),
            max(1, *(seen.oldest[third : 2 * third] or seen.oldest)),
            "s",
            1.5,
        ),
        Line("a writer's batch, followed / not followed, median", median(seen.commits), median(alone), "s", 1.5),
        Line(
            "a writer's batch, followed / not followed, 99th percentile",
            _percentile(seen.commits, 0.99),
            _percentile(alone, 0.99),
            "s",
        ),
    ]


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.follow", description=__doc__)
    parser.add_argument(
        "--events", type=int, default=10_000_000, help="events that are there already (default: 10000000)"
    )
    parser.add_argument("--seconds", type=int, default=60, help="for how long events are written (default: 60)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    if arguments.events < _YEAR or arguments.seconds < 1:
        parser.error(f"--events: at least {_YEAR}; --seconds: at least 1")
    with tempfile.TemporaryDirectory(prefix="pg-analytics-bench-") as name:
        folder = Path(name)
        try:
            with own.server(None) as url, redis.start(folder, binaries=Binaries("auto"), durable=False) as cache:
                show(asyncio.run(_measure(arguments, url, cache.url)), as_json=arguments.json)
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            reset(folder)


if __name__ == "__main__":
    main()
