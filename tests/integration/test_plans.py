"""The plans of the hot statements: a range of days is read by index, whatever the rest of the table holds."""

import json
from collections.abc import Iterator
from datetime import date
from typing import Any

import asyncpg
import pytest

from pg_analytics.events.seed import seed
from pg_analytics.postgres.statements import statement
from pg_analytics.reports.definition import builtin_definitions
from pg_analytics.snapshots.rebuild import rebuild_days
from pg_analytics.windows import DayRange

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


@pytest.mark.parametrize("rollup", ["source_status", "entity"])
async def test_grouping_a_day_reads_that_day_of_the_events_alone(
    seeded: "asyncpg.Connection[asyncpg.Record]", rollup: str
) -> None:
    sql = statement("pg_analytics.snapshots", f"group_{rollup}")

    plan = await explain(seeded, sql, FIRST, END)

    [scan] = [node for node in nodes(plan) if node.get("Relation Name") == "analytics_events"]
    index = next(node for node in nodes(scan) if "Index Name" in node)
    assert index["Index Name"] == "analytics_events_occurred_day_idx"


@pytest.mark.parametrize("rollup", ["source_status", "entity"])
async def test_a_merge_compares_no_row_with_every_other_where_the_planner_knows_nothing_of_the_days(
    connection: "asyncpg.Connection[asyncpg.Record]", rollup: str
) -> None:
    await seed(connection, today=date(2026, 1, 1))
    await connection.execute("ANALYZE")  # of other days: it expects one row of the days to be merged
    await seed_more(connection)
    async with connection.transaction():
        await connection.execute(statement("pg_analytics.snapshots", f"group_{rollup}"), FIRST, END)

        plan = await explain(connection, statement("pg_analytics.snapshots", f"merge_{rollup}"), FIRST, END)

    loops = [node for node in nodes(plan) if node["Node Type"] == "Nested Loop"]
    assert all("Index" in loop["Plans"][1]["Node Type"] for loop in loops), loops


async def seed_more(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """The days of the merge, with events and snapshots."""
    async with connection.transaction():
        await connection.execute(
            """
            INSERT INTO analytics_events
            (external_ref, source_id, entity_id, status, processing_ms, amount_cents, occurred_at)
            SELECT 'more-' || n, 1, 'e-' || n, 'success', 1, 1, $1::date + INTERVAL '1 hour'
            FROM generate_series(1, 5000) AS n
            """,
            FIRST,
        )
        await rebuild_days(connection, DayRange(FIRST, END), run_id=None)


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
