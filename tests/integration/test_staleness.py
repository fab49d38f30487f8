"""What a serving process knows of stale days while the database goes on."""

from collections.abc import AsyncIterator
from datetime import date, timedelta

import pytest

from pg_analytics.postgres.pool import Connection, Postgres
from pg_analytics.redis.client import RedisClient
from pg_analytics.reports.cache import ReportCache
from pg_analytics.reports.catalog import Catalog
from pg_analytics.reports.memory import Memory
from pg_analytics.windows import DayRange, Window
from tests.conftest import Servers
from tests.events import insert
from tests.rebuilding import Connect, rebuild
from tests.waiting import until_true

pytestmark = [pytest.mark.anyio]

DAY = date(2026, 1, 7)
DAYS = DayRange.inclusive(DAY, DAY)

#: Another session than `$1` waits for the catalogue's table.
WAITS_FOR_THE_CATALOGUE = """
    SELECT EXISTS(
        SELECT FROM pg_locks
        WHERE relation = 'report_definitions'::regclass AND NOT granted AND pid <> $1
    )
"""
WHO_WAITS = "SELECT pid FROM pg_locks WHERE relation = 'report_definitions'::regclass AND NOT granted"


@pytest.fixture
async def catalog(database_url: str, servers: Servers) -> AsyncIterator[Catalog]:
    """The catalogue of a serving process, at work."""
    within = timedelta(seconds=5)
    postgres = Postgres(database_url, size=1, timeout=within, name="test")
    redis = RedisClient(servers.redis_url, timeout=within)
    catalog = Catalog(database_url, postgres, ReportCache(redis), Memory(max_bytes=0))
    await postgres.open()
    await catalog.start()
    yield catalog
    await catalog.stop()
    await postgres.close()
    await redis.close()


def told(catalog: Catalog) -> int | None:
    """The stale buckets of the day, as a hit would tell them."""
    stale = catalog.stale_days("entity")
    return None if stale is None else stale.count_buckets(DAYS, Window.DAY)


async def until_told(connection: Connection, catalog: Catalog, stale_buckets: int) -> None:
    """Wait until the process knows."""
    while told(catalog) != stale_buckets:
        await until_true(connection, "SELECT pg_sleep(0.01) IS NOT NULL")


async def test_old_numbers_are_never_called_fresh_because_their_rebuild_was_seen_before_its_version(
    connection: Connection, connect: Connect, catalog: Catalog
) -> None:
    await insert(connection, DAY, 10)
    await until_told(connection, catalog, 1)
    holder = await connect()
    async with holder.transaction():
        # The next look at the log succeeds, and the look at the versions after it has to wait.
        await holder.execute("LOCK TABLE report_definitions")
        await until_true(connection, WAITS_FOR_THE_CATALOGUE, 0)
        before = await connection.fetchval(WHO_WAITS)
        await connection.execute("DELETE FROM event_changes")  # as a rebuild does
        # That one looked at the log before; the next is another session, since a poll that waits for long is given up.
        await until_true(connection, WAITS_FOR_THE_CATALOGUE, before)

        assert told(catalog) != 0
    await until_told(connection, catalog, 0)


async def test_a_rebuild_is_told_with_the_next_version(connection: Connection, catalog: Catalog) -> None:
    await insert(connection, DAY, 10)
    await until_told(connection, catalog, 1)

    await rebuild(connection, [DAY])

    await until_told(connection, catalog, 0)
    assert (await catalog.lookup("top-entities")).entry.version == 2
