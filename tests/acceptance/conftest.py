"""Services for the tests that speak HTTP. Starting one takes a second, so tests that can share one do."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from pg_analytics.postgres.pool import Connection
from pg_analytics.snapshots.rebuild import rebuild_days
from pg_analytics.windows import DayRange
from tests.acceptance import dataset
from tests.conftest import Servers, name_of, new_database
from tests.running import Service, serving
from tests.waiting import until_true


@pytest.fixture(scope="session", autouse=True)
def plain_tests_with_async_fixtures(anyio_backend: str) -> str:
    """Lets tests that are not asynchronous themselves use fixtures that are."""
    return anyio_backend


@pytest.fixture(scope="session")
async def loaded(servers: Servers, template: str) -> AsyncIterator[str]:
    """A database with the events of `dataset` and their snapshots, to be copied."""
    async with new_database(servers.database_url, template=name_of(template)) as url:
        connection = await asyncpg.connect(url)
        await dataset.load(connection)
        async with connection.transaction():
            await rebuild_days(connection, DayRange.inclusive(dataset.FIRST, dataset.LAST), run_id=None)
        await connection.close()
        yield url


@asynccontextmanager
async def copy_of(url: str) -> AsyncIterator[str]:
    """A database like the one that `url` names, for the length of a block."""
    server = urlunsplit(urlsplit(url)._replace(path="/postgres"))
    async with new_database(server, template=name_of(url)) as copy:
        yield copy


_SOMEBODY_WAITS = """
    SELECT EXISTS(
        SELECT FROM pg_locks
        WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    )
"""


async def until_somebody_waits(connection: Connection) -> None:
    """Wait until a session waits for what `connection` has locked."""
    await until_true(connection, _SOMEBODY_WAITS)


@pytest.fixture
async def loaded_database(loaded: str) -> AsyncIterator[str]:
    """A database of this test's own, with the events of `dataset` and their snapshots."""
    async with copy_of(loaded) as url:
        yield url


@pytest.fixture(scope="session")
def redis_url(servers: Servers) -> str:
    """A Redis database that the tests outside this folder do not use, one per test process."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return urlunsplit(urlsplit(servers.redis_url)._replace(path=f"/{8 + number % 8}"))


@pytest.fixture(scope="session")
async def shared_service(
    loaded: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    """A service over the events of `dataset` that many tests ask. None of them may change anything."""
    async with copy_of(loaded) as url:
        with serving({"DATABASE_URL": url, "REDIS_URL": redis_url}, tmp_path_factory.mktemp("shared")) as service:
            yield service


@pytest.fixture(scope="session")
async def idle_service(
    template: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    """A service without workers: runs stay pending. Tests share it, so each asks for days and actors of its own."""
    async with copy_of(template) as url:
        environment = {
            "DATABASE_URL": url,
            "REDIS_URL": redis_url,
            "RECOMPUTE_WORKERS": "0",
            "RECOMPUTE_QUEUE_SIZE": "1000",
        }
        with serving(environment, tmp_path_factory.mktemp("idle")) as service:
            yield service


@contextmanager
def serving_with_defects(environment: dict[str, str], folder: Path) -> Iterator[Service]:
    """A service whose log may tell of defects, since the test causes them."""
    service = Service(environment, folder / "service.log")
    try:
        yield service
    finally:
        service.http.close()
        service.terminate()
