"""Which one of all processes computes an answer that none of them has."""

from datetime import timedelta
from uuid import uuid4

import pytest
from redis import Redis

from pg_analytics.redis.client import RedisClient
from pg_analytics.reports.cache import ReportCache
from tests.conftest import Servers

pytestmark = pytest.mark.anyio

LEAD_TTL = timedelta(minutes=1)
BODY = b'{"data":{"rows":[]},"meta":{"cache_hit":true}}'


@pytest.fixture
def key() -> str:
    """A key that nothing is kept under."""
    return f"test:{uuid4()}"


async def asked(redis: RedisClient, key: str) -> tuple[bytes | None, bool]:
    """What a process is told that looks for an answer."""
    return await redis.get_or_lead(key, lead_ttl=LEAD_TTL)


async def test_the_first_who_misses_leads_and_no_other_until_it_gives_up(redis: RedisClient, key: str) -> None:
    assert [await asked(redis, key) for _ in range(3)] == [(None, True), (None, False), (None, False)]

    redis.delete_soon(key)

    assert [await asked(redis, key) for _ in range(2)] == [(None, True), (None, False)]


async def test_what_was_computed_is_there_for_all_and_nobody_leads_any_more(redis: RedisClient, key: str) -> None:
    await asked(redis, key)

    redis.put_soon(key, b"answer", ttl_s=60)

    assert [await asked(redis, key) for _ in range(2)] == [(b"answer", False)] * 2


async def test_a_lead_ends_by_itself(redis: RedisClient, key: str) -> None:
    assert await redis.get_or_lead(key, lead_ttl=timedelta(milliseconds=1)) == (None, True)

    while (found := await asked(redis, key)) == (None, False):
        pass
    assert found == (None, True)


async def test_each_hit_gives_an_answer_another_life(redis: RedisClient, servers: Servers, key: str) -> None:
    cache = ReportCache(redis)
    cache.put(key, BODY, ttl_s=60)

    assert await cache.get_or_lead(key, ttl_s=6000) == (BODY, False)

    assert await redis.get(key) == BODY  # what goes out soon has gone out before that
    with Redis.from_url(servers.redis_url) as plain:
        assert plain.ttl(key) > 60


async def test_what_somebody_else_wrote_under_the_key_is_computed_anew(redis: RedisClient, key: str) -> None:
    redis.put_soon(key, b"nonsense", ttl_s=60)

    assert await ReportCache(redis).get_or_lead(key, ttl_s=60) == (None, True)


async def test_who_only_looks_takes_a_lead_for_no_answer(redis: RedisClient, key: str) -> None:
    await asked(redis, key)

    assert await ReportCache(redis).get(key) is None


async def test_a_redis_that_refuses_to_lead_still_gives_what_it_has(servers: Servers) -> None:
    """As one that is full, or older than 7.0. Here, an account that may only read."""
    user, key = f"reader-{uuid4()}", f"test:{uuid4()}"
    with Redis.from_url(servers.redis_url) as plain:
        plain.acl_setuser(user, enabled=True, nopass=True, keys=["*"], commands=["+get", "+hello", "+client"])
        location = servers.redis_url.rpartition("@")[2]
        reader = RedisClient(f"redis://{user}:any@{location}", timeout=timedelta(seconds=10))
        try:
            assert await asked(reader, key) == (None, True)
            plain.set(key, b"answer")
            assert await asked(reader, key) == (b"answer", False)
        finally:
            await reader.close()
            plain.acl_deluser(user)
