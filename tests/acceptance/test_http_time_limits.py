"""Answers that take too long, and what becomes of answers under way when the service is told to stop."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest

from pg_analytics.postgres.pool import Connection
from tests.acceptance.conftest import until_somebody_waits
from tests.acceptance.envelopes import failed, succeeded
from tests.acceptance.wire import Wire, request
from tests.running import BASE_PATH, serving

pytestmark = [pytest.mark.anyio]

SLOW = request(f"{BASE_PATH}/reports/top-entities/run".encode())
QUICK = request(f"{BASE_PATH}/reports/volume-by-period/run".encode())


@asynccontextmanager
async def rollup_locked(url: str) -> AsyncIterator[Connection]:
    """Nobody can read what `top-entities` is made of, for the length of a block."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE rollup_entity")
            yield connection
    finally:
        await connection.close()


@pytest.mark.parametrize(
    "limits,message",
    [
        # Whichever limit is reached first says so.
        ({"HTTP_WRITE_TIMEOUT": "300ms", "POSTGRES_TIMEOUT": "10m"}, "no answer within 0.3 seconds"),
        (
            {"HTTP_WRITE_TIMEOUT": "3s", "POSTGRES_TIMEOUT": "300ms"},
            "the database cannot be reached or did not answer in time",
        ),
    ],
)
async def test_an_answer_that_takes_too_long_is_unavailable_for_a_while(
    loaded_database: str, redis_url: str, tmp_path: Path, limits: dict[str, str], message: str
) -> None:
    with (
        serving({"DATABASE_URL": loaded_database, "REDIS_URL": redis_url} | limits, tmp_path) as service,
        Wire(service) as wire,
    ):
        async with rollup_locked(loaded_database):
            wire.send(SLOW)
            late = wire.answer()
            wire.send(QUICK)
            succeeded(wire.answer())

        assert failed(late, "service_unavailable")["message"] == message
        assert int(late.headers["Retry-After"]) > 0
        wire.send(SLOW)
        succeeded(wire.answer())


async def test_an_answer_under_way_is_finished_before_the_service_stops(
    loaded_database: str, redis_url: str, tmp_path: Path
) -> None:
    with (
        serving({"DATABASE_URL": loaded_database, "REDIS_URL": redis_url}, tmp_path) as service,
        Wire(service) as wire,
        ThreadPoolExecutor(1) as background,
    ):
        async with rollup_locked(loaded_database) as connection:
            wire.send(SLOW)
            await until_somebody_waits(connection)
            stopping = background.submit(service.terminate)
            service.wait_for("stopping")
            assert not stopping.done()

        succeeded(wire.answer())
        assert stopping.result() == 0
        with pytest.raises(httpx.ConnectError):
            service.http.get("/health")


async def test_an_answer_that_does_not_come_is_not_waited_for_for_ever(
    loaded_database: str, redis_url: str, tmp_path: Path
) -> None:
    environment = {"DATABASE_URL": loaded_database, "REDIS_URL": redis_url, "HTTP_SHUTDOWN_TIMEOUT": "200ms"}
    with serving(environment, tmp_path) as service, Wire(service) as wire:
        async with rollup_locked(loaded_database) as connection:
            wire.send(SLOW)
            await until_somebody_waits(connection)

            assert service.terminate() == 0
            service.wait_for("requests_cut_off")
