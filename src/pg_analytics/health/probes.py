"""Probes of the dependencies: each on a connection of its own, in parallel, answered within a second.

A probe must not queue behind reports, and many who ask at once must not become many probes: all who ask while a
probe is under way share its answer.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeVar

import asyncpg

from pg_analytics.postgres.migrate import is_migrated
from pg_analytics.postgres.pool import LOST, Connection, connection_options
from pg_analytics.redis.client import RedisClient

T = TypeVar("T")

#: A dependency that has not answered by then counts as unavailable.
PROBE_TIMEOUT: Final = timedelta(milliseconds=900)


@dataclass(frozen=True, slots=True)
class Health:
    """What the probes found."""

    postgres: bool
    redis: bool
    migrated: bool


class Probes:
    """Probes PostgreSQL and Redis when asked."""

    def __init__(self, database_url: str, redis: RedisClient) -> None:
        """`redis` must be used by nobody else."""
        self._database_url = database_url
        self._connection: Connection | None = None
        self._redis = redis
        self._under_way: asyncio.Task[Health] | None = None

    async def check(self) -> Health:
        """Probe now, or share the probe that is under way."""
        if self._under_way is None:
            self._under_way = asyncio.create_task(self._probe(), name="health-probe")
            self._under_way.add_done_callback(self._done)
        return await asyncio.shield(self._under_way)

    async def _probe(self) -> Health:
        (reachable, migrated), redis = await asyncio.gather(
            _bounded(self._probe_postgres, (False, False)), _bounded(self._redis.ping, default=False)
        )
        return Health(postgres=reachable, redis=redis, migrated=migrated)

    async def close(self) -> None:
        """Close the probing connection."""
        self._drop_connection()

    async def _probe_postgres(self) -> tuple[bool, bool]:
        """Whether PostgreSQL answers, and whether it is migrated, on a connection that is kept while it works."""
        try:
            if self._connection is None:
                self._connection = await asyncpg.connect(
                    self._database_url, **connection_options("health", PROBE_TIMEOUT)
                )
            return True, await is_migrated(self._connection)
        except BaseException:
            self._drop_connection()
            raise

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    def _done(self, _task: asyncio.Task[Health]) -> None:
        self._under_way = None


async def _bounded(probe: Callable[[], Awaitable[T]], default: T) -> T:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT.total_seconds()):
            return await probe()
    except LOST:
        return default
