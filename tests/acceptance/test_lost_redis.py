"""Redis goes away, hangs, forgets, or is back from yesterday: nothing but speed is lost, and nothing stale is served.

The Redis is this module's own, and is really stopped and killed; what only the network does is done by a proxy.
"""

import asyncio
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from pg_analytics.embedded import redis
from pg_analytics.embedded.binaries import Binaries
from pg_analytics.embedded.process import Server
from pg_analytics.postgres.pool import Connection
from pg_analytics.redis.client import RedisClient
from tests.acceptance.envelopes import succeeded
from tests.acceptance.processes import Starter
from tests.acceptance.readers import Readers
from tests.events import insert
from tests.oracle import assert_nothing_stuck, assert_snapshots_equal_events
from tests.proxy import Proxy
from tests.running import AUTHORISED, Service
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.own_servers]

DAY = date(2026, 1, 5)
REPORT = f"/reports/volume-by-period/run?date_from={DAY}&date_to={DAY}"


@pytest.fixture
def own_redis(tmp_path: Path, binaries: Binaries) -> Iterator[Server]:
    """A Redis that may be stopped and killed; what it is told to save, it has again when it is back."""
    with redis.start(tmp_path / "redis", binaries=binaries, durable=True) as server:
        yield server


@pytest.fixture
def contents(own_redis: Server) -> Iterator[Redis]:
    """A look into that Redis."""
    with Redis.from_url(own_redis.url) as client:
        yield client


@pytest.fixture
def proxy(own_redis: Server) -> Iterator[Proxy]:
    """The way to that Redis."""
    with Proxy(own_redis.url) as proxy:
        yield proxy


@pytest.fixture
def start(database_url: str, proxy: Proxy, tmp_path: Path) -> Iterator[Starter]:
    """Starts processes that reach Redis by way of the proxy."""
    starter = Starter({"DATABASE_URL": database_url, "REDIS_URL": proxy.url, "MEMORY_CACHE_MB": "0"}, tmp_path)
    yield starter
    starter.close()


@pytest.fixture
def service(start: Starter) -> Service:
    """A service, that reaches Redis by way of the proxy."""
    return start.service()


LOSSES: dict[str, Callable[[Server, Proxy], None]] = {
    "refuses": lambda _redis, proxy: proxy.refuse(),
    "hangs": lambda _redis, proxy: proxy.hang(),
    "is killed": lambda redis, _proxy: redis.kill(),
    "answers too late": lambda _redis, proxy: proxy.delay(0.5),
}


def count_of(service: Service) -> int:
    """How many events the report tells for the day."""
    return sum(row["event_count"] for row in succeeded(service.http.get(REPORT))["data"]["rows"])


def source_of(service: Service, path: str) -> str:
    """Where an answer comes from."""
    return str(succeeded(service.http.get(path))["data"]["source_system"])


@pytest.mark.parametrize("loss", LOSSES)
async def test_everything_goes_on_while_redis(
    service: Service, connection: Connection, own_redis: Server, proxy: Proxy, loss: str
) -> None:
    await insert(connection, DAY, 10)
    service.recompute("volume-by-period", "day", DAY, DAY)
    assert count_of(service) == 10
    assert succeeded(service.http.get(REPORT))["meta"]["cache_hit"] is True
    LOSSES[loss](own_redis, proxy)

    health = service.http.get("/health")
    assert health.status_code == 503
    assert health.json()["data"]["dependencies"] == {"postgres": "ok", "redis": "unavailable"}
    assert service.http.get(f"{service.url}/readyz").status_code == 200
    for path in ("/reports", "/reports/volume-by-period", "/recomputations", "/audit-entries"):
        succeeded(service.http.get(path, headers=AUTHORISED))
    answer = succeeded(service.http.get(REPORT))
    assert answer["data"]["source_system"] == "postgres"
    assert "degraded" not in answer["meta"]  # from the truth itself
    for number in range(2):
        await insert(connection, DAY, 10, prefix=f"late-{number}")
        service.recompute("volume-by-period", "day", DAY, DAY)
        assert count_of(service) == 20 + 10 * number
    await assert_nothing_stuck(connection)

    own_redis.restart() if loss == "is killed" else proxy.restore()
    until(lambda: service.http.get(REPORT).json()["meta"]["cache_hit"])
    assert count_of(service) == 30
    assert service.http.get("/health").status_code == 200


async def test_a_redis_that_answers_but_too_late_to_be_of_use_is_not_back(
    service: Service, connection: Connection, proxy: Proxy
) -> None:
    """To connect may take longer than a batch may, but what comes then may not."""
    await insert(connection, DAY, 10)
    service.recompute("volume-by-period", "day", DAY, DAY)
    proxy.cut()  # it has connected again before
    until(lambda: source_of(service, REPORT) == "redis")
    proxy.delay(0.075)  # each way
    for number in range(25):
        assert source_of(service, f"{REPORT}&limit={60 + number}") == "postgres"
        await asyncio.sleep(0.1)

    assert '"event":"redis_lost"' in service.log()
    assert '"event":"redis_back"' not in service.log()
    proxy.restore()
    until(lambda: source_of(service, REPORT) == "redis")


async def test_a_redis_that_is_full_still_serves_what_it_holds(
    service: Service, connection: Connection, contents: Redis
) -> None:
    await insert(connection, DAY, 10)
    service.recompute("volume-by-period", "day", DAY, DAY)
    assert [source_of(service, REPORT) for _ in range(2)] == ["postgres", "redis"]
    contents.config_set("maxmemory-policy", "noeviction")
    contents.config_set("maxmemory", "1")
    try:
        for number in range(3):
            assert source_of(service, f"{REPORT}&limit={60 + number}") == "postgres"
            assert source_of(service, f"{REPORT}&limit={60 + number}") == "postgres", "there is no room for it"
            assert source_of(service, REPORT) == "redis", "to refuse a command is not to be lost"
        service.recompute("volume-by-period", "day", DAY, DAY)
    finally:
        contents.config_set("maxmemory", "0")
    assert '"event":"redis_lost"' not in service.log()
    assert '"event":"redis_refuses"' in service.log()
    assert [source_of(service, f"{REPORT}&limit=60") for _ in range(2)] == ["postgres", "redis"]


async def test_a_service_starts_without_redis_and_uses_it_once_it_is_there(
    start: Starter, proxy: Proxy, connection: Connection
) -> None:
    await insert(connection, DAY, 10)
    proxy.refuse()
    service = start.service()
    service.recompute("volume-by-period", "day", DAY, DAY)
    assert count_of(service) == 10

    proxy.restore()
    until(lambda: service.http.get(REPORT).json()["meta"]["cache_hit"])


async def test_answers_are_not_mixed_up_by_a_redis_that_is_slow_by_turns(
    service: Service, proxy: Proxy, connection: Connection
) -> None:
    days = [DAY + timedelta(days=n) for n in range(40)]
    for number, day in enumerate(days, start=1):
        await insert(connection, day, number)
    service.recompute("volume-by-period", "day", days[0], days[-1])
    right = {str(day): number for number, day in enumerate(days, start=1)}

    def wrong(answer: httpx.Response) -> str | None:
        asked = answer.request.url.params["date_from"]
        told = [{"bucket_date": asked, "event_count": right[asked]}]
        return None if answer.status_code == 200 and answer.json()["data"]["rows"] == told else answer.text

    requests = [f"/reports/volume-by-period/run?date_from={day}&date_to={day}" for day in days]
    with Readers(f"{service.url}/api/v1", requests, wrong, count=8) as readers:
        # Just below, around and above the limit of 100 ms: commands are given up at every stage of their lives.
        for delay_s in (0.03, 0.045, 0.05, 0.055, 0.0, 0.05, 0.11, 0.0):
            proxy.delay(delay_s)
            enough = readers.statuses.total() + 60
            until(lambda enough=enough: readers.statuses.total() > enough)  # type: ignore[misc]
    assert not readers.complaints


def saved(contents: Redis) -> dict[Any, Any]:
    """Everything that Redis holds, in its own form."""
    return {key: contents.dump(key) for key in contents.scan_iter()}


async def test_entries_and_versions_from_before_a_recomputation_that_reappear_are_not_served(
    start: Starter, service: Service, contents: Redis, connection: Connection
) -> None:
    await insert(connection, DAY, 10)
    service.recompute("volume-by-period", "day", DAY, DAY)
    count_of(service)
    old = saved(contents)
    assert {key.split(b":")[1] for key in old} >= {b"version", b"volume-by-period"}
    old_version = contents.get("report:version:volume-by-period")

    await insert(connection, DAY, 5, prefix="late")
    service.recompute("volume-by-period", "day", DAY, DAY)
    for key, value in old.items():
        contents.restore(key, 60_000, value, replace=True)
    assert contents.get("report:version:volume-by-period") == old_version

    assert count_of(service) == 15
    assert count_of(start.service()) == 15  # a process that has only Redis' word for what came before it


async def test_a_redis_that_comes_back_with_yesterdays_contents_is_brought_up_to_date(
    service: Service, own_redis: Server, contents: Redis, connection: Connection
) -> None:
    await insert(connection, DAY, 10)
    service.recompute("volume-by-period", "day", DAY, DAY)
    count_of(service)
    contents.save()
    old_version = contents.get("report:version:volume-by-period")

    own_redis.kill()
    await insert(connection, DAY, 5, prefix="late")
    service.recompute("volume-by-period", "day", DAY, DAY)
    own_redis.restart()
    assert contents.get("report:version:volume-by-period") == old_version

    assert count_of(service) == 15
    until(lambda: contents.get("report:version:volume-by-period") != old_version)
    until(lambda: service.http.get(REPORT).json()["meta"]["cache_hit"])
    assert count_of(service) == 15


async def test_a_redis_that_forgets_everything_again_and_again_changes_no_number(
    service: Service, contents: Redis, connection: Connection
) -> None:
    for number in range(1, 4):
        await insert(connection, DAY, 10, prefix=str(number))
        run_id = service.trigger("volume-by-period", "day", DAY, DAY)
        while service.run(run_id)["status"] in {"pending", "running"}:
            contents.flushall()
            count_of(service)
        contents.flushall()
        assert count_of(service) == 10 * number
    await assert_snapshots_equal_events(connection)


async def test_the_mirror_of_a_version_is_raised_and_never_lowered(own_redis: Server, contents: Redis) -> None:
    client = RedisClient(own_redis.url, timeout=timedelta(seconds=10))
    for found, number, left in ((None, 5, b"5"), (b"7", 5, b"7"), (b"7", 9, b"9"), (b"9", 10, b"10"), (b"x", 2, b"2")):
        contents.delete("key")
        if found is not None:
            contents.set("key", found)
        await client.raise_to("key", number)
        assert contents.get("key") == left
    await client.close()
