"""The statements of the rebuild protocol, one function each."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

import msgspec

from pg_analytics.postgres.pool import Connection
from pg_analytics.postgres.statements import statement
from pg_analytics.windows import DayRange

#: The rollups; each has a `group_*.sql`, a `merge_*.sql` and a table of its name.
ROLLUPS: Final = ("source_status", "entity")

#: First key of the advisory locks on days; the second is the day.
_DAY_LOCK_CLASS: Final = 0x7067_6461

_TAKE_CHANGES: Final = statement(__package__, "take_changes")
_LOCK_DAYS: Final = statement(__package__, "lock_days")
_GROUP: Final = {rollup: statement(__package__, f"group_{rollup}") for rollup in ROLLUPS}
_MERGE: Final = {rollup: statement(__package__, f"merge_{rollup}") for rollup in ROLLUPS}
_RECORD_DAYS: Final = statement(__package__, "record_days")
_MOVE_VERSIONS: Final = statement(__package__, "move_versions")


@dataclass(frozen=True, slots=True)
class Merged:
    """Rows of a rollup that a merge wrote (new or with a new count), removed or replaced, and left alone."""

    rows_inserted: int
    rows_deleted: int
    rows_unchanged: int


async def take_changes(connection: Connection, days: DayRange) -> None:
    """Take the days out of the change log."""
    await connection.execute(_TAKE_CHANGES, days.start, days.end)


async def lock_days(connection: Connection, days: DayRange) -> None:
    """Wait for, and hold until the transaction ends, the right to rebuild each day."""
    await connection.execute(_LOCK_DAYS, days.start, days.day_count, _DAY_LOCK_CLASS)


async def group_events(connection: Connection, rollup: str, days: DayRange) -> None:
    """Aggregate the days' events at the grain of `rollup` into a table of this transaction."""
    await connection.execute(_GROUP[rollup], days.start, days.end)


async def merge(connection: Connection, rollup: str, days: DayRange) -> Merged:
    """Make the days of `rollup` equal to what `group_events` found."""
    row = (await connection.fetch(_MERGE[rollup], days.start, days.end))[0]
    return Merged(**row)


async def record_days(connection: Connection, days: DayRange, run_id: UUID | None) -> int:
    """Record the rebuild of each day; returns how many events they hold."""
    return int(await connection.fetchval(_RECORD_DAYS, days.start, days.end, run_id))


async def move_versions(connection: Connection, rollups: list[str]) -> dict[str, int]:
    """Move on the version of every report over `rollups`; the new versions by slug."""
    return {row["slug"]: row["version"] for row in await connection.fetch(_MOVE_VERSIONS, rollups)}


async def announce_versions(connection: Connection, channel: str, versions: dict[str, int]) -> None:
    """Tell every process of the new versions, if and when the transaction commits."""
    await connection.execute("SELECT pg_notify($1, $2)", channel, msgspec.json.encode(versions).decode())
