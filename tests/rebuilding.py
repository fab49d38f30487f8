"""Rebuilds whose steps a test sets off, holds and lets go, one by one, on connections of its own."""

import asyncio
from collections.abc import Coroutine, Iterable
from datetime import date
from typing import Any, Protocol, TypeVar

import asyncpg

from pg_analytics.postgres.pool import Connection, transaction
from pg_analytics.snapshots.rebuild import Rebuilt, rebuild_days
from tests.oracle import assert_snapshots_equal_events
from tests.waiting import until_blocked

T = TypeVar("T")


class Connect(Protocol):
    """Opens another connection to the database of a test."""

    async def __call__(self, **settings: str) -> "asyncpg.Connection[asyncpg.Record]":
        """With `settings` of the server's, such as `lock_timeout`."""


async def rebuild(connection: Connection, days: Iterable[date]) -> Rebuilt:
    """A whole rebuild, in its transaction."""
    async with transaction(connection):
        return await rebuild_days(connection, days, run_id=None)


async def logged_days(connection: Connection) -> list[date]:
    """The days in the change log, each once."""
    return [row["day"] for row in await connection.fetch("SELECT DISTINCT occurred_day AS day FROM event_changes")]


async def assert_nothing_lost(connection: Connection) -> None:
    """The promise: a pass over the days in the log, and over no other, makes every number right."""
    for day in await logged_days(connection):
        await rebuild(connection, [day])
    await assert_snapshots_equal_events(connection)
    assert not await logged_days(connection)


async def blocked(
    step: Coroutine[Any, Any, T], connection: Connection, observer: Connection, *, by: str = "advisory"
) -> "asyncio.Task[T]":
    """`step`, which has begun on `connection` and waits for a lock of the type `by` (as `pg_locks` calls it)."""
    waiting = await begun(step, connection, observer, by=by)
    assert not waiting.done(), f"it did not wait: {waiting.result()}"
    return waiting


async def begun(
    step: Coroutine[Any, Any, T], connection: Connection, observer: Connection, *, by: str = "advisory"
) -> "asyncio.Task[T]":
    """`step`, which is done, or waits for a lock of the type `by`."""
    begun = asyncio.create_task(step)
    await until_blocked(observer, connection.get_server_pid(), by=by, unless=begun)
    return begun
