"""The commands of recomputation: ask for a run and wait for it, look at runs, cancel one."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Annotated, Any, Final

from cyclopts import Parameter
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from pg_analytics.cli import output
from pg_analytics.cli.client import DEFAULT_MANAGING, Answer, AsJson, Managing, Service
from pg_analytics.cli.exit_codes import CommandError, ExitCode
from pg_analytics.cli.teaching import MANAGING, MANAGING_ENDS, command

recompute: Final = command(
    "recompute",
    settings=MANAGING,
    ends=(*MANAGING_ENDS, ExitCode.FAILED, ExitCode.NOT_FOUND, ExitCode.CONFLICT),
)
runs: Final = command("runs", settings=MANAGING, ends=(*MANAGING_ENDS, ExitCode.NOT_FOUND))
cancel: Final = command("cancel", settings=MANAGING, ends=(*MANAGING_ENDS, ExitCode.NOT_FOUND, ExitCode.CONFLICT))
runs.command(cancel)

_POLL_S: Final = 0.25
#: A service that restarts is away for seconds; the run survives that, and so should the wait.
_PATIENCE_S: Final = 30.0
_ENDED: Final = ("completed", "failed", "cancelled")

Flag = Annotated[bool, Parameter(negative=(), show_default=False)]


@recompute.default
def _recompute(
    slug: str,
    /,
    *,
    window: str,
    from_: Annotated[str, Parameter(name="--from", metavar="DATE")],
    to: Annotated[str, Parameter(metavar="DATE")],
    requested_by: str | None = None,
    wait: Flag = False,
    verify: Flag = False,
    plan: Flag = False,
    as_json: AsJson = False,
    service: Managing = DEFAULT_MANAGING,
) -> ExitCode:
    r"""Rebuild the snapshots of a report for some days from their events.

    The service does this by itself soon after events were added or changed. Ask for
    it where it must be done at once, or where --verify found that numbers drifted.
    Whole buckets are rebuilt: a week that is touched is rebuilt from Monday to
    Sunday. While no event changes, a recomputation changes no number.

    The run is durable: it goes on when this command, or the service, is stopped.

    --plan asks what a run would do: which buckets, how many events, about how long.
    Nothing is entered; the exit code is 1 where the run would be refused.

    --verify compares instead of rebuilding, and writes nothing. With --wait it
    lists the days whose snapshots differ from their events; the exit code is 1
    where there is one.

    For example:

        pg-analytics recompute volume-by-period --window day \
            --from 2026-01-01 --to 2026-01-31
        pg-analytics recompute top-entities --window week \
            --from 2026-01-01 --to 2026-03-31 --plan
        pg-analytics recompute top-entities --window week \
            --from 2026-01-01 --to 2026-03-31 --wait
        pg-analytics recompute top-entities --window day \
            --from 2026-01-01 --to 2026-12-31 --verify --wait

    :param slug: The report, as `pg-analytics reports` lists it.
    :param window: Width of a bucket: day or week.
    :param from_: First day, as YYYY-MM-DD.
    :param to: Last day, included.
    :param requested_by: Who asks, for the audit trail.
    :param wait: Wait until the run has ended; the exit code then says how (1: failed, cancelled, or drift found).
    :param verify: Compare the snapshots with the events, and change nothing.
    :param plan: Only tell what a run would do.
    """
    if plan and (verify or wait):
        raise CommandError(ExitCode.USAGE, "--plan enters no run: it goes with neither --verify nor --wait")
    mode = "plan" if plan else "verify" if verify else "rebuild"
    body = {"report_slug": slug, "window": window, "date_from": from_, "date_to": to, "mode": mode}
    if requested_by is not None:
        body["requested_by"] = requested_by
    asked = Service(service)
    answer = asked.post("recomputations", body=body)
    if plan:
        _show_plan(answer, as_json=as_json)
        return ExitCode.FAILED if "refused" in answer.data else ExitCode.OK
    if wait:
        answer = _wait(asked, answer)
    _show_run(answer, as_json=as_json)
    if not wait and not as_json:
        output.notice(f"see how it goes with: pg-analytics runs {answer.data['id']}")
    said_no = answer.data["status"] in {"failed", "cancelled"} or answer.data.get("drift")
    return ExitCode.FAILED if said_no else ExitCode.OK


@runs.default
def _runs(
    run_id: str | None = None,
    /,
    *,
    status: str | None = None,
    report: str | None = None,
    mode: str | None = None,
    limit: int | None = None,
    offset: int | None = None,
    as_json: AsJson = False,
    service: Managing = DEFAULT_MANAGING,
) -> None:
    """List recomputation runs, the newest first, or show one.

    For example:

        pg-analytics runs
        pg-analytics runs --status failed --report top-entities
        pg-analytics runs --mode verify
        pg-analytics runs 6c1f0a52-6d0e-4a43-9f0b-0b7d3f0c8f11
        pg-analytics runs cancel 6c1f0a52-6d0e-4a43-9f0b-0b7d3f0c8f11

    :param run_id: The run to show; without it, runs are listed.
    :param status: Only runs that are pending, running, completed, failed or cancelled.
    :param report: Only runs of this report.
    :param mode: Only runs that rebuild, or only those that verify.
    :param limit: The most runs to list, 1 to 100; the service's default is 20.
    :param offset: How many to leave out at the beginning.
    """
    given = {"status": status, "report_slug": report, "mode": mode, "limit": limit, "offset": offset}
    asked = [(name, str(value)) for name, value in given.items() if value is not None]
    if run_id is None:
        answer = Service(service).get("recomputations", parameters=asked)
        _show_runs(answer, as_json=as_json)
    elif asked:
        raise CommandError(ExitCode.USAGE, "filters go with the list, not with one run")
    else:
        _show_run(Service(service).get("recomputations", run_id), as_json=as_json)


@cancel.default
def _cancel(
    run_id: str,
    /,
    *,
    requested_by: str | None = None,
    as_json: AsJson = False,
    service: Managing = DEFAULT_MANAGING,
) -> None:
    """Cancel a run that has not ended.

    What it has rebuilt so far stays: every chunk of days is exact by itself.

    For example:

        pg-analytics runs cancel 6c1f0a52-6d0e-4a43-9f0b-0b7d3f0c8f11

    :param run_id: The run to cancel.
    :param requested_by: Who asks, for the audit trail.
    """
    answer = Service(service).post("recomputations", run_id, "cancel", actor=requested_by)
    _show_run(answer, as_json=as_json)


def _wait(service: Service, answer: Answer) -> Answer:
    """The run once it has ended."""
    run_id = answer.data["id"]
    way_out = f"pg-analytics runs {run_id} shows it, pg-analytics runs cancel {run_id} stops it"
    states = _follow(service, run_id)
    with _progress() as show:
        show(answer.data)
        try:
            while answer.data["status"] not in _ENDED:
                answer = next(states)
                show(answer.data)
        except KeyboardInterrupt:
            no_longer = f"no longer waiting; run {run_id} goes on"
            raise CommandError(ExitCode.INTERRUPTED, no_longer, hint=way_out) from None
        except CommandError as error:
            raise CommandError(error.exit_code, f"run {run_id}: {error.message}", hint=way_out) from None
    return answer


def _follow(service: Service, run_id: str) -> Iterator[Answer]:
    """The run, again and again: as the service tells of it, or where that stream breaks or is refused, by asking."""
    with suppress(CommandError):  # the reason comes up again when the service is asked
        for run in service.follow("recomputations", run_id, "events"):
            yield Answer(200, {"data": run})
    lost_since: float | None = None
    while True:
        try:
            answer = service.get("recomputations", run_id)
        except CommandError as error:
            lost_since = lost_since or time.monotonic()
            if error.exit_code is not ExitCode.UNAVAILABLE or time.monotonic() - lost_since > _PATIENCE_S:
                raise
        else:
            lost_since = None
            yield answer
        time.sleep(_POLL_S)


class _ProgressBar(Progress):
    """A bar, and below it what the run waits for, if it waits."""

    waiting_for: str | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """What is drawn."""
        yield self.make_tasks_table(self.tasks)
        if self.waiting_for:
            yield Text(f"waits for {output.printable(self.waiting_for)}")


@contextmanager
def _progress() -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A progress bar on standard error, where that is a terminal: a function that takes the run as it is now."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
    console = output.stderr()
    with _ProgressBar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("pending", total=None, left="")

        def show(run: Mapping[str, Any]) -> None:
            done = run["progress"]
            bar.waiting_for = run.get("waiting_for")
            bar.update(
                task,
                description=run["status"],
                completed=done["buckets_done"],
                total=done["buckets_total"],
                left=_time_left(run),
            )

        yield show


def _show_plan(answer: Answer, *, as_json: bool) -> None:
    if as_json:
        output.show_json(answer.document)
        return
    planned = answer.data
    listed = output.table(("bucket", "events", "last rebuilt (UTC)", "state"), numbers=("events",))
    for bucket in planned["buckets"]:
        rebuilt = bucket["computed_at"]
        state = [name for name in ("stale", "frozen") if bucket[name]]
        listed.add_row(
            output.cell(bucket["bucket_date"]),
            output.cell(bucket["event_count"]),
            output.cell(rebuilt and output.moment(rebuilt)),
            output.cell(state),
        )
    output.show(listed)
    totals = {name: planned[name] for name in ("buckets_total", "buckets_stale", "events", "estimated_seconds")}
    totals["covers"] = _covers(planned)
    if "refused" in planned:
        totals["refused"] = planned["refused"]["message"]
    output.show(output.details(totals.items()))


def _show_run(answer: Answer, *, as_json: bool) -> None:
    if as_json:
        output.show_json(answer.document)
        return
    run = answer.data
    shown = {
        **{name: value for name, value in run.items() if name not in {"progress", "covers", "summary", "drift"}},
        "covers": _covers(run),
        "progress": " ".join(filter(None, (_buckets(run), _time_left(run)))),
        **run["summary"],
    }
    output.show(output.details(shown.items()))
    if run.get("drift"):
        output.show(output.rows_table(run["drift"]))
        output.notice("these days differ from their events though no change of them is waiting: recompute them")


def _show_runs(answer: Answer, *, as_json: bool) -> None:
    if as_json:
        output.show_json(answer.document)
        return
    listed = output.table(("run and request (UTC)", "status", "scope"), whole=("run and request (UTC)",))
    for run in answer.data:
        listed.add_row(
            output.stacked(run["id"], f"{output.moment(run['requested_at'])} {run['requested_by']}"),
            output.stacked(run["status"], f"{run['mode']} {_buckets(run)}"),
            output.stacked(f"{run['report_slug']} {run['window']}", f"{run['date_from']} to {run['date_to']}"),
        )
    output.show(listed)
    output.show_rest(answer.meta["pagination"], len(answer.data))


def _buckets(run: Mapping[str, Any]) -> str:
    return f"{run['progress']['buckets_done']} of {run['progress']['buckets_total']}"


def _time_left(run: Mapping[str, Any]) -> str:
    """An estimate; empty where there is none."""
    seconds = run["progress"].get("seconds_left")
    return "" if seconds is None else f"about {timedelta(seconds=seconds)} left"


def _covers(run: Mapping[str, Any]) -> str:
    return f"{run['covers']['from']} to {run['covers']['to']}"
