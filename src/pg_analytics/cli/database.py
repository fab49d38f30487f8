"""The commands that prepare a database: its schema, and events to try the service with."""

from typing import Annotated, Final

from cyclopts import App, Parameter
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TimeElapsedColumn,
)

from pg_analytics.cli import output
from pg_analytics.cli.exit_codes import CommandError, ExitCode
from pg_analytics.cli.teaching import command

_SETTINGS: Final = ("DATABASE_URL", "LOG_FORMAT", "LOG_LEVEL")
_ENDS: Final = (ExitCode.OK, ExitCode.FAILED, ExitCode.USAGE, ExitCode.UNAVAILABLE, ExitCode.INTERNAL)

migrate: Final = command("migrate", settings=_SETTINGS, ends=_ENDS)
seed: Final = command("seed", settings=_SETTINGS, ends=_ENDS)
flights: Final = command("flights", settings=_SETTINGS, ends=_ENDS)
example: Final = App(
    name="example",
    help="Load a real data set to try the service with.\n\nFor example:\n\n    pg-analytics example flights",
    help_epilogue="",
)
example.command(flights)

AsJson = Annotated[
    bool, Parameter(name="--json", negative=(), show_default=False, help="Print one JSON document, and nothing else.")
]


@migrate.default
def _migrate(
    *, check: Annotated[bool, Parameter(negative=(), show_default=False)] = False, as_json: AsJson = False
) -> ExitCode:
    """Bring the database to the schema and the reports of this version.

    `serve` and `worker` do it by themselves unless APP_AUTO_MIGRATE is false; use
    this where a release migrates in a step of its own. Each migration is applied
    once, in a transaction, and it does no harm when several start together.

    For example:

        pg-analytics migrate
        pg-analytics migrate --check || echo "not migrated yet"

    :param check: Change nothing; exit with 1 if the schema is not the one that this version needs.
    """
    from pg_analytics.cli import backend  # noqa: PLC0415 - slow, see there

    applied = [] if check else backend.migrate()
    up_to_date = backend.is_up_to_date() if check else True
    if as_json:
        output.show_json({"data": {"up_to_date": up_to_date, "applied": applied}})
    else:
        for name in applied:
            output.show(f"applied {name}")
        output.show("the schema is up to date" if up_to_date else "the schema is not the one that this version needs")
    return ExitCode.OK if up_to_date else ExitCode.FAILED


@seed.default
def _seed(*, as_json: AsJson = False) -> None:
    """Load 25,000 generated payments of the last 90 days, if there are no events.

    Everybody who seeds on the same day gets the same events, with every snapshot
    built. A database that has events is left alone. The schema is migrated first.

    For example:

        pg-analytics seed
    """
    from pg_analytics.cli import backend  # noqa: PLC0415 - slow, see there

    count = backend.seed()
    if as_json:
        output.show_json({"data": {"events": count}})
    else:
        output.show(f"{count:,} events loaded" if count else "nothing loaded: there are events already")


@flights.default
def _flights(*, as_json: AsJson = False) -> None:
    """Load the 336,776 flights that left New York City in 2013.

    A carrier is a source, an aircraft an entity, a cancelled flight a failed event.
    It may be broken off at any moment: loading again adds what is missing, and
    nothing twice. The schema is migrated first.

    Needs the extra `example`: pip install 'pg-analytics-service[example]'

    For example:

        pg-analytics example flights
        pg-analytics run status-counts --from 2013-01-01 --to 2013-12-31
    """
    from pg_analytics.cli import backend  # noqa: PLC0415 - slow, see there

    console = output.stderr()
    bars = ("flights", BarColumn(), TaskProgressColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*bars, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("flights", total=None)
            loaded = backend.load_flights(lambda done, total: progress.update(task, completed=done, total=total))
    except KeyboardInterrupt:
        raise CommandError(
            ExitCode.INTERRUPTED,
            "interrupted; the months that were done stay, and nothing is half loaded",
            hint="pg-analytics example flights loads the rest",
        ) from None
    if as_json:
        counts = {name: getattr(loaded, name) for name in ("inserted", "already_there", "days")}
        output.show_json({"data": counts})
    else:
        output.show(
            f"{loaded.inserted:,} flights loaded, {loaded.already_there:,} were there already; "
            f"{loaded.days} days are rebuilt"
        )
