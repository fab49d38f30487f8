"""Real servers for every test: one PostgreSQL and one Redis per test process, one database per test.

Where `DATABASE_URL` or `REDIS_URL` is set, that server is used instead; tests that must stop or kill a server (marker
`own_servers`) are then left out.
"""

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import settings

from pg_analytics.embedded import postgres, redis
from pg_analytics.embedded.binaries import Binaries
from pg_analytics.embedded.folder import reset
from pg_analytics.postgres.migrate import migrate
from pg_analytics.reports.catalog import install_builtin_reports
from tests.rebuilding import Connect
from tests.running import Service, serving

# A shell that starts us in the background has SIGINT ignored, and whom we start would inherit that: no test could
# interrupt a command. A handler, unlike an ignored signal, is not inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test has a timer: a machine may be busy.
settings.register_profile("without a deadline", deadline=None)
settings.load_profile("without a deadline")

EXTERNAL = "DATABASE_URL" in os.environ or "REDIS_URL" in os.environ


@dataclass(frozen=True, slots=True)
class Servers:
    """URLs of the servers that this test process uses."""

    database_url: str
    redis_url: str


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what would stop a server that is not ours."""
    if EXTERNAL:
        ours = [item for item in items if item.get_closest_marker("own_servers")]
        config.hook.pytest_deselected(items=ours)
        items[:] = [item for item in items if item not in ours]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def binaries() -> Binaries:
    """Where servers are to be found, as `PG_ANALYTICS_SERVERS` says."""
    return Binaries(os.environ.get("PG_ANALYTICS_SERVERS", "auto"))


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory, binaries: Binaries) -> Iterator[Servers]:
    """The servers of this test process."""
    folder = tmp_path_factory.mktemp("servers")
    with ExitStack() as started:
        # Run by root, servers keep their data outside of pytest's folders, which nobody else may enter.
        started.callback(reset, folder)
        database_url, redis_url = os.environ.get("DATABASE_URL"), os.environ.get("REDIS_URL")
        if database_url is None:
            database_url = started.enter_context(postgres.start(folder, binaries=binaries, durable=False)).url
        if redis_url is None:
            redis_url = started.enter_context(redis.start(folder, binaries=binaries, durable=False)).url
        yield Servers(database_url, redis_url)


@pytest.fixture(scope="session")
async def template(servers: Servers) -> AsyncIterator[str]:
    """A migrated database without events, to be copied."""
    async with new_database(servers.database_url) as url:
        connection = await asyncpg.connect(url)
        await migrate(connection)
        await install_builtin_reports(connection)
        # Tests ask for the runs that they count.
        await connection.execute("UPDATE aggregate_windows SET next_run_at = now() + INTERVAL '1 year'")
        await connection.close()
        yield url


@pytest.fixture
async def database_url(servers: Servers, template: str) -> AsyncIterator[str]:
    """A migrated database of this test's own, without events."""
    async with new_database(servers.database_url, template=name_of(template)) as url:
        yield url


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to the database of this test."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def connect(database_url: str) -> AsyncIterator[Connect]:
    """Opens connections to the database of this test."""
    opened: list[asyncpg.Connection[asyncpg.Record]] = []

    async def connect(**settings: str) -> "asyncpg.Connection[asyncpg.Record]":
        # What would wait for ever fails instead.
        within = {"statement_timeout": "20s", **settings}
        opened.append(await asyncpg.connect(database_url, server_settings=within))
        return opened[-1]

    yield connect
    for connection in opened:
        await connection.close()


@pytest.fixture
def environment(database_url: str, servers: Servers) -> dict[str, str]:
    """Settings of a service on the database of this test, which only follows the events where a test says so.

    Another database's entries in Redis do not disturb.
    """
    return {"DATABASE_URL": database_url, "REDIS_URL": servers.redis_url, "REFRESH_INTERVAL": "0"}


@pytest.fixture
def service(environment: dict[str, str], tmp_path: Path) -> Iterator[Service]:
    """A service on the database of this test, with one worker."""
    with serving(environment, tmp_path) as running:
        yield running


class new_database:  # noqa: N801 - used like a function
    """A database for the length of a block, beside the one that `url` names."""

    def __init__(self, url: str, *, template: str = "template0") -> None:
        self._server = url
        self._template = template
        self._name = f"pg_analytics_test_{uuid4().hex}"

    async def __aenter__(self) -> str:
        await self._execute(f'CREATE DATABASE "{self._name}" TEMPLATE "{self._template}"')
        return urlunsplit(urlsplit(self._server)._replace(path=f"/{self._name}"))

    async def __aexit__(self, *_: object) -> None:
        await self._execute(f'DROP DATABASE "{self._name}" WITH (FORCE)')

    async def _execute(self, sql: str) -> None:
        connection = await asyncpg.connect(self._server)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()


def name_of(url: str) -> str:
    """The database that a URL names."""
    return urlsplit(url).path.removeprefix("/")
