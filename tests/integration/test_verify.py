"""Verifying: every kind of drift is found, nothing else is called drift, and nothing is written.

Drift is made by plain SQL on a rollup: nothing that the service does leads to any.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import date, timedelta

import pytest

from pg_analytics.postgres.pool import Connection, transaction
from pg_analytics.snapshots import horizon_store, store
from pg_analytics.snapshots.months import mend_months
from pg_analytics.snapshots.rebuild import MergedDays, merge_days, publish_days, rebuild_days
from pg_analytics.snapshots.store import DriftedDay
from pg_analytics.snapshots.verify import Verified, verify_days, verify_months
from tests.events import insert
from tests.oracle import assert_snapshots_equal_events
from tests.rebuilding import Connect, assert_nothing_lost, blocked, rebuild

pytestmark = pytest.mark.anyio

DAY = date(2026, 1, 5)
BEFORE, AFTER = DAY - timedelta(days=1), DAY + timedelta(days=1)
DAYS = [BEFORE, DAY, AFTER]

#: What somebody may do to a rollup, and how many rows of the day are then missing, surplus or different.
TAMPERED = {
    "missing": ("DELETE FROM {rollup} WHERE day = '2026-01-05' AND {first}", (1, 0, 0)),
    "surplus": ("INSERT INTO {rollup} VALUES ({another})", (0, 1, 0)),
    "too many": ("UPDATE {rollup} SET event_count = event_count + 1 WHERE day = '2026-01-05' AND {first}", (0, 0, 1)),
    "too few": ("UPDATE {rollup} SET event_count = 1 WHERE day = '2026-01-05' AND {first}", (0, 0, 1)),
    "another": ("UPDATE {rollup} SET {renamed} WHERE day = '2026-01-05' AND {first}", (1, 1, 0)),
}
NAMES = {
    "source_status": {
        "first": "status = 'success'",
        "another": "'2026-01-05', 4711, 'success', 1",
        "renamed": "source_id = 4711",
    },
    "entity": {
        "first": "entity_id = 'entity-0'",
        "another": "'2026-01-05', 'nobody', 1",
        "renamed": "entity_id = 'nobody'",
    },
}


async def verify(connection: Connection, days: Iterable[date] = DAYS) -> Verified:
    """A verification in a transaction that may not write."""
    listed = list(days)
    async with connection.transaction(readonly=True):
        verified = await verify_days(connection, listed)
        drifted = {day.day for day in verified.drifted if day.rollup == "entity"}
        months = await verify_months(connection, listed, drifted=drifted)
    return replace(verified, drifted=[*verified.drifted, *months])


async def three_days(connection: Connection) -> Connection:
    """Three days with 21 events each, of three statuses and seven entities, and their snapshots."""
    await insert(connection, BEFORE, 21, last_day=AFTER)
    await rebuild(connection, DAYS)
    return connection


async def recompute(connection: Connection, days: list[date]) -> dict[str, int]:
    """What a run does, and the remedy for everything; the versions that moved on."""
    rebuilt = await rebuild(connection, days)
    return rebuilt.versions | await mend_months(connection, days)


# What is drift


async def test_snapshots_that_equal_their_events_have_not_drifted(connect: Connect) -> None:
    connection = await three_days(await connect())
    assert await verify(connection) == Verified(drifted=[], stale_days=0, events_read=63)


@pytest.mark.parametrize("kind", TAMPERED)
@pytest.mark.parametrize("rollup", store.ROLLUPS)
async def test_every_kind_of_drift_is_found_in_its_rollup_and_on_its_day(
    connect: Connect, rollup: str, kind: str
) -> None:
    connection = await three_days(await connect())
    tamper, counts = TAMPERED[kind]
    await connection.execute(tamper.format(rollup=f"rollup_{rollup}", **NAMES[rollup]))

    found = await verify(connection)

    assert found == Verified(drifted=[DriftedDay(rollup, DAY, *counts)], stale_days=0, events_read=63)
    with pytest.raises(AssertionError, match=f"rollup_{rollup}"):
        await assert_snapshots_equal_events(connection)

    await recompute(connection, [DAY])
    assert (await verify(connection)).drifted == []
    await assert_snapshots_equal_events(connection)


@pytest.mark.parametrize(
    "tamper, counts",
    [
        ("DELETE FROM rollup_source_status_margin WHERE dimension = 'source' AND day = '2026-01-05'", (1, 0, 0)),
        ("INSERT INTO rollup_source_status_margin VALUES ('source', '4711', '2026-01-05', 1)", (0, 1, 0)),
        (
            "UPDATE rollup_source_status_margin SET event_count = 1 WHERE dimension = 'all' AND day = '2026-01-05'",
            (0, 0, 1),
        ),
    ],
)
async def test_a_margin_that_is_not_what_its_rows_add_up_to_is_found_and_a_rebuild_mends_it(
    connect: Connect, tamper: str, counts: tuple[int, int, int]
) -> None:
    connection = await three_days(await connect())
    await connection.execute(tamper)

    assert (await verify(connection)).drifted == [DriftedDay(store.MARGINS, DAY, *counts)]
    with pytest.raises(AssertionError, match="rollup_source_status_margin"):
        await assert_snapshots_equal_events(connection)

    versions = await recompute(connection, [DAY])
    assert set(versions) == {"status-counts", "volume-by-period"}, "its answers were wrong"
    assert (await verify(connection)).drifted == []
    await assert_snapshots_equal_events(connection)


@pytest.mark.parametrize(
    "tamper, counts",
    [
        ("DELETE FROM rollup_entity_month WHERE entity_id < 'entity-2'", (2, 0, 0)),
        ("INSERT INTO rollup_entity_month VALUES ('2026-01-01', 'nobody', 1)", (0, 1, 0)),
        ("INSERT INTO rollup_entity_month VALUES ('2026-01-01', 'nobody', 0)", (0, 1, 0)),
        ("UPDATE rollup_entity_month SET event_count = -1 WHERE entity_id = 'entity-0'", (0, 0, 1)),
    ],
)
async def test_a_month_that_is_not_what_its_days_add_up_to_is_found_and_a_recomputation_of_any_of_its_days_mends_it(
    connect: Connect, tamper: str, counts: tuple[int, int, int]
) -> None:
    connection = await three_days(await connect())
    await connection.execute(tamper)

    assert (await verify(connection, [DAY])).drifted == [DriftedDay(store.MONTHS, date(2026, 1, 1), *counts)]
    assert (await verify(connection, [DAY + timedelta(days=31)])).drifted == []
    with pytest.raises(AssertionError, match="rollup_entity_month"):
        await assert_snapshots_equal_events(connection)
    await connection.execute("DELETE FROM analytics_events WHERE occurred_day = $1", DAY)
    await rebuild(connection, [DAY])  # which must not fail at a month that is wrong

    assert set(await recompute(connection, [DAY + timedelta(days=10)])) == {"top-entities"}, "its answers were wrong"
    assert (await verify(connection)).drifted == []
    await assert_snapshots_equal_events(connection)


async def test_a_month_with_a_day_that_has_drifted_is_not_judged(connect: Connect) -> None:
    connection = await three_days(await connect())
    await connection.execute("DELETE FROM rollup_entity WHERE day = $1", DAY)

    assert [(day.rollup, day.day) for day in (await verify(connection)).drifted] == [("entity", DAY)]


async def test_mending_a_month_waits_for_rebuilds_of_its_days(connect: Connect) -> None:
    rebuilding, mending, connection = await connect(), await connect(), await three_days(await connect())
    await connection.execute("DELETE FROM rollup_entity_month WHERE entity_id = 'entity-0'")
    await insert(connection, AFTER, 5, prefix="late")
    async with transaction(rebuilding):
        await rebuild_days(rebuilding, [AFTER], run_id=None)
        waiting = await blocked(mend_months(mending, [BEFORE]), mending, connection)
    await waiting

    await assert_snapshots_equal_events(connection)


async def test_margins_of_frozen_days_are_verified(connect: Connect) -> None:
    connection = await three_days(await connect())
    await connection.execute("UPDATE horizons SET kept_from = $1 WHERE subject = 'events'", AFTER)
    await connection.execute("DELETE FROM rollup_source_status_margin WHERE dimension = 'status' AND day = $1", DAY)

    assert (await verify(connection)).drifted == [DriftedDay(store.MARGINS, DAY, 3, 0, 0)]


async def test_drift_is_told_of_each_rollup_and_day(connect: Connect) -> None:
    connection = await three_days(await connect())
    for rollup in store.ROLLUPS:
        await connection.execute(f"UPDATE rollup_{rollup} SET event_count = event_count + 1 WHERE day <> $1", DAY)

    found = await verify(connection)

    assert found.drifted == [
        *(DriftedDay("source_status", day, 0, 0, 3) for day in (BEFORE, AFTER)),
        *(DriftedDay("entity", day, 0, 0, 7) for day in (BEFORE, AFTER)),
    ]


async def test_events_that_no_trigger_saw_are_drift(connect: Connect) -> None:
    connection = await three_days(await connect())
    async with connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        await insert(connection, DAY, 3, prefix="unseen")

    found = await verify(connection)

    assert found.drifted == [DriftedDay("source_status", DAY, 0, 0, 3), DriftedDay("entity", DAY, 0, 0, 3)]
    assert found.stale_days == 0


async def test_a_day_whose_rebuild_is_due_is_counted_as_stale_and_not_judged(connect: Connect) -> None:
    connection = await three_days(await connect())
    await insert(connection, DAY, 5, prefix="late")
    await connection.execute("DELETE FROM rollup_entity WHERE day <> $1", BEFORE)

    found = await verify(connection)

    assert found == Verified(drifted=[DriftedDay("entity", AFTER, 7, 0, 0)], stale_days=1, events_read=68)


async def test_days_without_events_and_snapshots_have_not_drifted(connect: Connect) -> None:
    connection = await connect()
    assert await verify(connection) == Verified(drifted=[], stale_days=0, events_read=0)
    assert await verify(connection, []) == Verified(drifted=[], stale_days=0, events_read=0)


async def test_frozen_days_are_left_out(connect: Connect) -> None:
    connection = await three_days(await connect())
    await connection.execute("UPDATE horizons SET kept_from = $1 WHERE subject = 'events'", DAY)
    await connection.execute("ALTER TABLE analytics_events DISABLE TRIGGER USER")
    await connection.execute("DELETE FROM analytics_events WHERE occurred_day < $1", DAY)

    assert await verify(connection) == Verified(drifted=[], stale_days=0, events_read=42)


@pytest.mark.parametrize("rollup", store.ROLLUPS)
async def test_days_that_retention_dropped_are_left_out_of_their_rollup_alone(connect: Connect, rollup: str) -> None:
    connection = await three_days(await connect())
    await connection.execute("UPDATE horizons SET kept_from = $2 WHERE subject = $1", rollup, AFTER)
    for other in store.ROLLUPS:
        await horizon_store.drop_days(connection, other, BEFORE, AFTER)

    found = await verify(connection)

    assert {(day.rollup, day.day) for day in found.drifted} == {
        (other, day) for other in store.ROLLUPS if other != rollup for day in (BEFORE, DAY)
    }


# What is going on meanwhile


async def test_a_rebuild_that_is_half_way_is_no_drift(connect: Connect) -> None:
    rebuilding, verifying = await connect(), await three_days(await connect())
    await insert(verifying, DAY, 5, prefix="late")
    async with transaction(rebuilding):
        await store.take_changes(rebuilding, [DAY])
        await store.lock_days(rebuilding, [DAY])
        rows = {}
        for rollup in store.ROLLUPS:
            assert (await verify(verifying)).drifted == []
            rows[rollup] = await store.merge(rebuilding, rollup, [DAY])
        await publish_days(rebuilding, MergedDays({rollup: [DAY] for rollup in store.ROLLUPS}, rows), run_id=None)
        assert await verify(verifying) == Verified(drifted=[], stale_days=1, events_read=68)

    assert await verify(verifying) == Verified(drifted=[], stale_days=0, events_read=68)


async def test_a_writer_and_a_rebuild_between_two_rollups_are_no_drift(connect: Connect) -> None:
    rebuilding, verifying = await connect(), await three_days(await connect())
    found = await store.verify_days(verifying, "source_status", DAYS)
    await insert(rebuilding, DAY, 5, prefix="late")
    found += await store.verify_days(verifying, "entity", DAYS)
    await rebuild(rebuilding, [DAY])
    found += await store.verify_days(verifying, "entity", DAYS)

    differing = [day.is_stale for day in found if day.rows_missing or day.rows_surplus or day.rows_different]
    assert differing == [True]
    assert [day.is_stale for day in found].count(True) == 1


#: Halts whoever reads the horizons with their snapshot taken: for verifying, that is in the middle of its statement.
GATE = """
    CREATE FUNCTION wait_at_gate() RETURNS boolean LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock(42);
        RETURN TRUE;
    END
    $$;

    ALTER TABLE horizons RENAME TO horizons_behind_gate;
    CREATE VIEW horizons AS SELECT * FROM horizons_behind_gate WHERE wait_at_gate()
"""


@pytest.mark.parametrize("rollup", store.ROLLUPS)
async def test_what_a_writer_and_a_rebuild_commit_inside_the_statement_is_no_drift(
    connect: Connect, rollup: str
) -> None:
    verifying, gate, writer = await connect(), await connect(), await three_days(await connect())
    await insert(writer, BEFORE, 5, prefix="before")
    await writer.execute(GATE)
    async with transaction(gate):
        await gate.execute("SELECT pg_advisory_xact_lock(42)")
        waiting = await blocked(store.verify_days(verifying, rollup, DAYS), verifying, writer)
        await insert(writer, DAY, 5, prefix="late")
        await rebuild_days(gate, [BEFORE], run_id=None)
        await insert(writer, AFTER, 5, prefix="after")
    before, day, after = await waiting

    assert (before.is_stale, before.event_count, bool(before.rows_different)) == (True, 26, True)
    assert (day.is_stale, day.event_count, day.rows_different) == (False, 21, 0)
    assert (after.is_stale, after.event_count, after.rows_different) == (False, 21, 0)
    await assert_nothing_lost(writer)


async def test_verifying_waits_for_no_rebuild_and_makes_none_wait(connect: Connect) -> None:
    rebuilding, verifying = await connect(), await three_days(await connect())
    async with transaction(rebuilding), verifying.transaction():
        merged = await merge_days(rebuilding, DAYS)
        await verify_days(verifying, DAYS)  # would hang here
        await publish_days(rebuilding, merged, run_id=None)  # or here


# What it leaves behind


async def test_verifying_changes_no_row_of_any_table(connect: Connect) -> None:
    connection = await three_days(await connect())
    await insert(connection, DAY, 5, prefix="late")
    await connection.execute("DELETE FROM rollup_entity WHERE day = $1", AFTER)
    before = await every_row(connection)

    await verify_days(connection, DAYS)

    assert await every_row(connection) == before
    assert not await connection.fetch("SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()")


async def every_row(connection: Connection) -> dict[str, list[tuple[object, ...]]]:
    """Where each row of each table lies, and which transactions wrote and locked it."""
    tables = await connection.fetch("SELECT relname FROM pg_stat_user_tables")
    rows = "SELECT ctid::text, xmin::text, xmax::text FROM {} ORDER BY ctid"
    return {
        table["relname"]: [tuple(row) for row in await connection.fetch(rows.format(table["relname"]))]
        for table in tables
    }
