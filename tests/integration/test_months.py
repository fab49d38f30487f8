"""Months of entities: whatever writes days at the same time, a month is what its days add up to."""

import asyncio
from datetime import date, timedelta
from typing import Final

import asyncpg
import pytest

from pg_analytics.postgres.migrate import migrations
from pg_analytics.postgres.pool import Connection, transaction
from pg_analytics.reports.catalog import install_builtin_reports
from pg_analytics.snapshots import horizon_store, store
from pg_analytics.snapshots.rebuild import merge_days, publish_days, rebuild_days
from pg_analytics.windows import LAST_DAY, DayRange
from tests.conftest import Servers, new_database
from tests.events import Event, add_source, insert, write
from tests.oracle import assert_snapshots_equal_events
from tests.rebuilding import Connect, blocked, rebuild

pytestmark = pytest.mark.anyio

FIRST = date(2026, 1, 30)
DAYS: Final = [FIRST, FIRST + timedelta(days=1)]
NEXT_MONTH = FIRST + timedelta(days=5)

#: Halts the session "slow" at one entity, with the rows of those before it locked.
GATE: Final = """
    CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock(42);
        RETURN NEW;
    END
    $$;

    CREATE TRIGGER gate BEFORE INSERT ON rollup_entity_month FOR EACH ROW
    WHEN (current_setting('application_name') = 'slow' AND NEW.entity_id = 'entity-3')
    EXECUTE FUNCTION wait_at_gate();
"""
MOVE: Final = "UPDATE analytics_events SET entity_id = $2 WHERE occurred_day = $1"


async def counted(connection: Connection, entity: str) -> int | None:
    """What the month of `DAYS` has of an entity."""
    month = "SELECT event_count FROM rollup_entity_month WHERE month = '2026-01-01' AND entity_id = $1"
    count: int | None = await connection.fetchval(month, entity)
    return count


async def one_event(connection: Connection, day: date, entity: str) -> None:
    """An event of an entity."""
    await add_source(connection)
    at = day.strftime("%Y-%m-%dT00:00:00+00:00")
    moment = await connection.fetchval("SELECT $1::text::timestamptz", at)
    await write(connection, [Event(f"{day}-{entity}", "shop", entity, "success", moment)])


@pytest.mark.parametrize("removing_first", [True, False])
async def test_of_two_rebuilds_in_one_month_one_takes_an_entity_away_and_the_other_brings_it(
    connect: Connect, *, removing_first: bool
) -> None:
    """The first has added its difference and not committed; the second waits for that row, and counts on from it."""
    removing, adding, writer = await connect(), await connect(), await connect()
    await one_event(writer, DAYS[0], "x")
    await rebuild(writer, DAYS)
    await writer.execute("DELETE FROM analytics_events")
    await one_event(writer, DAYS[1], "x")
    first, second = (removing, adding) if removing_first else (adding, removing)
    first_day, second_day = DAYS if removing_first else DAYS[::-1]

    async with transaction(first):
        await rebuild_days(first, [first_day], run_id=None)
        waiting = await blocked(rebuild(second, [second_day]), second, writer, by="transactionid")
    await waiting

    assert await counted(writer, "x") == 1
    await assert_snapshots_equal_events(writer)


async def test_an_entity_that_both_take_away_leaves_no_row(connect: Connect) -> None:
    first, second, writer = await connect(), await connect(), await connect()
    await insert(writer, DAYS[0], 7, last_day=DAYS[1])
    await rebuild(writer, DAYS)
    await writer.execute("DELETE FROM analytics_events WHERE entity_id = 'entity-3'")

    async with transaction(first):
        await rebuild_days(first, [DAYS[0]], run_id=None)
        waiting = await blocked(rebuild(second, [DAYS[1]]), second, writer, by="transactionid")
    await waiting

    assert await counted(writer, "entity-3") is None
    await assert_snapshots_equal_events(writer)


async def test_a_rebuild_that_is_rolled_back_takes_its_differences_with_it(connect: Connect) -> None:
    first, second, writer = await connect(), await connect(), await connect()
    await insert(writer, DAYS[0], 7, last_day=DAYS[1])
    undone = first.transaction()
    await undone.start()
    await rebuild_days(first, [DAYS[0]], run_id=None)
    waiting = await blocked(rebuild(second, [DAYS[1]]), second, writer, by="transactionid")
    await undone.rollback()
    await waiting

    assert await counted(writer, "entity-0") == 1
    await rebuild(first, [DAYS[0]])
    await assert_snapshots_equal_events(writer)


async def test_two_rebuilds_that_are_both_among_a_months_rows_do_not_deadlock(connect: Connect) -> None:
    """One halts among the rows of the month, the other begins with them: it waits, and holds none of those."""
    slow, quick, writer, gate = (
        await connect(application_name="slow"),
        await connect(),
        await connect(),
        await connect(),
    )
    await insert(writer, DAYS[0], 7, last_day=DAYS[1])
    await rebuild(writer, DAYS)
    await writer.execute(GATE)
    await insert(writer, DAYS[0], 14, last_day=DAYS[1], prefix="more")
    async with transaction(gate):
        await gate.execute("SELECT pg_advisory_xact_lock(42)")
        halted = await blocked(rebuild(slow, [DAYS[0]]), slow, writer)
        waiting = await blocked(rebuild(quick, [DAYS[1]]), quick, writer, by="transactionid")
    await asyncio.gather(halted, waiting)

    await assert_snapshots_equal_events(writer)


async def test_chunks_over_the_end_of_a_month_beside_each_other_do_not_deadlock(connect: Connect) -> None:
    observer = await connect()
    lanes = [await connect() for _ in range(4)]
    days = list(DayRange(FIRST, FIRST + timedelta(days=8)))
    for turn in range(5):
        await insert(observer, days[0], 40 + turn, last_day=days[-1], prefix=f"turn-{turn}")
        await asyncio.gather(*(rebuild(lane, days[number::4]) for number, lane in enumerate(lanes)))

    await assert_snapshots_equal_events(observer)


async def test_merging_locks_no_row_of_a_month(connect: Connect) -> None:
    """Two lanes of a run merge side by side, and one waits for the other to publish."""
    ahead, behind, writer = await connect(), await connect(), await connect()
    await insert(writer, DAYS[0], 7, last_day=DAYS[1])
    async with transaction(behind):
        merged = await merge_days(behind, [DAYS[0]])
        await rebuild(ahead, [DAYS[1]])  # would hang here
        await publish_days(behind, merged, run_id=None)

    await assert_snapshots_equal_events(writer)


async def test_dropped_days_are_taken_out_of_their_months_beside_a_rebuild_of_others(connect: Connect) -> None:
    dropping, rebuilding, writer = await connect(), await connect(), await connect()
    await insert(writer, DAYS[0], 7, last_day=NEXT_MONTH)
    await rebuild(writer, DayRange.inclusive(DAYS[0], NEXT_MONTH))
    await writer.execute("DELETE FROM analytics_events WHERE occurred_day = $1 AND entity_id = 'entity-1'", DAYS[1])
    async with transaction(dropping):
        await horizon_store.move_horizon(dropping, "entity", DAYS[1])
        await store.lock_days(dropping, [DAYS[0]])
        await horizon_store.drop_days(dropping, "entity", DAYS[0], DAYS[1])
        waiting = await blocked(rebuild(rebuilding, [DAYS[1]]), rebuilding, writer, by="transactionid")
    await waiting

    assert (await counted(writer, "entity-0"), await counted(writer, "entity-1")) == (1, None)
    await assert_snapshots_equal_events(writer)


async def test_a_rebuild_that_puts_a_dropped_day_back_is_counted_until_it_is_dropped_again(connect: Connect) -> None:
    connection = await connect()
    await insert(connection, DAYS[0], 7, last_day=DAYS[1])
    await rebuild(connection, DAYS)
    for _ in range(2):
        async with connection.transaction():
            await horizon_store.drop_days(connection, "entity", DAYS[0], DAYS[1])
        assert await counted(connection, "entity-0") == 1
        await rebuild(connection, [DAYS[0]])
        assert await counted(connection, "entity-0") == 2
    await assert_snapshots_equal_events(connection)


async def test_an_unchanged_day_leaves_its_month_alone(connect: Connect) -> None:
    connection = await connect()
    await insert(connection, DAYS[0], 7, last_day=DAYS[1])
    await rebuild(connection, DAYS)
    rows = "SELECT ctid::text, xmin::text, entity_id FROM rollup_entity_month ORDER BY 1"
    before = await connection.fetch(rows)

    await rebuild(connection, DAYS)
    await connection.execute(MOVE, DAYS[0], "entity-0")
    await connection.execute(MOVE, DAYS[1], "entity-0")

    assert await connection.fetch(rows) == before
    await rebuild(connection, DAYS)
    assert [row["entity_id"] for row in await connection.fetch(rows)] == ["entity-0"]


@pytest.mark.parametrize("edge", [date(1, 1, 8), LAST_DAY])
async def test_the_first_and_the_last_month_are_like_any_other(connect: Connect, edge: date) -> None:
    connection = await connect()
    await insert(connection, edge, 7)
    await rebuild(connection, [edge])
    await assert_snapshots_equal_events(connection)
    await connection.execute("DELETE FROM analytics_events WHERE entity_id <> 'entity-0'")
    await rebuild(connection, [edge])
    await assert_snapshots_equal_events(connection)
    async with connection.transaction():
        await horizon_store.drop_days(connection, "entity", edge, edge + timedelta(days=1))
    assert not await connection.fetch("SELECT FROM rollup_entity_month")


async def test_a_database_from_before_margins_and_months_has_them_once_it_is_migrated(servers: Servers) -> None:
    async with new_database(servers.database_url) as url:
        connection = await asyncpg.connect(url)
        *old, margins, months = migrations()
        for migration in old:
            await connection.execute(migration.sql)
        await install_builtin_reports(connection)
        await insert(connection, DAYS[0], 50, last_day=NEXT_MONTH)
        await connection.execute(
            """
            INSERT INTO rollup_entity SELECT occurred_day, entity_id, count(*) FROM analytics_events GROUP BY 1, 2;
            INSERT INTO rollup_source_status
            SELECT occurred_day, source_id, status, count(*) FROM analytics_events GROUP BY 1, 2, 3;
            INSERT INTO snapshot_buckets
            SELECT r, occurred_day, now(), NULL, count(*)
            FROM analytics_events, unnest(ARRAY['entity', 'source_status']) AS r GROUP BY 1, 2;
            """
        )
        for migration in (margins, months):
            await connection.execute(migration.sql)

        await assert_snapshots_equal_events(connection)
        await connection.close()
