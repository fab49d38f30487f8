"""What requests learn of the catalogue: when the connection that follows it is lost, and while it is being set up."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
import pytest

from pg_analytics.errors import ServiceError
from pg_analytics.postgres.migrate import migrate
from pg_analytics.postgres.pool import Postgres
from pg_analytics.redis.client import RedisClient
from pg_analytics.reports.cache import ReportCache
from pg_analytics.reports.catalog import Catalog, install_builtin_reports
from pg_analytics.reports.memory import Memory
from tests.conftest import Servers, new_database
from tests.proxy import Proxy
from tests.waiting import until_answered, until_true

pytestmark = pytest.mark.anyio

SLUG = "volume-by-period"
REFUSED = "postgresql://127.0.0.1:1/nowhere"
TIMEOUT = timedelta(seconds=5)
HAS_READ = """
    SELECT EXISTS(
        SELECT FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'pg-analytics test'
          AND state = 'idle' AND query_start > $1
    )
"""


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    """The way that requests take to PostgreSQL."""
    with Proxy(database_url) as proxy:
        yield proxy


@asynccontextmanager
async def following(url: str, *, requests_url: str) -> AsyncIterator[Catalog]:
    """A catalogue that is followed at `url`, and read by requests at `requests_url`."""
    postgres = Postgres(requests_url, size=1, timeout=TIMEOUT, name="test")
    redis = RedisClient("redis://127.0.0.1:1", timeout=TIMEOUT)
    catalog = Catalog(url, postgres, ReportCache(redis), Memory(max_bytes=0))
    await postgres.open()
    await catalog.start()
    yield catalog
    await catalog.stop()
    await postgres.close()
    await redis.close()


@pytest.fixture
async def catalog(proxy: Proxy) -> AsyncIterator[Catalog]:
    """A catalogue whose listener never gets a connection."""
    async with following(REFUSED, requests_url=proxy.url) as catalog:
        yield catalog


@pytest.fixture
async def being_set_up(servers: Servers) -> AsyncIterator[str]:
    """A database that is migrated, and has no reports yet."""
    async with new_database(servers.database_url) as url:
        connection = await asyncpg.connect(url)
        await migrate(connection)
        await connection.close()
        yield url


async def lease_ended(catalog: Catalog) -> None:
    """Until what the catalogue knew may not be trusted any more; by then its listener has failed, too."""

    async def ended() -> bool:
        return catalog.current_version(SLUG) is None

    await until_answered(ended)


async def test_requests_read_it_themselves_for_as_long_as_their_own_connections_work(catalog: Catalog) -> None:
    for _ in range(3):
        assert not (await catalog.lookup(SLUG)).degraded
        assert catalog.current_version(SLUG) == 1
        await lease_ended(catalog)


async def test_requests_find_a_postgresql_that_came_back_before_anybody_tells_them(
    catalog: Catalog, proxy: Proxy
) -> None:
    async def is_known() -> bool:
        return not (await catalog.lookup(SLUG)).degraded

    await catalog.lookup(SLUG)
    proxy.refuse()
    await lease_ended(catalog)
    assert not await is_known()

    proxy.restore()

    await until_answered(is_known)
    assert catalog.current_version(SLUG) == 1


async def test_reports_are_known_the_moment_that_they_are_installed(being_set_up: str) -> None:
    connection = await asyncpg.connect(being_set_up)
    async with following(REFUSED, requests_url=being_set_up) as catalog:
        with pytest.raises(ServiceError, match="report was not found"):
            await catalog.lookup(SLUG)

        await install_builtin_reports(connection)

        assert (await catalog.lookup(SLUG)).entry.slug == SLUG
    await connection.close()


async def test_an_older_look_that_comes_later_takes_no_report_away(being_set_up: str) -> None:
    connection = await asyncpg.connect(being_set_up)
    with Proxy(being_set_up) as proxy:
        async with following(being_set_up, requests_url=proxy.url) as catalog:

            async def is_known() -> bool:
                return catalog.current_version(SLUG) == 1

            with pytest.raises(ServiceError, match="report was not found"):
                await catalog.lookup(SLUG)
            before = await connection.fetchval("SELECT now()")
            proxy.hold_answers()
            late = asyncio.create_task(catalog.lookup(SLUG))
            await until_true(connection, HAS_READ, before)

            await install_builtin_reports(connection)
            await until_answered(is_known)
            proxy.restore()

            assert (await late).entry.slug == SLUG
            assert (await catalog.lookup(SLUG)).entry.slug == SLUG
    await connection.close()
