"""What is behind the commands that are the service or work on its database.

They are a module of their own because importing the service takes half a second, which no `--help` should wait for.
Whatever keeps them from their work and a person can mend becomes one line; a defect keeps its traceback.
"""

import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import date
from typing import Any, TypeVar

import asyncpg
import uvloop

from pg_analytics import app, logs
from pg_analytics import settings as settings_module
from pg_analytics.cli import processes
from pg_analytics.cli.client import DEMO_DATABASE_URL, DEMO_FOLDER
from pg_analytics.cli.exit_codes import CommandError, ExitCode
from pg_analytics.embedded.account import ServersError
from pg_analytics.events import flights
from pg_analytics.events import prune as pruning
from pg_analytics.events import seed as demo_events
from pg_analytics.events.flights import FlightsLoaded, MissingDataError
from pg_analytics.events.prune import Pruned
from pg_analytics.events.store import EventsBefore
from pg_analytics.postgres import migrate as migrations
from pg_analytics.postgres.migrate import MigrationError
from pg_analytics.postgres.pool import LOST, Connection, describe
from pg_analytics.reports.catalog import install_builtin_reports
from pg_analytics.settings import Settings
from pg_analytics.snapshots.rebuild import FrozenDays

T = TypeVar("T")


def serve() -> ExitCode:
    """Serve requests and perform runs until a signal, in as many processes as the settings say."""
    settings = configure()
    with one_line_errors():
        if settings.http_processes > 1:
            return processes.serve(settings)
        uvloop.run(app.serve(settings))
        return ExitCode.OK


def work() -> None:
    """Perform runs until a signal."""
    _perform(app.work)


def is_up_to_date() -> bool:
    """Whether the database has the schema of this version."""

    async def check(settings: Settings) -> bool:
        async with _connected(settings) as connection:
            return await migrations.is_migrated(connection)

    return _perform(check)


def migrate() -> list[str]:
    """Bring the database to the schema and the reports of this version; names of the migrations that it took."""

    async def apply(settings: Settings) -> list[str]:
        async with _connected(settings) as connection:
            return await _prepare(connection)

    return _perform(apply)


def seed() -> int:
    """Migrate, and load the demo events unless there are events; how many were loaded."""

    async def load(settings: Settings) -> int:
        async with _connected(settings) as connection:
            await _prepare(connection)
            return await demo_events.seed(connection, today=app.utc_now().date())

    return _perform(load)


def load_flights(progress: Callable[[int, int], None]) -> FlightsLoaded:
    """Migrate, and load the flights that are not there; `progress` is told how many are done, and of how many."""

    async def load(settings: Settings) -> FlightsLoaded:
        async with _connected(settings) as connection:
            await _prepare(connection)
            return await flights.load(connection, progress=progress)

    return _perform(load)


def plan_pruning(before: date) -> EventsBefore:
    """What pruning the days before `before` would delete. `CommandError` if these are not over yet."""

    async def plan(settings: Settings) -> EventsBefore:
        _refuse_days_to_come(before)
        async with _connected(settings) as connection:
            await _refuse_other_schema(connection)
            return await pruning.plan_pruning(connection, before)

    return _perform(plan)


def prune_events(before: date, actor: str, progress: Callable[[int], None]) -> Pruned:
    """Delete the events of the days before `before`, and freeze these days; `progress` is told how many are done.
    `CommandError` if these days are not over yet.
    """

    async def prune(settings: Settings) -> Pruned:
        _refuse_days_to_come(before)
        async with _connected(settings) as connection:
            await _refuse_other_schema(connection)
            return await pruning.prune_events(connection, before, actor=actor, progress=progress)

    return _perform(prune)


def configure(given: Mapping[str, str] | None = None) -> Settings:
    """The settings in the environment, or before them in `given`, with logging set up as they say.

    `SettingsError` if one is wrong.
    """
    settings = settings_module.load(os.environ | dict(given or {}))
    logs.configure(
        format_=settings.log_format,
        level=settings.log_level,
        env=settings.env,
        with_pid=settings.http_processes > 1,
    )
    return settings


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Within the block, what a person can mend becomes a `CommandError`."""
    try:
        yield
    except (MigrationError, MissingDataError, FrozenDays) as error:
        raise CommandError(ExitCode.FAILED, str(error)) from None
    except (app.StartError, ServersError) as error:
        raise CommandError(ExitCode.UNAVAILABLE, str(error)) from None
    except asyncpg.PostgresError as error:
        exit_code = ExitCode.UNAVAILABLE if isinstance(error, LOST) else ExitCode.FAILED
        raise CommandError(exit_code, f"PostgreSQL says no ({describe(error)})") from None


def _perform(work: Callable[[Settings], Coroutine[Any, Any, T]]) -> T:
    settings = configure()
    with one_line_errors():
        return uvloop.run(work(settings))


@asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[Connection]:
    """A connection for set-up work on the database that `DATABASE_URL` names, or without it on that of the demo which
    runs in this folder; a lost one is a `StartError`.
    """
    demo_url = DEMO_FOLDER / DEMO_DATABASE_URL
    if settings.database_url is None and demo_url.is_file():
        settings = replace(settings, database_url=demo_url.read_text(encoding="utf-8").strip())
    connection = await app.connect_patiently(settings_module.require_database(settings))
    try:
        yield connection
    except (OSError, EOFError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise app.StartError(f"PostgreSQL was lost on the way ({describe(error)})") from None
    finally:
        await connection.close(timeout=5)


async def _prepare(connection: Connection) -> list[str]:
    applied = await migrations.migrate(connection)
    await install_builtin_reports(connection)
    return [migration.name for migration in applied]


def _refuse_days_to_come(before: date) -> None:
    """A frozen day counts nothing any more: today's events, and those that are to come, must not be refused so."""
    today = app.utc_now().date()
    if before > today:
        raise CommandError(ExitCode.USAGE, f"--before: must not be after today, {today} (UTC)")


async def _refuse_other_schema(connection: Connection) -> None:
    if not await migrations.is_migrated(connection):
        raise CommandError(
            ExitCode.FAILED,
            "the schema is not the one that this version needs",
            hint="pg-analytics migrate brings it there",
        )
