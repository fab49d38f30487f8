"""The plans of the hot statements: a range of days is read by index, whatever the rest of the table holds."""

import json
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import asyncpg
import pytest

from pg_analytics.events.seed import seed
from pg_analytics.postgres.pool import Connection
from pg_analytics.postgres.statements import statement
from pg_analytics.reports.definition import builtin_definitions
from pg_analytics.windows import DayRange
from tests.events import add_source
from tests.rebuilding import Connect, rebuild

pytestmark = pytest.mark.anyio

TODAY = date(2026, 6, 1)
FIRST, END = date(2026, 5, 4), date(2026, 5, 6)

BREAKDOWNS: list[tuple[str, str | None]] = [
    *((slug, breakdown.name) for slug, report in builtin_definitions().items() for breakdown in report.breakdowns),
    *((slug, None) for slug, report in builtin_definitions().items() if not report.breakdowns),
]


@pytest.fixture
async def seeded(connection: "asyncpg.Connection[asyncpg.Record]") -> "asyncpg.Connection[asyncpg.Record]":
    """A connection to a database with the demo events and fresh statistics."""
    await seed(connection, today=TODAY)
    await connection.execute("ANALYZE")
    # Twenty pages are read whole sooner than through an index; what matters is which index there is to use.
    await connection.execute("SET enable_seqscan = off")
    return connection


@pytest.mark.parametrize("slug, breakdown", BREAKDOWNS)
async def test_a_report_reads_its_rollup_by_a_range_of_days(
    seeded: "asyncpg.Connection[asyncpg.Record]", slug: str, breakdown: str | None
) -> None:
    definition = builtin_definitions()[slug]
    filters: list[str | None] = [None] * len(definition.filters)

    plan = await explain(seeded, definition.statement(breakdown), FIRST, END, "day", 50, 0, *filters)

    table = f"rollup_{definition.rollup}"
    [scan] = [node for node in nodes(plan) if node.get("Relation Name") == table]
    assert "Seq" not in scan["Node Type"], scan
    assert conditions(scan) >= {"day >=", "day <"}


@pytest.mark.parametrize("statistics", ["fresh", "none", "of other days"])
async def test_merging_and_verifying_read_their_days_by_index_and_no_row_with_every_other(
    connect: Connect, statistics: str
) -> None:
    connection = await connect(work_mem="16MB")  # as those that rebuild
    for table in ("analytics_events", "rollup_source_status", "rollup_entity"):
        await connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    await fill(connection, DayRange(FIRST - timedelta(days=40), FIRST))
    await fill_rollups_alone(connection, days=1000)
    if statistics == "of other days":  # the planner expects one row of the days that are merged
        await connection.execute("ANALYZE")
    await fill(connection, DayRange(FIRST, END))
    if statistics == "fresh":
        await connection.execute("ANALYZE")
    days = list(DayRange(FIRST, END))
    # Some rows of the first day are to be added, some removed, some replaced; those of the second are as they must be.
    await connection.execute(
        """
        UPDATE analytics_events SET entity_id = 'new-' || entity_id
        WHERE occurred_day = $1 AND processing_ms % 3 = 0
        """,
        FIRST,
    )
    await connection.execute("DELETE FROM analytics_events WHERE occurred_day = $1 AND processing_ms < 500", FIRST)
    events = await connection.fetchval("SELECT count(*) FROM analytics_events WHERE occurred_day = ANY($1)", days)

    for plan_cache_mode in ("force_custom_plan", "force_generic_plan"):
        await connection.execute(f"SET plan_cache_mode = {plan_cache_mode}")
        for rollup in ("source_status", "entity"):
            rows = await connection.fetchval(f"SELECT count(*) FROM rollup_{rollup} WHERE day = ANY($1)", days)
            for name in (f"verify_{rollup}", f"merge_{rollup}"):
                plan = await analysed(connection, statement("pg_analytics.snapshots", name), days)
                what = f"{name}, {plan_cache_mode}: {json.dumps(plan, indent=1)}"

                [scan] = [node for node in nodes(plan) if node.get("Relation Name") == "analytics_events"]
                assert indexes(scan) == {"analytics_events_occurred_day_idx"}, what
                assert scan["Actual Loops"] == len(days), what
                [kept] = [
                    node
                    for node in nodes(plan)
                    if node.get("Relation Name") == f"rollup_{rollup}" and node["Actual Loops"] == len(days)
                ]
                assert indexes(kept) == {f"rollup_{rollup}_pkey"}, what
                # The days' events and rows a few times. Two sets that are compared row by row would be a hundred times
                # more, and so would be the rows of all days.
                assert work(plan) < 10 * (events + rows), what


async def test_taking_days_out_of_the_log_reads_it_once_and_deletes_by_address(connect: Connect) -> None:
    connection = await connect()
    await connection.execute(
        "INSERT INTO event_changes SELECT n, $1::date + n % 50 FROM generate_series(1, 5000) AS n", FIRST
    )
    sql = statement("pg_analytics.snapshots", "take_changes")
    for analyse in ("SELECT 1", "ANALYZE event_changes"):
        await connection.execute(analyse)

        plan = await analysed(connection, sql, list(DayRange(FIRST, END)))

        scans = {node["Node Type"] for node in nodes(plan) if node.get("Relation Name") == "event_changes"}
        assert scans == {"ModifyTable", "Tid Scan", "Seq Scan"}
        assert work(plan) < 2 * 5000


async def fill_rollups_alone(connection: Connection, *, days: int) -> None:
    """60 rows in each rollup on each of so many days long ago."""
    for rollup, key in (("source_status", "n, 'success'"), ("entity", "'e-' || n")):
        await connection.execute(
            f"""
            INSERT INTO rollup_{rollup}
            SELECT $1::date - d, {key}, 1 FROM generate_series(1, $2) AS d, generate_series(1, 60) AS n
            """,
            *(FIRST - timedelta(days=1000), days),
        )


async def fill(connection: Connection, days: DayRange) -> None:
    """2,000 events of 600 entities and 20 sources on each day, and their snapshots."""
    for number in range(20):
        await add_source(connection, f"source-{number}")
    await connection.execute(
        """
        INSERT INTO analytics_events
        (external_ref, source_id, entity_id, status, processing_ms, amount_cents, occurred_at)
        SELECT
            d || '-' || n,
            (SELECT id FROM event_sources WHERE slug = 'source-' || n % 20),
            'e-' || n % 600,
            (ARRAY['success', 'failed', 'pending'])[1 + n % 3],
            n,
            1,
            d::date + n * INTERVAL '40 s'
        FROM unnest($1::date[]) AS d, generate_series(1, 2000) AS n
        """,
        list(days),
    )
    await rebuild(connection, days)


async def analysed(connection: Connection, sql: str, days: list[date]) -> dict[str, Any]:
    """The plan of a statement about days, and what each of its nodes did. What it wrote is undone.

    It is prepared and executed: EXPLAIN of the statement itself would have a custom plan in every mode.
    """
    await connection.execute(f"PREPARE analysed AS {sql}")
    undone = connection.transaction()
    await undone.start()
    listed = ",".join(str(day) for day in days)
    [row] = await connection.fetch(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) EXECUTE analysed('{{{listed}}}')")
    await undone.rollback()
    await connection.execute("DEALLOCATE analysed")
    plan: dict[str, Any] = json.loads(row[0])[0]["Plan"]
    return plan


def work(plan: dict[str, Any]) -> int:
    """How many rows the scans and joins of a plan looked at."""
    looked_at = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Join Filter")
    return sum(int(node.get(rows, 0) * node["Actual Loops"]) for node in nodes(plan) for rows in looked_at)


def indexes(scan: dict[str, Any]) -> set[str]:
    """The indexes that a scan, or the bitmap below it, uses."""
    return {node["Index Name"] for node in nodes(scan) if "Index Name" in node}


async def explain(connection: "asyncpg.Connection[asyncpg.Record]", sql: str, *arguments: Any) -> dict[str, Any]:
    """The plan of a statement with its arguments."""
    [row] = await connection.fetch(f"EXPLAIN (FORMAT JSON) {sql}", *arguments)
    plan: dict[str, Any] = json.loads(row[0])[0]["Plan"]
    return plan


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The plan's nodes, from the root down."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def conditions(scan: dict[str, Any]) -> set[str]:
    """Which bounds on the day the index itself enforces, in a scan or the bitmap below it."""
    text = " ".join(node.get("Index Cond", "") for node in nodes(scan))
    return {bound for bound in ("day >=", "day <") if bound in text}
