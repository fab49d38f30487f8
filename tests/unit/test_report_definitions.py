"""The reports that come with the service: each folder is whole, and says what the contract says."""

import re
from datetime import date, timedelta
from importlib import resources

import msgspec
import pytest

from pg_analytics.reports import definition as definition_module
from pg_analytics.reports.definition import ReportDefinition, builtin_definitions
from pg_analytics.reports.statement import batch_statement, run_statement
from pg_analytics.reports.store import report_call
from pg_analytics.windows import DayRange, Window

DEFINITIONS = builtin_definitions()
BREAKDOWNS = [(report, breakdown.name) for report in DEFINITIONS.values() for breakdown in report.breakdowns] + [
    (report, None) for report in DEFINITIONS.values() if not report.breakdowns
]

reports = pytest.mark.parametrize("report", DEFINITIONS.values(), ids=DEFINITIONS)
statements = pytest.mark.parametrize(
    "report,breakdown", BREAKDOWNS, ids=[f"{report.slug}-{breakdown}" for report, breakdown in BREAKDOWNS]
)


def test_the_reports_are_those_of_the_contract() -> None:
    assert {slug: report.cache_ttl_seconds for slug, report in DEFINITIONS.items()} == {
        "volume-by-period": 120,
        "status-counts": 90,
        "top-entities": 45,
    }


@pytest.mark.parametrize(
    "slug,columns",
    [
        (
            "volume-by-period",
            {"period": ("bucket_date", "event_count"), "source": ("bucket_date", "source", "event_count")},
        ),
        (
            "status-counts",
            {"status": ("status", "event_count"), "period": ("bucket_date", "status", "event_count")},
        ),
        ("top-entities", {None: ("entity_id", "event_count")}),
    ],
)
def test_breakdowns_and_columns_are_those_of_the_contract(
    slug: str, columns: dict[str | None, tuple[str, ...]]
) -> None:
    report = DEFINITIONS[slug]
    found: dict[str | None, tuple[str, ...]] = {breakdown.name: breakdown.columns for breakdown in report.breakdowns}

    assert (found or {None: report.columns}) == columns
    assert report.default_breakdown == next(iter(columns))
    assert list(found) == [name for name in columns if name]


@reports
def test_a_report_has_day_and_week_and_starts_with_the_day(report: ReportDefinition) -> None:
    assert [window.name for window in report.windows] == [Window.DAY, Window.WEEK]
    assert report.default_window is Window.DAY
    assert all((window.retention_days or 1) > 0 and window.refresh_interval_minutes > 0 for window in report.windows)


@reports
def test_filters_and_measures_are_columns(report: ReportDefinition) -> None:
    columns = {*report.columns, *(column for breakdown in report.breakdowns for column in breakdown.columns)}

    assert {f.name for f in report.filters} <= set(report.dimensions)
    assert set(report.dimensions) | set(report.measures) == columns
    assert not set(report.dimensions) & set(report.measures)


@reports
def test_the_filters_that_clients_read_list_everything_that_can_be_asked(report: ReportDefinition) -> None:
    asked = report.supported_filters

    assert asked.pop("window") == "day|week"
    assert asked.pop("breakdown", "") == "|".join(breakdown.name for breakdown in report.breakdowns)
    assert (asked.pop("fresh"), asked.pop("limit"), asked.pop("offset")) == ("true|false", "1-1000", ">=0")
    assert asked == {f.name: f.description for f in report.filters}
    for f in report.filters:
        assert f.values is None or f.description == "|".join(f.values)


@statements
def test_every_breakdown_has_its_statement_with_a_head_comment(report: ReportDefinition, breakdown: str | None) -> None:
    sql = report.statement(breakdown)

    assert sql.startswith(f"-- {report.slug}, one row per ")
    assert "-- Parameters: " in sql
    assert "-- Index: " in sql


@statements
def test_a_statement_takes_the_range_the_page_one_parameter_per_filter_and_the_months(
    report: ReportDefinition, breakdown: str | None
) -> None:
    code = re.sub(r"--.*", "", report.statement(breakdown))

    used = {int(number) for number in re.findall(r"\$(\d+)", code)}
    assert used == set(range(1, 6 + len(report.filters) + 2 * report.reads_months))


@statements
@pytest.mark.parametrize("fresh", [False, True])
def test_what_surrounds_a_statement_takes_three_parameters_after_its_own(
    report: ReportDefinition, breakdown: str | None, *, fresh: bool
) -> None:
    sql = run_statement(report.slug, breakdown, fresh=fresh)

    assert sql.startswith(f"-- {report.slug}, one row per "), "pg_stat_activity shows the first lines"
    assert report.statement(breakdown) in sql
    used = {int(number) for number in re.findall(r"\$(\d+)", re.sub(r"--.*", "", sql))}
    assert used == set(range(1, 9 + len(report.filters) + 2 * report.reads_months))
    assert (f"rollup_{report.rollup} AS NOT MATERIALIZED" in sql) is fresh


@statements
def test_the_statement_for_several_questions_takes_an_array_for_each_parameter_of_the_report_itself(
    report: ReportDefinition, breakdown: str | None
) -> None:
    sql = batch_statement(report.slug, breakdown)

    assert sql.startswith(f"-- {report.slug}, one row per "), "pg_stat_activity shows the first lines"
    code = re.sub(r"--.*", "", sql)
    own = len(report.parameter_types)
    assert own == 5 + len(report.filters) + 2 * report.reads_months
    arrays = [f"${number}::{type_}[]" for number, type_ in enumerate(report.parameter_types, 1)]
    assert f"unnest({', '.join(arrays)})" in code
    # Each once, there; what all questions have in common stays as it is.
    found = [int(number) for number in re.findall(r"\$(\d+)", code)]
    assert sorted(found) == list(range(1, own + 4))


@pytest.mark.parametrize(
    "days,months,batched,fresh,is_long",
    [
        (365, True, False, False, True),
        (30, True, False, False, False),
        (365, False, False, False, False),
        (365, True, True, False, False),  # several share a statement, and with it a plan
        (365, True, False, True, False),  # the events of this moment: no months are read
    ],
)
def test_what_reads_whole_months_for_itself_is_planned_for_its_days(
    days: int, *, months: bool, batched: bool, fresh: bool, is_long: bool
) -> None:
    report = msgspec.structs.replace(DEFINITIONS["top-entities"], reads_months=months, batched=batched)
    start = date(2026, 5, 4)

    call = report_call(
        report,
        None,
        days=DayRange(start, start + timedelta(days=days)),
        window=Window.DAY,
        limit=50,
        offset=0,
        filters=[],
        max_fresh_days=7 if fresh else None,
    )
    assert call.is_long is is_long


@reports
def test_no_statement_lies_idle(report: ReportDefinition) -> None:
    folder = resources.files(definition_module.__package__ or "") / "builtin" / report.slug

    found = {file.name for file in folder.iterdir()}
    assert found == {"report.toml", *(f"{name or 'rows'}.sql" for r, name in BREAKDOWNS if r is report)}


def test_a_definition_with_a_member_that_nobody_knows_is_refused() -> None:
    table = msgspec.to_builtins(DEFINITIONS["top-entities"])

    assert msgspec.convert(table, ReportDefinition) == DEFINITIONS["top-entities"]
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert(table | {"colour": "red"}, ReportDefinition)
    with pytest.raises(msgspec.ValidationError, match="Invalid enum value"):
        msgspec.convert(table | {"default_window": "month"}, ReportDefinition)
