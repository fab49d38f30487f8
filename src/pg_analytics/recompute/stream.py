"""A run as it goes on, told as server-sent events: one stream for each client that follows a run.

A stream tells of every change of the run's row that it sees, and ends with the run. It reads the row twice a second,
which is cheap, and needs no connection of its own between two reads. It outlives a lost PostgreSQL, and it ends without
an `end` when the service stops: its client comes back to the next one, as `retry` asks it to.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

import msgspec
import structlog
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from pg_analytics.errors import unavailable
from pg_analytics.http.gateway import EVENT_STREAM
from pg_analytics.postgres.pool import LOST, Postgres
from pg_analytics.recompute import store
from pg_analytics.recompute.store import Run
from pg_analytics.recompute.view import ENDED, RunView, view

_log: Final = structlog.get_logger(__name__)

#: Streams that one process keeps open.
MAX_STREAMS: Final = 64
_POLL_S: Final = 0.5
#: PostgreSQL may take so long to answer; a stop waits no longer than that for a stream.
_READ_S: Final = 1.0
#: Shorter than what proxies let a silent connection live.
_KEEP_ALIVE_S: Final = 10.0
#: A client that takes nothing for so long has lost interest. The server would not notice by itself: it waits for room.
_SEND_S: Final = 5.0

_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_RETRY: Final = b"retry: 1000\n"


class RunStreams:
    """The streams of this process."""

    def __init__(self, postgres: Postgres, *, stopping: asyncio.Event) -> None:
        """`stopping` is set when the service stops: streams end then."""
        self._postgres = postgres
        self._stopping = stopping
        self._places = asyncio.Semaphore(MAX_STREAMS)

    def follow(self, run: Run) -> Response:
        """An answer that follows `run` to its end. `ServiceError` (503) when there are too many of them."""
        if self._places.locked():
            raise unavailable(f"{MAX_STREAMS} streams are open already", retry_after_s=5)
        return _Stream(self._events(run), self._places)

    def head(self) -> Response:
        """The head of such an answer."""
        return StreamingResponse(_nothing(), media_type=EVENT_STREAM.decode(), headers=_HEADERS)

    async def _events(self, run: Run) -> AsyncIterator[bytes]:
        told = view(run)
        # The request itself is logged when it ends.
        _log.info("run_followed", run_id=str(run.id))
        yield _RETRY + _event("progress", told)
        spoke = time.monotonic()
        while told.status not in ENDED:
            if await self._stops():
                yield _comment("the service stops")
                return
            try:
                now = await self._read(run.id)
            except LOST:
                yield _comment("the database cannot be reached")
                spoke = time.monotonic()
                continue
            if now is None:
                yield _comment("the run was deleted")
                return
            if now != told and now.status not in ENDED:
                yield _event("progress", now)
                spoke = time.monotonic()
            elif time.monotonic() - spoke >= _KEEP_ALIVE_S:
                yield _comment("still there")
                spoke = time.monotonic()
            told = now
        yield _event("end", told)

    async def _stops(self) -> bool:
        """Wait for the next look at the row; whether the service stops first."""
        try:
            async with asyncio.timeout(_POLL_S):
                return await self._stopping.wait()
        except TimeoutError:
            return False

    async def _read(self, run_id: UUID) -> RunView | None:
        async with asyncio.timeout(_READ_S), self._postgres.borrowed() as connection:
            run = await store.get_run(connection, run_id)
        return None if run is None else view(run)


class _Stream(StreamingResponse):
    """An answer that holds one of the places while it is under way."""

    def __init__(self, events: AsyncIterator[bytes], places: asyncio.Semaphore) -> None:
        super().__init__(events, media_type=EVENT_STREAM.decode(), headers=_HEADERS)
        self._places = places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end or the client goes."""

        async def send_soon(message: Message) -> None:
            async with asyncio.timeout(_SEND_S):
                await send(message)

        async with self._places:
            try:
                await super().__call__(scope, receive, send_soon)
            except TimeoutError:
                _log.warning("stream_cut_off", after_s=_SEND_S)


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


def _event(name: str, run: RunView) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(run))


def _comment(text: str) -> bytes:
    return b": %b\n\n" % text.encode()
