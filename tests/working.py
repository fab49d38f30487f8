"""Runs and workers in the process of a test, and the places where a test parks them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, timedelta
from typing import Final
from uuid import UUID

import asyncpg

from pg_analytics.app import REBUILDING_PACKAGES
from pg_analytics.postgres.pool import Connection, Postgres
from pg_analytics.postgres.statements import statements_of
from pg_analytics.recompute import store
from pg_analytics.recompute.store import Run, Scope
from pg_analytics.recompute.worker import CONNECTIONS, Workers, WorkerSettings
from pg_analytics.redis.client import RedisClient
from pg_analytics.snapshots import store as snapshots
from pg_analytics.windows import DayRange, Window
from tests.waiting import until_true

MONDAY: Final = date(2026, 1, 5)
#: How many days a chunk has where the fixture `steady_pace` is used.
CHUNK_DAYS: Final = 7
WEEK: Final = DayRange(MONDAY, MONDAY + timedelta(days=7))
THREE_CHUNKS: Final = DayRange(MONDAY, MONDAY + timedelta(days=3 * CHUNK_DAYS))

LONG: Final = timedelta(minutes=10)
TIMEOUT: Final = timedelta(seconds=10)


def scope(days: DayRange = WEEK, slug: str = "volume-by-period") -> Scope:
    """What is asked for when these days shall be recomputed."""
    return Scope(slug, Window.DAY, days.start, days.last)


@asynccontextmanager
async def working(
    url: str, redis: RedisClient, *, count: int = 1, lease: timedelta = LONG, lock_timeout: timedelta | None = None
) -> AsyncIterator[Workers]:
    """Workers at work, for the length of a block. Without a `lock_timeout`, they wait for a lock for a minute."""
    pool = Postgres(
        url,
        size=CONNECTIONS * count,
        timeout=TIMEOUT,
        name="worker",
        statement_timeout=timedelta(minutes=1),
        lock_timeout=lock_timeout,
        prepared=statements_of(*REBUILDING_PACKAGES),
    )
    workers = Workers(url, pool, redis, count=count, settings=WorkerSettings(lease=lease, lock_ttl=LONG))
    await pool.open()
    await workers.start()
    try:
        yield workers
    finally:
        await workers.stop()
        await pool.close()


@asynccontextmanager
async def parked(database_url: str, day: date) -> AsyncIterator[Connection]:
    """Holds up whoever wants to rebuild `day`, for the length of a block; the connection is one that observes."""
    holder, observer = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
    try:
        async with holder.transaction():
            await snapshots.lock_days(holder, [day])
            yield observer
    finally:
        await holder.close()
        await observer.close()


async def until_status(connection: Connection, run_id: UUID, status: str) -> Run:
    """The run, once it has that status."""
    await until_true(connection, "SELECT status = $2 FROM recompute_runs WHERE id = $1", run_id, status)
    return await run_of(connection, run_id)


async def until_committed(connection: Connection, run: Run, day: date) -> None:
    """Until the days of the run from `day` on, and no others, are committed."""
    await until_true(connection, "SELECT remaining_until = $2 FROM recompute_runs WHERE id = $1", run.id, day)


async def run_of(connection: Connection, run_id: UUID) -> Run:
    """The run as it stands."""
    run = await store.get_run(connection, run_id)
    assert run is not None
    return run


async def trail(connection: Connection, run_id: UUID | None) -> list[str]:
    """The actions in the audit trail of a run, oldest first."""
    entries = await connection.fetch(
        "SELECT action FROM audit_entries WHERE resource_id IS NOT DISTINCT FROM $1 ORDER BY id", run_id and str(run_id)
    )
    return [entry["action"].removeprefix("recompute.") for entry in entries]


async def watch_progress(connection: Connection) -> None:
    """From now on, note at every commit of a run's progress which of its days are built by then."""
    await connection.execute(
        """
        CREATE TABLE progress_seen
        (id bigserial PRIMARY KEY, run_id uuid, covers_from date, covers_until date, remaining_until date, built date[])
        """
    )
    await connection.execute(
        """
        CREATE FUNCTION see_progress() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO progress_seen (run_id, covers_from, covers_until, remaining_until, built)
            SELECT NEW.id, NEW.covers_from, NEW.covers_until, NEW.remaining_until, array_agg(DISTINCT b.day)
            FROM snapshot_buckets AS b
            WHERE b.run_id = NEW.id;
            RETURN NULL;
        END
        $$
        """
    )
    await connection.execute(
        """
        CREATE TRIGGER see_progress AFTER UPDATE OF remaining_until ON recompute_runs
        FOR EACH ROW EXECUTE FUNCTION see_progress()
        """
    )


async def assert_progress_was_contiguous(connection: Connection) -> None:
    """Each commit that was watched built just the days between its progress and the one before: newest first, all of
    them, and none twice. Only for runs that have no day in common.
    """
    last: dict[UUID, date] = {}
    seen = await connection.fetch("SELECT * FROM progress_seen ORDER BY id")
    assert seen
    for step in seen:
        before = last.get(step["run_id"], step["covers_until"])
        assert step["remaining_until"] < before, step
        assert step["built"] == list(DayRange(step["remaining_until"], step["covers_until"])), step
        last[step["run_id"]] = step["remaining_until"]
