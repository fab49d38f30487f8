"""Properties of the snapshots, over histories that nobody would think of (`tests.histories`)."""

import json
from collections.abc import AsyncIterator

import asyncpg
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pg_analytics.postgres.pool import Connection
from pg_analytics.reports import store
from pg_analytics.reports.definition import builtin_definitions
from pg_analytics.reports.staleness import StaleDays
from pg_analytics.windows import FIRST_DAY, DayRange, Window
from tests.histories import (
    Step,
    histories,
    horizon,
    perform,
    pruned_histories,
    ranges,
    rebuild,
    rebuild_logged,
    requests,
    stale_histories,
    start_over,
)
from tests.oracle import assert_snapshots_equal_events
from tests.report_oracle import Asked, expected

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

PROPERTY = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example empties the database itself
)

#: More days than a history knows.
ALL_DAYS = 1000

#: The buckets of a rollup that wait for a rebuild, or (of days before `$5`) wait in vain.
STALE_BUCKETS = """
    SELECT count(DISTINCT date_trunc($1, s.day))
    FROM (
        SELECT occurred_day::timestamp FROM event_changes
        UNION ALL
        SELECT day::timestamp FROM snapshot_buckets WHERE rollup = $4 AND stale_since IS NOT NULL
    ) AS s (day)
    WHERE date_trunc($1, s.day) BETWEEN date_trunc($1, $2::date::timestamp) AND date_trunc($1, $3::date::timestamp)
        AND s.day >= (SELECT kept_from FROM horizons WHERE subject = $4)
        AND ($5::date IS NULL OR s.day < $5)
"""


@pytest.fixture
async def writer(database_url: str) -> AsyncIterator[Connection]:
    """A writer far from UTC."""
    connection = await asyncpg.connect(database_url, server_settings={"timezone": "Pacific/Kiritimati"})
    yield connection
    await connection.close()


def called(asked: Asked, *, fresh: bool = False) -> store.ReportCall:
    """How the service asks."""
    definition = builtin_definitions()[asked.slug]
    return store.report_call(
        definition,
        asked.breakdown,
        days=covered(asked),
        window=Window(asked.window),
        limit=asked.limit,
        offset=asked.offset,
        filters=[asked.only] * len(definition.filters),
        max_fresh_days=ALL_DAYS if fresh else None,
    )


async def answer(connection: Connection, asked: Asked, *, fresh: bool = False) -> store.ReportRows:
    """What the service's own statement answers."""
    [found] = await store.run_reports(connection, [called(asked, fresh=fresh)])
    return found


async def answered_together(connection: Connection, asked: list[Asked]) -> list[tuple[Asked, store.ReportRows]]:
    """What it answers to those that may be asked together: each of them twice, so that none is alone."""
    found = []
    for statement in {called(request).statement for request in asked}:
        alike = [request for request in asked if called(request).statement == statement]
        calls = [called(request) for request in alike]
        if calls[0].batch_statement is not None:
            answers = await store.run_reports(connection, calls + calls)
            found += list(zip(alike + alike, answers, strict=True))
    return found


def covered(asked: Asked) -> DayRange:
    """The whole buckets that answer a request."""
    return DayRange.inclusive(asked.date_from, asked.date_to).whole_buckets(Window(asked.window))


async def numbers(connection: Connection, asked: Asked) -> tuple[str, int]:
    """What recomputing must not change: the rows, to the byte, and how many there are."""
    found = await answer(connection, asked)
    return found.rows, found.total


async def assert_right(writer: Connection, asked: Asked, found: store.ReportRows) -> None:
    """The answer is what plain SQL says of the events, of all days that are kept."""
    since = await horizon(writer, builtin_definitions()[asked.slug].rollup)
    right = await expected(writer, asked, events="remembered_events", since=since)
    assert json.loads(found.rows) == right.rows, asked
    assert (found.row_count, found.total) == (len(right.rows), right.total), asked
    assert found.retained_from == (since if since > covered(asked).start else None), asked


@PROPERTY
@given(history=pruned_histories)
async def test_whatever_happened_rebuilding_the_logged_days_makes_every_snapshot_right(
    writer: Connection, connection: Connection, history: list[Step]
) -> None:
    await start_over(connection)
    await perform(writer, connection, history)
    await rebuild_logged(connection)

    await assert_snapshots_equal_events(connection)
    assert not await connection.fetch("SELECT FROM event_changes")


@PROPERTY
@given(history=pruned_histories, asked=st.lists(requests(), min_size=1, max_size=8))
async def test_every_report_equals_plain_sql_on_the_events(
    writer: Connection, connection: Connection, history: list[Step], asked: list[Asked]
) -> None:
    await start_over(connection)
    await perform(writer, connection, history)
    await rebuild_logged(connection)

    for request in asked:
        await assert_right(writer, request, await answer(connection, request))
    for request, found in await answered_together(connection, asked):
        await assert_right(writer, request, found)


@PROPERTY
@given(history=stale_histories, asked=st.lists(requests(), min_size=1, max_size=8))
async def test_every_fresh_report_equals_plain_sql_on_the_events_without_any_rebuild(
    writer: Connection, connection: Connection, history: list[Step], asked: list[Asked]
) -> None:
    await start_over(connection)
    await perform(writer, connection, history)

    for request in asked:
        await assert_right(writer, request, await answer(connection, request, fresh=True))


@PROPERTY
@given(history=stale_histories, asked=st.lists(requests(), min_size=1, max_size=8))
async def test_every_answer_tells_how_many_of_its_buckets_the_log_says_are_stale(
    writer: Connection, connection: Connection, history: list[Step], asked: list[Asked]
) -> None:
    await start_over(connection)
    await perform(writer, connection, history)

    listed = await store.read_stale_days(connection, most=ALL_DAYS)
    frozen_before = await horizon(connection, "events")
    for request in asked:
        rollup = builtin_definitions()[request.slug].rollup
        about = (request.window, request.date_from, request.date_to, rollup)
        stale = await writer.fetchval(STALE_BUCKETS, *about, None)
        for_ever = await writer.fetchval(STALE_BUCKETS, *about, frozen_before)

        assert (await answer(connection, request)).stale_buckets == stale, request
        assert (await answer(connection, request, fresh=True)).stale_buckets == for_ever, request
        # A hit has no statement: it counts in what this process last saw.
        seen = StaleDays.of(listed[rollup], known_from=FIRST_DAY)
        assert seen.count_buckets(covered(request), Window(request.window)) == stale, request
    for request, found in await answered_together(connection, asked):
        alone = await answer(connection, request)
        assert msgspec.structs.replace(found, took_s=alone.took_s) == alone, request


@PROPERTY
@given(history=pruned_histories, asked=st.lists(requests(), min_size=1, max_size=4), again=st.lists(ranges, min_size=1))
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
