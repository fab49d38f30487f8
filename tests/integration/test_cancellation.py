"""A task that is cancelled while it speaks to a server ends: a heartbeat that missed it would renew its lease for ever.

Tried at every step of the event loop, since drivers and interpreters have swallowed cancellations at some of them.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest

from pg_analytics.postgres.pool import Postgres, transaction
from pg_analytics.redis.client import RedisClient
from tests.conftest import Servers

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

TIMEOUT = timedelta(seconds=10)
STEPS = 60

Speak = Callable[[], Awaitable[object]]


@pytest.fixture
async def postgres(database_url: str) -> AsyncIterator[Postgres]:
    """A pool of one connection."""
    pool = Postgres(database_url, size=1, timeout=TIMEOUT, name="test")
    await pool.open()
    yield pool
    await pool.close()


@pytest.fixture
async def redis(servers: Servers) -> AsyncIterator[RedisClient]:
    """A client of Redis."""
    client = RedisClient(servers.redis_url, timeout=TIMEOUT)
    yield client
    await client.close()


async def assert_never_missed(speak: Speak) -> None:
    """However far `speak` has come: unless it has ended, it ends by the cancellation."""

    async def whole() -> None:
        await speak()

    for steps in range(STEPS):
        await speak()
        task = asyncio.create_task(whole())
        for _ in range(steps):
            await asyncio.sleep(0)
        if task.cancel():
            await asyncio.wait({task})
            assert task.cancelled(), f"missed after {steps} steps"
    assert await speak() is not None  # and whatever was left half-way is no obstacle


async def test_no_cancellation_is_missed_while_redis_is_asked(redis: RedisClient) -> None:
    redis.put_soon("test:cancelled", b"value", ttl_s=60)
    await assert_never_missed(lambda: redis.get("test:cancelled"))


async def test_no_cancellation_is_missed_while_postgresql_is_asked(postgres: Postgres) -> None:
    async def ask() -> object:
        async with postgres.borrowed() as connection, transaction(connection):
            return await connection.fetchval("SELECT 1")

    await assert_never_missed(ask)
