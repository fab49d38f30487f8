"""The snapshots follow the events by themselves: as a client sees it, and whatever happens to processes and servers.

Nobody asks for a recomputation here. A process is parked in the middle of a rebuild by a trigger of the test's own.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from httpx import codes

from pg_analytics.embedded import postgres, redis
from pg_analytics.embedded.binaries import Binaries
from pg_analytics.embedded.process import Server
from pg_analytics.postgres.migrate import migrate
from pg_analytics.postgres.pool import Connection
from pg_analytics.reports.catalog import install_builtin_reports
from tests.acceptance.processes import Starter
from tests.conftest import new_database
from tests.events import insert
from tests.oracle import assert_nothing_stuck, assert_snapshots_equal_events
from tests.proxy import Proxy
from tests.running import Service
from tests.waiting import until, until_parked, until_true

pytestmark = pytest.mark.anyio

DAY = date(2026, 3, 31)
OLD = date(2026, 1, 5)

#: Where a process is parked, by what it does there.
STEPS = {
    "takes the log": "BEFORE DELETE ON event_changes",
    "writes its numbers": "BEFORE INSERT ON rollup_entity",
    "moves the versions": "BEFORE UPDATE OF version ON report_definitions",
}
NOTHING_LOGGED = "SELECT NOT EXISTS(SELECT FROM event_changes)"


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Starter]:
    """Starts processes that follow the events closely."""
    starter = Starter({**environment, "REFRESH_INTERVAL": "50ms"}, tmp_path)
    yield starter
    starter.close()


@asynccontextmanager
async def parking(database_url: str, step: str) -> AsyncIterator[None]:
    """Parks whoever comes to `step`, for the length of a block."""
    holder = await asyncpg.connect(database_url)
    try:
        await holder.execute(
            f"""
            CREATE FUNCTION park() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM pg_advisory_xact_lock_shared(4711);
                RETURN coalesce(NEW, OLD);
            END
            $$;
            CREATE TRIGGER park {STEPS[step]} FOR EACH ROW EXECUTE FUNCTION park();
            """
        )
        async with holder.transaction():
            await holder.execute("SELECT pg_advisory_xact_lock(4711)")
            yield
    finally:
        await holder.close()


def count(service: Service, slug: str = "volume-by-period", day: date = DAY) -> int:
    """How many events a report tells of a day."""
    rows = service.report(slug, date_from=day, date_to=day)["data"]["rows"]
    return sum(row["event_count"] for row in rows)


async def until_told(service: Service, number: int, *, slug: str = "volume-by-period", day: date = DAY) -> None:
    """Until a report tells of that many events on a day."""
    await asyncio.to_thread(until, lambda: count(service, slug, day) == number)


async def assert_all_is_well(connection: Connection) -> None:
    """The log is worked off, every number is right, and nothing is left behind."""
    await until_true(connection, NOTHING_LOGGED)
    await assert_snapshots_equal_events(connection)
    await assert_nothing_stuck(connection)


async def test_reports_tell_of_what_is_committed_by_themselves_and_from_a_warm_cache_too(
    start: Starter, connection: Connection
) -> None:
    services = [start.service(), start.service(RECOMPUTE_WORKERS="0")]
    slugs = ("volume-by-period", "status-counts", "top-entities")
    for service in services:
        assert [count(service, slug) for slug in slugs] == [0, 0, 0]
    noon = datetime(OLD.year, OLD.month, OLD.day, 12, tzinfo=UTC)
    changes: list[Callable[[], Awaitable[object]]] = [
        lambda: insert(connection, DAY, 30),
        lambda: insert(connection, DAY, 10, prefix="more"),
        lambda: connection.execute("DELETE FROM analytics_events WHERE entity_id IN ('entity-1', 'entity-2')"),
        lambda: connection.execute("UPDATE analytics_events SET occurred_at = $1 WHERE status = 'failed'", noon),
    ]
    for change in changes:
        await change()
        number = await connection.fetchval("SELECT count(*) FROM analytics_events WHERE occurred_day = $1", DAY)
        for service in services:
            for slug in slugs:
                await until_told(service, number, slug=slug)
    moved = await connection.fetchval("SELECT count(*) FROM analytics_events WHERE occurred_day = $1", OLD)
    await until_told(services[1], moved, day=OLD)
    await connection.execute("TRUNCATE analytics_events")
    await until_told(services[1], 0, day=OLD)
    await assert_all_is_well(connection)


async def test_without_an_interval_nothing_is_followed(start: Starter, connection: Connection) -> None:
    service = start.service(REFRESH_INTERVAL="0")
    await insert(connection, DAY, 10)
    service.recompute("volume-by-period", "day", OLD, OLD)  # it works, for a second or so
    assert await connection.fetchval("SELECT count(*) FROM event_changes") == 1
    assert count(service) == 0


@pytest.mark.parametrize("step", STEPS)
async def test_a_process_killed_in_the_middle_of_a_rebuild_loses_nothing(
    start: Starter, connection: Connection, database_url: str, step: str
) -> None:
    async with parking(database_url, step):
        killed = start.worker()
        await insert(connection, DAY, 10)
        await until_parked(connection)
        killed.kill()
        assert not await connection.fetch("SELECT FROM snapshot_buckets")

    service = start.service()
    await until_told(service, 10)
    await assert_all_is_well(connection)


async def test_a_process_frozen_in_the_middle_of_a_rebuild_holds_its_day_up_for_seconds_and_no_other_at_all(
    start: Starter, connection: Connection, database_url: str
) -> None:
    async with parking(database_url, "writes its numbers"):
        frozen = start.worker()
        await insert(connection, DAY, 10)
        await until_parked(connection)
        frozen.process.send_signal(signal.SIGSTOP)
    try:
        service = start.service()
        await insert(connection, OLD, 10)
        await until_told(service, 10, day=OLD)
        # PostgreSQL ends a transaction that idles for ten seconds, and the day is free.
        await until_told(service, 10)
        await assert_all_is_well(connection)
    finally:
        frozen.process.send_signal(signal.SIGCONT)
    # Thawed, it finds itself disconnected, writes nothing of what it had in hand, and follows the events again.
    await insert(connection, DAY, 10, prefix="more")
    await until_told(service, 20)
    await asyncio.to_thread(frozen.wait_for, "refresher_lost_postgres")
    await assert_all_is_well(connection)


@pytest.mark.parametrize("step", STEPS)
async def test_a_process_that_is_told_to_stop_in_the_middle_of_a_rebuild_stops_and_leaves_the_day_to_the_next(
    start: Starter, connection: Connection, database_url: str, step: str
) -> None:
    async with parking(database_url, step):
        stopped = start.worker()
        await insert(connection, DAY, 10)
        await until_parked(connection)
        assert await asyncio.to_thread(stopped.terminate) == 0
        assert not await connection.fetch("SELECT FROM snapshot_buckets")
        held = "SELECT count(*) = 1 FROM pg_locks AS l JOIN pg_database AS d ON l.database = d.oid "
        await until_true(connection, held + "WHERE l.locktype = 'advisory' AND d.datname = current_database()")

    start.worker()
    await assert_all_is_well(connection)


async def test_several_processes_killed_one_after_the_other_while_events_arrive_lose_nothing(
    start: Starter, connection: Connection
) -> None:
    start.worker()
    for kill in range(4):
        worker = start.worker()
        done = await connection.fetchval("SELECT count(*) FROM snapshot_buckets")
        for n in range(20):
            await insert(connection, OLD + timedelta(days=20 * kill + n), 5, prefix=f"e{kill}")
            await insert(connection, DAY, 5, prefix=f"e{kill}-{n}")
        await until_true(connection, "SELECT count(*) > $1 FROM snapshot_buckets", done)
        worker.kill()
    await assert_all_is_well(connection)


@pytest.mark.parametrize("loss", [Proxy.refuse, Proxy.hang], ids=["refuses", "hangs"])
async def test_a_lost_redis_keeps_no_number_from_being_followed(
    start: Starter, connection: Connection, environment: dict[str, str], loss: Callable[[Proxy], None]
) -> None:
    with Proxy(environment["REDIS_URL"]) as proxy:
        service = start.service(REDIS_URL=proxy.url)
        await insert(connection, DAY, 10)
        await until_told(service, 10)
        loss(proxy)
        await insert(connection, DAY, 10, prefix="more")
        await until_told(service, 20)
        proxy.restore()
        await insert(connection, DAY, 10, prefix="again")
        await until_told(service, 30)
    await assert_all_is_well(connection)


@pytest.fixture
async def own_database(tmp_path: Path, binaries: Binaries) -> AsyncIterator[tuple[Server, str]]:
    """A PostgreSQL that may be stopped and killed, and a database on it."""
    with postgres.start(tmp_path / "postgres", binaries=binaries, durable=True) as server:
        async with new_database(server.url) as url:
            connection = await asyncpg.connect(url)
            await migrate(connection)
            await install_builtin_reports(connection)
            await connection.close()
            yield server, url


@pytest.fixture
def own_redis(tmp_path: Path, binaries: Binaries) -> Iterator[Server]:
    """A Redis in which no other database's versions stand."""
    with redis.start(tmp_path / "redis", binaries=binaries, durable=False) as server:
        yield server


@pytest.mark.own_servers
@pytest.mark.parametrize("kill", [False, True], ids=["is restarted", "is killed and started again"])
async def test_a_postgresql_that_goes_and_comes_back_is_followed_again(
    own_database: tuple[Server, str], own_redis: Server, tmp_path: Path, *, kill: bool
) -> None:
    server, url = own_database
    starter = Starter({"DATABASE_URL": url, "REDIS_URL": own_redis.url, "REFRESH_INTERVAL": "50ms"}, tmp_path)
    try:
        service = starter.service()
        connection = await asyncpg.connect(url)
        await insert(connection, OLD, 10, last_day=DAY)
        await until_told(service, 10)
        await connection.close()
        if kill:
            server.kill()
        await asyncio.to_thread(server.restart)
        connection = await asyncpg.connect(url)
        await insert(connection, DAY, 10, prefix="more")
        # The service looks for a lost PostgreSQL several times a second.
        report = "/reports/volume-by-period/run"
        await asyncio.to_thread(until, lambda: service.http.get(report).status_code == codes.OK)
        await until_told(service, 20)
        await assert_all_is_well(connection)
        await connection.close()
    finally:
        starter.close()
