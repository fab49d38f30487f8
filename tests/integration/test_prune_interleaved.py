"""Pruning beside everything else that touches a day: writers, rebuilds, the refresher, another prune."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from datetime import date, timedelta
from random import Random
from typing import Any

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from pg_analytics.events.prune import Pruned, prune_events
from pg_analytics.postgres.pool import Connection, Postgres, transaction
from pg_analytics.snapshots import store
from pg_analytics.snapshots.rebuild import FrozenDays, merge_days, publish_days
from pg_analytics.snapshots.refresh import Refresher
from pg_analytics.windows import DayRange
from tests.events import insert
from tests.oracle import assert_snapshots_equal_events, snapshot_numbers
from tests.rebuilding import Connect, assert_nothing_lost, blocked, logged_days, rebuild
from tests.waiting import until_true

pytestmark = pytest.mark.anyio

FIRST = date(2026, 1, 1)
BEFORE = date(2026, 1, 6)
LAST = date(2026, 1, 10)
OLD = DayRange(FIRST, BEFORE)
NEW = DayRange(BEFORE, LAST + timedelta(days=1))


def prune(connection: Connection) -> Coroutine[Any, Any, Pruned]:
    """A whole prune."""
    return prune_events(connection, BEFORE, actor="ada")


async def counted(connection: Connection) -> int:
    """How many events the snapshots of the frozen days hold; both rollups must say so."""
    numbers = await snapshot_numbers(connection, before=BEFORE)
    by_source, by_entity = (sum(row[-1] for row in numbers[rollup]) for rollup in ("source_status", "entity"))
    assert by_source == by_entity
    return int(by_source)


async def assert_old_days_are_settled(connection: Connection) -> None:
    """No frozen day is in the log or marked, as each counts every event that it ever had."""
    assert not set(await logged_days(connection)) & set(OLD)
    assert not await connection.fetch("SELECT FROM snapshot_buckets WHERE stale_since IS NOT NULL")
    assert not await connection.fetch("SELECT FROM analytics_events WHERE occurred_day < $1", BEFORE)
    frozen = await snapshot_numbers(connection, before=BEFORE)
    for day in await logged_days(connection):
        await rebuild(connection, [day])
    await assert_snapshots_equal_events(connection, frozen=frozen)


@pytest.fixture
def logged() -> Iterator[list[EventDict]]:
    """What is written to the log."""
    with capture_logs() as entries:
        yield entries


async def until_it_retries(entries: list[EventDict]) -> None:
    """Until the prune has rolled a chunk back, to try it again."""
    before = len(entries)
    async with asyncio.timeout(30):
        while not any(entry["event"] == "prune_waits" for entry in entries[before:]):  # noqa: ASYNC110 - asks a list
            await asyncio.sleep(0.01)


# Writers


async def test_what_others_commit_while_events_are_being_deleted_is_deleted_and_counted_too(connect: Connect) -> None:
    pruning, holder, writer = await connect(), await connect(), await connect()
    await insert(writer, FIRST, 5, last_day=LAST)
    holding = holder.transaction()
    await holding.start()
    await holder.execute("UPDATE analytics_events SET status = 'failed' WHERE external_ref = $1", f"e-{FIRST}-1")
    waiting = await blocked(prune(pruning), pruning, writer, by="transactionid")
    # The deletion has its snapshot by now, and sees none of this.
    await insert(writer, FIRST, 3, prefix="meanwhile")
    await writer.execute(
        "UPDATE analytics_events SET occurred_at = occurred_at - INTERVAL '7 days' WHERE occurred_day = $1",
        date(2026, 1, 9),
    )
    await holding.commit()

    assert (await waiting).events == 5 * 5 + 3 + 5
    assert await counted(writer) == 5 * 5 + 3 + 5
    assert await writer.fetchval("SELECT sum(event_count) FROM rollup_source_status WHERE status = 'failed'")
    await assert_old_days_are_settled(writer)


async def test_an_event_that_was_moved_out_of_its_day_leaves_no_doubt_about_the_day(connect: Connect) -> None:
    pruning, writer, observer = await connect(), await connect(), await connect()
    await insert(observer, FIRST, 5, last_day=LAST)
    moving = writer.transaction()
    await moving.start()
    await writer.execute(
        "UPDATE analytics_events SET occurred_at = occurred_at + INTERVAL '8 days' WHERE external_ref = $1",
        f"e-{FIRST}-1",
    )
    waiting = await blocked(prune(pruning), pruning, observer, by="transactionid")
    await moving.commit()

    assert (await waiting).events == 5 * 5 - 1
    assert await counted(observer) == 5 * 5 - 1
    await assert_old_days_are_settled(observer)


@pytest.mark.parametrize("is_deleted", [True, False])
async def test_an_event_that_somebody_is_deleting_is_counted_unless_it_is_deleted(
    connect: Connect, *, is_deleted: bool
) -> None:
    pruning, writer, observer = await connect(), await connect(), await connect()
    await insert(observer, FIRST, 5, last_day=LAST)
    deleting = writer.transaction()
    await deleting.start()
    await writer.execute("DELETE FROM analytics_events WHERE external_ref = $1", f"e-{FIRST}-1")
    waiting = await blocked(prune(pruning), pruning, observer, by="transactionid")
    await (deleting.commit() if is_deleted else deleting.rollback())

    assert (await waiting).events == 5 * 5 - is_deleted
    assert await counted(observer) == 5 * 5 - is_deleted
    await assert_old_days_are_settled(observer)


async def test_a_writer_that_keeps_an_event_locked_only_keeps_the_prune_waiting(
    connect: Connect, logged: list[EventDict]
) -> None:
    pruning, writer, observer = await connect(), await connect(), await connect()
    await insert(observer, FIRST, 5, last_day=LAST)
    async with transaction(writer):
        await writer.execute("SELECT FROM analytics_events WHERE external_ref = $1 FOR UPDATE", f"e-{FIRST}-1")
        waiting = asyncio.create_task(prune(pruning))
        await until_it_retries(logged)
        await rebuild(observer, OLD)  # the days are not locked meanwhile

    assert (await waiting).events == 5 * 5
    await assert_old_days_are_settled(observer)


async def test_a_day_whose_events_were_all_deleted_before_is_frozen_empty(connect: Connect) -> None:
    connection = await connect()
    await insert(connection, FIRST, 5, last_day=LAST)
    await rebuild(connection, DayRange(FIRST, LAST))
    await connection.execute("DELETE FROM analytics_events WHERE occurred_day = $1", FIRST)

    await prune(connection)

    assert await counted(connection) == 4 * 5
    await assert_old_days_are_settled(connection)


async def test_days_that_a_rollup_has_dropped_are_only_counted_in_the_other_one(connect: Connect) -> None:
    connection = await connect()
    await insert(connection, FIRST, 5, last_day=LAST)
    kept_from = date(2026, 1, 5)
    await connection.execute("UPDATE horizons SET kept_from = $1 WHERE subject = 'entity'", kept_from)

    await prune(connection)

    assert await connection.fetchval("SELECT min(day) FROM rollup_entity") == kept_from
    assert await connection.fetchval("SELECT sum(event_count) FROM rollup_source_status") == 5 * 5
    await assert_nothing_lost(connection)


async def test_an_event_that_comes_once_its_day_is_counted_is_late_and_stays_in_the_log(connect: Connect) -> None:
    pruning, holder, writer = await connect(), await connect(), await connect()
    await insert(writer, FIRST, 5, last_day=LAST)
    async with transaction(holder):
        await holder.execute("LOCK TABLE rollup_entity IN SHARE MODE")  # a prune stops there, with its events deleted
        waiting = await blocked(prune(pruning), pruning, holder, by="relation")
        await insert(writer, FIRST, 2, prefix="late")
    pruned = await waiting

    assert (pruned.events, pruned.late_events) == (5 * 5, 2)
    assert await counted(writer) == 5 * 5
    assert FIRST in await logged_days(writer)


# Rebuilds


async def test_a_rebuild_that_has_taken_the_log_and_not_yet_locked_the_days_goes_first(
    connect: Connect, logged: list[EventDict]
) -> None:
    pruning, rebuilding = await connect(), await connect()
    await insert(rebuilding, FIRST, 5, last_day=LAST)
    async with transaction(rebuilding):
        await store.take_changes(rebuilding, list(OLD))
        waiting = asyncio.create_task(prune(pruning))
        await until_it_retries(logged)
        await publish_days(rebuilding, await merge_days(rebuilding, OLD), run_id=None)

    assert (await waiting).events == 5 * 5
    await assert_old_days_are_settled(rebuilding)


async def test_a_rebuild_that_waits_for_a_prune_finds_the_days_frozen_and_changes_nothing(connect: Connect) -> None:
    pruning, rebuilding, holder, observer = [await connect() for _ in range(4)]
    await insert(observer, FIRST, 5, last_day=LAST)
    async with transaction(holder):
        await holder.execute("LOCK TABLE rollup_entity IN SHARE MODE")  # a prune stops there, with its days locked
        waiting = await blocked(prune(pruning), pruning, observer, by="relation")
        refused = await blocked(rebuild(rebuilding, OLD), rebuilding, observer)
    await waiting
    with pytest.raises(FrozenDays):
        await refused

    assert await counted(observer) == 5 * 5
    await assert_old_days_are_settled(observer)


async def test_two_prunes_delete_and_count_each_event_once(connect: Connect) -> None:
    connections = [await connect() for _ in range(3)]
    await insert(connections[0], date(2025, 11, 1), 5, last_day=LAST)
    there = await connections[0].fetchval("SELECT count(*) FROM analytics_events WHERE occurred_day < $1", BEFORE)

    pruned = await asyncio.gather(*(prune(connection) for connection in connections))

    assert sum(each.events for each in pruned) == await counted(connections[0]) == there
    audited = "SELECT sum((metadata ->> 'events')::integer) FROM audit_entries WHERE action = 'events.pruned'"
    assert await connections[0].fetchval(audited) == there
    await assert_old_days_are_settled(connections[0])


# The refresher


async def test_a_late_event_marks_its_frozen_day_and_no_other(connect: Connect, database_url: str) -> None:
    connection = await connect()
    await insert(connection, FIRST, 5, last_day=LAST)
    await prune(connection)
    frozen = await snapshot_numbers(connection, before=BEFORE)
    await insert(connection, FIRST, 2, prefix="late")

    async with following(database_url):
        await until_true(connection, "SELECT NOT EXISTS(SELECT FROM event_changes)")

    marked = await connection.fetch("SELECT DISTINCT day FROM snapshot_buckets WHERE stale_since IS NOT NULL")
    assert [row["day"] for row in marked] == [FIRST]
    told = "SELECT resource_id FROM audit_entries WHERE action = 'snapshot.out_of_date'"
    assert [row["resource_id"] for row in await connection.fetch(told)] == [str(FIRST)]
    await assert_snapshots_equal_events(connection, frozen=frozen)

    assert await prune(connection) == Pruned(events=0, kept_from=BEFORE, late_events=2)
    assert await snapshot_numbers(connection, before=BEFORE) == frozen


class following:  # noqa: N801 - used like a function
    """A refresher at work, for the length of a block."""

    def __init__(self, url: str) -> None:
        self._pool = Postgres(
            url, size=1, timeout=timedelta(seconds=10), name="refresher", lock_timeout=timedelta(seconds=2)
        )

    async def __aenter__(self) -> None:
        async def ignore(_: object) -> None: ...

        await self._pool.open()
        self._refresher = Refresher(self._pool, interval=timedelta(milliseconds=10), on_versions=ignore)
        await self._refresher.start()

    async def __aexit__(self, *_: object) -> None:
        await self._refresher.stop()
        await self._pool.close()


#: Everything that writers ever wrote, kept by a trigger that overlooks what a prune deletes.
_LEDGER = """
    CREATE TABLE ledger AS SELECT * FROM analytics_events;
    CREATE FUNCTION keep_ledger() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF current_setting('application_name') <> 'prune' THEN
            DELETE FROM ledger WHERE external_ref = OLD.external_ref;
            IF TG_OP <> 'DELETE' THEN
                INSERT INTO ledger SELECT NEW.*;
            END IF;
        END IF;
        RETURN NULL;
    END
    $$;
    CREATE TRIGGER keep_ledger AFTER INSERT OR UPDATE OR DELETE ON analytics_events
    FOR EACH ROW EXECUTE FUNCTION keep_ledger();
"""
#: Frozen days that are not marked, and whose snapshots are not what was ever written for them.
_WRONG = """
    WITH settled AS (
        SELECT day FROM snapshot_buckets WHERE rollup = 'entity' AND day < $1 AND stale_since IS NULL
    ),
    expected AS (
        SELECT occurred_day AS day, entity_id, count(*) AS event_count FROM ledger
        WHERE occurred_day IN (SELECT day FROM settled) GROUP BY 1, 2
    ),
    found AS (SELECT * FROM rollup_entity WHERE day IN (SELECT day FROM settled))
    (SELECT * FROM expected EXCEPT ALL SELECT * FROM found)
    UNION ALL (SELECT * FROM found EXCEPT ALL SELECT * FROM expected)
"""


async def test_a_frozen_day_counts_all_that_was_ever_written_for_it_or_is_marked(
    connect: Connect, database_url: str
) -> None:
    observer = await connect()
    first = date(2025, 11, 1)
    days = list(DayRange(first, LAST))
    await insert(observer, first, 20, last_day=LAST)
    await observer.execute(_LEDGER)
    pruning = await connect(application_name="prune")
    is_over = asyncio.Event()
    # Days that nobody begins to write for once they are being pruned. The others may all be marked in the end, and then
    # only these tell whether a frozen day counts everything.
    quiet, pruned_before = set(days[::4]), first

    async def write(number: int, connection: Connection) -> None:
        random, turn = Random(number), 0
        while not is_over.is_set():
            turn += 1
            day, other = random.choices([day for day in days if day >= pruned_before or day not in quiet], k=2)
            await insert(connection, day, 2, prefix=f"w{number}-{turn}")
            await connection.execute(
                "UPDATE analytics_events SET occurred_at = $1::date::timestamp AT TIME ZONE 'UTC' "
                "WHERE external_ref = (SELECT external_ref FROM analytics_events WHERE occurred_day = $2 LIMIT 1)",
                *(other, day),
            )
            await connection.execute(
                "DELETE FROM analytics_events "
                "WHERE external_ref = (SELECT external_ref FROM analytics_events WHERE occurred_day = $1 LIMIT 1)",
                other,
            )

    async def recompute(connection: Connection) -> None:
        random = Random(99)
        while not is_over.is_set():
            start, end = sorted(random.choices(days, k=2))
            with suppress(FrozenDays):
                await rebuild(connection, DayRange(start, end))

    writers = [await connect() for _ in range(3)]
    others = [
        *(asyncio.create_task(write(number, writer)) for number, writer in enumerate(writers)),
        asyncio.create_task(recompute(await connect())),
    ]
    async with following(database_url):
        for pruned_before in (date(2025, 11, 20), date(2025, 12, 10), BEFORE):
            await prune_events(pruning, pruned_before, actor="ada")
        is_over.set()
        await asyncio.gather(*others)
        await until_true(observer, "SELECT NOT EXISTS(SELECT FROM event_changes)")

    assert not await observer.fetch(_WRONG, BEFORE)
    settled = "SELECT count(*) FROM snapshot_buckets WHERE rollup = 'entity' AND day < $1 AND stale_since IS NULL"
    assert await observer.fetchval(settled, BEFORE), "the test has compared nothing"
    await assert_snapshots_equal_events(observer)
