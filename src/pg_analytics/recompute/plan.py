"""What a run would do, without entering one: the buckets that it would rebuild, and about how long that would take."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Final

import msgspec

from pg_analytics.http import envelope
from pg_analytics.recompute import store
from pg_analytics.recompute.store import PlannedBucket, Scope
from pg_analytics.recompute.trigger import Trigger

#: The word for it where clients say what a run shall do; beside `Mode`, as there is never a run of this kind.
PLAN: Final = "plan"


class BucketView(msgspec.Struct, frozen=True):
    """A bucket that would be rebuilt, as its last rebuild left it."""

    bucket_date: date
    event_count: int
    computed_at: datetime | None
    stale: bool
    frozen: bool


class Plan(msgspec.Struct, frozen=True):
    """What a run would do. `estimated_seconds` is None where there is nothing to go by; `refused` is the error that
    triggering the run would be answered with.
    """

    report_slug: str
    window: str
    date_from: date
    date_to: date
    mode: str
    covers: Mapping[str, date]
    buckets: Sequence[BucketView]
    buckets_total: int
    buckets_stale: int
    events: int
    estimated_seconds: float | None
    refused: Mapping[str, object] | msgspec.UnsetType = msgspec.UNSET


async def plan(trigger: Trigger, scope: Scope) -> Plan:
    """What a run of `scope` would do. `ServiceError` 404 unknown report, 400 wrong window or range, 503 PostgreSQL is
    lost.
    """
    async with trigger.postgres.connection() as connection:
        refusal = await trigger.refusal(connection, scope)
        buckets = await store.plan_buckets(connection, scope)
        events_per_second = await store.read_throughput(connection)
    return Plan(
        report_slug=scope.report_slug,
        window=scope.window.value,
        date_from=scope.date_from,
        date_to=scope.date_to,
        mode=PLAN,
        covers={"from": scope.days.start, "to": scope.days.last},
        buckets=[
            BucketView(bucket.bucket_date, bucket.event_count, bucket.computed_at, bucket.is_stale, bucket.is_frozen)
            for bucket in buckets
        ],
        buckets_total=len(buckets),
        buckets_stale=sum(bucket.is_stale for bucket in buckets),
        events=sum(bucket.event_count for bucket in buckets),
        estimated_seconds=_estimate(buckets, events_per_second),
        refused=msgspec.UNSET if refusal is None else envelope.described(refusal),
    )


def _estimate(buckets: Sequence[PlannedBucket], events_per_second: float | None) -> float | None:
    """Seconds; None where no run has shown how fast it goes, or where nobody has counted the events yet."""
    if events_per_second is None or any(bucket.is_uncounted for bucket in buckets):
        return None
    return round(sum(bucket.event_count for bucket in buckets) / events_per_second, 1)
