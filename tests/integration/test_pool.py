"""Connections that know their statements before they need them."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from pg_analytics.app import REBUILDING_PACKAGES
from pg_analytics.postgres.pool import Connection, Postgres
from pg_analytics.postgres.statements import statements_of
from tests.rebuilding import Connect

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
    assert left_out == {
        sql
        for sql in STATEMENTS
        if "rollup_entity AS" in sql or "INTO rollup_entity" in sql or "FROM rollup_entity" in sql
    }
