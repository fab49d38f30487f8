"""A connection of its own that does a small duty at a steady beat, and at once when a channel is notified.

A notification is only ever a hint to do sooner what the next beat would do anyway: its payload is not read, and
nothing is lost where it cannot pass. Lost connections are opened anew for as long as the listener runs.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Final

import asyncpg
import structlog

from pg_analytics.postgres.pool import LOST, Connection, connection_options, describe

_log: Final = structlog.get_logger(__name__)
_STATEMENT_TIMEOUT: Final = timedelta(seconds=1)
_RECONNECT_S: Final = 0.25


class Listener:
    """Listens from `start` to `stop`."""

    def __init__(
        self,
        url: str,
        channel: str,
        *,
        beat_s: float,
        on_beat: Callable[[Connection], Awaitable[None]],
        on_lost: Callable[[], None],
    ) -> None:
        """`on_beat` runs on the listening connection every `beat_s` seconds and after each notification; `on_lost`
        is told of a connection that failed or could not be opened.
        """
        self._url = url
        self._channel = channel
        self._beat_s = beat_s
        self._on_beat = on_beat
        self._on_lost = on_lost
        self._notified = asyncio.Event()
        self._lost = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to listen, in the background."""
        self._task = asyncio.create_task(self._run(), name=f"listen-{self._channel}")

    async def stop(self) -> None:
        """End listening and close the connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001 - a database that is not migrated yet, say; the beat must go on
                if not self._lost:
                    known = isinstance(error, LOST)
                    _log.warning(
                        "listener_lost", channel=self._channel, error=describe(error), exc_info=None if known else error
                    )
                self._lost = True
            self._on_lost()
            await asyncio.sleep(_RECONNECT_S)

    async def _listen(self) -> None:
        options = connection_options(f"listen {self._channel}", _STATEMENT_TIMEOUT)
        connection = await asyncpg.connect(self._url, **options)
        try:
            await connection.add_listener(self._channel, lambda *_: self._notified.set())
            while True:
                self._notified.clear()
                await self._on_beat(connection)
                if self._lost:
                    self._lost = False
                    _log.info("listener_back", channel=self._channel)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._beat_s):
                        await self._notified.wait()
        finally:
            connection.terminate()
