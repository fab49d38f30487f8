"""The two writers of a story: one that commits at once, and a slow one with a transaction open over many steps."""

from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, time
from typing import Final

import asyncpg

from pg_analytics.postgres.pool import Connection
from tests.acceptance.days_seen import DaysSeen
from tests.acceptance.stage import Stage
from tests.acceptance.story import ENTITIES, SOURCES, STATUSES
from tests.acceptance.traffic import PREFIX
from tests.events import Event, write

_MINE: Final = f"external_ref NOT LIKE '{PREFIX}%' AND abs(hashtext(external_ref)) % 10 = $1"
_COLUMNS: Final = ("external_ref", "source_id", "entity_id", "status", "processing_ms", "amount_cents", "occurred_at")
NOT_NOW: Final = "not now"


class Writers:
    """The steps of a story that write. Each returns what is to be told of it."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.days = DaysSeen()
        self.truncating = False
        self._slow: asyncpg.transaction.Transaction | None = None
        self._written = 0

    def write(self, day: date, count: int, *, copy: bool, slowly: bool) -> str | None:
        """New events of a day: row by row, or by COPY."""
        rows = [self._event(day, n) for n in range(count)]

        async def put(connection: Connection) -> None:
            if copy:
                ids = {row["slug"]: row["id"] for row in await connection.fetch("SELECT slug, id FROM event_sources")}
                records = [(e.external_ref, ids[e.source], e.entity_id, e.status, 1, 1, e.occurred_at) for e in rows]
                await connection.copy_records_to_table("analytics_events", records=records, columns=_COLUMNS)
            else:
                for row in rows:
                    await write(connection, [row])

        return self._attempt(put, slowly=slowly)

    def write_again(self, day: date, *, slowly: bool) -> str | None:
        """A few events of a day on which much happens, in one statement."""
        rows = [self._event(day, n) for n in range(3)]
        return self._attempt(lambda connection: write(connection, rows), slowly=slowly)

    def move(self, pick: int, day: date, *, slowly: bool) -> str | None:
        """Some events, wherever they are, to one day."""
        at = datetime.combine(day, time(23, 59, 59), UTC)
        return self._change(f"UPDATE analytics_events SET occurred_at = $2 WHERE {_MINE}", pick, at, slowly=slowly)

    def change(self, pick: int, to: int, *, slowly: bool) -> str | None:
        """Some events, in all that is counted but the day."""
        names = (ENTITIES[to % len(ENTITIES)], STATUSES[to % len(STATUSES)], SOURCES[to % len(SOURCES)])
        change = f"""
            UPDATE analytics_events SET entity_id = $2, status = $3,
                source_id = (SELECT id FROM event_sources WHERE slug = $4)
            WHERE {_MINE}
        """
        return self._change(change, pick, *names, slowly=slowly)

    def delete(self, pick: int, *, slowly: bool) -> str | None:
        """Some events."""
        return self._change(f"DELETE FROM analytics_events WHERE {_MINE}", pick, slowly=slowly)

    def truncate(self, *, slowly: bool) -> str | None:
        """All events."""
        refused = self._change("TRUNCATE analytics_events", slowly=slowly)
        if slowly and self._slow is not None and refused is None:
            self.truncating = True  # until it is committed, nobody can look at the events
        return refused

    def begin_to_write_slowly(self) -> str | None:
        """From now on, another writer has a transaction open."""
        if self._slow is not None:
            return NOT_NOW
        self._slow = self.stage.slow_writer.transaction()
        self.stage.run(self._slow.start())
        return None

    def end_writing_slowly(self, how: str) -> str | None:
        """That transaction ends."""
        if self._slow is None:
            return NOT_NOW
        self.stage.run(self._slow.commit() if how == "COMMIT" else self._slow.rollback())
        self._slow, self.truncating = None, False
        self._look()
        return None

    def _event(self, day: date, n: int) -> Event:
        self._written += 1
        return Event(
            external_ref=f"event-{self._written}",
            source=SOURCES[n % len(SOURCES)],
            entity_id=ENTITIES[n % len(ENTITIES)],
            status=STATUSES[n // 2 % len(STATUSES)],
            occurred_at=datetime.combine(day, time(n % 24, 59, 59), UTC),
        )

    def _change(self, sql: str, *arguments: object, slowly: bool) -> str | None:
        return self._attempt(lambda connection: connection.execute(sql, *arguments), slowly=slowly)

    def _attempt(self, change: Callable[[Connection], Awaitable[object]], *, slowly: bool) -> str | None:
        """Have something written, unless another writer, or a rebuild, has it locked."""
        connection = self.stage.slow_writer if slowly and self._slow is not None else self.stage.writer

        async def attempt() -> None:
            async with connection.transaction():
                await change(connection)

        try:
            self.stage.run(attempt())
        except asyncpg.LockNotAvailableError:
            return "locked"
        if connection is self.stage.writer:
            self._look()
        return None

    def _look(self) -> None:
        self.stage.run(self.days.look(self.stage.observer))
