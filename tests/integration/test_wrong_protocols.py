"""Protocols that look right and lose updates: each in a schedule that the right one survives, and the oracle tells.

Every test drives its connections step by step through one schedule, twice: by a protocol with one fault, and by the
right one. What comes out is judged as everywhere else: after a pass over the days that the protocol holds for stale,
the snapshots either equal the events or they do not.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import date
from typing import Final, Literal

import asyncpg
import pytest

from pg_analytics.postgres.pool import Connection, transaction
from pg_analytics.snapshots import store
from pg_analytics.snapshots.rebuild import MergedDays, publish_days, rebuild_days
from tests.events import insert
from tests.oracle import assert_snapshots_equal_events
from tests.rebuilding import Connect, begun

pytestmark = pytest.mark.anyio

DAY = date(2026, 1, 5)

Step = Callable[[Connection], Awaitable[None]]


async def take(connection: Connection) -> None:
    """Step 1 of the protocol."""
    await store.take_changes(connection, [DAY])


async def lock(connection: Connection) -> None:
    """Step 2."""
    await store.lock_days(connection, [DAY])


async def merge(connection: Connection) -> None:
    """Step 3, and what publishes it."""
    rows = {rollup: await store.merge(connection, rollup, [DAY]) for rollup in store.ROLLUPS}
    await publish_days(connection, MergedDays({rollup: [DAY] for rollup in store.ROLLUPS}, rows), run_id=None)


async def lock_and_merge(connection: Connection) -> None:
    """One statement that waits for the lock and counts: its snapshot is from before the wait."""
    await connection.execute(
        """
        WITH locked AS MATERIALIZED (
            SELECT day, pg_advisory_xact_lock($2::integer, day - DATE '2000-01-01') FROM (SELECT $1::date AS day) AS d
        )

        INSERT INTO rollup_source_status (day, source_id, status, event_count)
        SELECT locked.day, e.source_id, e.status, count(*)
        FROM locked JOIN analytics_events AS e ON e.occurred_day = locked.day
        GROUP BY locked.day, e.source_id, e.status
        ON CONFLICT (day, source_id, status) DO UPDATE SET event_count = excluded.event_count
        """,
        DAY,
        store._DAY_LOCK_CLASS,
    )


@dataclass(frozen=True, slots=True)
class Protocol:
    """How stale days are noted (`set_up`), which ones are (`stale`), and in which steps a day is rebuilt."""

    set_up: str = ""
    stale: str = "SELECT DISTINCT occurred_day AS day FROM event_changes"
    steps: tuple[Step, ...] = (take, lock, merge)
    isolation: Literal["read_committed", "repeatable_read"] = "read_committed"

    async def install(self, connection: Connection) -> None:
        """Make the test's database one of this protocol."""
        if self.set_up:
            await connection.execute(self.set_up)

    async def rebuild(self, connection: Connection) -> None:
        """A whole rebuild of the day, in its transaction."""
        async with connection.transaction(isolation=self.isolation):
            for step in self.steps:
                await step(connection)

    async def follow(self, connection: Connection) -> None:
        """Rebuild the day if it is stale."""
        if await connection.fetch(self.stale):
            await self.rebuild(connection)


RIGHT: Final = Protocol()

# Instead of a row per statement and day ...
_LOG: Final = """
    CREATE FUNCTION log_wrongly() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO event_changes (external_ref, occurred_day)
        SELECT min(external_ref), occurred_day FROM new_rows {}
        RETURN NULL;
    END
    $$;

    CREATE OR REPLACE TRIGGER analytics_events_inserted AFTER INSERT ON analytics_events
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION log_wrongly();
"""
# ... one row per day, which says that it is stale,
FLAG: Final = Protocol(
    set_up="CREATE UNIQUE INDEX ON event_changes (occurred_day);"
    + _LOG.format("GROUP BY occurred_day ON CONFLICT DO NOTHING;")
)
# or no second row where there is one.
DEDUPLICATED: Final = Protocol(
    set_up=_LOG.format("WHERE occurred_day NOT IN (SELECT occurred_day FROM event_changes) GROUP BY occurred_day;")
)


async def move_watermark(connection: Connection) -> None:
    """The newest event that this pass can see is the one behind which the next pass looks."""
    await connection.execute("UPDATE watermark SET created_at = (SELECT max(created_at) FROM analytics_events)")


WATERMARK: Final = Protocol(
    set_up="CREATE TABLE watermark AS SELECT '-infinity'::timestamptz AS created_at",
    stale="SELECT FROM analytics_events WHERE created_at > (SELECT created_at FROM watermark)",
    steps=(move_watermark, lock, merge),
)

LOG_EMPTIED_LAST: Final = replace(RIGHT, steps=(lock, merge, take))
NO_LOCK: Final = replace(RIGHT, steps=(take, merge))
LOCK_AFTER_SNAPSHOT: Final = replace(RIGHT, steps=(take, lock_and_merge))
REPEATABLE_READ: Final = replace(RIGHT, isolation="repeatable_read")


def beside_the_right_one(wrong: Protocol) -> pytest.MarkDecorator:
    """Runs a schedule by a `protocol` that is `wrong`, whose numbers must be found to be so, and by the right one."""
    return pytest.mark.parametrize(
        "protocol, judged",
        [
            pytest.param(wrong, pytest.raises(AssertionError, match="rows that the events"), id="wrong"),
            pytest.param(RIGHT, nullcontext(), id="right"),
        ],
    )


async def judge(protocol: Protocol, connection: Connection) -> None:
    """What is left after a pass over what the protocol holds for stale."""
    await protocol.follow(connection)
    await assert_snapshots_equal_events(connection)


# How a stale day is noted


@beside_the_right_one(FLAG)
async def test_a_flag_is_cleared_by_a_rebuild_that_does_not_see_the_event_which_found_it_set(
    connect: Connect, protocol: Protocol, judged: AbstractContextManager[object]
) -> None:
    """Flag set - a writer finds it set - the rebuild clears it and counts - the writer commits."""
    rebuilding, writer = await connect(), await connect()
    await protocol.install(writer)
    await insert(writer, DAY, 3)
    async with transaction(writer):
        await insert(writer, DAY, 5, prefix="late")
        await protocol.rebuild(rebuilding)

    with judged:
        await judge(protocol, rebuilding)


@beside_the_right_one(DEDUPLICATED)
async def test_a_log_without_duplicates_lets_a_writer_rely_on_a_row_that_is_being_taken(
    connect: Connect, protocol: Protocol, judged: AbstractContextManager[object]
) -> None:
    """The rebuild takes the row and counts - a writer still sees the row, adds none, commits - the rebuild commits."""
    rebuilding, writer = await connect(), await connect()
    await protocol.install(writer)
    await insert(writer, DAY, 3)
    async with transaction(rebuilding):
        for step in protocol.steps:
            await step(rebuilding)
        await insert(writer, DAY, 5, prefix="late")

    with judged:
        await judge(protocol, rebuilding)


@beside_the_right_one(WATERMARK)
async def test_a_watermark_passes_an_event_that_was_created_before_it_and_committed_after(
    connect: Connect, protocol: Protocol, judged: AbstractContextManager[object]
) -> None:
    """A slow writer begins - a quick one begins and commits - the pass moves the mark - the slow one commits."""
    rebuilding, slow, quick = await connect(), await connect(), await connect()
    await protocol.install(quick)
    await insert(quick, DAY, 3)
    async with transaction(slow):
        await insert(slow, DAY, 5, prefix="slow")
        await insert(quick, DAY, 2, prefix="quick")
        await protocol.follow(rebuilding)

    with judged:
        await judge(protocol, rebuilding)


# The order of the steps


@beside_the_right_one(LOG_EMPTIED_LAST)
async def test_a_log_that_is_emptied_after_the_count_loses_what_came_in_between(
    connect: Connect, protocol: Protocol, judged: AbstractContextManager[object]
) -> None:
    """The rebuild goes through all of its steps but one - a writer commits - the rebuild takes its last step."""
    rebuilding, writer = await connect(), await connect()
    await insert(writer, DAY, 3)
    async with transaction(rebuilding):
        *steps, last = protocol.steps
        for step in steps:
            await step(rebuilding)
        await insert(writer, DAY, 5, prefix="late")
        await last(rebuilding)

    with judged:
        await judge(protocol, rebuilding)


@beside_the_right_one(NO_LOCK)
async def test_without_a_lock_a_slow_rebuild_overwrites_the_numbers_of_a_later_one(
    connect: Connect, protocol: Protocol, judged: AbstractContextManager[object]
) -> None:
    """The slow one counts, and halts before it writes - a writer commits - the quick one rebuilds what it can - the
    slow one writes.
    """
    slow, quick, writer, gate = (
        await connect(application_name="slow"),
        await connect(),
        await connect(),
        await connect(),
    )
    await insert(writer, DAY, 3)
    await protocol.rebuild(quick)
    await writer.execute(GATE)
    await insert(writer, DAY, 3, prefix="more")
    async with transaction(gate):
        await gate.execute("SELECT pg_advisory_xact_lock(42)")
        halted = await begun(protocol.rebuild(slow), slow, writer)
        assert not halted.done()
        await insert(writer, DAY, 5, prefix="late")
        waiting = await begun(protocol.rebuild(quick), quick, writer)  # without a lock, it is through here
    await halted
    await waiting

    with judged:
        await judge(protocol, writer)


#: Halts the session "slow" where a statement that has its snapshot begins to write into a rollup.
GATE: Final = """
    CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock(42);
        RETURN NULL;
    END
    $$;

    CREATE TRIGGER gate BEFORE UPDATE ON rollup_source_status FOR EACH STATEMENT
    WHEN (current_setting('application_name') = 'slow') EXECUTE FUNCTION wait_at_gate();
"""


@beside_the_right_one(LOCK_AFTER_SNAPSHOT)
async def test_a_lock_in_the_statement_that_counts_comes_after_its_snapshot(
    connect: Connect, protocol: Protocol, judged: AbstractContextManager[object]
) -> None:
    """The refresher has the lock - a rebuild waits for it - a writer commits - the refresher takes the log, counts and
    commits - the rebuild goes on.
    """
    refreshing, rebuilding, writer = await connect(), await connect(), await connect()
    await insert(writer, DAY, 3)
    async with transaction(refreshing):
        await store.try_lock_days(refreshing, [DAY])
        waiting = await begun(protocol.rebuild(rebuilding), rebuilding, writer)
        assert not waiting.done()
        await insert(writer, DAY, 5, prefix="late")
        await rebuild_days(refreshing, [DAY], run_id=None)
    await waiting

    with judged:
        await judge(protocol, writer)


@pytest.mark.parametrize(
    "protocol, outcome",
    [
        pytest.param(REPEATABLE_READ, pytest.raises(asyncpg.SerializationError), id="wrong"),
        pytest.param(RIGHT, nullcontext(), id="right"),
    ],
)
async def test_a_stricter_isolation_makes_a_rebuild_fail_that_another_one_overtook(
    connect: Connect, protocol: Protocol, outcome: AbstractContextManager[object]
) -> None:
    """A rebuild waits for the lock - the refresher counts and commits - the rebuild goes on: it fails, and loses
    nothing.
    """
    refreshing, rebuilding, writer = await connect(), await connect(), await connect()
    await insert(writer, DAY, 3)
    await protocol.rebuild(rebuilding)
    async with transaction(refreshing):
        await store.try_lock_days(refreshing, [DAY])
        await insert(writer, DAY, 3, prefix="more")
        waiting = await begun(protocol.rebuild(rebuilding), rebuilding, writer)
        assert not waiting.done()
        await rebuild_days(refreshing, [DAY], run_id=None)
    with outcome:
        await waiting

    await judge(protocol, writer)
