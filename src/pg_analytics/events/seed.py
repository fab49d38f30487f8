"""The demo events: 25,000 payments of the last 90 days, the same for everybody who seeds on the same day.

They look like payments: fewer on weekends and at night, a few entities with much of the volume, slow failures.
"""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Final

from pg_analytics.events import store
from pg_analytics.events.store import Event
from pg_analytics.postgres.pool import Connection
from pg_analytics.snapshots.rebuild import rebuild_days
from pg_analytics.snapshots.store import read_horizons
from pg_analytics.windows import FIRST_DAY, DayRange

EVENT_COUNT: Final = 25_000
DAY_COUNT: Final = 90
ENTITY_COUNT: Final = 240

_SOURCES: Final = {
    "stripe": ("Stripe", "Card payments, the primary processor."),
    "adyen": ("Adyen", "Card payments, the second processor."),
    "paypal": ("PayPal", "Payments from wallets."),
}
_SOURCE_WEIGHTS: Final = (5, 3, 2)
_STATUSES: Final = ("success", "failed", "pending")
_STATUS_WEIGHTS: Final = (88, 8, 4)
_REGIONS: Final = ("eu-west", "us-east", "ap-south")
_WEEKEND_FACTOR: Final = 0.6


async def seed(connection: Connection, *, today: date) -> int:
    """Load the demo events and build their snapshots, unless there are or were events; returns how many were loaded.

    One transaction: there are either no demo events or all of them, with every snapshot.
    """
    async with connection.transaction(isolation="read_committed"):
        await store.lock_loading(connection)
        events_were_pruned = (await read_horizons(connection)).events > FIRST_DAY
        if events_were_pruned or await store.any_event(connection):
            return 0
        source_ids = [await store.upsert_source(connection, slug, *_SOURCES[slug]) for slug in _SOURCES]
        await store.stage_events(connection)
        loaded = await store.insert_events(connection, demo_events(today, source_ids))
        await rebuild_days(connection, demo_days(today), run_id=None)
        return loaded


def demo_days(today: date) -> DayRange:
    """The 90 days before `today`: all of them are over, so no event lies in the future."""
    return DayRange(today - timedelta(days=DAY_COUNT), today)


def demo_events(today: date, source_ids: list[int]) -> Iterator[Event]:
    """The demo events of `today`. `source_ids` are those of stripe, adyen and paypal."""
    random = Random(today.toordinal())  # noqa: S311 - data that looks real, not a secret
    days = list(demo_days(today))
    day_weights = [_WEEKEND_FACTOR if day.weekday() >= 5 else 1.0 for day in days]  # noqa: PLR2004 - Saturday
    entities = [f"entity-{number:03}" for number in range(1, ENTITY_COUNT + 1)]
    entity_weights = [1 / (rank + 10) for rank in range(ENTITY_COUNT)]
    # Every entity appears: the first events go round, the others follow the weights.
    chosen = entities + random.choices(entities, entity_weights, k=EVENT_COUNT - ENTITY_COUNT)
    for number, entity_id in enumerate(chosen, start=1):
        status = random.choices(_STATUSES, _STATUS_WEIGHTS)[0]
        yield Event(
            external_ref=f"demo-{number:05}",
            source_id=random.choices(source_ids, _SOURCE_WEIGHTS)[0],
            entity_id=entity_id,
            status=status,
            processing_ms=min(int(random.lognormvariate(5.2, 0.5)) * (4 if status == "failed" else 1), 30_000),
            amount_cents=min(100 + int(random.lognormvariate(8.0, 1.0)), 1_000_000),
            occurred_at=_moment(random, random.choices(days, day_weights)[0]),
            payload=json.dumps({"region": random.choice(_REGIONS), "attempt": 1 + (random.random() < 0.1)}),  # noqa: PLR2004
        )


def _moment(random: Random, day: date) -> datetime:
    """A moment of `day`, most likely in the afternoon."""
    seconds = int(random.triangular(0, 86_399, 54_000))
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(seconds=seconds)
