"""Pruning raw events: what was counted stays, what was not is not deleted, and the days are frozen."""

import asyncio
from datetime import date, timedelta

import asyncpg
import pytest

from pg_analytics.events.prune import plan_pruning, prune_events
from pg_analytics.postgres.pool import transaction
from pg_analytics.snapshots import store
from pg_analytics.snapshots.rebuild import FrozenDays
from pg_analytics.windows import DayRange
from tests.events import insert
from tests.oracle import assert_snapshots_equal_events, snapshot_numbers
from tests.rebuilding import Connect, assert_nothing_lost, blocked, logged_days, rebuild

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

FIRST = date(2026, 1, 1)
BEFORE = date(2026, 1, 6)
LAST = date(2026, 1, 10)
OLD = DayRange(FIRST, BEFORE)


async def test_the_snapshots_of_pruned_days_stay_exact_whether_they_were_built_or_not(connect: Connect) -> None:
    connection = await connect()
    await insert(connection, FIRST, 20, last_day=LAST)
    await rebuild(connection, [FIRST])  # the other days are only in the log
    await connection.execute("UPDATE analytics_events SET status = 'failed' WHERE external_ref LIKE 'e-2026-01-01-1%'")
    truth = await snapshot_numbers_of_events(connection)
    assert await plan_pruning(connection, BEFORE) == (await plan_pruning(connection, BEFORE))

    pruned = await prune_events(connection, BEFORE, actor="ada")

    assert (pruned.events, pruned.kept_from, pruned.late_events) == (5 * 20, BEFORE, 0)
    assert await connection.fetchval("SELECT min(occurred_day) FROM analytics_events") == BEFORE
    assert set((await snapshot_numbers(connection, before=BEFORE))["entity"]) == truth
    assert sorted(await logged_days(connection)) == list(DayRange(BEFORE, LAST + timedelta(days=1)))
    await assert_nothing_lost(connection)
    [entry, *_] = await connection.fetch("SELECT actor, metadata FROM audit_entries WHERE action = 'events.pruned'")
    assert entry["actor"] == "ada"


async def test_pruning_again_finds_nothing_to_do(connect: Connect) -> None:
    connection = await connect()
    await insert(connection, FIRST, 5, last_day=LAST)
    await prune_events(connection, BEFORE, actor="ada")
    audited = await connection.fetchval("SELECT count(*) FROM audit_entries")

    assert (await prune_events(connection, BEFORE, actor="ada")).events == 0
    assert await connection.fetchval("SELECT count(*) FROM audit_entries") == audited


async def test_a_frozen_day_cannot_be_rebuilt(connect: Connect) -> None:
    connection = await connect()
    await insert(connection, FIRST, 5, last_day=LAST)
    await prune_events(connection, BEFORE, actor="ada")
    frozen = await snapshot_numbers(connection, before=BEFORE)

    with pytest.raises(FrozenDays):
        await rebuild(connection, DayRange(FIRST, LAST))

    await rebuild(connection, DayRange(BEFORE, LAST + timedelta(days=1)))
    await assert_snapshots_equal_events(connection, frozen=frozen)


async def test_an_event_that_commits_after_its_day_was_pruned_is_neither_deleted_nor_counted(connect: Connect) -> None:
    connection, writer = await connect(), await connect()
    await insert(connection, FIRST, 5, last_day=LAST)
    writing = writer.transaction()
    await writing.start()
    await insert(writer, FIRST, 3, prefix="late")
    await prune_events(connection, BEFORE, actor="ada")
    frozen = await snapshot_numbers(connection, before=BEFORE)
    await writing.commit()

    assert FIRST in await logged_days(connection)
    assert (await prune_events(connection, BEFORE, actor="ada")).late_events == 3
    assert await connection.fetchval("SELECT count(*) FROM analytics_events WHERE occurred_day = $1", FIRST) == 3
    await rebuild(connection, DayRange(BEFORE, LAST + timedelta(days=1)))
    await assert_snapshots_equal_events(connection, frozen=frozen)


async def test_an_event_that_moves_out_of_a_day_while_it_is_pruned_is_counted_where_it_went(connect: Connect) -> None:
    connection, writer = await connect(), await connect()
    await insert(connection, FIRST, 5, last_day=LAST)
    writing = writer.transaction()
    await writing.start()
    await writer.execute(
        "UPDATE analytics_events SET occurred_at = occurred_at + INTERVAL '8 days' WHERE external_ref = $1",
        f"e-{FIRST}-1",
    )
    pruning = asyncio.create_task(prune_events(connection, BEFORE, actor="ada"))
    # It waits for the row, gives up after its lock timeout, and tries again.
    waits = "SELECT EXISTS(SELECT FROM pg_locks WHERE pid = $1 AND NOT granted)"
    while not await writer.fetchval(waits, connection.get_server_pid()):  # noqa: ASYNC110 - a state of the server
        await asyncio.sleep(0.01)
    await writing.commit()

    assert (await pruning).events == 5 * 5 - 1
    frozen = await snapshot_numbers(connection, before=BEFORE)
    assert sum(row[-1] for row in frozen["entity"]) == 5 * 5 - 1
    await rebuild(connection, DayRange(BEFORE, LAST + timedelta(days=1)))
    await assert_snapshots_equal_events(connection, frozen=frozen)


async def test_a_rebuild_that_is_under_way_goes_first(connect: Connect) -> None:
    connection, rebuilding = await connect(), await connect()
    await insert(connection, FIRST, 5, last_day=LAST)
    async with transaction(rebuilding):
        await store.take_changes(rebuilding, list(OLD))
        await store.lock_days(rebuilding, list(OLD))
        pruning = await blocked(prune_events(connection, BEFORE, actor="ada"), connection, rebuilding)
    await pruning

    assert not set(await logged_days(connection)) & set(OLD)
    await assert_nothing_lost(connection)


async def test_pruning_that_is_cut_off_leaves_whole_days_and_goes_on(connect: Connect) -> None:
    connection, observer = await connect(), await connect()
    await insert(observer, FIRST, 40, last_day=LAST)
    truth = await snapshot_numbers_of_events(observer)
    with pytest.raises((asyncpg.PostgresError, OSError, asyncpg.InterfaceError)):
        await prune_events(connection, BEFORE, actor="ada", progress=lambda _: connection.terminate())
    await prune_events(await connect(), BEFORE, actor="ada")

    assert set((await snapshot_numbers(observer, before=BEFORE))["entity"]) == truth
    await assert_nothing_lost(observer)


async def snapshot_numbers_of_events(connection: "asyncpg.Connection[asyncpg.Record]") -> set[tuple[object, ...]]:
    """What the rollup of entities must be of the days to be pruned."""
    rows = await connection.fetch(
        "SELECT occurred_day, entity_id, count(*) FROM analytics_events WHERE occurred_day < $1 GROUP BY 1, 2", BEFORE
    )
    return {tuple(row) for row in rows}
