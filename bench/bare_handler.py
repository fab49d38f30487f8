"""The limits: handlers that do nothing else, on the server that the service runs on.

`python -m bench.bare_handler PORT BYTES` answers every request with a constant of so many bytes, and `/304` with a 304.
With a DATABASE_URL behind these, `/statement` runs the statement of 30 days of volume, on as many connections as a
service has for reports, and hands on what PostgreSQL rendered: nothing is checked, kept, described or logged.
"""

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable
from datetime import date, timedelta
from typing import Final

import asyncpg
import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server
from starlette.types import Message, Receive, Scope, Send

from pg_analytics.app import COLLECT_AFTER
from pg_analytics.reports import store
from pg_analytics.reports.definition import builtin_definitions
from pg_analytics.windows import DayRange, Window

_NOT_MODIFIED: Final[Message] = {"type": "http.response.start", "status": 304, "headers": []}
_NO_BODY: Final[Message] = {"type": "http.response.body", "body": b""}
#: As many connections as compute reports in a service with the default settings.
_PLACES: Final = 6


def _start(size: int) -> Message:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % size)]
    return {"type": "http.response.start", "status": 200, "headers": headers}


async def _reports(url: str) -> Callable[[bytes], Awaitable[bytes]]:
    """What answers a query string of `cold.lua` with rows."""
    definition = builtin_definitions()["volume-by-period"]
    free = [await asyncpg.connect(url, server_settings={"jit": "off"}) for _ in range(_PLACES)]
    places = asyncio.Semaphore(_PLACES)

    async def report(query: bytes) -> bytes:
        first, last, limit = (part.partition("=")[2] for part in query.decode().split("&"))
        call = store.report_call(
            definition,
            "period",
            days=DayRange(date.fromisoformat(first), date.fromisoformat(last) + timedelta(days=1)),
            window=Window.DAY,
            limit=int(limit),
            offset=0,
            filters=[None],
        )
        async with places:
            connection = free.pop()
            try:
                [row] = await connection.fetch(call.statement, *call.arguments)
            finally:
                free.append(connection)
        return str(row["rows"]).encode()

    return report


async def _serve(port: int, size: int, url: str | None = None) -> None:
    constant: Message = {"type": "http.response.body", "body": b"x" * size}
    start = _start(size)
    report = None if url is None else await _reports(url)

    async def answer(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["path"] == "/304":
            await send(_NOT_MODIFIED)
            await send(_NO_BODY)
        elif report is not None and scope["path"] == "/statement":
            body = await report(scope["query_string"])
            await send(_start(len(body)))
            await send({"type": "http.response.body", "body": body})
        else:
            await send(start)
            await send(constant)

    gc.set_threshold(*COLLECT_AFTER)  # as in the service
    server = Server(
        answer,
        address="127.0.0.1",
        port=port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=1024,
        log_enabled=False,
    )
    await server.serve()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
