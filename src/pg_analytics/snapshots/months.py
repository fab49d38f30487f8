"""Mending months: the remedy where somebody has written into `rollup_entity` or its months.

A rebuild adds to a month what its days have gained or lost, and so keeps a month that is right. One that is wrong stays
wrong by the same amount. So whoever recomputes a range compares its months with their days afterwards: one statement
each, which locks nothing and nearly always finds nothing.
"""

from collections.abc import Iterable
from datetime import date

from pg_analytics.postgres.pool import Connection, transaction
from pg_analytics.snapshots import store
from pg_analytics.snapshots.rebuild import VERSIONS_CHANNEL, lock_days
from pg_analytics.windows import month_of


async def mend_months(connection: Connection, days: Iterable[date]) -> dict[str, int]:
    """Make the months of `days` equal to their days, in transactions of its own; the versions that moved on, by slug.

    Raises `DaysBusy` if another rebuild does not let go of a day, besides what the driver raises.
    """
    versions: dict[str, int] = {}
    for start in sorted({month_of(day).start for day in days}):
        if await store.verify_months(connection, [start]):
            versions |= await _mend(connection, start)
    return versions


async def _mend(connection: Connection, day: date) -> dict[str, int]:
    async with transaction(connection):
        # Whoever adds to the month holds one of its days.
        await lock_days(connection, list(month_of(day)))
        if not await store.mend_month(connection, day):
            return {}
        versions = await store.move_versions(connection, ["entity"])
        await store.announce_versions(connection, VERSIONS_CHANNEL, versions)
    return versions
