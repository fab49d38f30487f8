"""Who saw a run completed never reads older numbers: from any process, from a warm cache, whatever Redis does.

Two services share a database. Both have the old numbers cached when a run completes, and both are asked at once.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from pg_analytics.embedded import redis
from pg_analytics.embedded.binaries import Binaries
from pg_analytics.embedded.process import Server
from pg_analytics.postgres.pool import Connection
from tests.acceptance.processes import Starter
from tests.events import insert
from tests.oracle import assert_snapshots_equal_events
from tests.proxy import Proxy
from tests.running import Service
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.own_servers]

MONDAY = date(2026, 1, 5)
SUNDAY = MONDAY + timedelta(days=6)
DAY = MONDAY + timedelta(days=2)
ROUNDS = 3


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory, binaries: Binaries) -> Iterator[Server]:
    """A Redis that may be emptied and filled."""
    with redis.start(tmp_path_factory.mktemp("redis"), binaries=binaries, durable=False) as server:
        yield server


@pytest.fixture
def to_redis(own_redis: Server) -> Iterator[Proxy]:
    """The way to that Redis, which holds no versions of another test's database."""
    with Redis.from_url(own_redis.url) as contents:
        contents.flushall()
    with Proxy(own_redis.url) as proxy:
        yield proxy


@pytest.fixture
def to_postgres(database_url: str) -> Iterator[Proxy]:
    """The way to PostgreSQL that only the second service takes."""
    with Proxy(database_url) as proxy:
        yield proxy


@pytest.fixture
def start(database_url: str, to_redis: Proxy, tmp_path: Path) -> Iterator[Starter]:
    """Starts services."""
    starter = Starter({"DATABASE_URL": database_url, "REDIS_URL": to_redis.url}, tmp_path)
    yield starter
    starter.close()


@pytest.fixture
def pair(start: Starter, to_postgres: Proxy) -> tuple[Service, Service]:
    """Two services; the second has no worker, and reaches PostgreSQL by way of a proxy."""
    return start.service(RECOMPUTE_WORKERS="2"), start.service(RECOMPUTE_WORKERS="0", DATABASE_URL=to_postgres.url)


def ask(service: Service, *, limit: int = 50) -> httpx.Response:
    """The volume of the day."""
    asked: dict[str, str | int] = {"date_from": str(DAY), "date_to": str(DAY), "limit": limit}
    return service.http.get("/reports/volume-by-period/run", params=asked)


def count_of(answer: httpx.Response) -> int:
    """How many events an answer tells."""
    assert answer.status_code == 200, answer.text
    return sum(row["event_count"] for row in answer.json()["data"]["rows"])


def keep_asking(service: Service, run_id: str) -> Any:
    """The run, once it has ended; until then the cache is kept warm with whatever the service holds for true."""
    while (run := service.run(run_id))["status"] in {"pending", "running"}:
        ask(service)
    return run


class _Meddling:
    """What is done to Redis in every round: before the run, and between its end and the question."""

    def __init__(self, contents: Redis, to_redis: Proxy) -> None:
        self.contents = contents
        self.to_redis = to_redis
        self.kept: dict[Any, Any] = {}

    def keep(self) -> None:
        dumped = {key: self.contents.dump(key) for key in self.contents.scan_iter()}
        self.kept = {key: value for key, value in dumped.items() if value is not None}  # some live for moments only

    def put_back(self) -> None:
        for key, value in self.kept.items():
            self.contents.restore(key, 60_000, value, replace=True)


MEDDLING: dict[str, tuple[Callable[[_Meddling], object], Callable[[_Meddling], object]]] = {
    "works": (lambda _: None, lambda _: None),
    "forgets everything": (lambda _: None, lambda with_: with_.contents.flushall()),
    "has its old contents again": (_Meddling.keep, _Meddling.put_back),
    "is cut off during the run": (lambda with_: with_.to_redis.refuse(), lambda with_: with_.to_redis.restore()),
    "is cut off after the run": (lambda with_: with_.to_redis.restore(), lambda with_: with_.to_redis.refuse()),
}


@pytest.mark.parametrize("redis_does", MEDDLING)
async def test_both_services_tell_the_new_numbers_at_once_when_redis(
    pair: tuple[Service, Service], connection: Connection, own_redis: Server, to_redis: Proxy, redis_does: str
) -> None:
    before, after = MEDDLING[redis_does]
    with Redis.from_url(own_redis.url) as contents:
        meddling = _Meddling(contents, to_redis)
        for number in range(1, ROUNDS + 1):
            for service in pair:
                ask(service)
            before(meddling)
            await insert(connection, DAY, 10, prefix=str(number))
            run_id = pair[number % 2].trigger("volume-by-period", "day", DAY, DAY)
            run = keep_asking(pair[(number + 1) % 2], run_id)
            after(meddling)
            assert run["status"] == "completed"
            assert [count_of(ask(service)) for service in pair] == [10 * number] * 2
    await assert_snapshots_equal_events(connection)


async def test_a_service_that_hears_of_everything_late_tells_no_old_numbers_either(
    pair: tuple[Service, Service], connection: Connection, to_postgres: Proxy
) -> None:
    quick, late = pair
    ask(late)
    to_postgres.delay(0.15)
    for number in range(1, ROUNDS + 1):
        await insert(connection, DAY, 10, prefix=str(number))
        # Two runs over the day: one changes its numbers, the other finds them changed, and must not complete sooner.
        runs = [
            quick.trigger("volume-by-period", "week", MONDAY, SUNDAY),
            quick.trigger("volume-by-period", "day", DAY, DAY),
        ]
        with ThreadPoolExecutor(len(runs)) as pool:
            for run_id in pool.map(lambda run_id: until_completed(quick, run_id), runs):
                assert count_of(ask(late)) == 10 * number, run_id


def until_completed(service: Service, run_id: str) -> str:
    """The id of the run, once it has completed."""
    assert service.wait_until_ended(run_id)["status"] == "completed"
    return run_id


@pytest.mark.parametrize("redis_too", [False, True])
async def test_a_service_cut_off_from_postgresql_admits_that_it_may_be_behind(
    pair: tuple[Service, Service], connection: Connection, to_postgres: Proxy, to_redis: Proxy, *, redis_too: bool
) -> None:
    here, cut_off = pair
    await insert(connection, DAY, 10)
    here.recompute("volume-by-period", "day", DAY, DAY)
    assert count_of(ask(cut_off)) == 10
    to_postgres.hang()
    await insert(connection, DAY, 10, prefix="late")
    here.recompute("volume-by-period", "day", DAY, DAY)

    answer = ask(cut_off)
    assert answer.status_code == 503 or answer.json()["meta"]["degraded"] or count_of(answer) == 20
    if redis_too:
        to_redis.refuse()
        assert ask(cut_off).status_code == 503, "nobody can tell it whether its memory is current"
        to_redis.restore()
    limits = count(51)

    def up_to_date() -> bool:
        limit = next(limits)  # what this process has not cached yet, so that it puts it into Redis once that is back
        assert count_of(ask(here, limit=limit)) == 20
        told = ask(cut_off, limit=limit)
        assert told.status_code == 503 or count_of(told) == 20  # Redis knows the newer version
        return told.status_code == 200

    until(up_to_date)
    to_postgres.restore()
    until(lambda: "degraded" not in ask(cut_off).json().get("meta", {"degraded": True}))
    assert count_of(ask(cut_off)) == 20
