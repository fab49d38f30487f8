"""What triggers runs and performs them, in the process of a test."""

from collections.abc import AsyncIterator

import pytest

from pg_analytics.postgres.pool import Postgres
from pg_analytics.recompute import perform, worker
from pg_analytics.recompute.trigger import Trigger
from pg_analytics.redis.client import RedisClient
from pg_analytics.snapshots import pace
from tests.conftest import Servers
from tests.working import CHUNK_DAYS, LONG, TIMEOUT


@pytest.fixture
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody in this process trusts a version for a while, so no run need wait for that."""
    monkeypatch.setattr(worker, "_SETTLE_S", 0)


@pytest.fixture
def steady_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of one size, on however slow a machine."""
    monkeypatch.setattr(perform, "CHUNK_S", 3600)
    monkeypatch.setattr(pace, "_FIRST", CHUNK_DAYS)
    monkeypatch.setattr(pace, "_MOST", CHUNK_DAYS)


@pytest.fixture
async def postgres(database_url: str) -> AsyncIterator[Postgres]:
    """The pool of a serving process."""
    pool = Postgres(database_url, size=20, timeout=TIMEOUT, name="test")
    await pool.open()
    yield pool
    await pool.close()


@pytest.fixture
async def redis(servers: Servers) -> AsyncIterator[RedisClient]:
    """A client of Redis that waits patiently, so that a slow machine does not look like a lost Redis."""
    client = RedisClient(servers.redis_url, timeout=TIMEOUT)
    yield client
    await client.close()


@pytest.fixture
def trigger(postgres: Postgres, redis: RedisClient) -> Trigger:
    """What the service triggers with."""
    return Trigger(postgres=postgres, redis=redis, lock_ttl=LONG, queue_size=64, max_range_days=366)
