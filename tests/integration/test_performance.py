"""How a run is performed: two lanes whose chunks commit in order, locks that are waited for in the open, giving way."""

from contextlib import AsyncExitStack
from datetime import date, timedelta
from uuid import uuid4

import pytest

from pg_analytics.postgres.pool import Connection
from pg_analytics.recompute import perform, store
from pg_analytics.recompute.store import Run, Scope
from pg_analytics.recompute.trigger import Trigger
from pg_analytics.redis.client import RedisClient
from pg_analytics.snapshots import store as snapshots
from pg_analytics.windows import DayRange
from tests.events import insert
from tests.oracle import assert_nothing_stuck, assert_snapshots_equal_events
from tests.rebuilding import Connect
from tests.waiting import until_parked, until_true
from tests.working import (
    CHUNK_DAYS,
    MONDAY,
    THREE_CHUNKS,
    assert_progress_was_contiguous,
    parked,
    run_of,
    scope,
    trail,
    until_committed,
    until_status,
    watch_progress,
    working,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_settling", "steady_pace")]

SHORT = timedelta(milliseconds=100)
OLDEST, MIDDLE, NEWEST = (MONDAY + timedelta(days=n * CHUNK_DAYS) for n in range(3))
LATER = DayRange(date(2026, 3, 2), date(2026, 3, 9))

#: What a rebuild reads or writes, but for the runs themselves.
TABLES = (
    "analytics_events",
    "event_changes",
    "horizons",
    "report_definitions",
    "rollup_entity",
    "rollup_source_status",
    "snapshot_buckets",
)
#: Some session of a worker has merged its chunk and waits for its turn.
MERGED = """
    SELECT EXISTS(
        SELECT FROM pg_stat_activity
        WHERE
            datname = current_database() AND application_name = 'pg-analytics worker'
            AND state = 'idle in transaction' AND clock_timestamp() - state_change > INTERVAL '100 ms'
    )
"""


@pytest.fixture
async def observer(connection: Connection) -> Connection:
    """A connection to a database with three weeks of events, which watches the progress of runs."""
    await insert(connection, THREE_CHUNKS.start, 21, last_day=THREE_CHUNKS.last)
    await watch_progress(connection)
    return connection


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes that neither wait for their turn for long nor rest for long between two tries."""
    monkeypatch.setattr(perform, "_TURN_S", 0.05)
    monkeypatch.setattr(perform, "_RETRY_S", 0.01)


async def enter(connection: Connection, asked: Scope, *, scheduled: bool = False) -> Run:
    """A run in the backlog, past the gates of a trigger."""
    return await store.insert_run(connection, uuid4(), asked, "somebody", scheduled=scheduled)


async def assert_all_is_well(connection: Connection) -> None:
    """Every number is right, nothing is left behind, and nothing was committed out of order."""
    await assert_snapshots_equal_events(connection)
    await assert_nothing_stuck(connection)
    await assert_progress_was_contiguous(connection)


# Lanes


async def test_a_quick_lane_commits_nothing_before_a_slow_one_whose_days_are_newer(
    trigger: Trigger, redis: RedisClient, observer: Connection, database_url: str
) -> None:
    run = await trigger.trigger(scope(THREE_CHUNKS), "client", via="test")
    async with AsyncExitStack() as at_work:
        async with parked(database_url, NEWEST):
            await at_work.enter_async_context(working(database_url, redis))
            await until_true(observer, MERGED)
            assert not await observer.fetch("SELECT FROM snapshot_buckets")
            assert (await run_of(observer, run.id)).remaining == run.covers
        completed = await until_status(observer, run.id, "completed")

    assert completed.attempt == 1
    assert completed.summary is not None
    assert completed.summary.rows_inserted == 21 * 10
    assert await observer.fetchval("SELECT count(*) FROM progress_seen") == 3
    await assert_all_is_well(observer)


@pytest.mark.usefixtures("impatient")
async def test_a_chunk_that_waits_for_its_turn_for_too_long_lets_go_of_its_days_and_is_done_again(
    trigger: Trigger, redis: RedisClient, observer: Connection, connect: Connect, database_url: str
) -> None:
    await observer.execute(
        """
        CREATE SEQUENCE merges;  -- counts what is rolled back, too
        CREATE FUNCTION count_merge() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM nextval('merges');
            RETURN NULL;
        END
        $$;
        CREATE TRIGGER count_merge AFTER INSERT ON rollup_entity FOR EACH STATEMENT EXECUTE FUNCTION count_merge();
        """
    )
    run = await trigger.trigger(scope(THREE_CHUNKS), "client", via="test")
    other = await connect()
    async with AsyncExitStack() as at_work:
        async with parked(database_url, NEWEST):
            await at_work.enter_async_context(working(database_url, redis))
            await until_true(observer, "SELECT is_called FROM merges")
            async with other.transaction():
                await snapshots.lock_days(other, [MIDDLE])
                await insert(other, MIDDLE, 1, prefix="meanwhile")
        await until_status(observer, run.id, "completed")

    assert await observer.fetchval("SELECT last_value FROM merges") == 3 + 1
    assert not await observer.fetch("SELECT FROM event_changes")
    await assert_all_is_well(observer)


@pytest.mark.parametrize("failing", [NEWEST, MIDDLE])
async def test_a_lane_that_fails_ends_the_other_and_the_run_is_handed_back(
    trigger: Trigger, redis: RedisClient, observer: Connection, database_url: str, failing: date
) -> None:
    waiting = MIDDLE if failing == NEWEST else NEWEST
    await observer.execute(f"ALTER TABLE rollup_entity ADD CONSTRAINT no_room CHECK (day <> '{failing}')")
    run = await trigger.trigger(scope(THREE_CHUNKS), "client", via="test")
    async with parked(database_url, waiting), working(database_url, redis):
        await until_true(observer, "SELECT failures = 1 FROM recompute_runs")
        handed_back = await run_of(observer, run.id)
        assert (handed_back.status, handed_back.remaining) == ("pending", run.covers)
        assert not await observer.fetch("SELECT FROM snapshot_buckets")
        # Nobody waits for the day that is locked, though it still is, and no other day is held.
        locked = "SELECT count(*) = 1 FROM pg_locks AS l JOIN pg_database AS d ON l.database = d.oid "
        await until_true(observer, locked + "WHERE l.locktype = 'advisory' AND d.datname = current_database()")

    await observer.execute("ALTER TABLE rollup_entity DROP CONSTRAINT no_room")
    await observer.execute("UPDATE recompute_runs SET run_after = clock_timestamp()")
    async with working(database_url, redis):
        await until_status(observer, run.id, "completed")
    await assert_all_is_well(observer)


async def test_a_failure_of_an_older_chunk_keeps_what_newer_ones_have_committed(
    trigger: Trigger, redis: RedisClient, observer: Connection, database_url: str
) -> None:
    await observer.execute(f"ALTER TABLE rollup_entity ADD CONSTRAINT no_room CHECK (day <> '{OLDEST}')")
    run = await trigger.trigger(scope(THREE_CHUNKS), "client", via="test")
    async with AsyncExitStack() as at_work:
        async with parked(database_url, OLDEST):
            await at_work.enter_async_context(working(database_url, redis))
            await until_committed(observer, run, MIDDLE)
        await until_true(observer, "SELECT failures = 1 FROM recompute_runs")
        assert (await run_of(observer, run.id)).remaining == DayRange(OLDEST, MIDDLE)
        await observer.execute("ALTER TABLE rollup_entity DROP CONSTRAINT no_room")
        await observer.execute("UPDATE recompute_runs SET run_after = clock_timestamp()")
        completed = await until_status(observer, run.id, "completed")

    assert completed.summary is not None
    assert completed.summary.rows_inserted == 21 * 10
    await assert_all_is_well(observer)


@pytest.mark.usefixtures("impatient")
async def test_runs_over_the_same_days_by_impatient_workers_all_complete_without_a_failure(
    trigger: Trigger, redis: RedisClient, connection: Connection, database_url: str
) -> None:
    days = DayRange(MONDAY, MONDAY + timedelta(days=12 * CHUNK_DAYS))
    await insert(connection, days.start, 50, last_day=days.last)
    some = [DayRange(days.start + timedelta(days=n), days.end - timedelta(days=2 * n)) for n in range(6)]
    slugs = ("volume-by-period", "top-entities", "status-counts")
    runs = [await trigger.trigger(scope(one, slugs[n % 3]), "client", via="test") for n, one in enumerate(some)]

    async with (
        working(database_url, redis, count=2, lock_timeout=SHORT / 4),
        working(database_url, redis, lock_timeout=SHORT / 4),
    ):
        for run in runs:
            completed = await until_status(connection, run.id, "completed")
            assert (completed.attempt, completed.failures) == (1, 0)

    await assert_snapshots_equal_events(connection)
    await assert_nothing_stuck(connection)


# Waiting


async def test_a_run_that_waits_for_days_says_so_and_goes_on_when_they_are_free(
    trigger: Trigger, redis: RedisClient, observer: Connection, database_url: str
) -> None:
    run = await trigger.trigger(scope(THREE_CHUNKS), "client", via="test")
    async with AsyncExitStack() as at_work:
        async with parked(database_url, MIDDLE):
            await at_work.enter_async_context(working(database_url, redis, lock_timeout=SHORT))
            await until_committed(observer, run, NEWEST)
            await until_true(observer, "SELECT waiting_for IS NOT NULL FROM recompute_runs")
            waiting = await run_of(observer, run.id)
            assert waiting.waiting_for == f"another rebuild of days from {MIDDLE} to {NEWEST - timedelta(days=1)}"
            assert (waiting.status, waiting.attempt, waiting.failures) == ("running", 1, 0)
        completed = await until_status(observer, run.id, "completed")

    assert (completed.attempt, completed.failures, completed.waiting_for) == (1, 0, None)
    assert await trail(observer, run.id) == ["triggered", "completed"]
    await assert_all_is_well(observer)


@pytest.fixture
async def person(connect: Connect) -> Connection:
    """Somebody who locks what they should not."""
    return await connect(application_name="a person at psql")


@pytest.mark.parametrize("table", TABLES)
async def test_a_run_that_waits_for_a_table_names_the_session_that_holds_it(
    redis: RedisClient, observer: Connection, person: Connection, database_url: str, table: str
) -> None:
    run = await enter(observer, scope(THREE_CHUNKS))
    async with AsyncExitStack() as at_work:
        async with person.transaction():
            await person.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            await at_work.enter_async_context(working(database_url, redis, lock_timeout=SHORT))
            await until_true(observer, "SELECT waiting_for IS NOT NULL FROM recompute_runs")
            waiting = await run_of(observer, run.id)
            holder = f"AccessExclusiveLock on {table} by session {person.get_server_pid()} (a person at psql)"
            assert waiting.waiting_for == holder
            assert (waiting.status, waiting.attempt, waiting.failures) == ("running", 1, 0)
        completed = await until_status(observer, run.id, "completed")

    assert (completed.attempt, completed.failures, completed.waiting_for) == (1, 0, None)
    await assert_all_is_well(observer)


async def test_a_run_whose_own_row_is_locked_for_longer_than_its_lease_is_not_lost(
    trigger: Trigger, redis: RedisClient, observer: Connection, connect: Connect, database_url: str
) -> None:
    run = await trigger.trigger(scope(THREE_CHUNKS), "client", via="test")
    person = await connect()
    lease = timedelta(seconds=1)
    async with AsyncExitStack() as at_work:
        async with parked(database_url, NEWEST):
            await at_work.enter_async_context(working(database_url, redis, lease=lease, lock_timeout=SHORT))
            await until_true(observer, "SELECT waiting_for IS NOT NULL FROM recompute_runs")
            locked = person.transaction()
            await locked.start()
            await person.execute("LOCK TABLE recompute_runs IN ACCESS EXCLUSIVE MODE")
        overdue = "SELECT lease_expires_at + $1::interval < clock_timestamp() FROM recompute_runs"
        await until_true(person, overdue, lease)
        await locked.rollback()
        completed = await until_status(observer, run.id, "completed")

    assert (completed.attempt, completed.failures) == (1, 0)
    assert await trail(observer, run.id) == ["triggered", "completed"]
    await assert_all_is_well(observer)


async def test_a_run_whose_end_cannot_be_told_for_a_while_completes_without_a_failure(
    trigger: Trigger, redis: RedisClient, observer: Connection, connect: Connect, database_url: str
) -> None:
    run = await trigger.trigger(scope(THREE_CHUNKS), "client", via="test")
    person = await connect()
    async with AsyncExitStack() as at_work:
        async with person.transaction():
            await person.execute("LOCK TABLE audit_entries IN EXCLUSIVE MODE")
            await at_work.enter_async_context(working(database_url, redis, lock_timeout=SHORT))
            await until_committed(observer, run, OLDEST)
            tried_at = (
                "SELECT max(query_start) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
                "AND datname = current_database()"
            )
            await until_true(observer, f"SELECT ({tried_at}) IS NOT NULL")
            first = await observer.fetchval(tried_at)
            await until_true(observer, f"SELECT ({tried_at}) > $1", first)  # it has given up, and tries again
        completed = await until_status(observer, run.id, "completed")

    assert (completed.attempt, completed.failures) == (1, 0)
    assert await trail(observer, run.id) == ["triggered", "completed"]
    await assert_all_is_well(observer)


@pytest.mark.parametrize("lock_timeout", [SHORT, None], ids=["between two tries", "within a statement"])
async def test_a_run_that_is_cancelled_while_it_waits_stops_though_what_it_waits_for_is_still_held(
    trigger: Trigger, redis: RedisClient, observer: Connection, database_url: str, lock_timeout: timedelta | None
) -> None:
    run = await trigger.trigger(scope(THREE_CHUNKS), "client", via="test")
    async with parked(database_url, NEWEST), working(database_url, redis, lock_timeout=lock_timeout):
        if lock_timeout:
            await until_true(observer, "SELECT waiting_for IS NOT NULL FROM recompute_runs")
        else:
            await until_parked(observer)
        await trigger.cancel(run.id, "somebody")
        other = await trigger.trigger(scope(DayRange(OLDEST, MIDDLE)), "client", via="test")
        await until_status(observer, other.id, "completed")

    cancelled = await run_of(observer, run.id)
    assert (cancelled.status, cancelled.waiting_for) == ("cancelled", None)
    assert not await observer.fetch("SELECT FROM snapshot_buckets WHERE run_id = $1", run.id)
    assert await trail(observer, run.id) == ["triggered", "cancelled"]
    await assert_nothing_stuck(observer)


async def test_a_run_whose_days_are_frozen_has_failed_at_once_and_says_from_when_on_events_are_kept(
    trigger: Trigger, redis: RedisClient, observer: Connection, database_url: str
) -> None:
    run = await trigger.trigger(scope(THREE_CHUNKS), "client", via="test")
    await observer.execute("UPDATE horizons SET kept_from = $1 WHERE subject = 'events'", MIDDLE)
    async with working(database_url, redis):
        failed = await until_status(observer, run.id, "failed")

    assert failed.attempt == 1
    assert failed.error_message is not None
    assert str(MIDDLE) in failed.error_message
    assert await trail(observer, run.id) == ["triggered", "failed"]
    await assert_nothing_stuck(observer)
    await assert_progress_was_contiguous(observer)


# Giving way


async def test_a_run_of_a_schedule_lets_one_that_somebody_asked_for_go_first_and_then_goes_on(
    trigger: Trigger, redis: RedisClient, observer: Connection, database_url: str
) -> None:
    await insert(observer, LATER.start, 21, last_day=LATER.last)
    run = await enter(observer, scope(THREE_CHUNKS), scheduled=True)
    async with AsyncExitStack() as at_work:
        async with parked(database_url, NEWEST):
            await at_work.enter_async_context(working(database_url, redis))
            await until_parked(observer)
            asked_for = await trigger.trigger(scope(LATER), "client", via="test")
        first = await until_status(observer, asked_for.id, "completed")
        second = await until_status(observer, run.id, "completed")

    assert first.finished_at is not None
    assert second.finished_at is not None
    assert first.finished_at < second.finished_at
    assert (second.attempt, second.failures, second.error_message) == (2, 0, None)
    assert second.summary is not None
    assert second.summary.rows_inserted == 21 * 10
    await assert_all_is_well(observer)


async def test_runs_of_schedules_do_not_give_way_to_one_another(
    redis: RedisClient, observer: Connection, database_url: str
) -> None:
    runs = [await enter(observer, scope(days), scheduled=True) for days in (THREE_CHUNKS, LATER)]
    async with working(database_url, redis):
        for run in runs:
            assert (await until_status(observer, run.id, "completed")).attempt == 1
    await assert_all_is_well(observer)


async def test_a_run_of_a_schedule_that_fits_into_one_chunk_is_committed_once(
    redis: RedisClient, observer: Connection, database_url: str
) -> None:
    run = await enter(observer, scope(DayRange(OLDEST, MIDDLE)), scheduled=True)
    async with working(database_url, redis):
        await until_status(observer, run.id, "completed")

    assert await observer.fetchval("SELECT count(*) FROM progress_seen") == 1
    await assert_progress_was_contiguous(observer)


async def test_somebody_who_asks_is_served_while_a_schedule_waits_for_a_day(
    trigger: Trigger, redis: RedisClient, observer: Connection, database_url: str
) -> None:
    run = await enter(observer, scope(THREE_CHUNKS), scheduled=True)
    async with AsyncExitStack() as at_work:
        async with parked(database_url, NEWEST):
            await at_work.enter_async_context(working(database_url, redis, lock_timeout=SHORT))
            await until_true(observer, "SELECT waiting_for IS NOT NULL FROM recompute_runs")
            asked_for = await trigger.trigger(scope(LATER), "client", via="test")
            await until_status(observer, asked_for.id, "completed")
        await until_status(observer, run.id, "completed")
    await assert_all_is_well(observer)
