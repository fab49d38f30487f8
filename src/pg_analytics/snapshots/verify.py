"""Verifying days: re-aggregate the events, write nothing, and tell every row that is not as it must be.

What is made of a rollup's own rows is compared with these, and judged where they are right themselves.

What must hold in every snapshot of the database: a day whose rollups do not equal its events stands in the change
log. So each rollup is compared, and the log looked at, in one statement, which sees one such snapshot: no lock is
needed, and no rebuild that is under way can be mistaken for drift.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import date

from pg_analytics.postgres.pool import Connection
from pg_analytics.snapshots import store
from pg_analytics.snapshots.store import DriftedDay
from pg_analytics.windows import month_of


@dataclass(frozen=True, slots=True)
class Verified:
    """What verifying some days found; `stale_days` could not be judged, as they wait for a rebuild."""

    drifted: list[DriftedDay]
    stale_days: int
    events_read: int


async def verify_days(connection: Connection, days: Iterable[date]) -> Verified:
    """Compare every rollup of `days` with the events, and the margins with their rows. Days that are frozen, or that
    retention dropped, are compared with no events.
    """
    listed = list(days)
    found = [(rollup, day) for rollup in store.ROLLUPS for day in await store.verify_days(connection, rollup, listed)]
    stale = {day.day for _, day in found if day.is_stale}
    drifted = [
        DriftedDay(rollup, day.day, day.rows_missing, day.rows_surplus, day.rows_different)
        for rollup, day in found
        if not day.is_stale and (day.rows_missing or day.rows_surplus or day.rows_different)
    ]
    wrong = {day.day for day in drifted if day.rollup == "source_status"}
    drifted += [day for day in await store.verify_margins(connection, listed) if day.day not in wrong]
    return Verified(
        drifted=drifted,
        stale_days=len(stale),
        events_read=sum(day.event_count for rollup, day in found if rollup == store.ROLLUPS[0]),
    )


async def verify_months(connection: Connection, days: Iterable[date], *, drifted: Collection[date]) -> list[DriftedDay]:
    """Compare the months of `days` with all of their days, but for those with a day that is known to have `drifted`."""
    found = []
    for start in sorted({month_of(day).start for day in days}):
        if not any(day in drifted for day in month_of(start)):
            found += await store.verify_months(connection, [start])
    return found
