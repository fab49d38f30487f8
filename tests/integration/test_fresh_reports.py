"""Fresh reports: how PostgreSQL reads for them, that they are of one moment, and what a long change log costs."""

import asyncio
import json
import random
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import count
from typing import Any

import pytest

from pg_analytics.postgres.pool import Connection
from pg_analytics.reports import store
from pg_analytics.reports.definition import builtin_definitions
from pg_analytics.reports.statement import run_statement
from pg_analytics.windows import DayRange, Window
from tests.events import insert
from tests.rebuilding import Connect, rebuild
from tests.report_oracle import REPORTS, Asked, expected

pytestmark = [pytest.mark.anyio]

FIRST = date(2026, 5, 4)
DAYS = DayRange(FIRST, FIRST + timedelta(days=28))
#: Every report with each of its breakdowns.
BREAKDOWNS = [(slug, breakdown) for slug, (breakdowns, _) in REPORTS.items() for breakdown in breakdowns]
reports = pytest.mark.parametrize("slug,breakdown", BREAKDOWNS)


async def run(
    connection: Connection, slug: str, breakdown: str | None, *, max_fresh_days: int | None
) -> store.ReportRows:
    """A report over all days."""
    definition = builtin_definitions()[slug]
    call = store.report_call(
        definition,
        breakdown,
        days=DAYS,
        window=Window.DAY,
        limit=1000,
        offset=0,
        filters=[None] * len(definition.filters),
        max_fresh_days=max_fresh_days,
    )
    [answer] = await store.run_reports(connection, [call])
    return answer


async def explain(
    connection: Connection, slug: str, breakdown: str | None, *, fresh: bool, plan: str = "force_custom_plan"
) -> dict[str, Any]:
    """What PostgreSQL does for a report over all days, by a plan for these very parameters or for any."""
    definition = builtin_definitions()[slug]
    values = [f"'{DAYS.start}'", f"'{DAYS.end}'", "'day'", "50", "0", *["NULL"] * len(definition.filters)]
    if definition.reads_months:
        months = DayRange(DAYS.end, DAYS.end) if fresh else DAYS.whole_months()
        values += [f"'{months.start}'", f"'{months.end}'"]
    values += [f"'{definition.rollup}'", "31" if fresh else "1000000", f"'{slug}'"]
    await connection.execute(f"SET plan_cache_mode = {plan}")
    await connection.execute(f"PREPARE report AS {run_statement(slug, breakdown, fresh=fresh)}")
    [row] = await connection.fetch(f"EXPLAIN (FORMAT JSON, ANALYZE) EXECUTE report ({', '.join(values)})")
    await connection.execute("DEALLOCATE report")
    done: dict[str, Any] = json.loads(row[0])[0]["Plan"]
    return done


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The plan's nodes, from the root down."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def scans(plan: dict[str, Any], table: str) -> list[dict[str, Any]]:
    """The nodes that have found something in a table."""
    return [node for node in nodes(plan) if node.get("Relation Name") == table and node["Actual Rows"]]


@pytest.fixture
async def filled(connection: Connection) -> Connection:
    """A connection to a database of many days, of which three have changed since they were built."""
    await insert(connection, DAYS.start - timedelta(days=60), 500, last_day=DAYS.end + timedelta(days=60))
    await rebuild(connection, DayRange(DAYS.start - timedelta(days=60), DAYS.end + timedelta(days=60)))
    await connection.execute("VACUUM ANALYZE")
    for n in (3, 4, 20):
        await insert(connection, FIRST + timedelta(days=n), 10, prefix="late")
    return connection


@pytest.mark.parametrize("plan", ["force_custom_plan", "force_generic_plan"])
@reports
async def test_a_fresh_report_reads_the_events_of_stale_days_alone_and_by_index(
    filled: Connection, slug: str, breakdown: str | None, plan: str
) -> None:
    done = await explain(filled, slug, breakdown, fresh=True, plan=plan)

    [scan] = scans(done, "analytics_events")
    by = next(node for node in nodes(scan) if "Index Name" in node)
    assert by["Index Name"] == "analytics_events_occurred_day_idx"
    assert scan["Actual Loops"] == 3
    assert scan["Actual Rows"] == 510
    [snapshots] = scans(done, f"rollup_{builtin_definitions()[slug].rollup}")
    read = snapshots["Actual Rows"] + snapshots.get("Rows Removed by Filter", 0)
    assert read == await filled.fetchval(
        f"SELECT count(*) FROM {snapshots['Relation Name']} WHERE day >= $1 AND day < $2", DAYS.start, DAYS.end
    ), "the report's range of days reached the table"


@reports
async def test_a_report_of_snapshots_reads_no_event(filled: Connection, slug: str, breakdown: str | None) -> None:
    done = await explain(filled, slug, breakdown, fresh=False)

    assert not scans(done, "analytics_events")
    assert len(scans(done, "event_changes")) == 1


async def test_past_the_most_days_no_event_is_counted(filled: Connection) -> None:
    for slug, breakdown in BREAKDOWNS:
        allowed = await run(filled, slug, breakdown, max_fresh_days=3)
        refused = await run(filled, slug, breakdown, max_fresh_days=2)
        plain = await run(filled, slug, breakdown, max_fresh_days=None)

        assert (allowed.fresh_days, refused.fresh_days, plain.fresh_days) == (3, 3, None)
        assert refused.rows == plain.rows != allowed.rows


async def test_a_log_that_is_too_long_to_be_read_keeps_no_report_waiting_and_hides_nothing_from_a_fresh_one(
    filled: Connection,
) -> None:
    stale = await run(filled, "volume-by-period", "period", max_fresh_days=None)
    fresh = await run(filled, "volume-by-period", "period", max_fresh_days=31)
    await filled.execute(
        "INSERT INTO event_changes SELECT 'late-event-' || n, $1::date FROM generate_series(1, 400000) AS n", FIRST
    )

    beside_a_long_log = await run(filled, "volume-by-period", "period", max_fresh_days=None)

    assert (stale.stale_buckets, beside_a_long_log.stale_buckets) == (3, None)
    assert beside_a_long_log.rows == stale.rows
    assert not scans(await what_a_plain_report_ran(filled), "event_changes")
    assert await store.read_stale_days(filled, most=100) == {}
    again = await run(filled, "volume-by-period", "period", max_fresh_days=31)
    assert (again.rows, again.fresh_days) == (fresh.rows, 4)


async def what_a_plain_report_ran(connection: Connection) -> dict[str, Any]:
    """The nodes of a plain report's plan that were run."""
    done = await explain(connection, "volume-by-period", "period", fresh=False)
    return {"Plans": [{**node, "Plans": []} for node in nodes(done) if node["Actual Loops"]]}


@pytest.mark.parametrize("rollup", ["source_status", "entity"])
async def test_a_stale_day_that_its_rollup_has_dropped_is_neither_told_nor_counted(
    filled: Connection, rollup: str
) -> None:
    slug, breakdown = next(key for key in BREAKDOWNS if builtin_definitions()[key[0]].rollup == rollup)
    kept_from = FIRST + timedelta(days=4)
    await filled.execute("UPDATE horizons SET kept_from = $1 WHERE subject = $2", kept_from, rollup)

    plain = await run(filled, slug, breakdown, max_fresh_days=None)
    fresh = await run(filled, slug, breakdown, max_fresh_days=31)

    assert (plain.stale_buckets, fresh.fresh_days) == (2, 2)
    assert plain.retained_from == fresh.retained_from == kept_from


async def test_a_fresh_report_is_of_one_moment_while_events_change_and_days_are_rebuilt(
    connection: Connection, connect: Connect
) -> None:
    chance = random.Random(7)
    await insert(connection, DAYS.start, 20, last_day=DAYS.last)
    done = asyncio.Event()

    async def write(name: str) -> None:
        writer = await connect()
        number = 0
        while not done.is_set():
            number += 1
            day = DAYS.start + timedelta(days=chance.randrange(5))
            await insert(writer, day, chance.randrange(1, 5), prefix=f"{name}-{number}")
            await writer.execute("DELETE FROM analytics_events WHERE hashtext(external_ref) % 97 = $1", number % 97)

    async def refresh() -> None:
        refresher = await connect()
        while not done.is_set():
            await rebuild(refresher, [DAYS.start + timedelta(days=chance.randrange(5))])

    async def read() -> None:
        reader = await connect()
        seen: set[int | None] = set()
        try:
            for number in count():
                if number >= 150 and len(seen) > 1:  # days became stale and fresh while it was asked
                    break
                slug, breakdown = BREAKDOWNS[number % len(BREAKDOWNS)]
                asked = Asked(slug=slug, window="day", date_from=DAYS.start, date_to=DAYS.last, breakdown=breakdown)
                # The oracle's statement must see what the report's one statement saw.
                async with reader.transaction(isolation="repeatable_read"):
                    found = await run(reader, slug, breakdown, max_fresh_days=31)
                    right = await expected(reader, asked)
                assert json.loads(found.rows) == right.rows
                seen.add(found.fresh_days)
        finally:
            done.set()

    async with asyncio.TaskGroup() as group:
        for task in (write("a"), write("b"), refresh(), refresh(), read()):
            group.create_task(task)
