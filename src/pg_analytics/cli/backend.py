"""What the commands share that are the service, or work on its database: settings, logs, a connection.

Whatever keeps them from starting becomes one line for a person; a defect keeps its traceback.
"""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import asyncpg

from pg_analytics import app, logs
from pg_analytics import settings as settings_module
from pg_analytics.cli.exit_codes import CommandError, ExitCode
from pg_analytics.embedded.account import ServersError
from pg_analytics.postgres.migrate import MigrationError
from pg_analytics.postgres.pool import LOST, Connection, describe
from pg_analytics.settings import Settings, SettingsError


def configure() -> Settings:
    """The settings in the environment, with logging set up as they say."""
    settings = settings_module.load(os.environ)
    logs.configure(format_=settings.log_format, level=settings.log_level, env=settings.env)
    return settings


@contextmanager
def one_line_errors() -> Iterator[None]:
    """What a person can mend, as a `CommandError`."""
    try:
        yield
    except SettingsError as error:
        raise CommandError(ExitCode.USAGE, str(error)) from None
    except MigrationError as error:
        raise CommandError(ExitCode.FAILED, str(error)) from None
    except (app.StartError, ServersError) as error:
        raise CommandError(ExitCode.UNAVAILABLE, str(error)) from None
    except asyncpg.PostgresError as error:
        exit_code = ExitCode.UNAVAILABLE if isinstance(error, LOST) else ExitCode.FAILED
        raise CommandError(exit_code, f"PostgreSQL refuses: {describe(error)}") from None
    except LOST as error:
        raise CommandError(ExitCode.UNAVAILABLE, f"PostgreSQL was lost ({describe(error)})") from None


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Connection]:
    """A connection for set-up work on the database that `DATABASE_URL` names."""
    connection = await app.connect_patiently(settings_module.require_database(settings))
    try:
        yield connection
    finally:
        await connection.close(timeout=5)
