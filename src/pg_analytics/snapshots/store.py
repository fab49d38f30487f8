"""The statements of the rebuild protocol, one function each."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Final
from uuid import UUID

import msgspec

from pg_analytics.postgres.pool import Connection
from pg_analytics.postgres.statements import statement

#: The rollups; each has a `merge_*.sql` and a table of its name.
ROLLUPS: Final = ("source_status", "entity")

#: What `rollup_source_status` adds up to over all sources, over all statuses, and over both.
MARGINS: Final = "source_status_margin"

#: What `rollup_entity` adds up to over a month.
MONTHS: Final = "entity_month"

#: First key of the advisory locks on days; the second is the day.
_DAY_LOCK_CLASS: Final = 0x7067_6461

_TAKE_CHANGES: Final = statement(__package__, "take_changes")
_LOCK_DAYS: Final = statement(__package__, "lock_days")
_TRY_LOCK_DAYS: Final = statement(__package__, "try_lock_days")
_READ_BACKLOG: Final = statement(__package__, "read_backlog")
_READ_HORIZONS: Final = statement(__package__, "read_horizons")
_HOLD_HORIZONS: Final = statement(__package__, "hold_horizons")
_MARK_FROZEN_DAYS: Final = statement(__package__, "mark_frozen_days")
_MERGE: Final = {rollup: statement(__package__, f"merge_{rollup}") for rollup in ROLLUPS}
#: The same statements, over events that a prune has deleted and put aside in a table of the same columns.
_MERGE_PRUNED: Final = {rollup: sql.replace("analytics_events", "pruned_events") for rollup, sql in _MERGE.items()}
_MERGE_MARGINS: Final = statement(__package__, "merge_source_status_margin")
_VERIFY: Final = {rollup: statement(__package__, f"verify_{rollup}") for rollup in ROLLUPS}
_VERIFY_MARGINS: Final = statement(__package__, "verify_source_status_margin")
_ADD_TO_MONTHS: Final = statement(__package__, "add_to_months")
_DELETE_EMPTY_MONTHS: Final = statement(__package__, "delete_empty_months")
_VERIFY_MONTHS: Final = statement(__package__, "verify_entity_month")
_MEND_MONTH: Final = statement(__package__, "mend_entity_month")
_RECORD_DAYS: Final = statement(__package__, "record_days")
_ANNOUNCE_VERSIONS: Final = statement(__package__, "announce_versions")
_MOVE_VERSIONS: Final = statement(__package__, "move_versions")


@dataclass(frozen=True, slots=True)
class MonthDifferences:
    """What days of `rollup_entity` have gained and lost, side by side: a day of the month (which is not named by its
    first day, since that of the first month would reach PostgreSQL as `-infinity`), the entity, and by how many events.
    Each month and entity is there once.
    """

    days: Sequence[date] = ()
    entities: Sequence[str] = ()
    differences: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Merged:
    """Rows of a rollup that a merge wrote (new or with a new count), removed or replaced, and left alone; and what it
    leaves to be added to the months.
    """

    rows_inserted: int
    rows_deleted: int
    rows_unchanged: int
    months: MonthDifferences = field(default_factory=MonthDifferences)


@dataclass(frozen=True, slots=True)
class StaleDay:
    """A day whose events have changed since its snapshots were built; `age_s`: for how many seconds already."""

    day: date
    since: datetime
    age_s: float


@dataclass(frozen=True, slots=True)
class Horizons:
    """From which day on the events, and each rollup, are kept. Days before `events` are frozen."""

    events: date
    rollups: dict[str, date]


@dataclass(frozen=True, slots=True)
class ComparedDay:
    """A day of a rollup beside its events: rows that are missing, that no event accounts for, and whose count is wrong.
    A stale day may differ: its rebuild is due.
    """

    day: date
    is_stale: bool
    event_count: int
    rows_missing: int
    rows_surplus: int
    rows_different: int


@dataclass(frozen=True, slots=True)
class DriftedDay:
    """A day of a rollup that differs from its events though no change of them is waiting. Or one whose margins differ
    from its rows, where `rollup` is `MARGINS`; or the first day of a month that differs from its days, where it is
    `MONTHS`.
    """

    rollup: str
    day: date
    rows_missing: int
    rows_surplus: int
    rows_different: int


async def read_backlog(connection: Connection) -> list[StaleDay]:
    """The days in the change log, newest first."""
    return [StaleDay(**row) for row in await connection.fetch(_READ_BACKLOG)]


async def take_changes(connection: Connection, days: Sequence[date]) -> None:
    """Take the days out of the change log."""
    await connection.execute(_TAKE_CHANGES, days)


async def lock_days(connection: Connection, days: Sequence[date]) -> None:
    """Wait for, and hold until the transaction ends, the right to rebuild each of `days` (ascending)."""
    await connection.execute(_LOCK_DAYS, days, _DAY_LOCK_CLASS)


async def try_lock_days(connection: Connection, days: Sequence[date]) -> list[date]:
    """Hold, until the transaction ends, the right to rebuild those of `days` that nobody else is rebuilding."""
    return [row["day"] for row in await connection.fetch(_TRY_LOCK_DAYS, days, _DAY_LOCK_CLASS)]


async def read_horizons(connection: Connection) -> Horizons:
    """What is kept, and from when on."""
    kept_from = {row["subject"]: row["kept_from"] for row in await connection.fetch(_READ_HORIZONS)}
    return Horizons(events=kept_from.pop("events"), rollups=kept_from)


async def hold_horizons(connection: Connection) -> Horizons:
    """What is kept, and from when on; none of it moves back until the transaction ends."""
    await connection.execute(_HOLD_HORIZONS)
    return await read_horizons(connection)


async def mark_frozen_days(connection: Connection, days: Sequence[date]) -> list[date]:
    """Mark frozen days as out of date for good; returns those that were not marked before."""
    return [row["day"] for row in await connection.fetch(_MARK_FROZEN_DAYS, days)]


async def merge(connection: Connection, rollup: str, days: Sequence[date]) -> Merged:
    """Make the days of `rollup` equal to their events."""
    return await _merged(connection, _MERGE[rollup], days)


async def merge_pruned(connection: Connection, rollup: str, days: Sequence[date]) -> Merged:
    """Make the days of `rollup` equal to what `pruned_events` holds of them."""
    return await _merged(connection, _MERGE_PRUNED[rollup], days)


async def _merged(connection: Connection, sql: str, days: Sequence[date]) -> Merged:
    rows_inserted, rows_deleted, rows_unchanged, *differences = (await connection.fetch(sql, days))[0]
    return Merged(rows_inserted, rows_deleted, rows_unchanged, MonthDifferences(*differences))


async def merge_margins(connection: Connection, days: Sequence[date]) -> int:
    """Make the margins of days that are merged equal to their rows; returns how many of them were not."""
    return int(await connection.fetchval(_MERGE_MARGINS, days))


async def add_to_months(connection: Connection, months: MonthDifferences) -> None:
    """Add to the months what their days have gained and lost. The rows stay locked until the transaction ends."""
    if not months.days:
        return
    columns = (months.days, months.entities)
    if await connection.fetchval(_ADD_TO_MONTHS, *columns, months.differences):
        await connection.execute(_DELETE_EMPTY_MONTHS, *columns)


async def mend_month(connection: Connection, day: date) -> int:
    """Make the month of `day`, whose days are locked, equal to its days; returns how many of its rows were not."""
    return int(await connection.fetchval(_MEND_MONTH, day))


async def verify_days(connection: Connection, rollup: str, days: Sequence[date]) -> list[ComparedDay]:
    """Compare the days of `rollup` with their events."""
    return [ComparedDay(**row) for row in await connection.fetch(_VERIFY[rollup], days)]


async def verify_margins(connection: Connection, days: Sequence[date]) -> list[DriftedDay]:
    """The days whose margins are not what their rows add up to."""
    return [DriftedDay(MARGINS, **row) for row in await connection.fetch(_VERIFY_MARGINS, days)]


async def verify_months(connection: Connection, days: Sequence[date]) -> list[DriftedDay]:
    """Those of the months that `days` lie in which are not what their days add up to."""
    return [DriftedDay(MONTHS, **row) for row in await connection.fetch(_VERIFY_MONTHS, days)]


async def record_days(connection: Connection, rollup: str, days: Sequence[date], run_id: UUID | None) -> int:
    """Record the rebuild of each day of `rollup`; returns how many events they hold."""
    return int(await connection.fetchval(_RECORD_DAYS, rollup, days, run_id))


async def move_versions(connection: Connection, rollups: list[str]) -> dict[str, int]:
    """Move on the version of every report over `rollups`; the new versions by slug."""
    return {row["slug"]: row["version"] for row in await connection.fetch(_MOVE_VERSIONS, rollups)}


async def announce_versions(connection: Connection, channel: str, versions: dict[str, int]) -> None:
    """Tell every process of the new versions, if and when the transaction commits."""
    await connection.execute(_ANNOUNCE_VERSIONS, channel, msgspec.json.encode(versions).decode())
