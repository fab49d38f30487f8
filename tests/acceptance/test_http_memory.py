"""Answers that a process has in its own memory: what they need, what they say, and what becomes of many misses."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from redis import Redis

from tests.acceptance.conftest import copy_of, until_somebody_waits
from tests.acceptance.dataset import FIRST
from tests.acceptance.envelopes import failed, succeeded
from tests.acceptance.wire import ask, get, request
from tests.events import insert
from tests.running import BASE_PATH, Service, serving
from tests.waiting import until

pytestmark = [pytest.mark.anyio]

VOLUME = "volume-by-period"
DAYS = "date_from=2024-02-12&date_to=2024-03-10"
PATH = f"/reports/{VOLUME}/run?{DAYS}"
#: Connections of the requests' pool: one computes reports, the others answer everything else.
POOL_SIZE = 3
QUEUE = 16
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture(scope="module")
async def database(loaded: str) -> AsyncIterator[str]:
    """The database of this module."""
    async with copy_of(loaded) as url:
        yield url


@pytest.fixture(scope="module")
def pair(database: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Service]]:
    """Two services of one fleet."""
    environment = {
        "DATABASE_URL": database,
        "REDIS_URL": redis_url,
        "POSTGRES_POOL_SIZE": str(POOL_SIZE),
        "REFRESH_INTERVAL": "0",
    }
    folders = (tmp_path_factory.mktemp(name) for name in ("one", "other"))
    with serving(environment, next(folders)) as one, serving(environment, next(folders)) as other:
        yield one, other


@pytest.fixture
def service(pair: tuple[Service, Service]) -> Service:
    """One of them."""
    return pair[0]


@pytest.fixture(autouse=True)
async def nothing_cached(redis_url: str, database: str, pair: tuple[Service, Service]) -> AsyncIterator[Redis]:
    """Nothing is cached anywhere: the versions have moved on, and Redis is empty."""
    connection = await asyncpg.connect(database)
    await insert(connection, FIRST, 1, prefix=uuid4().hex)
    await connection.close()
    for service in pair[:1]:
        service.recompute(VOLUME, "day", FIRST, FIRST)
    with Redis.from_url(redis_url) as client:
        for key in client.scan_iter("report:*:v[0-9]*:*"):
            client.delete(key)
        yield client


@pytest.fixture
async def connection(database: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A session beside the services."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


def source_of(answer: httpx.Response) -> str:
    """Where an answer comes from."""
    return str(succeeded(answer)["data"]["source_system"])


def test_an_answer_comes_from_postgresql_then_from_memory_and_elsewhere_from_redis(
    pair: tuple[Service, Service],
) -> None:
    one, other = pair

    assert [source_of(get(service, PATH)) for service in (one, one, other, other)] == [
        "postgres",
        "memory",
        "redis",
        "memory",
    ]


def test_a_hit_in_memory_differs_from_the_answer_only_in_where_it_comes_from(service: Service) -> None:
    first, second = (get(service, PATH) for _ in range(2))

    assert first.headers["ETag"] == second.headers["ETag"]
    first_body, second_body = first.json(), second.json()
    assert (second_body["data"].pop("source_system"), second_body["data"].pop("cache_hit")) == ("memory", True)
    assert (first_body["data"].pop("source_system"), first_body["data"].pop("cache_hit")) == ("postgres", False)
    assert (first_body["meta"].pop("cache_hit"), second_body["meta"].pop("cache_hit")) == (False, True)
    assert first_body == second_body


def test_a_request_is_known_from_the_third_time_on_and_goes_past_the_log_then(service: Service) -> None:
    names = [uuid4().hex for _ in range(5)]
    for name in names:
        path = "/reports" if name == names[-1] else f"{PATH}&limit=37"
        target = f"{BASE_PATH}{path}".encode()
        succeeded(ask(service, request(target, headers=f"X-Request-Id: {name}\r\n".encode())))
    until(lambda: names[-1] in service.log())

    assert [name in service.log() for name in names[:-1]] == [True, True, False, False]


async def test_a_hit_in_memory_and_a_304_need_neither_redis_nor_postgresql(
    service: Service, connection: "asyncpg.Connection[asyncpg.Record]", nothing_cached: Redis
) -> None:
    tag = get(service, PATH).headers["ETag"]
    with ThreadPoolExecutor(1) as background:
        async with connection.transaction():
            await connection.execute("LOCK TABLE rollup_source_status_margin")
            waiting = background.submit(get, service, f"{PATH}&offset=1")
            await until_somebody_waits(connection)  # the one place is taken
            nothing_cached.flushdb()

            assert source_of(get(service, PATH)) == "memory"
            known = service.http.get(PATH, headers={"If-None-Match": tag})
            assert (known.status_code, known.content) == (304, b"")
        assert waiting.result().status_code == 200


def test_a_client_that_has_the_answer_is_told_so_until_the_numbers_change(service: Service) -> None:
    first = get(service, PATH)
    tag = first.headers["ETag"]
    for sent in (tag, f'W/"1-other", {tag}', tag.removeprefix("W/"), "*"):
        known = service.http.get(PATH, headers={"If-None-Match": sent})
        assert (known.status_code, known.content) == (304, b""), sent
        for name in ("ETag", "Cache-Control", "Vary"):
            assert known.headers[name] == first.headers[name]
        assert known.headers["X-Request-Id"]
    assert service.http.get(PATH, headers={"If-None-Match": 'W/"1-other"'}).status_code == 200
    assert service.http.get(f"{PATH}&offset=1", headers={"If-None-Match": tag}).status_code == 200


async def test_a_tag_is_no_longer_known_once_a_run_has_changed_the_numbers(
    pair: tuple[Service, Service], connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    tag = get(pair[0], PATH).headers["ETag"]
    assert pair[1].http.get(PATH, headers={"If-None-Match": tag}).status_code == 304, "of every process"
    await insert(connection, FIRST, 1, prefix="changes the numbers")
    pair[0].recompute(VOLUME, "day", FIRST, FIRST)

    for service in pair:
        answer = service.http.get(PATH, headers={"If-None-Match": tag})
        assert answer.status_code == 200
        assert answer.headers["ETag"] != tag


def test_a_fresh_answer_has_no_tag_and_is_never_a_304(service: Service) -> None:
    answer = service.http.get(f"{PATH}&fresh=true", headers={"If-None-Match": "*"})

    assert answer.status_code == 200
    assert "ETag" not in answer.headers
    assert answer.headers["Cache-Control"] == "no-store"


def test_head_is_answered_like_get_without_the_body(service: Service) -> None:
    for _ in range(2):
        got, head = get(service, PATH), service.http.head(PATH)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["ETag"] == got.headers["ETag"]
        assert int(head.headers["Content-Length"]) > 0


@pytest.mark.parametrize("where", ["postgres", "memory", "redis"])
def test_a_long_answer_is_compressed_for_those_who_take_it(pair: tuple[Service, Service], where: str) -> None:
    path = f"{PATH}&breakdown=source"
    if where != "postgres":
        get(pair[0], path)
    service = pair[1] if where == "redis" else pair[0]
    request = service.http.build_request("GET", path, headers={"Accept-Encoding": "gzip"})
    answer = service.http.send(request, stream=True)
    raw = b"".join(answer.iter_raw())
    answer.close()

    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.headers["Vary"] == "accept-encoding"
    assert int(answer.headers["Content-Length"]) == len(raw) < len(gzip.decompress(raw)) / 3
    plain = service.http.get(path, headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    assert plain.headers["Vary"] == "accept-encoding"
    assert plain.json()["data"]["rows"] == httpx.Response(200, content=gzip.decompress(raw)).json()["data"]["rows"]


def test_a_short_answer_is_not_compressed(service: Service) -> None:
    path = "/reports/status-counts/run?date_from=2024-02-12&date_to=2024-02-12"
    for _ in range(2):
        answer = service.http.get(path, headers={"Accept-Encoding": "gzip"})
        assert answer.status_code == 200
        assert "Content-Encoding" not in answer.headers


def test_a_request_with_a_body_gets_the_same_answer(service: Service) -> None:
    get(service, PATH)
    answer = service.http.request("GET", PATH, content=b"who does this?")

    assert source_of(answer) == "memory"


async def _all_at_once(service: Service, count: int, path: str) -> list[Any]:
    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(base_url=service.url + BASE_PATH, limits=limits, timeout=60) as client:
        return [succeeded(answer) for answer in await asyncio.gather(*(client.get(path) for _ in range(count)))]


async def test_many_misses_of_one_key_are_one_query_of_the_whole_fleet(
    pair: tuple[Service, Service], connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("LOCK TABLE rollup_source_status_margin")
    asked = [asyncio.create_task(_all_at_once(service, 100, PATH)) for service in pair]
    await until_somebody_waits(connection)
    assert await connection.fetchval(WAITING) == 1
    await transaction.rollback()

    answers = [envelope for of_service in await asyncio.gather(*asked) for envelope in of_service]

    assert len({envelope["data"]["generated_at"] for envelope in answers}) == 1, "each query has its own moment"
    assert len(answers) == 200


async def test_short_questions_that_come_together_share_a_statement_and_each_gets_its_own_answer(
    database: str, connection: "asyncpg.Connection[asyncpg.Record]", tmp_path: Path
) -> None:
    """Of six places, one would be taken by each question, if each had a statement of its own."""
    environment = {"DATABASE_URL": database, "REDIS_URL": "redis://127.0.0.1:1", "REFRESH_INTERVAL": "0"}
    with serving(environment, tmp_path) as service:
        rows = succeeded(get(service, f"{PATH}&limit=1000"))["data"]["rows"]
        assert len(rows) > 20
        # What has just proved slow goes by itself, on a busy machine for no good reason: then once more. The lock holds
        # the first batch up, so that the next one does not wait until it has ended.
        for attempt in range(50):
            paths = [f"{PATH}&limit={5 + attempt}&offset={number}" for number in range(15)]
            answers, statements = await _answers_and_statements(service, connection, paths)
            for number, envelope in enumerate(answers):
                assert envelope["data"]["rows"] == rows[number : number + 5 + attempt]
                assert envelope["meta"]["pagination"] == {"limit": 5 + attempt, "offset": number, "total": len(rows)}
            if statements <= 2:
                return
        pytest.fail("they never share one")


async def _answers_and_statements(
    service: Service, connection: "asyncpg.Connection[asyncpg.Record]", paths: list[str]
) -> tuple[list[Any], int]:
    """What is answered to those who ask while the rows are locked, and how many statements wait for them then."""
    async with httpx.AsyncClient(base_url=service.url + BASE_PATH, timeout=60) as client:
        async with connection.transaction():
            await connection.execute("LOCK TABLE rollup_source_status_margin")
            asked = [asyncio.create_task(client.get(path)) for path in paths]
            await until_somebody_waits(connection)
            await asyncio.sleep(0.5)  # all have come
            statements = await connection.fetchval(WAITING)
        return [succeeded(answer) for answer in await asyncio.gather(*asked)], statements


async def test_more_misses_than_can_be_computed_are_refused_and_nobody_else_notices(
    service: Service, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    succeeded(get(service, PATH))
    ranking = f"/reports/top-entities/run?{DAYS}"  # of which no two share a statement
    limits = httpx.Limits(max_connections=100)
    async with httpx.AsyncClient(base_url=service.url + BASE_PATH, limits=limits, timeout=60) as client:
        async with connection.transaction():
            await connection.execute("LOCK TABLE rollup_entity")
            asked = [asyncio.create_task(client.get(f"{ranking}&offset={1 + number}")) for number in range(60)]
            refused, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            for answer in refused:
                failed(answer.result(), "service_unavailable")
                assert int(answer.result().headers["Retry-After"]) >= 1

            assert source_of(get(service, PATH)) == "memory"
            assert get(service, "/reports").status_code == 200
            assert get(service, "/health").status_code == 200
            assert await connection.fetchval(WAITING) == 1, "one place"
            # Whoever waits for a place is sent away too, after a moment; only the one in the place stays.
            pending = set(asked)
            while len(pending) > 1:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        answers = await asyncio.gather(*asked)
    assert sorted({answer.status_code for answer in answers}) == [200, 503]
    assert [answer.status_code for answer in answers].count(200) == 1
    succeeded(get(service, f"{ranking}&offset=100"))


async def test_past_its_time_to_live_an_answer_of_the_current_version_is_served_and_lives_anew(
    service: Service, connection: "asyncpg.Connection[asyncpg.Record]", nothing_cached: Redis
) -> None:
    def max_age(seconds: int) -> bool:
        return get(service, PATH).headers["Cache-Control"].startswith(f"max-age={seconds},")

    await connection.execute("UPDATE report_definitions SET cache_ttl_seconds = 1 WHERE slug = $1", VOLUME)
    try:
        until(lambda: max_age(1))
        first = succeeded(get(service, PATH))
        nothing_cached.delete(*nothing_cached.scan_iter("report:*:v[0-9]*:*"))

        until(
            lambda: get(service, PATH).is_success and [*nothing_cached.scan_iter("report:*:v[0-9]*:*")]
        )  # there again too
        second = succeeded(get(service, PATH))
        assert second["data"]["source_system"] == "memory"
        assert second["data"]["generated_at"] == first["data"]["generated_at"], "nothing was computed again"
    finally:
        await connection.execute("UPDATE report_definitions SET cache_ttl_seconds = 120 WHERE slug = $1", VOLUME)
        until(lambda: max_age(120))


@pytest.fixture
def small(database: str, tmp_path: Path) -> Iterator[Service]:
    """A service with room for a megabyte of answers, and nothing in Redis."""
    environment = {"DATABASE_URL": database, "REDIS_URL": "redis://127.0.0.1:1", "MEMORY_CACHE_MB": "1"}
    with serving(environment | {"REFRESH_INTERVAL": "0"}, tmp_path) as running:
        yield running


def test_the_least_valuable_answer_leaves_a_full_memory(small: Service) -> None:
    favourite = f"{PATH}&breakdown=source&limit=1000"
    get(small, favourite)
    others = [f"{PATH}&breakdown=source&limit={limit}" for limit in range(300, 500)]
    for path in others:
        assert source_of(get(small, favourite)) == "memory"
        assert source_of(get(small, path)) == "postgres"

    assert "postgres" in {source_of(get(small, path)) for path in others}, "there was no room for all of them"
    assert source_of(get(small, favourite)) == "memory"


@pytest.mark.parametrize("warm_up", [2, 0])
async def test_what_was_asked_for_most_is_there_again_before_it_is_asked_for(
    database: str,
    redis_url: str,
    connection: "asyncpg.Connection[asyncpg.Record]",
    nothing_cached: Redis,
    tmp_path: Path,
    *,
    warm_up: int,
) -> None:
    environment = {"DATABASE_URL": database, "REDIS_URL": redis_url, "REFRESH_INTERVAL": "0"}
    asked = {f"{PATH}&limit={100 + times}": times for times in (5, 1, 3)}
    with serving(environment | {"WARM_UP_ANSWERS": str(warm_up)}, tmp_path) as service:
        for path, times in asked.items():
            for _ in range(times):
                get(service, path)
        await insert(connection, FIRST, 1, prefix=uuid4().hex)
        service.recompute(VOLUME, "day", FIRST, FIRST)
        version = succeeded(service.http.get(f"/reports/{VOLUME}"))["data"]["version"]

        until(lambda: len([*nothing_cached.scan_iter(f"report:{VOLUME}:v{version}:*[0-9a-f]")]) == warm_up)
        sources = {times: source_of(get(service, path)) for path, times in asked.items()}

    warmed = {times for times, source in sources.items() if source == "memory"}
    assert warmed == {5, 3} if warm_up else not warmed
