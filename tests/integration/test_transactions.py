"""A transaction has prepared its statements before it begins: who is paused while it prepares holds nothing that others
wait for.

No process can be stopped at will between the two steps in which the driver prepares. Here each act is held up by a
lock that it takes itself, and what its session has prepared after that is what it should have known.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest

from pg_analytics.errors import ServiceError
from pg_analytics.postgres.pool import Connection, Postgres, transaction
from pg_analytics.recompute.schedule import change_schedule
from pg_analytics.recompute.schedule_store import ScheduleKey
from pg_analytics.recompute.store import BACKLOG_LOCK_KEY, Run
from pg_analytics.recompute.trigger import Trigger, lock_key
from pg_analytics.redis.client import RedisClient
from pg_analytics.reports.definition import builtin_definitions
from pg_analytics.reports.store import report_call, run_reports
from pg_analytics.windows import DayRange, Window
from tests.rebuilding import Connect
from tests.waiting import until_true
from tests.working import LONG, MONDAY, TIMEOUT, scope

pytestmark = pytest.mark.anyio

Act = Callable[[Trigger, Run], Coroutine[Any, Any, None]]

PREPARED = "SELECT name, statement, prepare_time FROM pg_prepared_statements WHERE statement LIKE '--%'"
SOMEBODY_WAITS = """
    SELECT EXISTS(
        SELECT FROM pg_stat_activity WHERE application_name = 'pg-analytics narrow' AND wait_event_type = 'Lock'
    )
"""


@pytest.fixture
async def narrow(database_url: str) -> AsyncIterator[Postgres]:
    """A pool of one connection, whose session has prepared nothing."""
    pool = Postgres(database_url, size=1, timeout=TIMEOUT, name="narrow")
    await pool.open()
    yield pool
    await pool.close()


@pytest.fixture
def with_one(narrow: Postgres, redis: RedisClient) -> Trigger:
    """What triggers over that connection."""
    return Trigger(postgres=narrow, redis=redis, lock_ttl=LONG, queue_size=64, max_range_days=366)


async def enter(trigger: Trigger, run: Run) -> None:
    """Trigger another run."""
    await trigger.trigger(replace(run.scope, report_slug="top-entities"), "ada", via="test")


async def collide(trigger: Trigger, run: Run) -> None:
    """Trigger the same run, when Redis has forgotten it."""
    await trigger.redis.release(lock_key(run.scope), str(run.id))
    with pytest.raises(ServiceError, match="active already"):
        await trigger.trigger(run.scope, "ada", via="test")


async def cancel(trigger: Trigger, run: Run) -> None:
    """Cancel the run."""
    await trigger.cancel(run.id, "ada")


async def change(trigger: Trigger, run: Run) -> None:
    """Change the schedule of the run's report."""
    key = ScheduleKey(run.scope.report_slug, run.scope.window)
    async with trigger.postgres.connection() as connection:
        await change_schedule(connection, key, {"paused": True}, actor="ada")


LOCK_BACKLOG = f"SELECT pg_advisory_xact_lock({BACKLOG_LOCK_KEY})"
#: What is done, and the lock that it waits for.
ACTS: dict[Act, str] = {
    enter: LOCK_BACKLOG,
    collide: LOCK_BACKLOG,
    cancel: "SELECT FROM recompute_runs FOR UPDATE",
    change: "SELECT FROM aggregate_windows FOR UPDATE",
}


@pytest.mark.parametrize("act", ACTS)
async def test_an_act_that_holds_its_lock_prepares_nothing_more(
    act: Act, trigger: Trigger, with_one: Trigger, connect: Connect
) -> None:
    # The tests of one process share a Redis: each has a week of its own.
    week = MONDAY + timedelta(weeks=1000 + list(ACTS).index(act))
    days = DayRange(week, week + timedelta(days=7))
    run = await trigger.trigger(scope(days), "ada", via="test")
    holder, observer = await connect(), await connect()
    async with holder.transaction():
        await holder.execute(ACTS[act])
        acting = asyncio.create_task(act(with_one, run))
        await until_true(observer, SOMEBODY_WAITS)
        waited_at = await observer.fetchval("SELECT clock_timestamp()")
    await acting

    async with with_one.postgres.connection() as used:
        prepared = {row["statement"]: row["prepare_time"] for row in await used.fetch(PREPARED)}
    assert len(prepared) >= 3
    assert [statement for statement, at in prepared.items() if at > waited_at] == []


async def test_a_long_report_that_waits_for_a_table_has_not_begun_its_transaction(connect: Connect) -> None:
    person, reader, observer = await connect(), await connect(), await connect()
    days = DayRange(date(2025, 1, 1), date(2026, 1, 1))
    ranking = builtin_definitions()["top-entities"]
    call = report_call(ranking, None, days=days, window=Window.DAY, limit=5, offset=0, filters=[])
    assert call.is_long

    async with person.transaction():
        await person.execute("LOCK TABLE rollup_entity IN ACCESS EXCLUSIVE MODE")
        running = asyncio.create_task(run_reports(reader, [call]))
        waits = "SELECT wait_event_type IS NOT DISTINCT FROM 'Lock' FROM pg_stat_activity WHERE pid = $1"
        await until_true(observer, waits, reader.get_server_pid(), unless=running)
        began = "SELECT xact_start, query_start FROM pg_stat_activity WHERE pid = $1"
        row = await observer.fetchrow(began, reader.get_server_pid())
    await running

    assert row is not None
    assert row["xact_start"] == row["query_start"]


async def test_a_statement_is_prepared_for_a_transaction_once(connection: Connection) -> None:
    sql = "-- one\nSELECT 1"
    known = []
    for _ in range(2):
        async with transaction(connection, prepare=[sql]):
            known.append(await connection.fetch(PREPARED))
            await connection.fetch(sql)
            known.append(await connection.fetch(PREPARED))
    assert len(known[0]) == 1
    assert known == [known[0]] * 4
