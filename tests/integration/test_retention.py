"""Retention: what is kept of the snapshots, what is dropped, and what comes back."""

import asyncio
from datetime import UTC, date, datetime, timedelta

import pytest

from pg_analytics.postgres.pool import Connection, Postgres, transaction
from pg_analytics.postgres.regularly import Regularly
from pg_analytics.snapshots import store
from pg_analytics.snapshots.rebuild import merge_days, publish_days
from pg_analytics.snapshots.retention import Retention, sweep
from pg_analytics.windows import DayRange
from tests.events import insert
from tests.oracle import assert_snapshots_equal_events
from tests.rebuilding import Connect, assert_nothing_lost, blocked, logged_days, rebuild
from tests.waiting import until_true

pytestmark = pytest.mark.anyio

TODAY = date(2026, 3, 4)  # a Wednesday
FIRST = date(2026, 1, 1)
#: Thirty days before today is a Monday, so nothing is rounded there; forty are a Friday.
KEPT_30, KEPT_40 = date(2026, 2, 2), date(2026, 1, 19)


async def retain(connection: Connection, days: int | None, *, report: str = "%", window: str = "%") -> None:
    """Ask for so many days, as an operator does."""
    await connection.execute(
        "UPDATE aggregate_windows SET retention_days = $1 WHERE report_slug LIKE $2 AND window_name LIKE $3",
        *(days, report, window),
    )


async def kept_from(connection: Connection, rollup: str) -> date | None:
    """The first day that is kept of a rollup."""
    return (await connection.fetchrow(f"SELECT min(day) AS day FROM rollup_{rollup}") or {"day": None})["day"]


@pytest.fixture
async def built(connect: Connect) -> Connection:
    """Events of two months, with their snapshots."""
    connection = await connect()
    await insert(connection, FIRST, 10, last_day=TODAY)
    await rebuild(connection, DayRange.inclusive(FIRST, TODAY))
    return connection


async def versions(connection: Connection) -> dict[str, int]:
    """The version of each report."""
    return {
        row["slug"]: row["version"] for row in await connection.fetch("SELECT slug, version FROM report_definitions")
    }


async def test_without_a_retention_everything_is_kept_for_ever(built: Connection) -> None:
    before = await versions(built)
    await sweep(built, today=TODAY + timedelta(days=365_000))

    assert await kept_from(built, "entity") == await kept_from(built, "source_status") == FIRST
    assert await versions(built) == before


@pytest.mark.parametrize("days, first_kept", [(30, KEPT_30), (40, KEPT_40)])
async def test_older_days_are_dropped_in_whole_weeks(built: Connection, days: int, first_kept: date) -> None:
    await retain(built, days)
    before = await versions(built)
    await sweep(built, today=TODAY)

    assert await kept_from(built, "entity") == await kept_from(built, "source_status") == first_kept
    assert all(version > before[slug] for slug, version in (await versions(built)).items())
    await assert_snapshots_equal_events(built)
    dropped = await built.fetch("SELECT resource_id FROM audit_entries WHERE action = 'snapshots.dropped'")
    assert sorted(row["resource_id"] for row in dropped) == ["entity", "source_status"]


async def test_a_rollup_is_kept_for_as_long_as_any_window_over_it_asks(built: Connection) -> None:
    await retain(built, 30)
    await retain(built, 40, report="volume-by-period", window="week")
    await sweep(built, today=TODAY)

    assert await kept_from(built, "source_status") == KEPT_40
    assert await kept_from(built, "entity") == KEPT_30


async def test_a_second_sweep_drops_and_audits_nothing(built: Connection) -> None:
    await retain(built, 30)
    await sweep(built, today=TODAY)
    before = await versions(built), await built.fetchval("SELECT count(*) FROM audit_entries")
    await sweep(built, today=TODAY)

    assert (await versions(built), await built.fetchval("SELECT count(*) FROM audit_entries")) == before


async def test_a_late_event_of_a_dropped_day_brings_nothing_back(built: Connection) -> None:
    await retain(built, 30)
    await sweep(built, today=TODAY)
    await insert(built, FIRST, 3, prefix="late")

    await assert_nothing_lost(built)
    assert await kept_from(built, "entity") == KEPT_30


async def test_what_is_asked_for_again_is_built_again_from_its_events(built: Connection) -> None:
    await retain(built, 30)
    await sweep(built, today=TODAY)
    await insert(built, FIRST, 3, prefix="late")
    await rebuild(built, [FIRST])  # its log row is gone, and its rows are not there
    await retain(built, None)
    await sweep(built, today=TODAY)

    assert sorted(await logged_days(built)) == list(DayRange(FIRST, KEPT_30))
    await assert_nothing_lost(built)
    assert await kept_from(built, "entity") == FIRST


async def test_days_whose_events_were_pruned_do_not_come_back(built: Connection) -> None:
    await retain(built, 30)
    await sweep(built, today=TODAY)
    await built.execute("UPDATE horizons SET kept_from = $1 WHERE subject = 'events'", KEPT_40)
    await retain(built, None)
    await sweep(built, today=TODAY)

    assert min(await logged_days(built)) == KEPT_40
    assert await built.fetchval("SELECT kept_from FROM horizons WHERE subject = 'entity'") == KEPT_40


async def test_days_come_back_from_the_first_whole_week_on_whose_events_are_there(built: Connection) -> None:
    await retain(built, 30)
    await sweep(built, today=TODAY)
    await built.execute("UPDATE horizons SET kept_from = $1 WHERE subject = 'events'", KEPT_40 + timedelta(days=1))
    await retain(built, None)
    await sweep(built, today=TODAY)

    regained_from = KEPT_40 + timedelta(days=7)
    assert min(await logged_days(built)) == regained_from
    assert await built.fetchval("SELECT kept_from FROM horizons WHERE subject = 'entity'") == regained_from


async def test_frozen_days_that_are_kept_stay_when_more_is_asked_for_and_go_when_less_is(built: Connection) -> None:
    await retain(built, 40)
    await sweep(built, today=TODAY)
    await built.execute("UPDATE horizons SET kept_from = $1 WHERE subject = 'events'", TODAY)
    await retain(built, None)
    await sweep(built, today=TODAY)
    assert await kept_from(built, "entity") == KEPT_40

    await retain(built, 30)
    await sweep(built, today=TODAY)
    assert await kept_from(built, "entity") == KEPT_30


async def test_a_long_way_back_is_gone_to_its_end(built: Connection) -> None:
    await retain(built, 1)
    await sweep(built, today=TODAY + timedelta(days=365))
    await retain(built, 2000)
    await sweep(built, today=TODAY)

    assert await built.fetchval("SELECT kept_from FROM horizons WHERE subject = 'entity'") == date(2020, 9, 7)
    await assert_nothing_lost(built)
    assert await kept_from(built, "entity") == FIRST


@pytest.mark.parametrize("days", [1, 36_600, 2_147_483_647])
async def test_any_number_of_days_can_be_asked_for(built: Connection, days: int) -> None:
    await retain(built, days)
    await sweep(built, today=TODAY)

    await assert_snapshots_equal_events(built)


# What happens beside it


async def test_a_rebuild_that_looked_before_the_horizon_moved_up_is_tidied_up_by_the_next_sweep(
    built: Connection, connect: Connect
) -> None:
    rebuilding, longer_ago = await connect(), date(2025, 12, 1)
    await insert(built, longer_ago, 3)
    await retain(built, 30)
    async with transaction(rebuilding):
        merged = await merge_days(rebuilding, [longer_ago])
        await sweep(built, today=TODAY)
        await publish_days(rebuilding, merged, run_id=None)
    assert await kept_from(built, "entity") == longer_ago

    await sweep(built, today=TODAY)

    assert await kept_from(built, "entity") == KEPT_30
    await assert_snapshots_equal_events(built)


async def test_days_are_deleted_after_a_rebuild_of_them_and_not_beside_it(built: Connection, connect: Connect) -> None:
    rebuilding, sweeping = await connect(), await connect()
    await retain(built, 30)
    async with transaction(rebuilding):
        merged = await merge_days(rebuilding, [FIRST])
        waiting = await blocked(sweep(sweeping, today=TODAY), sweeping, built)
        await publish_days(rebuilding, merged, run_id=None)
    await waiting

    assert await kept_from(built, "entity") == KEPT_30
    await assert_snapshots_equal_events(built)


async def test_days_come_back_after_a_rebuild_that_left_them_out_and_with_what_it_has_used_up(
    built: Connection, connect: Connect
) -> None:
    rebuilding, sweeping = await connect(), await connect()
    await retain(built, 30)
    await sweep(built, today=TODAY)
    empty = date(2025, 12, 10)
    await insert(built, empty, 3)
    async with transaction(rebuilding):
        merged = await merge_days(rebuilding, [empty])  # the log row of these events is used up, and they are left out
        await retain(built, None)
        waiting = await blocked(sweep(sweeping, today=TODAY), sweeping, built, by="relation")
        await publish_days(rebuilding, merged, run_id=None)
    await waiting

    assert empty in await logged_days(built)
    await assert_nothing_lost(built)
    assert await kept_from(built, "entity") == empty


async def test_what_is_about_to_be_deleted_does_not_come_back_before_it_is(built: Connection, connect: Connect) -> None:
    holder, deleting, regaining = await connect(), await connect(), await connect()
    await retain(built, 30)
    async with transaction(holder):
        await store.lock_days(holder, [FIRST])
        deleted = await blocked(sweep(deleting, today=TODAY), deleting, built)  # its horizon has moved up
        await retain(built, None)
        regained = await blocked(sweep(regaining, today=TODAY), regaining, built, by="relation")
    await asyncio.gather(deleted, regained)
    await sweep(built, today=TODAY)

    await assert_nothing_lost(built)
    assert await kept_from(built, "entity") == await kept_from(built, "source_status") == FIRST


async def test_rows_that_are_not_true_any_more_do_not_come_back(built: Connection, connect: Connect) -> None:
    holder, sweeping = await connect(), await connect()
    await retain(built, 30)
    async with transaction(holder):
        await store.lock_days(holder, [FIRST])
        swept = await blocked(sweep(sweeping, today=TODAY), sweeping, built)  # dropped, and still there
        await built.execute("DELETE FROM analytics_events WHERE occurred_day = $1", FIRST + timedelta(days=1))
        await rebuild(built, [FIRST + timedelta(days=1)])  # leaves it out
        sweeping.terminate()
        await asyncio.gather(swept, return_exceptions=True)
    await retain(built, None)
    await sweep(built, today=TODAY)

    await assert_nothing_lost(built)


async def test_many_sweeps_at_once_do_it_once(built: Connection, connect: Connect) -> None:
    sweeping = [await connect() for _ in range(4)]
    await retain(built, 30)

    await asyncio.gather(*(sweep(each, today=TODAY) for each in sweeping))

    assert await kept_from(built, "entity") == await kept_from(built, "source_status") == KEPT_30
    assert await built.fetchval("SELECT count(*) FROM audit_entries WHERE action = 'snapshots.dropped'") == 2
    await assert_snapshots_equal_events(built)


async def test_retention_at_work_notices_what_is_asked_for_by_plain_sql(built: Connection, database_url: str) -> None:
    pool = Postgres(database_url, size=1, timeout=timedelta(seconds=10), name="upkeep")
    await pool.open()
    now = datetime(2026, 3, 4, 12, tzinfo=UTC)
    duty = Regularly(pool, Retention(lambda: now).look, every=timedelta(milliseconds=20), name="retention")
    await duty.start()
    await retain(built, 30)
    await until_true(built, "SELECT min(day) = $1 FROM snapshot_buckets", KEPT_30)
    await retain(built, 40)
    await until_true(built, "SELECT min(occurred_day) = $1 FROM event_changes", KEPT_40)
    await duty.stop()
    await pool.close()

    await assert_nothing_lost(built)
