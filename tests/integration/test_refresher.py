"""The refresher: every committed change reaches the rollups by itself, whoever writes and whatever happens to it.

It is parked where a test wants it by a trigger of the test's own, which waits for a lock at a step of its transaction.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from random import Random

import asyncpg
import pytest

from pg_analytics.app import REBUILDING_PACKAGES
from pg_analytics.postgres.pool import Connection, Postgres
from pg_analytics.postgres.statements import statements_of
from pg_analytics.snapshots import pace, refresh
from pg_analytics.snapshots import store as snapshots
from pg_analytics.snapshots.refresh import Refresher
from pg_analytics.snapshots.store import StaleDay
from tests.events import add_source, insert
from tests.oracle import assert_nothing_stuck, assert_snapshots_equal_events
from tests.proxy import Proxy
from tests.rebuilding import Connect, logged_days
from tests.waiting import until_parked, until_true, until_unlocked
from tests.working import parked

pytestmark = pytest.mark.anyio

NEWEST = date(2026, 3, 31)
OLD = date(2026, 1, 5)
MONTH = [OLD + timedelta(days=n) for n in range(30)]
COLUMNS = ("external_ref", "source_id", "entity_id", "status", "processing_ms", "amount_cents", "occurred_at")

#: So often it looks, unless a test says otherwise; older days are then gathered for a tenth of a second.
BEAT = timedelta(milliseconds=12)
#: So seldom that it looks once in a test.
ONCE = timedelta(hours=1)
SHORT = timedelta(milliseconds=100)

#: Table, trigger and condition of the steps at which a refresher is parked. The last one is its commit.
STEPS = {
    "takes the log": "BEFORE DELETE ON event_changes FOR EACH ROW",
    "writes its numbers": "BEFORE INSERT OR UPDATE OR DELETE ON rollup_entity FOR EACH ROW",
    "records the day": "BEFORE INSERT OR UPDATE ON snapshot_buckets FOR EACH ROW",
    "moves the versions": "BEFORE UPDATE OF version ON report_definitions FOR EACH ROW",
    "commits": "AFTER INSERT OR UPDATE ON snapshot_buckets DEFERRABLE INITIALLY DEFERRED FOR EACH ROW",
}
NOTHING_LOGGED = "SELECT NOT EXISTS(SELECT FROM event_changes)"

Write = Callable[[Connection], Awaitable[object]]


@asynccontextmanager
async def following(
    url: str,
    *,
    interval: timedelta = BEAT,
    told: "list[Mapping[str, int]] | None" = None,
    lock_timeout: timedelta | None = None,
    statement_timeout: timedelta = timedelta(minutes=1),
) -> AsyncIterator[Refresher]:
    """A refresher at work, for the length of a block."""

    async def tell(versions: Mapping[str, int]) -> None:
        if told is not None:
            told.append(versions)

    pool = Postgres(
        url,
        size=1,
        timeout=timedelta(seconds=2),
        name="refresher",
        statement_timeout=statement_timeout,
        lock_timeout=lock_timeout,
        prepared=statements_of(*REBUILDING_PACKAGES),
    )
    refresher = Refresher(pool, interval=interval, on_versions=tell)
    await pool.open()
    await refresher.start()
    try:
        yield refresher
    finally:
        await refresher.stop()
        await pool.close()


@asynccontextmanager
async def parking(url: str, step: str) -> AsyncIterator[None]:
    """Parks whoever comes to that step, for the length of a block."""
    holder = await asyncpg.connect(url)
    kind = "CONSTRAINT TRIGGER" if step == "commits" else "TRIGGER"
    try:
        await holder.execute(
            f"""
            CREATE FUNCTION park() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM pg_advisory_xact_lock_shared(4711);
                RETURN coalesce(NEW, OLD);
            END
            $$;
            CREATE {kind} park {STEPS[step]} EXECUTE FUNCTION park();
            """
        )
        async with holder.transaction():
            await holder.execute("SELECT pg_advisory_xact_lock(4711)")
            yield
    finally:
        await holder.close()


@asynccontextmanager
async def spoiling(url: str, day: date, how: str) -> AsyncIterator[None]:
    """Makes the rebuild of `day` fail, for the length of a block."""
    holder = await asyncpg.connect(url)
    try:
        if how == "its statement fails":
            await holder.execute(f"ALTER TABLE rollup_entity ADD CONSTRAINT no_room CHECK (day <> '{day}')")
            yield
            await holder.execute("ALTER TABLE rollup_entity DROP CONSTRAINT no_room")
            return
        await holder.execute(
            f"""
            CREATE FUNCTION hold_up() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM pg_advisory_xact_lock_shared(4711);
                RETURN NEW;
            END
            $$;
            CREATE TRIGGER hold_up BEFORE INSERT ON rollup_entity
            FOR EACH ROW WHEN (NEW.day = '{day}') EXECUTE FUNCTION hold_up();
            """
        )
        async with holder.transaction():
            await holder.execute("SELECT pg_advisory_xact_lock(4711)")
            yield
    finally:
        await holder.close()


async def watch_rebuilds(connection: Connection) -> None:
    """From now on, note every rebuild of a day."""
    await connection.execute(
        """
        CREATE TABLE rebuilds_seen (id bigserial PRIMARY KEY, day date, seen_at timestamptz DEFAULT clock_timestamp());
        CREATE FUNCTION see_rebuild() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO rebuilds_seen (day) VALUES (NEW.day);
            RETURN NULL;
        END
        $$;
        CREATE TRIGGER see_rebuild AFTER INSERT OR UPDATE ON snapshot_buckets
        FOR EACH ROW WHEN (NEW.rollup = 'entity') EXECUTE FUNCTION see_rebuild();
        """
    )


async def rebuilds(connection: Connection) -> list[date]:
    """The days that were rebuilt, in that order."""
    return [row["day"] for row in await connection.fetch("SELECT day FROM rebuilds_seen ORDER BY id")]


async def let_wait(connection: Connection, age: timedelta) -> None:
    """Let everything in the log have waited for so long."""
    await connection.execute("UPDATE event_changes SET logged_at = clock_timestamp() - $1::interval", age)


async def until_refreshed(connection: Connection) -> None:
    """Until the log is empty; then every number is right, and nothing is left behind."""
    await until_true(connection, NOTHING_LOGGED)
    # Another refresher may be in the middle of a day that this one has brought up to date a moment before it.
    await until_unlocked(connection)
    await assert_snapshots_equal_events(connection)
    await assert_nothing_stuck(connection)


def at(day: date) -> datetime:
    """Noon of a day."""
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)


# Whoever writes


async def write_one(connection: Connection) -> None:
    await insert(connection, NEWEST, 1, prefix="one")


async def copy(connection: Connection) -> None:
    source = await connection.fetchval("SELECT id FROM event_sources")
    records = [(f"copied-{n}", source, "x", "success", 1, 1, at(day)) for n, day in enumerate([OLD, NEWEST, NEWEST])]
    await connection.copy_records_to_table("analytics_events", columns=COLUMNS, records=records)


async def several_in_one_transaction(connection: Connection) -> None:
    async with connection.transaction():
        await insert(connection, NEWEST, 2, prefix="several")
        await connection.execute("DELETE FROM analytics_events WHERE occurred_day = $1", OLD)


def statement(sql: str, *arguments: object) -> Write:
    """That statement, as a plain connection sends it."""
    return lambda connection: connection.execute(sql, *arguments)


WRITES: dict[str, Write] = {
    "an insert": write_one,
    "an update that moves events to another day": statement(
        "UPDATE analytics_events SET occurred_at = $1 WHERE occurred_day = $2", at(NEWEST), OLD
    ),
    "an update of what is counted": statement("UPDATE analytics_events SET status = 'failed', entity_id = 'x'"),
    "a delete": statement("DELETE FROM analytics_events WHERE status = 'failed'"),
    "copy": copy,
    "several statements in one transaction": several_in_one_transaction,
}
TRUNCATION = {"a truncation": statement("TRUNCATE analytics_events")}


@pytest.mark.parametrize("write", (WRITES | TRUNCATION).values(), ids=(WRITES | TRUNCATION).keys())
async def test_whatever_a_writer_commits_reaches_the_rollups_and_leaves_the_log(
    connection: Connection, connect: Connect, database_url: str, write: Write
) -> None:
    told: list[Mapping[str, int]] = []
    await insert(connection, OLD, 20, last_day=OLD + timedelta(days=1))
    await insert(connection, NEWEST, 20)
    async with following(database_url, told=told):
        await until_refreshed(connection)
        before = await connection.fetchval("SELECT version FROM report_definitions WHERE slug = 'top-entities'")
        count = len(told)
        await write(await connect())
        await until_refreshed(connection)

    after = await connection.fetchval("SELECT version FROM report_definitions WHERE slug = 'top-entities'")
    assert after > before
    assert any(versions.get("top-entities") == after for versions in told[count:])


async def test_what_is_rolled_back_or_not_committed_yet_reaches_nothing(
    connection: Connection, connect: Connect, database_url: str
) -> None:
    await watch_rebuilds(connection)
    await add_source(connection)
    writer = await connect()
    writing = writer.transaction()
    await writing.start()
    await insert(writer, OLD, 20)
    async with following(database_url):
        await insert(connection, NEWEST, 1)
        await until_true(connection, "SELECT EXISTS(SELECT FROM rebuilds_seen)")
        await until_refreshed(connection)
        assert set(await rebuilds(connection)) == {NEWEST}
        await writing.rollback()
        await insert(connection, NEWEST, 1, prefix="more")
        await until_refreshed(connection)
    assert set(await rebuilds(connection)) == {NEWEST}


# Which day when


async def test_the_newest_day_is_rebuilt_at_once_and_older_ones_are_gathered(
    connection: Connection, database_url: str
) -> None:
    await watch_rebuilds(connection)
    await insert(connection, OLD, 2, last_day=MONTH[-1])
    await insert(connection, NEWEST, 2)
    async with following(database_url, interval=ONCE):
        await until_true(connection, "SELECT EXISTS(SELECT FROM rebuilds_seen)")
    assert await rebuilds(connection) == [NEWEST]
    assert sorted(await logged_days(connection)) == MONTH


async def test_once_they_have_waited_for_long_enough_older_days_are_rebuilt_newest_first_each_once(
    connection: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "_MOST", 3)  # more than ten chunks
    await watch_rebuilds(connection)
    for n in range(5):
        await insert(connection, OLD, 2, last_day=MONTH[-1], prefix=f"e{n}")
    await insert(connection, NEWEST, 2)
    await let_wait(connection, 9 * ONCE)
    async with following(database_url, interval=ONCE):
        await until_refreshed(connection)
    seen = await rebuilds(connection)
    assert seen[0] == NEWEST
    assert sorted(seen) == [*MONTH, NEWEST]
    assert [max(seen[n : n + 3]) for n in range(1, len(seen), 3)] == sorted(MONTH, reverse=True)[::3]


async def test_a_stream_into_the_newest_day_does_not_keep_older_days_waiting(
    connection: Connection, connect: Connect, database_url: str
) -> None:
    writer, written = await connect(), 0
    await insert(connection, OLD, 5, last_day=MONTH[-1])
    ended = asyncio.Event()

    async def stream() -> None:
        nonlocal written
        while not ended.is_set():
            await insert(writer, NEWEST, 1, prefix=f"s{written}")
            written += 1

    streaming = asyncio.create_task(stream())
    async with following(database_url):
        try:
            built = "SELECT count(*) = $1 FROM snapshot_buckets WHERE rollup = 'entity' AND day <> $2"
            await until_true(connection, built, len(MONTH), NEWEST)
            assert not streaming.done()
        finally:
            ended.set()
            await streaming
        await until_refreshed(connection)


async def test_a_long_round_of_older_days_is_interrupted_by_the_newest_day_after_the_chunk_in_hand(
    connection: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "_FIRST", 1)
    monkeypatch.setattr(pace, "_MOST", 1)
    await watch_rebuilds(connection)
    await insert(connection, OLD, 5, last_day=MONTH[-1])
    await let_wait(connection, ONCE)
    in_hand = MONTH[-5]
    async with AsyncExitStack() as at_work:
        async with spoiling(database_url, in_hand, "a lock is held"):
            await at_work.enter_async_context(following(database_url))
            await until_parked(connection)
            await insert(connection, NEWEST, 5)
        await until_refreshed(connection)
    seen = await rebuilds(connection)
    assert seen.index(NEWEST) <= seen.index(in_hand) + 2, "what was in hand, and at most one chunk more"


# Side by side


async def test_two_refreshers_share_the_days_and_neither_waits_for_the_other(
    connection: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "_MOST", 3)
    await insert(connection, OLD, 5, last_day=MONTH[-1])
    await let_wait(connection, ONCE)
    async with AsyncExitStack() as at_work:
        # Whoever comes to this day is held in the middle of a chunk, and holds the days of the chunk.
        async with spoiling(database_url, MONTH[15], "a lock is held"):
            for _ in range(2):
                await at_work.enter_async_context(following(database_url))
            await until_true(connection, "SELECT count(DISTINCT occurred_day) <= 3 FROM event_changes")
            assert MONTH[15] in await logged_days(connection)
        await until_refreshed(connection)


async def test_a_day_that_somebody_else_is_rebuilding_is_left_to_them_and_the_others_are_not(
    connection: Connection, database_url: str
) -> None:
    await insert(connection, OLD, 5, last_day=MONTH[-1])
    theirs = MONTH[10]
    async with AsyncExitStack() as at_work:
        async with parked(database_url, theirs) as observer:
            await at_work.enter_async_context(following(database_url))
            await until_true(observer, "SELECT count(DISTINCT occurred_day) = 1 FROM event_changes")
            assert await logged_days(observer) == [theirs]
        await until_refreshed(connection)


async def test_refreshers_lose_nothing_of_what_several_writers_write_at_the_same_time(
    connection: Connection, connect: Connect, database_url: str
) -> None:
    await insert(connection, OLD, 5, last_day=MONTH[-1])

    async def write(number: int) -> None:
        random, writer = Random(number), await connect()
        for n in range(60):
            day = random.choice([*MONTH, *[NEWEST] * 20])
            match random.randrange(6):
                case 0:
                    await writer.execute(
                        "UPDATE analytics_events SET occurred_at = $1 WHERE external_ref LIKE $2",
                        at(random.choice(MONTH)),
                        f"w{number}-{random.randrange(n + 1)}-%",
                    )
                case 1:
                    await writer.execute(
                        "DELETE FROM analytics_events WHERE external_ref LIKE $1",
                        f"w{number}-{random.randrange(n + 1)}-%",
                    )
                case 2:
                    async with writer.transaction():
                        await insert(writer, day, 2, prefix=f"w{number}-{n}")
                        await insert(writer, random.choice(MONTH), 2, prefix=f"w{number}-{n}b")
                case _:
                    await insert(writer, day, 3, prefix=f"w{number}-{n}")

    async with following(database_url), following(database_url), following(database_url):
        await asyncio.gather(*(write(number) for number in range(4)))
        await until_refreshed(connection)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
async def test_no_writer_ever_waits_for_a_refresher(
    connection: Connection, connect: Connect, database_url: str, step: str, write: Write
) -> None:
    await insert(connection, OLD, 20)
    await insert(connection, NEWEST, 20)
    async with AsyncExitStack() as at_work:
        async with parking(database_url, step):
            await at_work.enter_async_context(following(database_url))
            await until_parked(connection)
            await write(await connect(lock_timeout="5s"))
            assert (await logged_days(connection)) != []
        await until_refreshed(connection)


# Whatever happens


@pytest.mark.parametrize("step", STEPS)
async def test_a_refresher_whose_connection_drops_at_any_step_does_its_day_again(
    connection: Connection, database_url: str, step: str
) -> None:
    await insert(connection, NEWEST, 20)
    with Proxy(database_url) as proxy:
        async with AsyncExitStack() as at_work:
            async with parking(database_url, step):
                await at_work.enter_async_context(following(proxy.url))
                await until_parked(connection)
                proxy.cut()
            await until_refreshed(connection)


@pytest.mark.parametrize("step", ["writes its numbers", "commits"])
async def test_a_refresher_whose_route_is_lost_in_a_statement_goes_on_over_another(
    connection: Connection, database_url: str, step: str
) -> None:
    await insert(connection, NEWEST, 20)
    with Proxy(database_url) as proxy:
        async with AsyncExitStack() as at_work:
            async with parking(database_url, step):
                patient = timedelta(seconds=1)
                await at_work.enter_async_context(following(proxy.url, statement_timeout=patient))
                await until_parked(connection)
                proxy.lose_route()
            # What the lost session holds, PostgreSQL gives back once it has idled in its transaction for long enough.
            await until_refreshed(connection)


async def test_a_refresher_whose_session_is_ended_goes_on(connection: Connection, database_url: str) -> None:
    await insert(connection, NEWEST, 20)
    async with AsyncExitStack() as at_work:
        async with parking(database_url, "writes its numbers"):
            await at_work.enter_async_context(following(database_url))
            await until_parked(connection)
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name = 'pg-analytics refresher'"
            )
        await until_refreshed(connection)


async def test_a_refresher_that_is_stopped_in_a_step_ends_and_leaves_the_day_in_the_log(
    connection: Connection, database_url: str
) -> None:
    await insert(connection, NEWEST, 20)
    async with parking(database_url, "writes its numbers"):
        async with following(database_url):
            await until_parked(connection)
        held = "SELECT count(*) = 1 FROM pg_locks AS l JOIN pg_database AS d ON l.database = d.oid "
        await until_true(connection, held + "WHERE l.locktype = 'advisory' AND d.datname = current_database()")
        assert await logged_days(connection) == [NEWEST]
        assert not await connection.fetch("SELECT FROM snapshot_buckets")
    async with following(database_url):
        await until_refreshed(connection)


# A day that cannot be rebuilt


@pytest.mark.parametrize("how", ["its statement fails", "its statement takes too long", "a lock is held"])
@pytest.mark.parametrize("day", [NEWEST, MONTH[15]], ids=["the newest day", "an old day"])
async def test_a_day_that_cannot_be_rebuilt_holds_up_no_other_and_is_rebuilt_once_it_can_be(
    connection: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch, day: date, how: str
) -> None:
    monkeypatch.setattr(refresh, "_ASIDE_S", 0.5)
    monkeypatch.setattr(refresh, "_RETRY_S", 0.5)
    await insert(connection, OLD, 5, last_day=MONTH[-1])
    await insert(connection, NEWEST, 5)
    await let_wait(connection, ONCE)
    lock_timeout = SHORT if how == "a lock is held" else None
    async with AsyncExitStack() as at_work:
        async with spoiling(database_url, day, how):
            await at_work.enter_async_context(
                following(database_url, lock_timeout=lock_timeout, statement_timeout=5 * SHORT)
            )
            await until_true(connection, "SELECT count(DISTINCT occurred_day) = 1 FROM event_changes")
            assert await logged_days(connection) == [day]
            # And what comes later is followed as well.
            await insert(connection, NEWEST + timedelta(days=1), 5)
            await insert(connection, OLD, 5, prefix="late")
            await until_true(connection, "SELECT count(DISTINCT occurred_day) = 1 FROM event_changes")
            assert await logged_days(connection) == [day]
        await until_refreshed(connection)


@pytest.mark.parametrize("table", ["rollup_entity", "event_changes", "analytics_events", "report_definitions"])
async def test_a_table_that_is_locked_holds_the_refresher_up_until_it_is_free(
    connection: Connection, connect: Connect, database_url: str, table: str
) -> None:
    await insert(connection, OLD, 5, last_day=MONTH[-1])
    person = await connect()
    async with following(database_url, lock_timeout=SHORT):
        async with person.transaction():
            await person.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            waits = "SELECT EXISTS(SELECT FROM pg_locks WHERE relation = $1::text::regclass AND NOT granted)"
            await until_true(connection, waits, table)
        await until_refreshed(connection)


async def test_a_defect_does_not_end_the_refresher(
    connection: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh, "_RETRY_S", 0.01)
    failed = asyncio.Event()

    async def fail(_: Connection) -> list[StaleDay]:
        failed.set()
        raise ZeroDivisionError

    monkeypatch.setattr(snapshots, "read_backlog", fail)
    async with following(database_url):
        await failed.wait()
        monkeypatch.undo()
        await insert(connection, NEWEST, 5)
        await until_refreshed(connection)
