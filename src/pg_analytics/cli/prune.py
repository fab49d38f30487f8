"""The commands that delete what is not needed any more, directly in the database."""

import sys
from datetime import date
from typing import Annotated, Final

from cyclopts import App, Parameter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TimeElapsedColumn

from pg_analytics.cli import output
from pg_analytics.cli.database import AsJson
from pg_analytics.cli.exit_codes import CommandError, ExitCode
from pg_analytics.cli.teaching import command
from pg_analytics.windows import parse_day

prune: Final = App(
    name="prune",
    help="Delete raw events whose reports are to stay.\n\n"
    "For example:\n\n    pg-analytics prune events --before 2026-01-01 --dry-run",
    help_epilogue="",
)
events: Final = command(
    "events",
    settings=("DATABASE_URL", "LOG_FORMAT", "LOG_LEVEL"),
    ends=(ExitCode.OK, ExitCode.FAILED, ExitCode.USAGE, ExitCode.UNAVAILABLE, ExitCode.INTERNAL),
)
prune.command(events)


@events.default
def _events(
    *,
    before: Annotated[str, Parameter(metavar="DATE")],
    dry_run: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    yes: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    requested_by: str = "command-line",
    as_json: AsJson = False,
) -> None:
    """Delete the events of all days before a date for good; their reports stay.

    Each day is counted once more, exactly, in the transaction that deletes its
    events. After that its snapshots are frozen: they stay as they are until their
    retention ends, and no recomputation can change them. An event that comes for
    such a day later is stored and not counted; the day is marked as out of date.

    It may run beside everything else, and may be broken off at any moment: days
    that were done stay done, and the same command does the rest.

    For example:

        pg-analytics prune events --before 2026-01-01 --dry-run
        pg-analytics prune events --before 2026-01-01 --yes

    :param before: First day whose events stay, as YYYY-MM-DD; today at the latest.
    :param dry_run: Delete nothing, and say how many events would be.
    :param yes: Do not ask first. Needed where nobody can answer, such as in a script.
    :param requested_by: Who prunes, for the audit trail.
    """
    from pg_analytics.cli import backend  # noqa: PLC0415 - slow, see there

    day = _day(before)
    planned = backend.plan_pruning(day)
    if dry_run:
        if as_json:
            output.show_json({"data": {"events": planned.events, "late_events": planned.late_events}})
        else:
            output.show(f"{planned.events:,} events of days before {day} would be deleted{_left(planned.late_events)}")
        return
    if planned.events and not yes:
        _ask(planned.events, day)
    console = output.stderr()
    bars = ("events", BarColumn(), TaskProgressColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*bars, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("events", total=planned.events)
            pruned = backend.prune_events(day, requested_by, lambda done: progress.update(task, completed=done))
    except KeyboardInterrupt:
        raise CommandError(
            ExitCode.INTERRUPTED,
            "interrupted; the days that were done are frozen, and no other day has lost an event",
            hint="the same command prunes the rest",
        ) from None
    if as_json:
        counts = {"events": pruned.events, "kept_from": str(pruned.kept_from), "late_events": pruned.late_events}
        output.show_json({"data": counts})
    else:
        frozen = f"{pruned.events:,} events deleted; days before {pruned.kept_from} are frozen"
        output.show(f"{frozen}{_left(pruned.late_events)}")


def _day(text: str) -> date:
    try:
        return parse_day(text)
    except ValueError:
        raise CommandError(ExitCode.USAGE, "--before: must be a date as YYYY-MM-DD") from None


def _ask(count: int, before: date) -> None:
    if not sys.stdin.isatty():
        raise CommandError(
            ExitCode.USAGE,
            f"{count:,} events of days before {before} would be deleted for good, and nobody can be asked",
            hint="add --yes to delete them, --dry-run to see what would be",
        )
    answer = output.stderr().input(f"Delete {count:,} events of days before {before} for good? [y/N] ", markup=False)
    if answer.strip().lower() not in {"y", "yes"}:
        raise CommandError(ExitCode.FAILED, "nothing was deleted")


def _left(late_events: int) -> str:
    if not late_events:
        return ""
    return f"; {late_events:,} that came later for days that were frozen already are left, and are in no report"
