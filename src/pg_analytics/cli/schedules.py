"""The commands of the schedules: look at them, change them, pause and resume them."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from cyclopts import Parameter

from pg_analytics.cli import output
from pg_analytics.cli.client import DEFAULT_MANAGING, Answer, AsJson, Managing, Service
from pg_analytics.cli.exit_codes import CommandError, ExitCode
from pg_analytics.cli.teaching import MANAGING, MANAGING_ENDS, command

schedules: Final = command("schedules", settings=MANAGING, ends=MANAGING_ENDS)
set_: Final = command("set", settings=MANAGING, ends=(*MANAGING_ENDS, ExitCode.NOT_FOUND))
pause: Final = command("pause", settings=MANAGING, ends=(*MANAGING_ENDS, ExitCode.NOT_FOUND))
resume: Final = command("resume", settings=MANAGING, ends=(*MANAGING_ENDS, ExitCode.NOT_FOUND))
for _place, _command in enumerate((set_, pause, resume)):
    _command.sort_key = _place
    schedules.command(_command)


@schedules.default
def _schedules(*, as_json: AsJson = False, service: Managing = DEFAULT_MANAGING) -> None:
    """List the schedules: how often each window is recomputed, how long it is kept.

    Every window of every report has one. Its runs cover the last 30 days and are
    entered by the workers themselves, once per period. Snapshots follow the events
    without it; a schedule finds what was written past the triggers.

    For example:

        pg-analytics schedules
        pg-analytics schedules set volume-by-period day --every 30 --retain 730
        pg-analytics schedules pause top-entities week
        pg-analytics schedules resume top-entities week
    """
    answer = Service(service).get("schedules")
    if as_json:
        output.show_json(answer.document)
        return
    listed = output.table(("schedule", "every", "kept for", "next run (UTC)", "last run"), whole=("schedule",))
    for schedule in answer.data:
        listed.add_row(
            output.stacked(f"{schedule['report_slug']} {schedule['window']}"),
            output.cell(f"{schedule['refresh_interval_minutes']} min"),
            output.cell("ever" if schedule["retention_days"] is None else f"{schedule['retention_days']} days"),
            output.cell("paused" if schedule["paused"] else output.moment(schedule["next_run_at"])),
            output.cell(schedule["last_run"]["status"] if "last_run" in schedule else None),
        )
    output.show(listed)


@set_.default
def _set(
    slug: str,
    window: str,
    /,
    *,
    every: Annotated[int | None, Parameter(metavar="MINUTES")] = None,
    retain: Annotated[int | Literal["ever"] | None, Parameter(metavar="DAYS")] = None,
    requested_by: str | None = None,
    as_json: AsJson = False,
    service: Managing = DEFAULT_MANAGING,
) -> None:
    """Change how often a window is recomputed, or how long it is kept.

    A new interval begins now. A day is kept as long as any window over the same
    numbers asks for; what is kept by none is dropped within a minute. Ask for more
    again, and dropped days are built anew from their events, if these still exist.

    For example:

        pg-analytics schedules set volume-by-period day --every 30
        pg-analytics schedules set top-entities week --retain 1095
        pg-analytics schedules set top-entities day --retain ever

    :param slug: The report, as `pg-analytics schedules` lists it.
    :param window: Its window: day or week.
    :param every: Minutes from one run to the next, 1 to 525600.
    :param retain: Days that are kept, 1 to 36600, or `ever`.
    :param requested_by: Who changes it, for the audit trail.
    """
    body: dict[str, int | None] = {}
    if every is not None:
        body["refresh_interval_minutes"] = every
    if retain is not None:
        body["retention_days"] = None if retain == "ever" else retain
    if not body:
        raise CommandError(ExitCode.USAGE, "nothing to change", hint="give --every, --retain or both")
    _change(slug, window, body, requested_by, service, as_json=as_json)


@pause.default
def _pause(
    slug: str,
    window: str,
    /,
    *,
    requested_by: str | None = None,
    as_json: AsJson = False,
    service: Managing = DEFAULT_MANAGING,
) -> None:
    """Enter no more runs for a window, until it is resumed.

    A run that has been entered goes on. What is kept, and that snapshots follow the
    events, does not change.

    For example:

        pg-analytics schedules pause top-entities week

    :param slug: The report, as `pg-analytics schedules` lists it.
    :param window: Its window: day or week.
    :param requested_by: Who pauses it, for the audit trail.
    """
    _change(slug, window, {"paused": True}, requested_by, service, as_json=as_json)


@resume.default
def _resume(
    slug: str,
    window: str,
    /,
    *,
    requested_by: str | None = None,
    as_json: AsJson = False,
    service: Managing = DEFAULT_MANAGING,
) -> None:
    """Enter runs for a window again.

    If a run was missed meanwhile, the next one comes after a whole interval.

    For example:

        pg-analytics schedules resume top-entities week

    :param slug: The report, as `pg-analytics schedules` lists it.
    :param window: Its window: day or week.
    :param requested_by: Who resumes it, for the audit trail.
    """
    _change(slug, window, {"paused": False}, requested_by, service, as_json=as_json)


def _change(
    slug: str, window: str, body: Mapping[str, Any], requested_by: str | None, service: Managing, *, as_json: bool
) -> None:
    answer = Service(service).patch("schedules", slug, window, body=body, actor=requested_by)
    _show_schedule(answer, as_json=as_json)


def _show_schedule(answer: Answer, *, as_json: bool) -> None:
    if as_json:
        output.show_json(answer.document)
    else:
        output.show(output.details(answer.data.items()))
