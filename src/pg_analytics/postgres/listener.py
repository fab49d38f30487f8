"""A connection of its own that listens on a channel and does a small duty at a steady beat.

The beat doubles as the proof that the channel is alive: a notification that could not be delivered is made up
for by the next beat. Lost connections are opened anew for as long as the listener runs.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final

import asyncpg
import structlog

from pg_analytics.postgres.pool import LOST, Connection, connection_options, describe

_log: Final = structlog.get_logger(__name__)
_STATEMENT_TIMEOUT: Final = timedelta(seconds=1)


class Listener:
    """Listens from `start` to `stop`."""

    def __init__(
        self,
        url: str,
        channel: str,
        *,
        beat_s: float,
        on_beat: Callable[[Connection], Awaitable[None]],
        on_notify: Callable[[str], None],
        on_lost: Callable[[], None],
    ) -> None:
        """`on_beat` runs on the listening connection every `beat_s` seconds, `on_notify` gets each payload,
        `on_lost` is told of a connection that failed or could not be opened.
        """
        self._url = url
        self._channel = channel
        self._beat_s = beat_s
        self._on_beat = on_beat
        self._on_notify = on_notify
        self._on_lost = on_lost
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
            except LOST as error:
                self._on_lost()
                _log.warning("listener_lost", channel=self._channel, error=describe(error))
            await asyncio.sleep(self._beat_s)

    async def _listen(self) -> None:
        options = connection_options(f"listen {self._channel}", _STATEMENT_TIMEOUT)
        connection = await asyncpg.connect(self._url, **options)
        try:
            await connection.add_listener(self._channel, self._notified)
            while True:
                await self._on_beat(connection)
                await asyncio.sleep(self._beat_s)
        finally:
            connection.terminate()

    def _notified(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        self._on_notify(str(payload))
