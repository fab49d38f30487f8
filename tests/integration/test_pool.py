"""Connections that know their statements before they need them, and who has them next."""

import asyncio
import re
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import asyncpg
import pytest

from pg_analytics.app import REBUILDING_PACKAGES
from pg_analytics.postgres.pool import Connection, Postgres, transaction
from pg_analytics.postgres.statements import statements_of
from tests.rebuilding import Connect
from tests.waiting import until_answered, until_true

pytestmark = pytest.mark.anyio

STATEMENTS = statements_of(*REBUILDING_PACKAGES)


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Postgres]:
    """A pool whose connections rebuild."""
    pool = Postgres(
        database_url,
        size=1,
        timeout=timedelta(seconds=10),
        name="of a test",
        lock_timeout=timedelta(seconds=7),
        prepared=STATEMENTS,
    )
    await pool.open()
    yield pool
    await pool.close()


async def known(connection: Connection) -> set[str]:
    """The statements that the session of a connection has prepared."""
    return {row["statement"] for row in await connection.fetch("SELECT statement FROM pg_prepared_statements")}


async def test_a_connection_has_prepared_its_statements_and_does_not_prepare_them_again(pool: Postgres) -> None:
    async with pool.borrowed() as connection:
        assert set(STATEMENTS) <= await known(connection)
        [statement] = [
            sql for sql in STATEMENTS if "FROM recompute_runs" in sql and "count(*)" in sql and "$1" not in sql
        ]
        for _ in range(2):
            await connection.fetch(statement)
        again = "SELECT count(*) FROM pg_prepared_statements WHERE statement = $1"
        assert await connection.fetchval(again, statement) == 1


async def test_a_connection_opens_while_a_table_of_its_statements_is_locked(pool: Postgres, connect: Connect) -> None:
    person = await connect()
    async with person.transaction():
        await person.execute("LOCK TABLE rollup_entity IN ACCESS EXCLUSIVE MODE")
        async with pool.borrowed() as connection:
            there = await known(connection)
            assert await connection.fetchval("SHOW lock_timeout") == "7s"

    left_out = set(STATEMENTS) - there
    assert left_out == {sql for sql in STATEMENTS if re.search(r"(INTO|FROM|UPDATE) rollup_entity\b", sql)}


async def used(pool: Postgres) -> int:
    """The session of a connection that the pool lends."""
    async with pool.borrowed() as connection:
        return int(await connection.fetchval("SELECT pg_backend_pid()"))


async def test_whoever_waits_for_a_connection_gets_the_one_that_is_given_back(pool: Postgres) -> None:
    session = await used(pool)
    async with pool.borrowed():
        waiting = [asyncio.create_task(used(pool)) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)

    assert await asyncio.gather(*waiting, used(pool)) == [session] * 4


async def known_to_be_closed(connection: Connection) -> bool | None:
    """Whether the driver has heard of the end of a session that nobody uses: it takes the connection back."""
    try:
        return connection.is_closed() or None
    except asyncpg.InterfaceError:
        return True


async def test_a_session_that_ended_while_nobody_used_it_is_not_lent(pool: Postgres, connect: Connect) -> None:
    async with pool.borrowed() as connection:
        session = connection.get_server_pid()
    administrator = await connect()
    await administrator.execute("SELECT pg_terminate_backend($1)", session)
    await until_answered(lambda: known_to_be_closed(connection))

    assert await used(pool) != session


async def test_a_transaction_that_somebody_left_open_ends_when_the_connection_is_given_back(
    pool: Postgres, connect: Connect
) -> None:
    async with pool.borrowed() as connection:
        await connection.execute("BEGIN")
        session = connection.get_server_pid()

    administrator = await connect()
    state = "SELECT state FROM pg_stat_activity WHERE pid = $1"
    assert await administrator.fetchval(state, session) == "idle"


async def test_a_closed_pool_has_no_sessions(pool: Postgres, connect: Connect) -> None:
    session = await used(pool)

    async with pool.borrowed() as late:
        closing = asyncio.create_task(pool.close())
        await asyncio.sleep(0)
        assert await late.fetchval("SELECT pg_backend_pid()") == session
    await closing

    administrator = await connect()
    await until_true(administrator, "SELECT NOT EXISTS(SELECT FROM pg_stat_activity WHERE pid = $1)", session)


def end_session(url: str, pid: int) -> None:
    """End a session while the event loop of this thread stands still, as that of a paused process does."""

    async def end() -> None:
        administrator = await asyncpg.connect(url)
        await administrator.execute("SELECT pg_terminate_backend($1)", pid)
        await until_true(administrator, "SELECT NOT EXISTS(SELECT FROM pg_stat_activity WHERE pid = $1)", pid)
        await administrator.close()

    with ThreadPoolExecutor(1) as beside:
        beside.submit(asyncio.run, end()).result()


async def test_what_went_wrong_in_a_transaction_is_raised_though_its_session_was_ended_unnoticed(
    connect: Connect, database_url: str
) -> None:
    connection = await connect()

    async def go_wrong() -> None:
        async with transaction(connection):
            await connection.fetchval("SELECT 1")
            end_session(database_url, connection.get_server_pid())
            raise ValueError("the reason")

    with pytest.raises(ValueError, match="the reason"):
        await go_wrong()
