"""The statements that move horizons: from which day on the events, and each rollup, are kept."""

from dataclasses import dataclass
from datetime import date
from typing import Final

from pg_analytics.postgres.pool import Connection
from pg_analytics.postgres.statements import statement
from pg_analytics.snapshots.store import MonthDifferences, add_to_months

#: Subject of the horizon of the events; those of the rollups are named like them.
EVENTS: Final = "events"

_READ_RETENTION: Final = statement(__package__, "read_retention")
_STOP_HORIZONS: Final = statement(__package__, "stop_horizons")
_LOCK_HORIZON: Final = statement(__package__, "lock_horizon")
_MOVE_HORIZON: Final = statement(__package__, "move_horizon")
_COUNT_BUCKETS_BEFORE: Final = statement(__package__, "count_buckets_before")
_DROP_SOURCE_STATUS: Final = statement(__package__, "drop_source_status")
_DROP_ENTITY: Final = statement(__package__, "drop_entity")
_DROP_MARGINS: Final = statement(__package__, "drop_source_status_margin")
_DROP_BUCKETS: Final = statement(__package__, "drop_buckets")
_LOG_REGAINED_DAYS: Final = statement(__package__, "log_regained_days")


@dataclass(frozen=True, slots=True)
class BucketsBefore:
    """How many days of a rollup lie before some day, and the first of them."""

    days: int
    first_day: date | None


async def read_retention(connection: Connection, today: date) -> dict[str, date]:
    """From which Monday on each rollup is to be kept; a rollup that no report reads is left out."""
    return {row["rollup"]: row["keep_from"] for row in await connection.fetch(_READ_RETENTION, today)}


async def stop_horizons(connection: Connection) -> None:
    """Wait until no rebuild is under way that has looked at the horizons; none looks until the transaction ends."""
    await connection.execute(_STOP_HORIZONS)


async def lock_horizon(connection: Connection, subject: str) -> date:
    """From which day on `subject` is kept; nobody else changes that until the transaction ends."""
    kept_from: date = await connection.fetchval(_LOCK_HORIZON, subject)
    return kept_from


async def move_horizon(connection: Connection, subject: str, kept_from: date) -> None:
    """Keep `subject` from `kept_from` on."""
    await connection.execute(_MOVE_HORIZON, subject, kept_from)


async def count_buckets_before(connection: Connection, rollup: str, day: date) -> BucketsBefore:
    """The days of `rollup` before `day`."""
    return BucketsBefore(**(await connection.fetch(_COUNT_BUCKETS_BEFORE, rollup, day))[0])


async def drop_days(connection: Connection, rollup: str, start: date, end: date) -> int:
    """Delete the days `start <= day < end` of `rollup`, which are locked; returns how many rows that were."""
    if rollup == "entity":
        rows_deleted, *lost = (await connection.fetch(_DROP_ENTITY, start, end))[0]
        await add_to_months(connection, MonthDifferences(*lost))
    else:
        rows_deleted = int((await connection.execute(_DROP_SOURCE_STATUS, start, end)).split()[-1])
        await connection.execute(_DROP_MARGINS, start, end)
    await connection.execute(_DROP_BUCKETS, rollup, start, end)
    return int(rows_deleted)


async def log_regained_days(connection: Connection, rollup: str, start: date, end: date) -> int:
    """Enter those of the days `start <= day < end` of `rollup` into the change log that need a rebuild; returns how
    many that are.
    """
    return int((await connection.execute(_LOG_REGAINED_DAYS, rollup, start, end)).split()[-1])
