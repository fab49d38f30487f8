"""Retention: what is kept of the snapshots, what is dropped, and what comes back."""

from datetime import date, timedelta

import pytest

from pg_analytics.postgres.pool import Connection
from pg_analytics.snapshots.retention import sweep
from pg_analytics.windows import DayRange
from tests.events import insert
from tests.oracle import assert_snapshots_equal_events
from tests.rebuilding import Connect, assert_nothing_lost, logged_days, rebuild

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

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
