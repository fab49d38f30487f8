"""The commands that read: the catalogue of reports, and a report with its chart."""

from typing import Annotated, Any, Final

from cyclopts import Parameter

from pg_analytics.cli import chart as charts
from pg_analytics.cli import output
from pg_analytics.cli.client import DEFAULT_ASKING, Answer, AsJson, Asking, Service
from pg_analytics.cli.exit_codes import CommandError, ExitCode
from pg_analytics.cli.teaching import ASKING, ASKING_ENDS, command

reports: Final = command("reports", settings=ASKING, ends=(*ASKING_ENDS, ExitCode.NOT_FOUND))
run: Final = command("run", settings=ASKING, ends=(*ASKING_ENDS, ExitCode.NOT_FOUND))


@reports.default
def _reports(
    slug: str | None = None,
    /,
    *,
    search: str | None = None,
    sort: str | None = None,
    order: str | None = None,
    limit: int | None = None,
    offset: int | None = None,
    as_json: AsJson = False,
    service: Asking = DEFAULT_ASKING,
) -> None:
    """List the reports, or show one: its windows, breakdowns and filters.

    Look here first: what `pg-analytics run` takes differs from report to report.

    For example:

        pg-analytics reports
        pg-analytics reports volume-by-period
        pg-analytics reports --search volume --sort updated_at --order desc

    :param slug: The report to show; without it, all are listed.
    :param search: Only reports whose slug or name contains this text, whatever its case.
    :param sort: slug, name, updated_at or cache_ttl_seconds; the service's default is name.
    :param order: asc or desc; the service's default is asc.
    :param limit: The most reports to list, 1 to 100; the service's default is 20.
    :param offset: How many to leave out at the beginning.
    """
    asked = _given(search=search, sort=sort, order=order, limit=limit, offset=offset)
    if slug is not None and asked:
        raise CommandError(ExitCode.USAGE, f"--{asked[0][0]} goes with the list, not with one report")
    path = ["reports"] if slug is None else ["reports", slug]
    answer = Service(service).get(*path, parameters=asked)
    if as_json:
        output.show_json(answer.document)
    elif slug is None:
        _show_list(answer)
    else:
        output.show(output.details(answer.data.items()))


def _show_list(answer: Answer) -> None:
    listed = output.table(("slug", "name", "windows", "description"), whole=("slug",))
    for report in answer.data:
        listed.add_row(
            *(output.cell(report.get(member)) for member in ("slug", "name", "allowed_windows", "description"))
        )
    output.show(listed)
    output.show_rest(answer.meta["pagination"], len(answer.data))


@run.default
def _run(
    slug: str,
    /,
    *,
    window: str | None = None,
    from_: Annotated[str | None, Parameter(name="--from", metavar="DATE")] = None,
    to: Annotated[str | None, Parameter(metavar="DATE")] = None,
    breakdown: str | None = None,
    source: str | None = None,
    status: str | None = None,
    filters: Annotated[
        tuple[str, ...], Parameter(name="--filter", metavar="NAME=VALUE", negative=(), show_default=False)
    ] = (),
    fresh: Annotated[bool, Parameter(negative=())] = False,
    limit: int | None = None,
    offset: int | None = None,
    chart: Annotated[bool | None, Parameter(negative="--no-chart")] = None,
    as_json: AsJson = False,
    service: Asking = DEFAULT_ASKING,
) -> None:
    """Run a report: its rows as a table, and a small chart of them.

    Without dates it reads the last 30 days. Weeks are answered whole: the note
    below the table says which days were read.

    For example:

        pg-analytics run volume-by-period
        pg-analytics run volume-by-period --window week --from 2026-01-01
        pg-analytics run volume-by-period --breakdown source
        pg-analytics run status-counts --status failed
        pg-analytics run top-entities --limit 10 --json
        pg-analytics run volume-by-period --fresh

    :param slug: The report, as `pg-analytics reports` lists it.
    :param window: Width of a bucket, day or week; the default is the report's.
    :param from_: First day, as YYYY-MM-DD; by default 29 days before the last.
    :param to: Last day, included; by default today.
    :param breakdown: How to split the rows; the default is the report's.
    :param source: The same as --filter source=…
    :param status: The same as --filter status=…
    :param filters: Only rows with this value; may be repeated.
    :param fresh: Count changes that no rebuild has seen yet, past the cache.
    :param limit: The most rows, 1 to 1000; the service's default is 50.
    :param offset: How many rows to leave out at the beginning.
    :param chart: Draw a chart, or none; by default on a terminal only.
    """
    asked = _given(window=window, date_from=from_, date_to=to, breakdown=breakdown, source=source, status=status)
    asked += [_filter(text) for text in filters]
    asked += _given(fresh="true" if fresh else None, limit=limit, offset=offset)
    answer = Service(service).get("reports", slug, "run", parameters=asked)
    if as_json:
        output.show_json(answer.document)
        return
    data = answer.data
    if data["rows"]:
        output.show(output.rows_table(data["rows"]))
        if output.stdout().is_terminal if chart is None else chart:
            output.show(charts.draw(data["rows"], window=data["window"], console=output.stdout()))
    _show_notes(data, answer.meta)


def _show_notes(data: dict[str, Any], meta: dict[str, Any]) -> None:
    """What was read, and what to know about it, on standard error."""
    covers = meta.get("covers", {"from": data["date_from"], "to": data["date_to"]})
    nothing = "" if data["rows"] else "no rows: "
    output.notice(
        f"{nothing}{data['report_slug']} per {data['window']}, {covers['from']} to {covers['to']}, "
        f"from {data['source_system']} in {data['execution_ms']} ms"
    )
    output.show_rest(meta["pagination"], len(data["rows"]))
    if meta.get("stale_buckets"):
        what = "changes that are lost to them" if meta.get("fresh") else "changes that are not counted yet"
        output.notice(f"{meta['stale_buckets']} buckets have {what}")
    if "retained_from" in meta:
        output.notice(f"days before {meta['retained_from']} are not kept any more: they are missing, not empty")
    if meta.get("degraded"):
        output.notice("PostgreSQL cannot be reached: this is the last answer in the cache")


def _given(**parameters: object) -> list[tuple[str, str]]:
    """The parameters that were given; what is left out has the service's default."""
    return [(name, str(value)) for name, value in parameters.items() if value is not None]


def _filter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise CommandError(ExitCode.USAGE, f"--filter takes NAME=VALUE, not {text!r}")
    return name, value
