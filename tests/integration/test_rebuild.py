"""The rebuild protocol, interleaved on purpose: what it promises when writers and other rebuilds come in between.

Nothing here is left to chance: the steps of `snapshots.rebuild` are called one by one on connections of their own, and
a step that must wait is seen waiting in `pg_locks`. What the wrong orders would lose is in `test_wrong_protocols`.
"""

import asyncio
import json
from datetime import date, timedelta
from random import Random
from uuid import uuid4

import asyncpg
import pytest

from pg_analytics.postgres.pool import Connection, transaction
from pg_analytics.snapshots import store
from pg_analytics.snapshots.rebuild import (
    VERSIONS_CHANNEL,
    DaysBusy,
    FrozenDays,
    MergedDays,
    Rebuilt,
    merge_days,
    publish_days,
    rebuild_days,
)
from pg_analytics.windows import DayRange
from tests.events import insert
from tests.oracle import assert_snapshots_equal_events, snapshot_numbers
from tests.rebuilding import Connect, assert_nothing_lost, blocked, logged_days, rebuild

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

DAY = date(2026, 1, 5)
BEFORE, AFTER = DAY - timedelta(days=1), DAY + timedelta(days=1)
FIRST_MONTH = DayRange(date(2026, 1, 1), date(2026, 2, 1))


async def versions(connection: Connection) -> dict[str, int]:
    """The committed version of each report."""
    return {
        row["slug"]: row["version"] for row in await connection.fetch("SELECT slug, version FROM report_definitions")
    }


async def move_horizon(connection: Connection, subject: str, kept_from: date) -> None:
    """Keep `subject` from a day on, as retention does."""
    await connection.execute("UPDATE horizons SET kept_from = $2 WHERE subject = $1", subject, kept_from)


# What a writer may do between the steps


async def test_a_writer_between_taking_the_log_and_merging_is_counted_and_stays_in_the_log(connect: Connect) -> None:
    rebuilding, holder, writer = await connect(), await connect(), await connect()
    await insert(writer, DAY, 3)
    async with holder.transaction():
        await store.lock_days(holder, [DAY])
        waiting = await blocked(rebuild(rebuilding, [DAY]), rebuilding, writer)
        await insert(writer, DAY, 5, prefix="late")
    await waiting

    await assert_snapshots_equal_events(writer)
    assert await logged_days(writer) == [DAY]  # one pass too many, and no harm
    await assert_nothing_lost(writer)


async def test_a_writer_inside_a_merge_is_left_for_the_next_pass(connect: Connect) -> None:
    rebuilding, holder, writer = await connect(), await connect(), await connect()
    await insert(writer, DAY, 3)
    await rebuild(rebuilding, [DAY])
    await insert(writer, DAY, 3, prefix="more")
    async with holder.transaction():
        await holder.execute("SELECT FROM rollup_source_status FOR UPDATE")  # the merge has counted, and cannot write
        waiting = await blocked(rebuild(rebuilding, [DAY]), rebuilding, writer, by="transactionid")
        await insert(writer, DAY, 5, prefix="late")
    await waiting

    with pytest.raises(AssertionError, match="rollup_source_status has rows that the events do not give"):
        await assert_snapshots_equal_events(writer)
    await assert_nothing_lost(writer)


async def test_a_writer_between_the_merges_of_two_rollups_is_left_for_the_next_pass(connect: Connect) -> None:
    rebuilding, writer = await connect(), await connect()
    await insert(writer, DAY, 3)
    async with transaction(rebuilding):
        await store.take_changes(rebuilding, [DAY])
        await store.lock_days(rebuilding, [DAY])
        first = await store.merge(rebuilding, "source_status", [DAY])
        await insert(writer, DAY, 5, prefix="late")
        second = await store.merge(rebuilding, "entity", [DAY])
        merged = MergedDays({rollup: [DAY] for rollup in store.ROLLUPS}, {"source_status": first, "entity": second})
        await publish_days(rebuilding, merged, run_id=None)

    assert await writer.fetchval("SELECT sum(event_count) FROM rollup_source_status") == 3
    assert await writer.fetchval("SELECT sum(event_count) FROM rollup_entity") == 8
    await assert_nothing_lost(writer)


async def test_a_writer_after_the_merges_is_left_for_the_next_pass(connect: Connect) -> None:
    rebuilding, writer = await connect(), await connect()
    await insert(writer, DAY, 3)
    async with transaction(rebuilding):
        merged = await merge_days(rebuilding, [DAY])
        await insert(writer, DAY, 5, prefix="late")
        await publish_days(rebuilding, merged, run_id=None)

    with pytest.raises(AssertionError, match="rollup_source_status has rows that the events do not give"):
        await assert_snapshots_equal_events(writer)
    await assert_nothing_lost(writer)


async def test_a_writer_that_commits_last_of_all_is_left_for_the_next_pass(connect: Connect) -> None:
    rebuilding, writer = await connect(), await connect()
    writing = writer.transaction()
    await writing.start()
    await insert(writer, DAY, 3)
    await rebuild(rebuilding, [DAY])  # neither sees nor waits for what is not committed
    await writing.commit()

    await assert_nothing_lost(rebuilding)


async def test_an_event_that_moves_between_two_days_during_their_rebuild_is_lost_on_neither(connect: Connect) -> None:
    rebuilding, writer = await connect(), await connect()
    await insert(writer, DAY, 3)
    async with transaction(rebuilding):
        await store.take_changes(rebuilding, [DAY, AFTER])
        await store.lock_days(rebuilding, [DAY, AFTER])
        first = await store.merge(rebuilding, "source_status", [DAY, AFTER])
        await writer.execute("UPDATE analytics_events SET occurred_at = occurred_at + INTERVAL '1 day'")
        second = await store.merge(rebuilding, "entity", [DAY, AFTER])
        days = {rollup: [DAY, AFTER] for rollup in store.ROLLUPS}
        await publish_days(rebuilding, MergedDays(days, {"source_status": first, "entity": second}), run_id=None)

    assert await logged_days(writer) == [DAY, AFTER]
    await assert_nothing_lost(writer)


async def test_a_truncation_waits_for_a_rebuild_that_has_read_the_events_and_logs_what_it_built(
    connect: Connect,
) -> None:
    rebuilding, writer, observer = await connect(), await connect(), await connect()
    await insert(writer, DAY, 3)
    async with transaction(rebuilding):
        await rebuild_days(rebuilding, [DAY], run_id=None)
        truncating = await blocked(writer.execute("TRUNCATE analytics_events"), writer, observer, by="relation")
    await truncating

    assert await logged_days(observer) == [DAY]
    await assert_nothing_lost(observer)


# Two rebuilds of one day


async def test_a_rebuild_that_waited_counts_what_the_other_one_took_from_the_log_meanwhile(connect: Connect) -> None:
    refreshing, rebuilding, writer = await connect(), await connect(), await connect()
    await insert(writer, DAY, 3)
    async with transaction(refreshing):
        assert await store.try_lock_days(refreshing, [DAY]) == [DAY]  # as the refresher begins
        waiting = await blocked(rebuild(rebuilding, [DAY]), rebuilding, writer)
        await insert(writer, DAY, 5, prefix="late")
        await rebuild_days(refreshing, [DAY], run_id=None)
    await waiting

    await assert_snapshots_equal_events(writer)
    await assert_nothing_lost(writer)


async def test_a_day_is_locked_until_its_rebuild_is_committed(connect: Connect) -> None:
    first, second, writer = await connect(), await connect(), await connect()
    await insert(writer, DAY, 3)
    async with transaction(first):
        await rebuild_days(first, [DAY], run_id=None)
        await insert(writer, DAY, 5, prefix="late")
        waiting = await blocked(rebuild(second, [DAY]), second, writer)
    await waiting

    await assert_snapshots_equal_events(writer)
    assert not await logged_days(writer)


async def test_days_are_locked_from_the_oldest_to_the_newest_in_whatever_order_they_are_given(
    connect: Connect,
) -> None:
    holder, rebuilding, observer = await connect(), await connect(), await connect()
    async with holder.transaction():
        await store.lock_days(holder, [DAY])
        waiting = await blocked(rebuild(rebuilding, [AFTER, DAY, BEFORE]), rebuilding, observer)
        async with observer.transaction():
            assert await store.try_lock_days(observer, [BEFORE, AFTER]) == [AFTER]
    await waiting


async def test_rebuilds_of_different_days_do_not_wait_for_one_another(connect: Connect) -> None:
    first, second = await connect(), await connect()
    async with first.transaction():
        await store.lock_days(first, [DAY])
        await rebuild(second, DayRange(FIRST_MONTH.start, DAY))
        await rebuild(second, DayRange(AFTER, FIRST_MONTH.end))


async def test_two_lanes_merge_side_by_side_and_publish_one_after_the_other(connect: Connect) -> None:
    newer, older, writer = await connect(), await connect(), await connect()
    await insert(writer, BEFORE, 21, last_day=DAY)
    known = await versions(writer)
    first, second = newer.transaction(), older.transaction()
    await first.start()
    await second.start()
    merged_newer = await merge_days(newer, [DAY])
    merged_older = await merge_days(older, [BEFORE])  # would hang here, if the lanes met before they publish

    await publish_days(newer, merged_newer, run_id=None)
    publishing = await blocked(publish_days(older, merged_older, run_id=None), older, writer, by="transactionid")
    await first.commit()
    await publishing
    await second.commit()

    await assert_snapshots_equal_events(writer)
    assert not await logged_days(writer)
    assert await versions(writer) == {slug: version + 2 for slug, version in known.items()}


async def test_publishing_locks_the_reports_in_the_order_of_their_slugs(connect: Connect) -> None:
    holder, publishing, observer = await connect(), await connect(), await connect()
    await insert(observer, DAY, 3)
    [first, second, third] = sorted(await versions(observer))
    # Written anew, the first row lies behind the others: not even the order in the table leads to the right one.
    await observer.execute("UPDATE report_definitions SET updated_at = now() WHERE slug = $1", first)
    async with holder.transaction():
        await holder.execute("SELECT FROM report_definitions WHERE slug = $1 FOR UPDATE", second)
        waiting = await blocked(rebuild(publishing, [DAY]), publishing, observer, by="transactionid")
        free = await observer.fetch("SELECT slug FROM report_definitions FOR UPDATE SKIP LOCKED")
        assert [row["slug"] for row in free] == [third]
    await waiting


async def test_log_rows_that_another_rebuild_has_taken_are_skipped_and_not_waited_for(connect: Connect) -> None:
    first, second, writer = await connect(), await connect(), await connect()
    await insert(writer, DAY, 3)
    holding = first.transaction()
    await holding.start()
    await store.take_changes(first, [DAY])

    async with second.transaction():
        await store.take_changes(second, [DAY])  # would hang here
        assert await logged_days(second) == [DAY]
    await holding.rollback()

    await assert_nothing_lost(writer)


async def test_a_rebuild_that_is_rolled_back_gives_its_log_rows_back_and_leaves_no_trace(connect: Connect) -> None:
    connection = await connect()
    await insert(connection, DAY, 3)
    before = await versions(connection)
    rolled_back = connection.transaction()
    await rolled_back.start()
    await rebuild_days(connection, [DAY], run_id=uuid4())
    await rolled_back.rollback()

    assert await logged_days(connection) == [DAY]
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
            await rebuild(connection, random.sample(days, k=random.randint(1, 20)))

    await asyncio.gather(
        *(keep_writing(number, writer) for number, writer in enumerate(writers)),
        *(keep_rebuilding(rebuilder) for rebuilder in rebuilders),
    )

    await assert_nothing_lost(writers[0])


# Days that cannot be had


async def test_a_day_that_stays_locked_for_too_long_is_busy_and_nothing_has_changed(connect: Connect) -> None:
    holder, impatient = await connect(), await connect(lock_timeout="50ms")
    await insert(holder, BEFORE, 3, last_day=DAY)
    async with holder.transaction():
        await store.lock_days(holder, [DAY])
        with pytest.raises(DaysBusy):
            await rebuild(impatient, [BEFORE, DAY])
        # The lock that it did get is free again.
        assert await store.try_lock_days(holder, [BEFORE]) == [BEFORE]

    assert set(await logged_days(holder)) == {BEFORE, DAY}
    assert not await holder.fetch("SELECT FROM rollup_source_status")
    await assert_nothing_lost(impatient)


async def test_a_table_that_stays_locked_for_too_long_is_no_busy_day(connect: Connect) -> None:
    holder, impatient = await connect(), await connect(lock_timeout="50ms")
    await insert(holder, DAY, 3)
    async with holder.transaction():
        await holder.execute("LOCK TABLE rollup_entity IN SHARE MODE")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await rebuild(impatient, [DAY])

    await assert_nothing_lost(holder)


async def test_two_connections_share_the_days_that_are_free(connect: Connect) -> None:
    first, second = await connect(), await connect()
    async with first.transaction():
        assert await store.try_lock_days(first, [BEFORE, DAY]) == [BEFORE, DAY]
        async with second.transaction():
            assert await store.try_lock_days(second, [BEFORE, DAY, AFTER]) == [AFTER]
            assert await store.try_lock_days(first, [BEFORE, DAY, AFTER]) == [BEFORE, DAY]  # its own, once more
        async with second.transaction():
            assert await store.try_lock_days(second, [BEFORE, DAY, AFTER]) == [AFTER]
    async with second.transaction():
        assert await store.try_lock_days(second, [BEFORE, DAY, AFTER]) == [BEFORE, DAY, AFTER]


async def test_frozen_days_are_not_rebuilt_nor_are_days_that_were_asked_for_with_them(connect: Connect) -> None:
    connection = await connect()
    await insert(connection, BEFORE, 3, last_day=DAY)
    await rebuild(connection, [BEFORE, DAY])
    numbers = await snapshot_numbers(connection, before=DAY)
    known = await versions(connection)
    await move_horizon(connection, "events", DAY)
    await connection.execute("DELETE FROM analytics_events WHERE occurred_day < $1", DAY)
    await insert(connection, DAY, 5, prefix="late")

    with pytest.raises(FrozenDays, match=f"before {DAY} were pruned") as refused:
        await rebuild(connection, [DAY, BEFORE])

    assert refused.value.kept_from == DAY
    assert set(await logged_days(connection)) == {BEFORE, DAY}
    assert await versions(connection) == known
    await rebuild(connection, [DAY])
    await assert_snapshots_equal_events(connection, frozen=numbers)


async def test_a_frozen_day_whose_events_change_is_marked_once_and_keeps_its_numbers(connect: Connect) -> None:
    connection = await connect()
    await insert(connection, DAY, 3)
    await rebuild(connection, [DAY])
    numbers = await snapshot_numbers(connection, before=AFTER)
    await move_horizon(connection, "events", AFTER)
    built = await connection.fetch("SELECT rollup, day, computed_at, event_count FROM snapshot_buckets ORDER BY 1")

    assert await store.mark_frozen_days(connection, [BEFORE, DAY]) == [BEFORE, DAY]
    assert await store.mark_frozen_days(connection, [BEFORE, DAY]) == []

    marked = "SELECT {} FROM snapshot_buckets WHERE stale_since IS NOT NULL AND day = $1 ORDER BY rollup"
    assert await connection.fetch(marked.format("rollup, day, computed_at, event_count"), DAY) == built
    new = await connection.fetch(marked.format("rollup, event_count"), BEFORE)  # no events were known of it
    assert [tuple(bucket) for bucket in new] == [("entity", 0), ("source_status", 0)]
    await assert_snapshots_equal_events(connection, frozen=numbers)


async def test_a_rebuild_takes_the_mark_from_a_day_that_is_not_frozen_after_all(connect: Connect) -> None:
    connection = await connect()
    await insert(connection, DAY, 3)
    await rebuild(connection, [DAY])
    await store.mark_frozen_days(connection, [DAY])
    with pytest.raises(AssertionError, match="out of date for good"):
        await assert_snapshots_equal_events(connection)

    await rebuild(connection, [DAY])
    await assert_snapshots_equal_events(connection)


@pytest.mark.parametrize("shorter, longer", [store.ROLLUPS, store.ROLLUPS[::-1]])
async def test_days_before_a_rollups_horizon_are_left_out_of_that_rollup_alone(
    connect: Connect, shorter: str, longer: str
) -> None:
    connection = await connect()
    await insert(connection, BEFORE, 21, last_day=DAY)
    await move_horizon(connection, shorter, DAY)

    rebuilt = await rebuild(connection, [BEFORE, DAY])

    assert rebuilt.events_read == 42
    recorded = await connection.fetch("SELECT rollup, day, event_count FROM snapshot_buckets ORDER BY day, rollup")
    assert [tuple(bucket) for bucket in recorded] == [
        (longer, BEFORE, 21),
        *sorted([(shorter, DAY, 21), (longer, DAY, 21)]),
    ]
    rows = await connection.fetch(f"SELECT DISTINCT day FROM rollup_{longer} ORDER BY 1")
    assert [row["day"] for row in rows] == [BEFORE, DAY]
    await assert_snapshots_equal_events(connection)


# What a rebuild writes


async def test_a_rebuild_of_what_did_not_change_writes_no_row_and_moves_no_version(connect: Connect) -> None:
    connection = await connect()
    await insert(connection, DAY, 30)
    first = await rebuild(connection, [DAY])
    rows = "SELECT ctid::text, xmin::text, r::text FROM {} AS r ORDER BY 3"
    before = [await connection.fetch(rows.format(f"rollup_{rollup}")) for rollup in store.ROLLUPS]
    known = await versions(connection)

    second = await rebuild(connection, [DAY])

    assert second == Rebuilt(
        rows_inserted=0, rows_deleted=0, rows_unchanged=first.rows_inserted, events_read=first.events_read
    )
    assert [await connection.fetch(rows.format(f"rollup_{rollup}")) for rollup in store.ROLLUPS] == before
    assert await versions(connection) == known


async def test_a_rebuild_counts_what_it_wrote_replaced_removed_and_left_alone(connect: Connect) -> None:
    connection = await connect()
    await insert(connection, DAY, 21)  # of 7 entities and 3 statuses: 10 rows
    assert await rebuild(connection, [DAY]) == Rebuilt(
        rows_inserted=10,
        rows_deleted=0,
        rows_unchanged=0,
        events_read=21,
        versions={"status-counts": 2, "top-entities": 2, "volume-by-period": 2},
    )

    await connection.execute("UPDATE analytics_events SET entity_id = 'entity-1' WHERE entity_id = 'entity-0'")

    assert await rebuild(connection, [DAY]) == Rebuilt(
        rows_inserted=1,  # entity-1, with a new count
        rows_deleted=2,  # its old count, and entity-0
        rows_unchanged=8,
        events_read=21,
        versions={"top-entities": 3},
    )
    await assert_snapshots_equal_events(connection)


async def test_only_the_reports_whose_rows_changed_move_on(connect: Connect) -> None:
    connection = await connect()
    await insert(connection, DAY, 21)
    await rebuild(connection, [DAY])
    await connection.execute("UPDATE analytics_events SET status = 'failed' WHERE external_ref = $1", f"e-{DAY}-2")

    assert set((await rebuild(connection, [DAY])).versions) == {"volume-by-period", "status-counts"}
    await assert_snapshots_equal_events(connection)


async def test_a_day_whose_events_are_gone_has_no_rows_and_is_known_to_be_empty(connect: Connect) -> None:
    connection = await connect()
    await insert(connection, DAY, 21)
    await rebuild(connection, [DAY])
    await connection.execute("DELETE FROM analytics_events")
    run_id = uuid4()
    async with transaction(connection):
        rebuilt = await rebuild_days(connection, [DAY], run_id=run_id)

    assert set(rebuilt.versions) == {"status-counts", "top-entities", "volume-by-period"}
    await assert_snapshots_equal_events(connection)
    buckets = await connection.fetch("SELECT rollup, day, run_id, event_count FROM snapshot_buckets ORDER BY 1")
    assert [tuple(bucket) for bucket in buckets] == [
        ("entity", DAY, run_id, 0),
        ("source_status", DAY, run_id, 0),
    ]


async def test_a_day_is_recorded_as_built_when_its_transaction_began_before_any_event_was_read(
    connect: Connect,
) -> None:
    connection = await connect()
    await insert(connection, DAY, 3)
    async with transaction(connection):
        began = await connection.fetchval("SELECT now()")
        await rebuild_days(connection, [DAY], run_id=None)

    recorded = await connection.fetch("SELECT DISTINCT computed_at FROM snapshot_buckets")
    assert [row["computed_at"] for row in recorded] == [began]


async def test_a_rebuild_leaves_the_days_around_it_alone(connect: Connect) -> None:
    connection = await connect()
    await insert(connection, BEFORE, 3, last_day=AFTER)
    await rebuild(connection, [DAY])

    for rollup in store.ROLLUPS:
        assert {row["day"] for row in await connection.fetch(f"SELECT day FROM rollup_{rollup}")} == {DAY}
    assert set(await logged_days(connection)) == {BEFORE, AFTER}


async def test_rows_of_other_days_stay_when_those_of_one_day_are_removed_and_replaced(connect: Connect) -> None:
    connection = await connect()
    await insert(connection, BEFORE, 21, last_day=AFTER)
    await rebuild(connection, [BEFORE, DAY, AFTER])
    await connection.execute(
        """
        DELETE FROM analytics_events
        WHERE occurred_day = $1 AND (status = 'success' OR entity_id = 'entity-0' OR external_ref LIKE '%-1')
        """,
        DAY,
    )

    await rebuild(connection, [DAY])

    await assert_snapshots_equal_events(connection)


async def test_a_rebuild_of_days_with_gaps_between_them_leaves_the_gaps_alone(connect: Connect) -> None:
    connection = await connect()
    await insert(connection, BEFORE, 3, last_day=AFTER)
    await rebuild(connection, [AFTER, BEFORE])

    assert await logged_days(connection) == [DAY]
    assert not await connection.fetch("SELECT FROM snapshot_buckets WHERE day = $1", DAY)
    await assert_nothing_lost(connection)


async def test_a_rebuild_of_no_day_does_nothing(connect: Connect) -> None:
    connection = await connect()
    await insert(connection, DAY, 3)

    rebuilt = await rebuild(connection, [])

    assert rebuilt == Rebuilt(rows_inserted=0, rows_deleted=0, rows_unchanged=0, events_read=0)
    assert await logged_days(connection) == [DAY]


async def test_new_versions_are_announced_if_and_only_if_the_rebuild_commits(connect: Connect) -> None:
    listening, connection = await connect(), await connect()
    heard: asyncio.Queue[str] = asyncio.Queue()
    await listening.add_listener(VERSIONS_CHANNEL, lambda *said: heard.put_nowait(str(said[-1])))
    await insert(connection, DAY, 3)
    rolled_back = connection.transaction()
    await rolled_back.start()
    await rebuild_days(connection, [DAY], run_id=None)
    await rolled_back.rollback()

    rebuilt = await rebuild(connection, [DAY])
    await rebuild(connection, [DAY])
    await connection.execute("SELECT pg_notify($1, 'the end')", VERSIONS_CHANNEL)

    assert json.loads(await heard.get()) == rebuilt.versions == await versions(connection)
    assert await heard.get() == "the end"
