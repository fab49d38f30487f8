"""Properties of rebuilding and reading, over histories that nobody would think of.

A history writes, moves, changes and deletes events in an order of chance, and rebuilds ranges of chance in between.
The days are those on which calendars go wrong; the names are those on which programs do.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pg_analytics.postgres.pool import Connection
from pg_analytics.reports import store
from pg_analytics.reports.definition import builtin_definitions
from pg_analytics.snapshots.rebuild import rebuild_days
from pg_analytics.windows import DayRange, Window
from tests.events import Event, add_source, write
from tests.oracle import assert_snapshots_equal_events
from tests.report_oracle import REPORTS, Asked, expected

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

PROPERTY = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example empties the database itself
)

SOURCES = ("shop", "Shop", "şöp", "a b&c=%_'\"")
ENTITIES = ("", " ", "a", "A", "a%b", "it's", "\\N", "\u00e9", "e\u0301", "\U0001f600", "\uffff", "null", "x" * 2048)
STATUSES = ("success", "failed", "pending")

# Where calendars go wrong: leap days, ends of ISO years, the ends of what can be asked for.
EPOCHS = tuple(
    map(date.fromisoformat, ["2024-02-29", "2024-12-30", "2021-01-03", "2026-01-01", "2000-02-29", "0001-01-15"])
)
SPAN = 10

days = st.builds(lambda epoch, n: epoch + timedelta(days=n), st.sampled_from(EPOCHS), st.integers(-7, SPAN))
times = st.sampled_from([time(0), time(23, 59, 59, 999_999), time(12)])
ranges = st.builds(
    lambda first, length: DayRange.inclusive(first, first + timedelta(days=length)), days, st.integers(0, 2 * SPAN)
)


@dataclass(frozen=True)
class Insert:
    """New events, as (source, entity, status, day, time)."""

    events: list[tuple[str, str, str, date, time]]


@dataclass(frozen=True)
class Move:
    """Some of the events to another day."""

    pick: int
    day: date


@dataclass(frozen=True)
class Change:
    """Other dimensions for some of the events."""

    pick: int
    entity: str
    status: str


@dataclass(frozen=True)
class Delete:
    """Some of the events, or (`pick` 0) all of them by TRUNCATE."""

    pick: int


@dataclass(frozen=True)
class Rebuild:
    """A range of days."""

    days: DayRange


Step = Insert | Move | Change | Delete | Rebuild

picks = st.integers(1, 4)
steps = st.one_of(
    st.builds(
        Insert,
        st.lists(
            st.tuples(st.sampled_from(SOURCES), st.sampled_from(ENTITIES), st.sampled_from(STATUSES), days, times),
            min_size=1,
            max_size=25,
        ),
    ),
    st.builds(Move, picks, days),
    st.builds(Change, picks, st.sampled_from(ENTITIES), st.sampled_from(STATUSES)),
    st.builds(Delete, st.integers(0, 4)),
    st.builds(Rebuild, ranges),
)
histories = st.lists(steps, min_size=1, max_size=12)


@st.composite
def requests(draw: st.DrawFn) -> Asked:
    """A request for a report, in all of its parameters."""
    slug = draw(st.sampled_from(sorted(REPORTS)))
    breakdowns, narrowed = REPORTS[slug]
    values = {"source": (*SOURCES, "nobody"), "status": STATUSES, None: ()}[narrowed]
    asked = draw(ranges)
    return Asked(
        slug=slug,
        window=draw(st.sampled_from(["day", "week"])),
        date_from=asked.start,
        date_to=asked.last,
        breakdown=draw(st.sampled_from(breakdowns)),
        only=draw(st.sampled_from([None, *values])),
        limit=draw(st.sampled_from([1, 2, 5, 1000])),
        offset=draw(st.sampled_from([0, 1, 7])),
    )


@pytest.fixture
async def writer(database_url: str) -> AsyncIterator[Connection]:
    """A writer far from UTC."""
    connection = await asyncpg.connect(database_url, server_settings={"timezone": "Pacific/Kiritimati"})
    yield connection
    await connection.close()


async def start_over(connection: Connection) -> None:
    """Empty the database."""
    await connection.execute(
        "TRUNCATE analytics_events, event_sources, event_changes, rollup_source_status, rollup_entity, snapshot_buckets"
    )
    for slug in SOURCES:
        await add_source(connection, slug)


async def perform(writer: Connection, service: Connection, history: list[Step]) -> None:
    """Live through `history`."""
    for number, step in enumerate(history):
        match step:
            case Insert(events):
                named = [
                    Event(f"{number}-{n}", source, entity, status, datetime.combine(day, moment, UTC))
                    for n, (source, entity, status, day, moment) in enumerate(events)
                ]
                await write(writer, named)
            case Move(pick, day):
                await writer.execute(
                    "UPDATE analytics_events SET occurred_at = $1 WHERE hashtext(external_ref) % 5 = $2",
                    datetime.combine(day, time(6), UTC),
                    pick,
                )
            case Change(pick, entity, status):
                await writer.execute(
                    "UPDATE analytics_events SET entity_id = $1, status = $2 WHERE hashtext(external_ref) % 5 = $3",
                    entity,
                    status,
                    pick,
                )
            case Delete(0):
                await writer.execute("TRUNCATE analytics_events")
            case Delete(pick):
                await writer.execute("DELETE FROM analytics_events WHERE hashtext(external_ref) % 5 = $1", pick)
            case Rebuild(rebuilt):
                await rebuild(service, rebuilt)


async def rebuild(connection: Connection, rebuilt: DayRange) -> dict[str, int]:
    """Rebuild a range; the versions that moved on."""
    async with connection.transaction():
        return (await rebuild_days(connection, rebuilt, run_id=None)).versions


async def rebuild_logged(connection: Connection) -> None:
    """Rebuild the days in the log, and no other."""
    for row in await connection.fetch("SELECT DISTINCT occurred_day AS day FROM event_changes"):
        await rebuild(connection, DayRange.inclusive(row["day"], row["day"]))


async def answer(connection: Connection, asked: Asked) -> store.ReportRows:
    """What the service's own statement answers."""
    definition = builtin_definitions()[asked.slug]
    window = Window(asked.window)
    return await store.run_report(
        connection,
        definition.statement(asked.breakdown),
        days=DayRange.inclusive(asked.date_from, asked.date_to).whole_buckets(window),
        window=window,
        limit=asked.limit,
        offset=asked.offset,
        filters=[asked.only] * len(definition.filters),
    )


async def numbers(connection: Connection, asked: Asked) -> tuple[str, int]:
    """What recomputing must not change: the rows, to the byte, and how many there are."""
    found = await answer(connection, asked)
    return found.rows, found.total


@PROPERTY
@given(history=histories)
async def test_whatever_happened_rebuilding_the_logged_days_makes_every_snapshot_right(
    writer: Connection, connection: Connection, history: list[Step]
) -> None:
    await start_over(connection)
    await perform(writer, connection, history)
    await rebuild_logged(connection)

    await assert_snapshots_equal_events(connection)
    assert not await connection.fetch("SELECT FROM event_changes")


@PROPERTY
@given(history=histories, asked=st.lists(requests(), min_size=1, max_size=8))
async def test_every_report_equals_plain_sql_on_the_events(
    writer: Connection, connection: Connection, history: list[Step], asked: list[Asked]
) -> None:
    await start_over(connection)
    await perform(writer, connection, history)
    await rebuild_logged(connection)

    for request in asked:
        found, right = await answer(connection, request), await expected(writer, request)
        assert json.loads(found.rows) == right.rows, request
        assert (found.row_count, found.total) == (len(right.rows), right.total), request


@PROPERTY
@given(history=histories, asked=st.lists(requests(), min_size=1, max_size=4), again=st.lists(ranges, min_size=1))
async def test_recomputing_anything_while_no_event_changes_changes_no_number(
    writer: Connection, connection: Connection, history: list[Step], asked: list[Asked], again: list[DayRange]
) -> None:
    await start_over(connection)
    await perform(writer, connection, history)
    await rebuild_logged(connection)
    before = [await numbers(connection, request) for request in asked]

    for rebuilt in again:
        assert await rebuild(connection, rebuilt) == {}

    assert [await numbers(connection, request) for request in asked] == before
    await assert_snapshots_equal_events(connection)


@PROPERTY
@given(history=histories)
async def test_the_view_for_other_programs_says_the_same_as_the_events(
    writer: Connection, connection: Connection, history: list[Step]
) -> None:
    await start_over(connection)
    await perform(writer, connection, history)
    await rebuild_logged(connection)

    view = """
        SELECT report_slug, window_name, bucket_start, dimension_key, dimension_value, metric_name, metric_value
        FROM metric_snapshots
    """
    events = """
        SELECT d.slug, w.name, date_trunc(w.name, e.occurred_at, 'UTC'), d.dimension,
            CASE d.dimension WHEN 'source' THEN s.slug WHEN 'status' THEN e.status ELSE e.entity_id END,
            'event_count', count(*)
        FROM analytics_events AS e JOIN event_sources AS s ON s.id = e.source_id,
            (VALUES ('volume-by-period', 'source'), ('status-counts', 'status'), ('top-entities', 'entity_id'))
                AS d (slug, dimension),
            (VALUES ('day'), ('week')) AS w (name)
        GROUP BY 1, 2, 3, 4, 5
    """
    assert not await writer.fetch(f"({view}) EXCEPT ALL ({events})")
    assert not await writer.fetch(f"({events}) EXCEPT ALL ({view})")
