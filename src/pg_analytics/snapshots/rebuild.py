"""Rebuilding days: the protocol of this package's docstring, in its order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Final
from uuid import UUID

import asyncpg

from pg_analytics.postgres.pool import Connection
from pg_analytics.snapshots import store
from pg_analytics.snapshots.store import Merged

#: Channel on which a commit announces new versions, as a JSON object from slug to version.
VERSIONS_CHANNEL: Final = "pg_analytics_versions"


class FrozenDays(Exception):  # noqa: N818 - a state of the data, and nobody's error
    """Some of the days are frozen: their events were pruned, so no snapshot can be built from them any more."""

    def __init__(self, kept_from: date) -> None:
        """`kept_from` is the first day that can be rebuilt."""
        super().__init__(f"the events of days before {kept_from} were pruned, so their snapshots are frozen")
        self.kept_from = kept_from


class DaysBusy(Exception):  # noqa: N818 - a state of the data, and nobody's error
    """Another rebuild kept some of the days locked for longer than the connection's `lock_timeout`."""


@dataclass(frozen=True, slots=True)
class MergedDays:
    """Steps 1 to 3, done: by rollup, the days that it keeps and what the merge wrote."""

    days: dict[str, list[date]]
    rows: dict[str, Merged]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What rebuilding some days did, over all rollups. `versions` holds those that moved on, by slug."""

    rows_inserted: int
    rows_deleted: int
    rows_unchanged: int
    events_read: int
    versions: dict[str, int] = field(default_factory=dict)


async def rebuild_days(connection: Connection, days: Iterable[date], *, run_id: UUID | None) -> Rebuilt:
    """Rebuild every rollup of `days` from the events.

    Must be called inside a READ COMMITTED transaction, since each step needs a snapshot of its own, and its commit must
    follow soon: the days stay locked until then. `FrozenDays` if the events of one of them are gone, `DaysBusy` if
    another rebuild does not let go of one of them.
    """
    return await publish_days(connection, await merge_days(connection, days), run_id=run_id)


async def merge_days(connection: Connection, days: Iterable[date]) -> MergedDays:
    """Steps 1 to 3. Locks nothing that another rebuild of other days needs, so several may be here at once.

    Raises `DaysBusy`, or `FrozenDays`, besides what the driver raises.
    """
    ordered = sorted(days)
    await store.take_changes(connection, ordered)
    await lock_days(connection, ordered)
    horizons = await store.hold_horizons(connection)
    if ordered and ordered[0] < horizons.events:
        raise FrozenDays(horizons.events)
    kept = {rollup: [day for day in ordered if day >= kept_from] for rollup, kept_from in horizons.rollups.items()}
    return MergedDays(kept, {rollup: await store.merge(connection, rollup, kept[rollup]) for rollup in store.ROLLUPS})


async def lock_days(connection: Connection, days: Sequence[date]) -> None:
    """Hold each of `days` (ascending) until the transaction ends; `DaysBusy` if that takes too long."""
    try:
        await store.lock_days(connection, days)
    except asyncpg.LockNotAvailableError:
        raise DaysBusy from None


async def publish_days(connection: Connection, merged: MergedDays, *, run_id: UUID | None) -> Rebuilt:
    """Steps 4 and 5. Months and versions stay locked until the commit: nothing that waits may come in between."""
    margins_changed = await store.merge_margins(connection, merged.days["source_status"])
    events_read = [await store.record_days(connection, rollup, days, run_id) for rollup, days in merged.days.items()]
    await store.add_to_months(connection, merged.rows["entity"].months)
    changed = [rollup for rollup, rows in merged.rows.items() if rows.rows_inserted or rows.rows_deleted]
    if margins_changed and "source_status" not in changed:  # somebody has written into the margins
        changed.append("source_status")
    versions: dict[str, int] = {}
    if changed:
        versions = await store.move_versions(connection, changed)
        await store.announce_versions(connection, VERSIONS_CHANNEL, versions)
    return Rebuilt(
        rows_inserted=sum(rows.rows_inserted for rows in merged.rows.values()),
        rows_deleted=sum(rows.rows_deleted for rows in merged.rows.values()),
        rows_unchanged=sum(rows.rows_unchanged for rows in merged.rows.values()),
        events_read=max(events_read),
        versions=versions,
    )
