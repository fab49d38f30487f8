"""Which one of all processes computes an answer that none of them has."""

from datetime import timedelta
from uuid import uuid4

import pytest

from pg_analytics.redis.client import RedisClient

pytestmark = pytest.mark.anyio

LEAD_TTL = timedelta(minutes=1)


@pytest.fixture
def key() -> str:
    """A key that nothing is kept under."""
    return f"test:{uuid4()}"


async def asked(redis: RedisClient, key: str) -> tuple[bytes | None, bool]:
    """What a process is told that looks for an answer."""
    return await redis.get_or_lead(key, f"{key}:leader", ttl_s=60, lead_ttl=LEAD_TTL)


async def test_the_first_who_misses_leads_and_no_other_until_it_gives_up(redis: RedisClient, key: str) -> None:
    assert [await asked(redis, key) for _ in range(3)] == [(None, True), (None, False), (None, False)]

    await redis.free(f"{key}:leader")

    assert [await asked(redis, key) for _ in range(2)] == [(None, True), (None, False)]


async def test_what_was_computed_is_there_for_all_and_nobody_leads_any_more(redis: RedisClient, key: str) -> None:
    await asked(redis, key)

    await redis.put_and_free(key, b"answer", f"{key}:leader", ttl_s=60)

    assert await redis.get(f"{key}:leader") is None
    assert await asked(redis, key) == (b"answer", False)


async def test_whoever_finds_an_answer_leaves_no_lead_behind(redis: RedisClient, key: str) -> None:
    await redis.put(key, b"answer", ttl_s=60)

    assert await asked(redis, key) == (b"answer", False)
    assert await redis.get(f"{key}:leader") is None
