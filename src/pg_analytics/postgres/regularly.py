"""A duty of a process: something that it looks after on a connection, again and again, until it stops."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

import asyncpg
import structlog

from pg_analytics.postgres.pool import LOST, Connection, Postgres, describe

_log: Final = structlog.get_logger(__name__)

_STOP_PATIENCE_S: Final = 5


class Regularly:
    """Looks at once, and then whenever some time has passed since the last look, from `start` to `stop`."""

    def __init__(
        self, postgres: Postgres, look: Callable[[Connection], Awaitable[None]], *, every: timedelta, name: str
    ) -> None:
        """`postgres` must have room for one connection; `look` must leave nothing half-done wherever it is cut off."""
        self._postgres = postgres
        self._look = look
        self._every_s = every.total_seconds()
        self._name = name
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin, in the background."""
        self._task = asyncio.create_task(self._run(), name=self._name)

    async def stop(self) -> None:
        """End after the look that is on, or cut it off after a few seconds."""
        self._stopping.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=_STOP_PATIENCE_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                async with self._postgres.borrowed() as connection:
                    await self._look(connection)
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
                _log.info("duty_waits", duty=self._name, error=describe(error))
            except LOST as error:
                _log.warning("duty_lost_postgres", duty=self._name, error=describe(error))
            except Exception:  # noqa: BLE001 - a defect must not end it: nobody would take over
                _log.exception("duty_defect", duty=self._name)
            await self._rest()

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(self._every_s):
                await self._stopping.wait()
        except TimeoutError:
            pass
