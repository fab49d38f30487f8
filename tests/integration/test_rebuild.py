"""The rebuild protocol, interleaved on purpose: what it promises, and that each wrong order would be found out.

Nothing here is left to chance: the steps of `snapshots.rebuild` are called one by one on two connections, and a
step that must wait is seen waiting in `pg_locks`.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import date, timedelta
from random import Random
from uuid import uuid4

import asyncpg
import pytest

from pg_analytics.postgres.pool import Connection
from pg_analytics.snapshots import store
from pg_analytics.snapshots.rebuild import VERSIONS_CHANNEL, Rebuilt, rebuild_days
from pg_analytics.windows import DayRange
from tests.events import insert
from tests.oracle import assert_snapshots_equal_events
from tests.waiting import until_blocked

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

Connect = Callable[[], Awaitable["asyncpg.Connection[asyncpg.Record]"]]

DAY = date(2026, 1, 5)
ONE_DAY = DayRange.inclusive(DAY, DAY)
FIRST_MONTH = DayRange(date(2026, 1, 1), date(2026, 2, 1))


@pytest.fixture
async def connect(database_url: str) -> AsyncIterator[Connect]:
    """Opens connections to the database of this test."""
    opened: list[asyncpg.Connection[asyncpg.Record]] = []

    async def connect() -> "asyncpg.Connection[asyncpg.Record]":
        # What would wait for ever fails instead.
        opened.append(await asyncpg.connect(database_url, server_settings={"statement_timeout": "20s"}))
        return opened[-1]

    yield connect
    for connection in opened:
        await connection.close()


async def rebuild(connection: Connection, days: DayRange = ONE_DAY) -> Rebuilt:
    """A whole rebuild, in its transaction."""
    async with connection.transaction():
        return await rebuild_days(connection, days, run_id=None)


async def group_and_merge(connection: Connection, days: DayRange = ONE_DAY) -> None:
    """The third step and what follows it."""
    await group(connection, days)
    await merge(connection, days)


async def group(connection: Connection, days: DayRange = ONE_DAY) -> None:
    """The statement whose snapshot the numbers are of."""
    for rollup in store.ROLLUPS:
        await store.group_events(connection, rollup, days)


async def merge(connection: Connection, days: DayRange = ONE_DAY) -> None:
    """What writes the numbers, and the records of it."""
    for rollup in store.ROLLUPS:
        await store.merge(connection, rollup, days)
    await store.record_days(connection, days, None)


async def assert_nothing_lost(connection: Connection) -> None:
    """The promise: a pass over the days in the log, and over no other, makes every number right."""
    for row in await connection.fetch("SELECT DISTINCT occurred_day AS day FROM event_changes"):
        await rebuild(connection, DayRange.inclusive(row["day"], row["day"]))
    await assert_snapshots_equal_events(connection)
    assert not await connection.fetch("SELECT FROM event_changes")


async def blocked(rebuilding: Connection, observer: Connection, *, by: str = "advisory") -> "asyncio.Task[Rebuilt]":
    """A rebuild that has begun and waits for a lock of the type `by`."""
    waiting = asyncio.create_task(rebuild(rebuilding))
    seen = asyncio.create_task(until_blocked(observer, rebuilding.get_server_pid(), by=by))
    await asyncio.wait({waiting, seen}, return_when=asyncio.FIRST_COMPLETED)
    assert not waiting.done(), "it did not wait"
    return waiting


async def versions(connection: Connection) -> dict[str, int]:
    """The committed version of each report."""
    return {
        row["slug"]: row["version"] for row in await connection.fetch("SELECT slug, version FROM report_definitions")
    }


# What a writer may do between the steps


async def test_a_writer_between_taking_the_log_and_grouping_is_counted_and_stays_in_the_log(connect: Connect) -> None:
    rebuilding, holder, writer = await connect(), await connect(), await connect()
    await insert(writer, DAY, 3)
    async with holder.transaction():
        await store.lock_days(holder, list(ONE_DAY))
        waiting = await blocked(rebuilding, writer)
        await insert(writer, DAY, 5, prefix="late")
    await waiting

    await assert_snapshots_equal_events(writer)
    assert await writer.fetchval("SELECT count(*) FROM event_changes") == 1  # one pass too many, and no harm
    await assert_nothing_lost(writer)


async def test_a_writer_after_grouping_is_left_for_the_next_pass(connect: Connect) -> None:
    rebuilding, holder, writer = await connect(), await connect(), await connect()
    await insert(writer, DAY, 3)
    async with holder.transaction():
        await holder.execute("LOCK TABLE rollup_source_status IN SHARE MODE")  # merging waits, grouping does not
        waiting = await blocked(rebuilding, writer, by="relation")
        await insert(writer, DAY, 5, prefix="late")
    await waiting

    with pytest.raises(AssertionError, match="rollup_source_status"):
        await assert_snapshots_equal_events(writer)
    await assert_nothing_lost(writer)


async def test_a_writer_that_commits_last_of_all_is_left_for_the_next_pass(connect: Connect) -> None:
    rebuilding, writer = await connect(), await connect()
    writing = writer.transaction()
    await writing.start()
    await insert(writer, DAY, 3)
    await rebuild(rebuilding)  # neither sees nor waits for what is not committed
    await writing.commit()

    await assert_nothing_lost(rebuilding)


async def test_an_event_that_moves_between_two_days_during_their_rebuild_is_lost_on_neither(connect: Connect) -> None:
    rebuilding, writer = await connect(), await connect()
    two_days = DayRange(DAY, DAY + timedelta(days=2))
    await insert(writer, DAY, 3)
    async with rebuilding.transaction():
        await store.take_changes(rebuilding, list(two_days))
        await store.lock_days(rebuilding, list(two_days))
        await store.group_events(rebuilding, "source_status", two_days)
        await writer.execute("UPDATE analytics_events SET occurred_at = occurred_at + INTERVAL '1 day'")
        await store.group_events(rebuilding, "entity", two_days)
        await merge(rebuilding, two_days)

    await assert_nothing_lost(writer)


# Two rebuilds of one day


async def test_a_rebuild_that_waited_counts_what_the_other_one_took_from_the_log_meanwhile(connect: Connect) -> None:
    first, second, writer = await connect(), await connect(), await connect()
    await insert(writer, DAY, 3)
    async with first.transaction():
        await store.lock_days(first, list(ONE_DAY))
        waiting = await blocked(second, writer)
        await insert(writer, DAY, 5, prefix="late")
        await store.take_changes(first, list(ONE_DAY))
        await group_and_merge(first)
    await waiting

    await assert_snapshots_equal_events(writer)
    await assert_nothing_lost(writer)


async def test_a_day_is_locked_until_its_rebuild_is_committed(connect: Connect) -> None:
    first, second, writer = await connect(), await connect(), await connect()
    await insert(writer, DAY, 3)
    async with first.transaction():
        await rebuild_days(first, ONE_DAY, run_id=None)
        await insert(writer, DAY, 5, prefix="late")
        waiting = await blocked(second, writer)
    await waiting

    await assert_snapshots_equal_events(writer)
    assert not await writer.fetch("SELECT FROM event_changes")


async def test_rebuilds_of_different_days_do_not_wait_for_one_another(connect: Connect) -> None:
    first, second = await connect(), await connect()
    async with first.transaction():
        await store.lock_days(first, list(ONE_DAY))
        await rebuild(second, DayRange(FIRST_MONTH.start, DAY))
        await rebuild(second, DayRange(DAY + timedelta(days=1), FIRST_MONTH.end))


async def test_log_rows_that_another_rebuild_has_taken_are_skipped_and_not_waited_for(connect: Connect) -> None:
    first, second, writer = await connect(), await connect(), await connect()
    await insert(writer, DAY, 3)
    holding = first.transaction()
    await holding.start()
    await store.take_changes(first, list(ONE_DAY))

    async with second.transaction():
        await store.take_changes(second, list(ONE_DAY))  # would hang here
        assert await second.fetchval("SELECT count(*) FROM event_changes") == 1
    await holding.rollback()

    await assert_nothing_lost(writer)


async def test_a_rebuild_that_is_rolled_back_gives_its_log_rows_back_and_leaves_no_trace(connect: Connect) -> None:
    connection = await connect()
    await insert(connection, DAY, 3)
    before = await versions(connection)
    rolled_back = connection.transaction()
    await rolled_back.start()
    await rebuild_days(connection, ONE_DAY, run_id=uuid4())
    await rolled_back.rollback()

    assert await connection.fetchval("SELECT count(*) FROM event_changes") == 1
    for table in ("rollup_source_status", "rollup_entity", "snapshot_buckets"):
        assert not await connection.fetch(f"SELECT FROM {table}")
    assert await versions(connection) == before
    await assert_nothing_lost(connection)


async def test_rebuilds_of_overlapping_ranges_never_deadlock_and_lose_no_writer(connect: Connect) -> None:
    rebuilders = [await connect() for _ in range(4)]
    writers = [await connect() for _ in range(3)]
    random = Random(7)
    days = list(FIRST_MONTH)
    await insert(writers[0], FIRST_MONTH.start, 20, last_day=FIRST_MONTH.last)

    async def keep_writing(number: int, connection: Connection) -> None:
        for turn in range(40):
            day, other = random.choices(days, k=2)
            await insert(connection, day, 2, prefix=f"w{number}-{turn}")
            await connection.execute(
                "UPDATE analytics_events SET occurred_at = $1 WHERE external_ref LIKE $2 AND occurred_day = $3",
                *(await connection.fetchrow("SELECT $1::date::timestamp AT TIME ZONE 'UTC'", other) or ()),
                f"w{number}-%1",
                day,
            )
            await connection.execute("DELETE FROM analytics_events WHERE external_ref = $1", f"e-{day}-{turn}")

    async def keep_rebuilding(connection: Connection) -> None:
        for _ in range(30):
            start, end = sorted(random.choices(days, k=2))
            await rebuild(connection, DayRange.inclusive(start, end))

    await asyncio.gather(
        *(keep_writing(number, writer) for number, writer in enumerate(writers)),
        *(keep_rebuilding(rebuilder) for rebuilder in rebuilders),
    )

    await assert_nothing_lost(writers[0])


# Wrong orders: each loses an update in a schedule that the right order survives (above), and the oracle tells


async def test_the_lock_after_the_snapshot_would_be_found_out(connect: Connect) -> None:
    slow, quick, writer = await connect(), await connect(), await connect()
    await insert(writer, DAY, 3)
    async with slow.transaction():
        await store.take_changes(slow, list(ONE_DAY))
        await group(slow)
        await insert(writer, DAY, 5, prefix="late")
        await rebuild(quick)
        await store.lock_days(slow, list(ONE_DAY))
        await merge(slow)

    with pytest.raises(AssertionError, match="rollup_source_status"):
        await assert_nothing_lost(writer)


async def test_no_lock_at_all_would_be_found_out(connect: Connect) -> None:
    slow, quick, writer = await connect(), await connect(), await connect()
    await insert(writer, DAY, 3)
    async with slow.transaction():
        await store.take_changes(slow, list(ONE_DAY))
        await group(slow)
        await insert(writer, DAY, 5, prefix="late")
        async with quick.transaction():
            await store.take_changes(quick, list(ONE_DAY))
            await group_and_merge(quick)
        await merge(slow)

    with pytest.raises(AssertionError, match="rollup_source_status"):
        await assert_nothing_lost(writer)


async def test_emptying_the_log_after_the_rebuild_would_be_found_out(connect: Connect) -> None:
    rebuilding, writer = await connect(), await connect()
    await insert(writer, DAY, 3)
    async with rebuilding.transaction():
        await store.lock_days(rebuilding, list(ONE_DAY))
        await group(rebuilding)
        await insert(writer, DAY, 5, prefix="late")
        await merge(rebuilding)
        await store.take_changes(rebuilding, list(ONE_DAY))

    with pytest.raises(AssertionError, match="rollup_source_status"):
        await assert_nothing_lost(writer)


async def test_a_rebuild_at_a_stricter_isolation_fails_loudly_and_loses_nothing(connect: Connect) -> None:
    strict, quick, writer = await connect(), await connect(), await connect()
    await insert(writer, DAY, 3)
    rebuilding = strict.transaction(isolation="repeatable_read")
    await rebuilding.start()
    await store.take_changes(strict, list(ONE_DAY))
    await insert(writer, DAY, 5, prefix="late")
    await rebuild(quick)
    await store.lock_days(strict, list(ONE_DAY))
    with pytest.raises(asyncpg.SerializationError):
        await group_and_merge(strict)
    await rebuilding.rollback()

    await assert_nothing_lost(writer)


# What a rebuild writes


async def test_a_rebuild_of_what_did_not_change_writes_no_row_and_moves_no_version(connect: Connect) -> None:
    connection = await connect()
    await insert(connection, DAY, 30)
    first = await rebuild(connection)
    rows = "SELECT ctid::text, xmin::text, r::text FROM {} AS r ORDER BY 3"
    before = [await connection.fetch(rows.format(f"rollup_{rollup}")) for rollup in store.ROLLUPS]
    known = await versions(connection)

    second = await rebuild(connection)

    assert second == Rebuilt(
        rows_inserted=0, rows_deleted=0, rows_unchanged=first.rows_inserted, events_read=first.events_read
    )
    assert [await connection.fetch(rows.format(f"rollup_{rollup}")) for rollup in store.ROLLUPS] == before
    assert await versions(connection) == known


async def test_a_rebuild_counts_what_it_wrote_replaced_removed_and_left_alone(connect: Connect) -> None:
    connection = await connect()
    await insert(connection, DAY, 21)  # of 7 entities and 3 statuses: 10 rows
    assert await rebuild(connection) == Rebuilt(
        rows_inserted=10,
        rows_deleted=0,
        rows_unchanged=0,
        events_read=21,
        versions={"status-counts": 2, "top-entities": 2, "volume-by-period": 2},
    )

    await connection.execute("UPDATE analytics_events SET entity_id = 'entity-1' WHERE entity_id = 'entity-0'")

    assert await rebuild(connection) == Rebuilt(
        rows_inserted=1,  # entity-1, with a new count
        rows_deleted=2,  # its old count, and entity-0
        rows_unchanged=8,
        events_read=21,
        versions={"top-entities": 3},
    )


async def test_only_the_reports_whose_rows_changed_move_on(connect: Connect) -> None:
    connection = await connect()
    await insert(connection, DAY, 21)
    await rebuild(connection)
    await connection.execute("UPDATE analytics_events SET status = 'failed' WHERE external_ref = $1", f"e-{DAY}-2")

    assert set((await rebuild(connection)).versions) == {"volume-by-period", "status-counts"}


async def test_a_day_whose_events_are_gone_has_no_rows_and_is_known_to_be_empty(connect: Connect) -> None:
    connection = await connect()
    await insert(connection, DAY, 21)
    await rebuild(connection)
    await connection.execute("DELETE FROM analytics_events")
    run_id = uuid4()
    async with connection.transaction():
        await rebuild_days(connection, ONE_DAY, run_id=run_id)

    await assert_snapshots_equal_events(connection)
    buckets = await connection.fetch("SELECT rollup, day, run_id, event_count FROM snapshot_buckets ORDER BY 1")
    assert [tuple(bucket) for bucket in buckets] == [
        ("entity", DAY, run_id, 0),
        ("source_status", DAY, run_id, 0),
    ]


async def test_a_rebuild_leaves_the_days_around_it_alone(connect: Connect) -> None:
    connection = await connect()
    await insert(connection, DAY - timedelta(days=1), 3, last_day=DAY + timedelta(days=1))
    await rebuild(connection)

    for rollup in store.ROLLUPS:
        assert {row["day"] for row in await connection.fetch(f"SELECT day FROM rollup_{rollup}")} == {DAY}
    logged = await connection.fetch("SELECT occurred_day FROM event_changes ORDER BY 1")
    assert [row["occurred_day"] for row in logged] == [DAY - timedelta(days=1), DAY + timedelta(days=1)]


async def test_new_versions_are_announced_if_and_only_if_the_rebuild_commits(connect: Connect) -> None:
    listening, connection = await connect(), await connect()
    heard: asyncio.Queue[str] = asyncio.Queue()
    await listening.add_listener(VERSIONS_CHANNEL, lambda *said: heard.put_nowait(str(said[-1])))
    await insert(connection, DAY, 3)
    rolled_back = connection.transaction()
    await rolled_back.start()
    await rebuild_days(connection, ONE_DAY, run_id=None)
    await rolled_back.rollback()

    rebuilt = await rebuild(connection)
    await rebuild(connection)
    await connection.execute("SELECT pg_notify($1, 'the end')", VERSIONS_CHANNEL)

    assert json.loads(await heard.get()) == rebuilt.versions == await versions(connection)
    assert await heard.get() == "the end"


async def test_a_rebuild_does_not_see_tables_of_the_same_names_in_the_session_of_its_caller(connect: Connect) -> None:
    connection = await connect()
    await connection.execute("CREATE TABLE fresh_entity (day date); CREATE TABLE fresh_source_status (day date)")
    await insert(connection, DAY, 3)
    await rebuild(connection)
    await assert_snapshots_equal_events(connection)
