"""A database of the benchmark's own, filled with events: generated, or copied from a database that has some."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import date
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg

from bench.measuring import say
from pg_analytics.embedded import postgres
from pg_analytics.embedded.binaries import Binaries
from pg_analytics.embedded.folder import reset
from pg_analytics.postgres.migrate import migrate
from pg_analytics.postgres.pool import Connection
from pg_analytics.reports.catalog import install_builtin_reports

FIRST_DAY: Final = date(2025, 1, 1)
SOURCES: Final = 12

_SQL: Final = Path(__file__).with_name("sql")
_EVENT_COLUMNS: Final = (
    *("external_ref", "source_id", "entity_id", "status", "processing_ms", "amount_cents", "occurred_at"),
    *("payload", "created_at"),
)


def sql(name: str) -> str:
    """The text of `sql/<name>.sql` beside this module."""
    return (_SQL / f"{name}.sql").read_text(encoding="utf-8")


@contextmanager
def server(url: str | None) -> Iterator[str]:
    """The server at `url`, or a durable one for the length of the block."""
    if url is not None:
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="pg-analytics-bench-") as name:
        folder = Path(name)
        try:
            with postgres.start(folder, binaries=Binaries("auto"), durable=True) as started:
                yield started.url
        finally:
            reset(folder)


@asynccontextmanager
async def database(server_url: str) -> AsyncIterator[str]:
    """A migrated database without events beside the one that the URL names, for the length of the block."""
    name = f"pg_analytics_bench_{uuid4().hex[:12]}"
    administrator = await asyncpg.connect(server_url)
    await administrator.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    try:
        url = urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
        connection = await asyncpg.connect(url)
        await migrate(connection)
        await install_builtin_reports(connection)
        await connection.close()
        yield url
    finally:
        await administrator.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        await administrator.close()


async def generate(connection: Connection, *, events: int, days: int, first_day: date = FIRST_DAY) -> None:
    """Fill the empty tables with generated events, and leave the change log empty."""
    say(f"{events:,} events over {days} days are being generated")
    await connection.execute(sql("generate_sources"), SOURCES)
    async with _loading(connection):
        await connection.execute("SELECT setseed(0.5)")
        await connection.execute(sql("generate_events"), events, first_day, days, "event-", timeout=None)


async def copy_events(connection: Connection, origin_url: str) -> None:
    """Fill the empty tables with the sources and events of another database, which is only read."""
    say("the events of the database are being copied")
    origin = await asyncpg.connect(origin_url)
    try:
        async with _loading(connection):
            for table, columns in (
                ("event_sources", ("id", "slug", "provider_name", "description")),
                ("analytics_events", _EVENT_COLUMNS),
            ):
                with tempfile.TemporaryFile() as through:
                    await origin.copy_from_table(table, columns=columns, output=through, format="binary")
                    through.seek(0)
                    await connection.copy_to_table(table, columns=columns, source=through, format="binary")
    finally:
        await origin.close()


@asynccontextmanager
async def _loading(connection: Connection) -> AsyncIterator[None]:
    """Indexes come after the events, and nothing is logged: loading is no part of what is measured."""
    await connection.execute("SET synchronous_commit = off")
    await connection.execute("ALTER TABLE analytics_events DISABLE TRIGGER USER")
    await connection.execute("ALTER TABLE analytics_events DROP CONSTRAINT analytics_events_pkey")
    await connection.execute("DROP INDEX analytics_events_occurred_day_idx")
    yield
    say("… indexes")
    await connection.execute("ALTER TABLE analytics_events ADD PRIMARY KEY (external_ref)", timeout=None)
    await connection.execute(
        "CREATE INDEX analytics_events_occurred_day_idx ON analytics_events (occurred_day)", timeout=None
    )
    await connection.execute("ALTER TABLE analytics_events ENABLE TRIGGER USER")
    await connection.execute("VACUUM (ANALYZE) analytics_events", timeout=None)
    await connection.execute("RESET synchronous_commit")
