"""Writers that never rest: a thread that writes, moves and deletes events of a few days while a story goes on."""

import asyncio
import threading
from contextlib import suppress
from datetime import UTC, date, datetime, time
from random import Random
from typing import Final, Self

import asyncpg

from tests.events import SOURCE, Event, write

#: Its events; nobody else touches them, except by TRUNCATE.
PREFIX: Final = "traffic-"
_WRITERS: Final = 2
_SESSION: Final = {"lock_timeout": "300ms", "timezone": "America/St_Johns"}


class Traffic:
    """Some writers at work, for the length of a `with` block."""

    def __init__(self, database_url: str, days: list[date], *, seed: int) -> None:
        """They write into `days`, what `seed` lets them."""
        self._url = database_url
        self._days = days
        self._seed = seed
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic")
        self._failed: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        if self._failed is not None:
            raise self._failed

    def _run(self) -> None:
        try:
            asyncio.run(self._write())
        except BaseException as error:  # noqa: BLE001 - told to whoever ends the traffic
            self._failed = error

    async def _write(self) -> None:
        async with asyncio.TaskGroup() as writers:
            for number in range(_WRITERS):
                writers.create_task(self._writer(f"{PREFIX}{number}", Random(self._seed + number)))

    async def _writer(self, name: str, random: Random) -> None:
        connection = await asyncpg.connect(self._url, server_settings=_SESSION)
        written = 0
        while not self._stopping.is_set():
            with suppress(asyncpg.LockNotAvailableError):  # a TRUNCATE, or the other writer
                async with connection.transaction():
                    for _ in range(random.randint(1, 3)):
                        written += 1
                        await self._step(connection, f"{name}-{written}", random)
                        await asyncio.sleep(random.choice((0, 0, 0.01)))
        await connection.close()

    async def _step(self, connection: "asyncpg.Connection[asyncpg.Record]", name: str, random: Random) -> None:
        at = datetime.combine(random.choice(self._days), time(random.randrange(24)), UTC)
        match random.randrange(4):
            case 0 | 1:
                entities = [f"entity-{random.randrange(4)}" for _ in range(random.choice((1, 1, 20)))]
                await write(
                    connection,
                    [Event(f"{name}-{n}", SOURCE, entity, "pending", at) for n, entity in enumerate(entities)],
                )
            case 2:
                await connection.execute(
                    "UPDATE analytics_events SET occurred_at = $1, status = 'success' WHERE external_ref LIKE $2",
                    at,
                    f"{PREFIX}%{random.randrange(10)}",
                )
            case _:
                await connection.execute(
                    "DELETE FROM analytics_events WHERE external_ref LIKE $1", f"{PREFIX}%{random.randrange(10)}"
                )
