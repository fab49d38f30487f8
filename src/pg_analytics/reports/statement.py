"""The statement of a report run: the report's own, and around it what its reader is told about freshness.

It is put together from files of this package, and from nothing of the request. An answer of snapshots::

    WITH asked (rollup, max_log_bytes, slug) AS (VALUES ($6, $7, $8))              -- after the report's parameters
    SELECT … FROM (the report's own statement) AS report CROSS JOIN (freshness_of_snapshots.sql) AS freshness

A fresh one::

    WITH asked (rollup, max_fresh_days, slug) AS (VALUES ($6, $7, $8)),
    stale AS MATERIALIZED (stale_days.sql),
    counted_live AS MATERIALIZED (counted_days.sql),
    rollup_entity AS NOT MATERIALIZED (fresh_entity.sql)
    SELECT … FROM (the report's own statement) AS report CROSS JOIN (freshness_of_fresh.sql) AS freshness

It needs nothing of a report: where its statement says `rollup_entity`, it finds the common table of that name, which
has the rollup's rows of days that are up to date and counts the events of days that are not. Either is one statement,
so it sees one snapshot of the database: rows, what is said of them, and the log that says which days are stale all
belong together.
"""

from functools import cache
from typing import Final

from pg_analytics.postgres.statements import statement
from pg_analytics.reports.definition import builtin_definitions

#: By rollup, the tables that a fresh answer has common tables for; those that others are made of come first.
_FRESH_TABLES: Final = {"source_status": ("source_status", "source_status_margin"), "entity": ("entity",)}


@cache
def run_statement(slug: str, breakdown: str | None, *, fresh: bool) -> str:
    """The statement that runs the report `slug`. Its parameters: those of the report's own, then its rollup, and the
    most bytes of change log that may be read, or, of a fresh answer, the most days whose events may be counted, and
    `slug`.
    """
    definition = builtin_definitions()[slug]
    own = definition.statement(breakdown)
    after = definition.parameter_count
    if fresh:
        tables = {
            "asked (rollup, max_fresh_days, slug) AS": (
                f"VALUES (${after + 1}::text, ${after + 2}::integer, ${after + 3}::text)"
            ),
            "stale AS MATERIALIZED": _part("stale_days"),
            "counted_live AS MATERIALIZED": _part("counted_days"),
        }
        # Not materialized: the report's own conditions, its range of days above all, must reach the tables.
        for table in _FRESH_TABLES[definition.rollup]:
            tables[f"rollup_{table} AS NOT MATERIALIZED"] = _part(f"fresh_{table}")
    else:
        tables = {
            "asked (rollup, max_log_bytes, slug) AS": (
                f"VALUES (${after + 1}::text, ${after + 2}::bigint, ${after + 3}::text)"
            )
        }
    return "\n".join(
        [
            own.partition("\n")[0],  # what it is for, to whoever looks at pg_stat_activity
            "WITH " + ",\n".join(f"{name} (\n{sql}\n)" for name, sql in tables.items()),
            "SELECT report.rows, report.row_count, report.total, freshness.*",
            f"FROM (\n{own}\n) AS report",
            f"CROSS JOIN (\n{_part('freshness_of_fresh' if fresh else 'freshness_of_snapshots')}\n) AS freshness",
        ]
    )


def _part(name: str) -> str:
    return statement(__package__, name)
