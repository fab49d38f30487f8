"""Answers cached in Redis: what is a hit, under which key it lies, and that it is neither stale nor anybody else's."""

import re
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import asyncpg
import pytest
from redis import Redis

from tests.acceptance.conftest import copy_of, until_somebody_waits
from tests.acceptance.dataset import FIRST, between
from tests.acceptance.envelopes import failed, refused, succeeded
from tests.acceptance.wire import get
from tests.events import insert
from tests.running import Service, serving
from tests.waiting import until

pytestmark = [pytest.mark.anyio]

VOLUME = "volume-by-period"
DAYS = "date_from=2024-02-12&date_to=2024-03-10"


@pytest.fixture(scope="module")
async def database(loaded: str) -> AsyncIterator[str]:
    """The database of this module."""
    async with copy_of(loaded) as url:
        yield url


@pytest.fixture(scope="module")
def service(database: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with one connection for all reports, so that a test can show who needs it, and no memory of its own."""
    environment = {"DATABASE_URL": database, "REDIS_URL": redis_url, "POSTGRES_POOL_SIZE": "1", "REFRESH_INTERVAL": "0"}
    environment["MEMORY_CACHE_MB"] = "0"
    with serving(environment, tmp_path_factory.mktemp("caching")) as running:
        yield running


@pytest.fixture(autouse=True)
def redis(redis_url: str) -> Iterator[Redis]:
    """The Redis database of the tests in this folder, without any cached answer."""
    with Redis.from_url(redis_url) as client:
        for key in client.scan_iter("report:*"):
            client.delete(key)
        yield client


def run(service: Service, query: str, slug: str = VOLUME) -> Any:
    return succeeded(get(service, f"/reports/{slug}/run?{query}"))


def is_hit(envelope: Any) -> bool:
    """Whether an answer came from the cache; its three tokens of that must agree."""
    hit = envelope["data"]["cache_hit"]
    assert envelope["meta"]["cache_hit"] is hit
    assert envelope["data"]["source_system"] == ("redis" if hit else "postgres")
    return bool(hit)


def entries(redis: Redis) -> list[bytes]:
    """The keys of answers, once none is in the making: whoever computed one does not wait until Redis has it."""
    until(lambda: b"in the making" not in {redis.get(key) for key in redis.scan_iter("report:*:v[0-9]*:*")})
    return sorted(redis.scan_iter("report:*:v[0-9]*:*"))


@pytest.mark.parametrize("slug", [VOLUME, "status-counts", "top-entities"])
def test_the_second_of_two_equal_requests_is_a_hit(service: Service, redis: Redis, slug: str) -> None:
    first, second = run(service, DAYS, slug), run(service, DAYS, slug)

    assert not is_hit(first)
    assert is_hit(second)
    for envelope in (first, second):
        del envelope["data"]["cache_hit"], envelope["data"]["source_system"], envelope["meta"]["cache_hit"]
    assert first == second
    assert len(entries(redis)) == 1


@pytest.mark.parametrize(
    "query",
    [
        "date_to=2024-03-10&date_from=2024-02-12",
        f"{DAYS}&window=day",
        f"{DAYS}&window=DAY",
        f"{DAYS}&breakdown=period",
        f"{DAYS}&limit=50&offset=0",
        f"{DAYS}&limit=050",
        f"&&{DAYS}&",
        DAYS.replace("2024", "%32024"),
    ],
)
def test_a_request_that_means_the_same_is_a_hit(service: Service, redis: Redis, query: str) -> None:
    assert not is_hit(run(service, DAYS))
    assert is_hit(run(service, query))
    assert len(entries(redis)) == 1


@pytest.mark.parametrize(
    "query",
    [
        f"{DAYS}&window=week",
        f"{DAYS}&breakdown=source",
        f"{DAYS}&source=stripe",
        f"{DAYS}&source=Stripe",
        f"{DAYS}&limit=49",
        f"{DAYS}&offset=1",
        "date_from=2024-02-13&date_to=2024-03-10",
        "date_from=2024-02-12&date_to=2024-03-09",
    ],
)
def test_a_request_that_means_something_else_is_a_miss(service: Service, redis: Redis, query: str) -> None:
    run(service, DAYS)

    assert not is_hit(run(service, query))
    assert len(entries(redis)) == 2


def test_refused_requests_leave_nothing_in_the_cache(service: Service, redis: Redis) -> None:
    for number in range(50):
        refused(get(service, f"/reports/{VOLUME}/run?{DAYS}&cachebuster{number}=1"), f"cachebuster{number}")
        refused(get(service, f"/reports/{VOLUME}/run?{DAYS}&limit={2000 + number}"), "limit")

    assert entries(redis) == []


@pytest.mark.parametrize("slug,ttl", [(VOLUME, 120), ("status-counts", 90), ("top-entities", 45)])
def test_an_entry_lies_under_slug_version_and_hash_for_the_reports_ttl(
    service: Service, redis: Redis, slug: str, ttl: int
) -> None:
    version = succeeded(service.http.get(f"/reports/{slug}"))["data"]["version"]
    answer = get(service, f"/reports/{slug}/run?{DAYS}")

    [key] = entries(redis)
    assert re.fullmatch(rf"report:{slug}:v{version}:[0-9a-f]{{64}}", key.decode())
    assert 0.9 * ttl - 5 <= int(redis.ttl(key)) <= ttl, "a tenth shorter at most, so that not all end at once"
    assert answer.headers["Cache-Control"] == f"max-age={ttl}, stale-while-revalidate=30, stale-if-error=3600"


async def test_a_hit_does_not_touch_postgresql(service: Service, database: str) -> None:
    run(service, DAYS)
    connection = await asyncpg.connect(database)
    with ThreadPoolExecutor(1) as background:
        async with connection.transaction():
            await connection.execute("LOCK TABLE rollup_source_status_margin")
            # The one connection for reports now waits for the table.
            waiting = background.submit(run, service, f"{DAYS}&offset=1")
            await until_somebody_waits(connection)

            assert is_hit(run(service, DAYS))
            assert not waiting.done()
        assert not is_hit(waiting.result())
    await connection.close()


async def test_who_cannot_compute_an_answer_leaves_it_to_the_next(
    service: Service, redis: Redis, database: str
) -> None:
    ranking = f"/reports/top-entities/run?{DAYS}"
    connection = await asyncpg.connect(database)
    with ThreadPoolExecutor(1) as background:
        async with connection.transaction():
            await connection.execute("LOCK TABLE rollup_entity")
            waiting = background.submit(get, service, ranking)  # in the one place that there is
            await until_somebody_waits(connection)
            [first] = redis.scan_iter("report:*:v[0-9]*:*")

            failed(get(service, f"{ranking}&offset=1"), "service_unavailable")
            until(lambda: list(redis.scan_iter("report:*:v[0-9]*:*")) == [first])
            assert not waiting.done()
        succeeded(waiting.result())
    await connection.close()


@pytest.mark.parametrize("junk", [b"", b"junk", b"{}", b"null", b"\xff\x00"])
def test_what_somebody_else_left_under_our_key_is_no_answer(service: Service, redis: Redis, junk: bytes) -> None:
    first = run(service, DAYS)
    [key] = entries(redis)
    redis.set(key, junk)

    second = run(service, DAYS)

    assert not is_hit(second)
    assert second["data"]["rows"] == first["data"]["rows"]


def test_a_key_of_another_type_is_no_answer_either(service: Service, redis: Redis) -> None:
    run(service, DAYS)
    [key] = entries(redis)
    redis.delete(key)
    redis.rpush(key, "a list")

    assert not is_hit(run(service, DAYS))

    redis.delete(key)
    until(lambda: is_hit(run(service, DAYS)))  # Redis is trusted again as soon as it has answered a ping


async def test_whoever_saw_a_run_completed_gets_its_numbers(service: Service, redis: Redis, database: str) -> None:
    day = FIRST
    before = between(day, day)
    query = f"date_from={day}&date_to={day}"
    assert run(service, query)["data"]["rows"] == [{"bucket_date": day.isoformat(), "event_count": len(before)}]
    version = succeeded(service.http.get(f"/reports/{VOLUME}"))["data"]["version"]

    connection = await asyncpg.connect(database)
    await insert(connection, day, 5)
    await connection.close()
    assert is_hit(run(service, query)), "events alone change no answer"
    service.recompute(VOLUME, "day", day, day)

    after = run(service, query)
    assert not is_hit(after)
    assert after["data"]["rows"] == [{"bucket_date": day.isoformat(), "event_count": len(before) + 5}]
    assert is_hit(run(service, query))
    assert succeeded(service.http.get(f"/reports/{VOLUME}"))["data"]["version"] == version + 1
    assert int(redis.get(f"report:version:{VOLUME}") or 0) == version + 1


def test_a_run_that_changes_nothing_leaves_the_cache_as_it_is(service: Service) -> None:
    run(service, DAYS)

    service.recompute(VOLUME, "day", "2024-02-12", "2024-02-25")

    assert is_hit(run(service, DAYS))


async def test_an_answer_is_kept_under_the_version_of_its_own_snapshot(
    service: Service, redis: Redis, database: str
) -> None:
    """Not under the one that the process believed in when it was asked: then one tag would stand for two answers."""
    connection = await asyncpg.connect(database)
    for limit in range(60, 70):
        moved = "UPDATE report_definitions SET version = version + 1 WHERE slug = $1 RETURNING version"
        version = await connection.fetchval(moved, VOLUME)  # no notification: it is noticed by the next poll
        answer = get(service, f"/reports/{VOLUME}/run?{DAYS}&limit={limit}")
        assert answer.headers["ETag"].startswith(f'W/"{version}-')
        assert [key for key in entries(redis) if key.startswith(f"report:{VOLUME}:v{version}:".encode())]
        assert is_hit(run(service, f"{DAYS}&limit={limit}")), "the process has learnt of the version by its own answer"
    await connection.close()


async def test_a_report_without_a_ttl_is_not_cached(service: Service, redis: Redis, database: str) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute("UPDATE report_definitions SET cache_ttl_seconds = 0 WHERE slug = 'top-entities'")
    await connection.close()
    path = f"/reports/top-entities/run?{DAYS}"
    until(lambda: get(service, path).headers["Cache-Control"] == "no-store")  # when the catalogue is read again
    redis.delete(*entries(redis))

    assert not is_hit(run(service, DAYS, "top-entities"))
    assert not is_hit(run(service, DAYS, "top-entities"))
    assert entries(redis) == []
