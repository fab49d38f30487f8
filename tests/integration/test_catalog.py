"""What requests learn of the catalogue when the connection that follows it is lost."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest

from pg_analytics.postgres.pool import Postgres
from pg_analytics.redis.client import RedisClient
from pg_analytics.reports.cache import ReportCache
from pg_analytics.reports.catalog import Catalog
from pg_analytics.reports.memory import Memory
from tests.proxy import Proxy
from tests.waiting import until_answered

pytestmark = pytest.mark.anyio

SLUG = "volume-by-period"
REFUSED = "postgresql://127.0.0.1:1/nowhere"
TIMEOUT = timedelta(seconds=5)


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    """The way that requests take to PostgreSQL."""
    with Proxy(database_url) as proxy:
        yield proxy


@pytest.fixture
async def catalog(proxy: Proxy) -> AsyncIterator[Catalog]:
    """A catalogue whose listener never gets a connection."""
    postgres = Postgres(proxy.url, size=1, timeout=TIMEOUT, name="test")
    redis = RedisClient("redis://127.0.0.1:1", timeout=TIMEOUT)
    catalog = Catalog(REFUSED, postgres, ReportCache(redis), Memory(max_bytes=0))
    await postgres.open()
    await catalog.start()
    yield catalog
    await catalog.stop()
    await postgres.close()
    await redis.close()


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
