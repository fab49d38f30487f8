"""The plans of the hot statements: they read about as much as they answer with, whatever else the tables hold."""

import json
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import pytest

from pg_analytics.postgres.pool import Connection
from pg_analytics.postgres.statements import statement
from pg_analytics.reports.definition import builtin_definitions
from pg_analytics.reports.statement import batch_statement, run_statement
from pg_analytics.reports.store import report_call, run_reports
from pg_analytics.windows import DayRange, Window
from tests.events import add_source
from tests.rebuilding import Connect, rebuild

pytestmark = pytest.mark.anyio

FIRST, END = date(2026, 5, 4), date(2026, 5, 6)
#: Of the reports: a part of the days that have snapshots.
REPORTED = DayRange(date(2026, 5, 9), date(2026, 6, 8))
#: How many sources, statuses and entities each day has.
SOURCES, STATUSES, ENTITIES = 20, 3, 600

TIERS = ("rollup_entity", "rollup_entity_month")

#: Per report, breakdown and filter: how many rows of a rollup or its margins the answer is made of, per day.
QUESTIONS: dict[tuple[str, str | None, str | None], int] = {
    ("volume-by-period", "period", None): 1,
    ("volume-by-period", "period", "source-7"): 1,
    ("volume-by-period", "source", None): SOURCES,
    ("volume-by-period", "source", "source-7"): 1,
    ("status-counts", "status", None): STATUSES,
    ("status-counts", "status", "failed"): 1,
    ("status-counts", "period", None): STATUSES,
    ("status-counts", "period", "failed"): 1,
    ("top-entities", None, None): ENTITIES,
}


@pytest.mark.parametrize("statistics", ["fresh", "none"])
async def test_a_report_touches_about_as_many_rows_as_its_answer_is_made_of(connect: Connect, statistics: str) -> None:
    connection = await connect()
    for table in ("rollup_source_status_margin", "rollup_entity", "snapshot_buckets", "event_sources"):
        await connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    await fill(connection, DayRange(REPORTED.start - timedelta(days=70), REPORTED.end + timedelta(days=20)))
    if statistics == "fresh":
        await connection.execute("VACUUM ANALYZE")
    # A few pages are read whole sooner than through an index; what matters is which index there is to use.
    await connection.execute("SET enable_seqscan = off")

    for plan_cache_mode, together in (("force_custom_plan", 1), ("force_generic_plan", 1), ("force_generic_plan", 3)):
        await connection.execute(f"SET plan_cache_mode = {plan_cache_mode}")
        for (slug, breakdown, only), per_day in QUESTIONS.items():
            if together > 1 and not builtin_definitions()[slug].batched:
                continue
            plan = await run_plan(connection, slug, breakdown, only, together=together)
            what = f"{slug}, {breakdown}, {only}, {plan_cache_mode}, {together}: {json.dumps(plan, indent=1)}"

            read = {
                node["Relation Name"]: rows_of(node)
                for node in nodes(plan)
                if "Relation Name" in node and touched(node)
            }
            made_of = together * REPORTED.day_count * per_day
            # One index is made for each question, but for one status: the rows of a day's three lie side by side.
            most = made_of * (STATUSES if slug == "status-counts" and only else 1)
            rollup = {table: rows for table, rows in read.items() if table.startswith("rollup_")}
            assert made_of <= sum(rollup.values()) <= most, what
            others = {table: rows for table, rows in read.items() if not table.startswith("rollup_")}
            assert set(others) <= {"snapshot_buckets", "horizons", "event_sources", "report_definitions"}, what
            assert others["report_definitions"] <= together * len(builtin_definitions()), what
            assert others["snapshot_buckets"] == together * REPORTED.day_count, what
            assert others["horizons"] <= together * 3, what
            assert others.get("event_sources", 0) <= together * SOURCES, what


@pytest.mark.parametrize("plan_cache_mode", ["force_custom_plan", "force_generic_plan"])
async def test_of_a_long_range_whole_months_are_read_by_the_month_and_only_the_rest_by_the_day(
    connect: Connect, plan_cache_mode: str
) -> None:
    connection = await connect(plan_cache_mode=plan_cache_mode)
    await fill(connection, DayRange(date(2026, 3, 25), date(2026, 6, 20)))
    await connection.execute("VACUUM ANALYZE")
    await connection.execute("SET enable_seqscan = off")

    plan = await run_plan(connection, "top-entities", None, None, days=DayRange(date(2026, 3, 30), date(2026, 6, 8)))

    read = {table: [rows_of(node) for node in nodes(plan) if node.get("Relation Name") == table] for table in TIERS}
    assert read["rollup_entity_month"] == [2 * ENTITIES], plan
    assert sorted(read["rollup_entity"]) == [2 * ENTITIES, 7 * ENTITIES], plan
    ranked = [node for node in nodes(plan) if node.get("Sort Method")]
    assert "top-N heapsort" in {node["Sort Method"] for node in ranked}, plan


async def test_what_reads_whole_months_is_planned_for_its_days_and_everything_else_once(connect: Connect) -> None:
    connection = await connect(plan_cache_mode="force_generic_plan")
    plans: dict[int, tuple[int, int]] = {}
    for days in (30, 365, 30, 365):
        call = report_call(
            builtin_definitions()["top-entities"],
            None,
            days=DayRange(FIRST, FIRST + timedelta(days=days)),
            window=Window.DAY,
            limit=50,
            offset=0,
            filters=[],
        )
        before = await _plans(connection)
        assert [answer.row_count for answer in await run_reports(connection, [call])] == [0]
        generic, custom = await _plans(connection)
        plans[days] = generic - before[0], custom - before[1]

    assert plans == {30: (1, 0), 365: (0, 1)}
    assert await connection.fetchval("SHOW plan_cache_mode") == "force_generic_plan"


async def _plans(connection: Connection) -> tuple[int, int]:
    """How often rankings were run by a generic plan, and by one of their own."""
    [row] = await connection.fetch(
        "SELECT coalesce(sum(generic_plans), 0)::int AS generic, coalesce(sum(custom_plans), 0)::int AS custom"
        " FROM pg_prepared_statements WHERE statement LIKE '-- top-entities%'"
    )
    return row["generic"], row["custom"]


async def test_of_many_sources_only_those_that_are_asked_for_are_looked_up(connect: Connect) -> None:
    connection = await connect(plan_cache_mode="force_generic_plan")
    await fill(connection, DayRange(FIRST, END))
    await connection.execute(
        """
        INSERT INTO event_sources (slug, provider_name, description)
        SELECT 'idle-' || n, '', '' FROM generate_series(1, 5000) AS n
        """
    )
    await connection.execute("ANALYZE")

    plan = await run_plan(connection, "volume-by-period", "period", "source-7", days=DayRange(FIRST, END))

    [sources] = [node for node in nodes(plan) if node.get("Relation Name") == "event_sources"]
    assert rows_of(sources) == 1, plan


@pytest.mark.parametrize("statistics", ["fresh", "none", "of other days"])
async def test_merging_and_verifying_read_their_days_by_index_and_no_row_with_every_other(
    connect: Connect, statistics: str
) -> None:
    connection = await connect(work_mem="16MB")  # as those that rebuild
    for table in ("analytics_events", "rollup_source_status", "rollup_source_status_margin", "rollup_entity"):
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


async def run_plan(
    connection: Connection,
    slug: str,
    breakdown: str | None,
    only: str | None,
    *,
    days: DayRange = REPORTED,
    together: int = 1,
) -> dict[str, Any]:
    """What PostgreSQL does for a report of snapshots, asked once or several times together: the whole statement."""
    definition = builtin_definitions()[slug]
    types = definition.parameter_types
    filters = ["NULL" if only is None else f"'{only}'"] * len(definition.filters)
    values = [f"'{days.start}'", f"'{days.end}'", "'day'", "50", "0", *filters]
    if definition.reads_months:
        months = days.whole_months()
        values += [f"'{months.start}'", f"'{months.end}'"]
    statement = run_statement(slug, breakdown, fresh=False)
    if together > 1:
        statement = batch_statement(slug, breakdown)
        values = [f"array_fill({value}::{of}, ARRAY[{together}])" for value, of in zip(values, types, strict=True)]
    values += [f"'{definition.rollup}'", "1000000", f"'{slug}'"]
    await connection.execute(f"PREPARE report AS {statement}")
    [row] = await connection.fetch(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) EXECUTE report ({', '.join(values)})")
    await connection.execute("DEALLOCATE report")
    plan: dict[str, Any] = json.loads(row[0])[0]["Plan"]
    return plan


def rows_of(scan: dict[str, Any]) -> int:
    """How many rows a scan looked at, those included that it then left out."""
    left_out = scan.get("Rows Removed by Filter", 0) + scan.get("Rows Removed by Index Recheck", 0)
    return int((scan["Actual Rows"] + left_out) * scan["Actual Loops"])


def touched(scan: dict[str, Any]) -> bool:
    """Whether a scan looked at anything."""
    return rows_of(scan) > 0


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The plan's nodes, from the root down."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)
