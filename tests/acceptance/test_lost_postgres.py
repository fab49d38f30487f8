"""PostgreSQL goes away, under load and in the middle of a run: what is cached is served, the rest is 503, until it is
back.

The server is this module's own, and is really stopped and killed; what only the network does is done by a proxy.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from pg_analytics.embedded import postgres, redis
from pg_analytics.embedded.binaries import Binaries
from pg_analytics.embedded.process import Server
from pg_analytics.postgres.migrate import migrate
from pg_analytics.postgres.pool import Connection
from pg_analytics.reports.catalog import install_builtin_reports
from pg_analytics.snapshots.rebuild import rebuild_days
from pg_analytics.windows import DayRange
from tests.acceptance.envelopes import failed
from tests.acceptance.processes import Starter, secrets
from tests.acceptance.readers import Readers, complaint_about_failure
from tests.conftest import new_database
from tests.events import insert
from tests.oracle import assert_nothing_stuck, assert_snapshots_equal_events
from tests.proxy import Proxy
from tests.running import AUTHORISED, Service
from tests.waiting import until, until_true

pytestmark = [pytest.mark.anyio, pytest.mark.own_servers]

DAY = date(2026, 1, 5)
#: In chunks, a run over it takes a second or so.
YEAR = DayRange.inclusive(date(2025, 1, 7), date(2026, 1, 5))
REPORT = f"/reports/volume-by-period/run?date_from={DAY}&date_to={DAY}"
PER_DAY = 100

Loss = Callable[[Proxy], None]


@pytest.fixture(scope="module")
def own_postgres(tmp_path_factory: pytest.TempPathFactory, binaries: Binaries) -> Iterator[Server]:
    """A PostgreSQL that may be stopped and killed, and keeps what it has committed."""
    with postgres.start(tmp_path_factory.mktemp("postgres"), binaries=binaries, durable=True) as server:
        yield server


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory, binaries: Binaries) -> Iterator[Server]:
    """A Redis in which no other database's versions stand."""
    with redis.start(tmp_path_factory.mktemp("redis"), binaries=binaries, durable=False) as server:
        yield server


@pytest.fixture
async def own_database(own_postgres: Server) -> AsyncIterator[str]:
    """A database with events on every day of a year, of which the last day is built."""
    async with new_database(own_postgres.url) as url:
        connection = await asyncpg.connect(url)
        await migrate(connection)
        await install_builtin_reports(connection)
        await insert(connection, YEAR.start, PER_DAY, last_day=YEAR.last)
        async with connection.transaction():
            await rebuild_days(connection, DayRange.inclusive(DAY, DAY), run_id=None)
        await connection.close()
        yield url


@pytest.fixture
def proxy(own_database: str) -> Iterator[Proxy]:
    """The way to that database."""
    with Proxy(own_database) as proxy:
        yield proxy


@pytest.fixture
def start(proxy: Proxy, own_redis: Server, tmp_path: Path) -> Iterator[Starter]:
    """Starts processes that reach the database by way of the proxy."""
    settings = {
        "DATABASE_URL": proxy.url,
        "REDIS_URL": own_redis.url,
        "RECOMPUTE_LEASE": "1s",
        "POSTGRES_TIMEOUT": "1s",
        "REFRESH_INTERVAL": "0",  # the versions stand still, and with them what is cached
    }
    starter = Starter(settings, tmp_path)
    yield starter
    proxy.restore()
    starter.close()


@pytest.fixture
def service(start: Starter) -> Service:
    """A service that reaches the database by way of the proxy, and does not wait for it for long."""
    return start.service(POSTGRES_TIMEOUT="1s")


LOSSES: dict[str, Loss] = {"refuses": Proxy.refuse, "hangs": Proxy.hang}


@pytest.fixture(params=LOSSES)
def lose(request: pytest.FixtureRequest) -> Loss:
    """A way to lose PostgreSQL."""
    return LOSSES[request.param]


def is_back(service: Service) -> bool:
    """Whether all is as it was, for a report that was never asked for."""
    answer = service.http.get("/reports/top-entities/run", params={"date_to": str(DAY), "date_from": str(DAY)})
    return answer.status_code == 200 and "degraded" not in answer.json()["meta"]


def rows_of(answer: httpx.Response) -> Any:
    """The rows of a report."""
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]["rows"]


ELSEWHERE = [
    ("GET", "/reports"),
    ("GET", "/reports/volume-by-period"),
    ("GET", f"{REPORT}&limit=7"),  # never asked for before
    ("GET", "/recomputations"),
    ("GET", "/recomputations/6f1d7d4c-4a0a-4b8e-9c5c-3a5ae6a0f6d3"),
    ("POST", "/recomputations/6f1d7d4c-4a0a-4b8e-9c5c-3a5ae6a0f6d3/cancel"),
    ("POST", "/recomputations"),
    ("GET", "/audit-entries"),
]


async def test_what_is_cached_is_still_served_and_everything_else_says_that_it_cannot_be_for_now(
    service: Service, proxy: Proxy, lose: Loss
) -> None:
    rows = rows_of(service.http.get(REPORT))
    lose(proxy)

    def degraded() -> httpx.Response | None:
        answer = service.http.get(REPORT)
        assert rows_of(answer) == rows
        return answer if answer.json()["meta"].get("degraded") else None

    answer = until(degraded)
    assert answer.json()["meta"]["degraded"] is True
    assert answer.headers["cache-control"] == "no-store"
    assert service.http.get("/reports/no-such-report/run").status_code == 404
    hidden = [*secrets(service.environment), "127.0.0.1", str(proxy.port)]
    body = {"report_slug": "top-entities", "window": "day", "date_from": str(DAY), "date_to": str(DAY)}

    def ask(method: str, path: str) -> str | None:
        json = body if (method, path) == ("POST", "/recomputations") else None
        url = f"{service.url}/api/v1{path}"
        return complaint_about_failure(httpx.request(method, url, headers=AUTHORISED, json=json, timeout=30), hidden)

    with ThreadPoolExecutor(len(ELSEWHERE)) as pool:
        assert list(pool.map(ask, *zip(*ELSEWHERE, strict=True))) == [None] * len(ELSEWHERE)

    proxy.restore()
    until(lambda: is_back(service))
    assert "degraded" not in service.http.get(REPORT).json()["meta"]
    assert service.recompute("volume-by-period", "day", DAY, DAY)["summary"]["rows_unchanged"] > 0


async def test_the_probes_tell_who_is_lost_and_that_the_process_lives(
    service: Service, proxy: Proxy, lose: Loss
) -> None:
    lose(proxy)
    health = service.http.get("/health")
    assert health.status_code == 503
    assert health.json()["data"]["status"] == "degraded"
    assert health.json()["data"]["dependencies"] == {"postgres": "unavailable", "redis": "ok"}
    assert service.http.get(f"{service.url}/livez").status_code == 200
    failed(service.http.get(f"{service.url}/readyz"), "service_unavailable")

    proxy.restore()
    until(lambda: service.http.get("/health").status_code == 200)
    until(lambda: service.http.get(f"{service.url}/readyz").status_code == 200)


async def test_many_who_ask_at_the_moment_of_the_loss_are_all_told_and_none_waits_for_the_others(
    service: Service, proxy: Proxy, lose: Loss
) -> None:
    is_back(service)
    lose(proxy)

    def ask(n: int) -> httpx.Response:
        # One after the other they would take a minute; so the limit is a guard, and no measurement.
        return httpx.get(f"{service.url}/api/v1{REPORT}&offset={n}", timeout=12)

    with ThreadPoolExecutor(60) as pool:
        answers = list(pool.map(ask, range(1, 61)))

    assert [complaint_about_failure(answer, []) for answer in answers] == [None] * 60


async def test_a_service_that_has_never_seen_a_report_says_so_rather_than_that_there_is_none(
    proxy: Proxy, start: Starter
) -> None:
    proxy.refuse()
    service = start.service(APP_AUTO_MIGRATE="false")
    refusal = service.http.get(REPORT)
    assert complaint_about_failure(refusal, []) is None, refusal.text

    proxy.restore()
    until(lambda: is_back(service))


async def break_(what: str, server: Server, proxy: Proxy, url: str) -> None:
    """Do to PostgreSQL what the name of a test says."""
    match what:
        case "is restarted":
            await asyncio.to_thread(server.restart)
        case "is killed and started again":
            server.kill()
            await asyncio.to_thread(server.restart)
        case "is cut off":
            proxy.cut()
        case "is out of reach for a moment":
            proxy.refuse()
            proxy.restore()
        case "ends every session":
            connection = await asyncpg.connect(url)
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            )
            await connection.close()


@pytest.mark.parametrize(
    "what",
    [
        "is restarted",
        "is killed and started again",
        "is cut off",
        "is out of reach for a moment",
        "ends every session",
    ],
)
async def test_readers_see_right_numbers_or_503_and_the_run_ends_when_postgresql(
    start: Starter, own_postgres: Server, proxy: Proxy, own_database: str, what: str
) -> None:
    service = start.service()
    right = [{"bucket_date": str(DAY), "event_count": PER_DAY}]
    hidden = [*secrets(service.environment), "127.0.0.1"]

    def wrong(answer: httpx.Response) -> str | None:
        if answer.status_code != 200:
            return complaint_about_failure(answer, hidden)
        rows = answer.json()["data"]["rows"]
        return None if rows in (right, []) else answer.text

    requests = [f"{REPORT}&limit={limit}" for limit in range(1, 200)] + [f"{REPORT}&offset={n}" for n in range(1, 200)]
    with Readers(f"{service.url}/api/v1", requests, wrong) as readers:
        run_id = service.trigger("volume-by-period", "day", YEAR.start, YEAR.last)
        for done in (10, 150):
            until(lambda done=done: service.run(run_id)["progress"]["buckets_done"] >= done)  # type: ignore[misc]
            await break_(what, own_postgres, proxy, own_database)
            until(lambda: is_back(service))
        run = await asyncio.to_thread(until, lambda: ended(service, run_id))
    assert run["status"] == "completed"

    assert not readers.complaints
    assert readers.statuses[200] > 0
    connection = await asyncpg.connect(own_database)
    await until_true(connection, "SELECT count(*) = 0 FROM recompute_runs WHERE status = 'running'")
    await assert_snapshots_equal_events(connection)
    await assert_nothing_stuck(connection)
    await connection.close()


def ended(service: Service, run_id: str) -> Any:
    """The run once it has ended; None before, and while nobody can tell."""
    answer = service.http.get(f"/recomputations/{run_id}", headers=AUTHORISED)
    if answer.status_code != 200:
        return None
    run = answer.json()["data"]
    return run if run["status"] not in {"pending", "running"} else None


async def test_a_worker_whose_connections_lead_nowhere_lets_its_run_go_and_takes_it_up_again(
    service: Service, proxy: Proxy, own_database: str
) -> None:
    holder, observer = await asyncpg.connect(own_database), await asyncpg.connect(own_database)
    async with holder.transaction():
        await holder.execute("LOCK TABLE rollup_entity IN SHARE MODE")  # a statement of its chunk shall be under way
        run_id = service.trigger("top-entities", "day", DAY, DAY)
        await until_true(observer, "SELECT status = 'running' FROM recompute_runs WHERE id = $1::text::uuid", run_id)
        await until_true(observer, "SELECT EXISTS(SELECT FROM pg_locks WHERE locktype = 'relation' AND NOT granted)")
        proxy.hang()
        await asyncio.to_thread(service.wait_for, "run_lost")
    proxy.lose_route()

    run = until(lambda: ended(service, run_id))
    assert (run["status"], run["attempt"]) == ("completed", 2)
    await assert_nothing_stuck(observer)
    await holder.close()
    await observer.close()


async def test_a_worker_that_waits_for_work_on_a_connection_that_leads_nowhere_finds_it_by_itself(
    service: Service, proxy: Proxy
) -> None:
    service.recompute("top-entities", "day", DAY, DAY)  # the connection that the next claim would use
    proxy.lose_route()
    until(lambda: is_back(service))

    run_id = service.trigger("volume-by-period", "day", DAY, DAY)
    assert until(lambda: ended(service, run_id))["status"] == "completed"


async def test_a_database_that_became_read_only_still_answers_and_says_that_runs_must_wait(
    start: Starter, own_database: str
) -> None:
    connection: Connection = await asyncpg.connect(own_database)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    await connection.close()
    service = start.service(APP_AUTO_MIGRATE="false", RECOMPUTE_WORKERS="0")

    assert rows_of(service.http.get(REPORT)) == [{"bucket_date": str(DAY), "event_count": PER_DAY}]
    body = {"report_slug": "top-entities", "window": "day", "date_from": str(DAY), "date_to": str(DAY)}
    refusal = service.http.post("/recomputations", headers=AUTHORISED, json=body)
    assert complaint_about_failure(refusal, ["read-only"]) is None, refusal.text
