"""Rebuilding days: the protocol of this package's docstring, in its order."""

from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from pg_analytics.postgres.pool import Connection
from pg_analytics.snapshots import store
from pg_analytics.snapshots.store import ROLLUPS
from pg_analytics.windows import DayRange

#: Channel on which a commit announces new versions, as a JSON object from slug to version.
VERSIONS_CHANNEL: Final = "pg_analytics_versions"


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What rebuilding some days did, over all rollups. `versions` holds those that moved on, by slug."""

    rows_inserted: int
    rows_deleted: int
    rows_unchanged: int
    events_read: int
    versions: dict[str, int] = field(default_factory=dict)


async def rebuild_days(connection: Connection, days: DayRange, *, run_id: UUID | None) -> Rebuilt:
    """Rebuild every rollup of `days` from the events.

    Must be called inside a READ COMMITTED transaction, since each step needs a snapshot of its own, and its commit must
    follow soon: the days stay locked until then.
    """
    await store.take_changes(connection, days)
    await store.lock_days(connection, days)
    merged = {}
    for rollup in ROLLUPS:
        await store.group_events(connection, rollup, days)
        merged[rollup] = await store.merge(connection, rollup, days)
    events_read = await store.record_days(connection, days, run_id)
    changed = [rollup for rollup, rows in merged.items() if rows.rows_inserted or rows.rows_deleted]
    versions: dict[str, int] = {}
    if changed:
        versions = await store.move_versions(connection, changed)
        await store.announce_versions(connection, VERSIONS_CHANNEL, versions)
    return Rebuilt(
        rows_inserted=sum(rows.rows_inserted for rows in merged.values()),
        rows_deleted=sum(rows.rows_deleted for rows in merged.values()),
        rows_unchanged=sum(rows.rows_unchanged for rows in merged.values()),
        events_read=events_read,
        versions=versions,
    )
