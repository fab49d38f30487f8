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

Several questions at once, of a report that is `batched`::

    SELECT answer.* FROM unnest($1::date[], …) AS question (p1, …)
    CROSS JOIN LATERAL (what answers one, with question.p1 in place of $1 …) AS answer

A fresh answer needs nothing of a report: where its statement says `rollup_entity`, it finds the common table of that
name, which has the rollup's rows of days that are up to date and counts the events of days that are not. Each of these
is one statement, so it sees one snapshot of the database: rows, what is said of them, and the log that says which days
are stale all belong together.
"""

import re
from functools import cache
from typing import Final

from pg_analytics.postgres.statements import statement
from pg_analytics.reports.definition import builtin_definitions

#: By rollup, the tables that a fresh answer has common tables for; those that others are made of come first.
_FRESH_TABLES: Final = {"source_status": ("source_status", "source_status_margin"), "entity": ("entity",)}

_PARAMETER: Final = re.compile(r"\$(\d+)")


@cache
def run_statement(slug: str, breakdown: str | None, *, fresh: bool) -> str:
    """The statement that runs the report `slug`. Its parameters: those of the report's own, then its rollup, and the
    most bytes of change log that may be read, or, of a fresh answer, the most days whose events may be counted, and
    `slug`.
    """
    definition = builtin_definitions()[slug]
    own = definition.statement(breakdown)
    after = len(definition.parameter_types)
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


@cache
def batch_statement(slug: str, breakdown: str | None) -> str:
    """The statement that answers several questions of the report `slug`, a row for each, in their order. Its parameters
    are those of `run_statement`, but for the report's own: of these, each is an array with a value per question.
    """
    types = builtin_definitions()[slug].parameter_types
    one = _PARAMETER.sub(
        lambda found: f"question.p{found[1]}" if int(found[1]) <= len(types) else found[0],
        run_statement(slug, breakdown, fresh=False),
    )
    arrays = ", ".join(f"${number}::{type_}[]" for number, type_ in enumerate(types, 1))
    columns = ", ".join(f"p{number}" for number, _ in enumerate(types, 1))
    return "\n".join(
        [
            one.partition("\n")[0],
            "SELECT answer.*",
            f"FROM unnest({arrays}) WITH ORDINALITY AS question ({columns}, number)",
            f"CROSS JOIN LATERAL (\n{one}\n) AS answer",
            "ORDER BY question.number",
        ]
    )


def _part(name: str) -> str:
    return statement(__package__, name)
