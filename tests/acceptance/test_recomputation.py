"""Recomputation as a client sees it: exact, whole buckets, and no number changes that no event changed."""

from datetime import date, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from pg_analytics.postgres.pool import Connection
from pg_analytics.windows import FIRST_DAY, LAST_DAY
from tests.events import SOURCE, Event, add_source, insert, write
from tests.oracle import assert_nothing_stuck, assert_snapshots_equal_events
from tests.report_oracle import REPORTS, Asked, expected
from tests.running import Service, serving

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

MONDAY = date(2026, 1, 5)


def ask(service: Service, asked: Asked) -> Any:
    """The envelope of the answer to a request."""
    narrowed = {} if asked.only is None else {str(REPORTS[asked.slug][1]): asked.only}
    broken_down = {} if asked.breakdown is None else {"breakdown": asked.breakdown}
    return service.report(
        asked.slug,
        window=asked.window,
        date_from=asked.date_from,
        date_to=asked.date_to,
        limit=asked.limit,
        offset=asked.offset,
        **narrowed,
        **broken_down,
    )


async def test_events_appear_in_a_report_once_their_days_are_recomputed(
    service: Service, connection: Connection
) -> None:
    day = date(2026, 3, 4)
    await insert(connection, day, 100)
    asked = {"date_from": day, "date_to": day}
    assert service.report("volume-by-period", **asked)["data"]["rows"] == []

    run = service.recompute("volume-by-period", "day", day, day)

    assert run["summary"]["rows_inserted"] > 0
    rows = service.report("volume-by-period", **asked)["data"]["rows"]
    assert rows == [{"bucket_date": "2026-03-04", "event_count": 100}]
    await assert_snapshots_equal_events(connection)
    await assert_nothing_stuck(connection)


async def test_recomputing_some_days_leaves_the_next_day_alone(service: Service, connection: Connection) -> None:
    first, after = date(2026, 1, 3), date(2026, 1, 6)
    await insert(connection, first, 10, last_day=after)
    service.recompute("volume-by-period", "day", first, after)

    service.recompute("volume-by-period", "day", first, date(2026, 1, 5))

    rows = service.report("volume-by-period", date_from=first, date_to=after)["data"]["rows"]
    assert [row["event_count"] for row in rows] == [10, 10, 10, 10]
    await assert_snapshots_equal_events(connection)


async def test_recomputing_part_of_a_week_rebuilds_all_of_it_and_nothing_else(
    service: Service, connection: Connection
) -> None:
    sunday, wednesday = MONDAY + timedelta(days=6), MONDAY + timedelta(days=2)
    await insert(connection, MONDAY - timedelta(days=1), 10, last_day=sunday + timedelta(days=1))

    run = service.recompute("volume-by-period", "week", wednesday, wednesday + timedelta(days=1))

    assert run["covers"] == {"from": str(MONDAY), "to": str(sunday)}
    assert run["progress"] == {"buckets_done": 1, "buckets_total": 1}
    answer = service.report("volume-by-period", window="week", date_from=wednesday, date_to=wednesday)
    assert answer["data"]["rows"] == [{"bucket_date": str(MONDAY), "event_count": 70}]
    built = await connection.fetchrow("SELECT min(day), max(day), count(DISTINCT day) FROM snapshot_buckets")
    assert tuple(built or ()) == (MONDAY, sunday, 7)


@pytest.mark.parametrize("day", [FIRST_DAY, LAST_DAY])
async def test_the_first_and_the_last_day_of_all_are_days_like_any_other(
    service: Service, connection: Connection, day: date
) -> None:
    await insert(connection, day, 10)
    assert service.recompute("volume-by-period", "week", day, day)["covers"][
        "from" if day == FIRST_DAY else "to"
    ] == str(day)

    for window in ("day", "week"):
        rows = service.report("volume-by-period", window=window, date_from=day, date_to=day)["data"]["rows"]
        assert [row["event_count"] for row in rows] == [10]
    await assert_snapshots_equal_events(connection)


@pytest.mark.parametrize("zone", ["America/Los_Angeles", "Pacific/Kiritimati"])
async def test_days_are_days_of_utc_whatever_the_time_zone_of_writers_servers_and_processes(
    environment: dict[str, str], connection: Connection, tmp_path: Path, zone: str
) -> None:
    database = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE \"{database}\" SET TimeZone = '{zone}'; SET TimeZone = '{zone}'")
    await insert(connection, MONDAY, 24, last_day=MONDAY + timedelta(days=1))  # one in every hour of UTC
    with serving({**environment, "TZ": zone}, tmp_path) as service:
        service.recompute("volume-by-period", "day", MONDAY, MONDAY)
        rows = service.report("volume-by-period", date_from=MONDAY, date_to=MONDAY)["data"]["rows"]

    assert rows == [{"bucket_date": str(MONDAY), "event_count": 24}]


async def test_every_report_equals_plain_sql_and_recomputing_anything_changes_no_number(
    service: Service, connection: Connection
) -> None:
    random = Random(4711)
    first, last = date(2024, 12, 20), date(2025, 1, 12)  # the ISO year 2025 starts on 30 December
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    await write_at_random(connection, random, days)
    service.recompute("status-counts", "week", first, last)
    requests = [requested_at_random(random, days) for _ in range(60)]

    answers = [ask(service, asked) for asked in requests]

    for asked, answer in zip(requests, answers, strict=True):
        right = await expected(connection, asked)
        assert answer["data"]["rows"] == right.rows, asked
        assert answer["meta"]["pagination"]["total"] == right.total, asked
    for slug in REPORTS:
        start, end = sorted(random.choices(days, k=2))
        run = service.recompute(slug, random.choice(["day", "week"]), start, end)
        assert run["summary"]["rows_inserted"] == run["summary"]["rows_deleted"] == 0
    for asked, answer in zip(requests, answers, strict=True):
        again = ask(service, asked)
        assert again["data"]["rows"] == answer["data"]["rows"], asked
        assert again["data"]["cache_hit"]  # nothing changed, so what was cached still holds
    await assert_snapshots_equal_events(connection)


async def test_the_numbers_follow_every_kind_of_change_to_the_events(service: Service, connection: Connection) -> None:
    random = Random(815)
    days = [MONDAY + timedelta(days=n) for n in range(10)]
    await write_at_random(connection, random, days)
    changes = [
        "UPDATE analytics_events SET occurred_at = occurred_at + INTERVAL '3 days' WHERE status = 'failed'",
        "UPDATE analytics_events SET entity_id = 'one' WHERE entity_id <> 'one' AND status = 'pending'",
        "DELETE FROM analytics_events WHERE occurred_at::time < '06:00'",
        "TRUNCATE analytics_events",
    ]
    for change in changes:
        await connection.execute(change)
        service.recompute("top-entities", "week", days[0], days[-1] + timedelta(days=3))
        for asked in [requested_at_random(random, days) for _ in range(10)]:
            assert ask(service, asked)["data"]["rows"] == (await expected(connection, asked)).rows, (change, asked)
        await assert_snapshots_equal_events(connection)


def requested_at_random(random: Random, days: list[date]) -> Asked:
    """A request for some report over some of `days`."""
    slug = random.choice(sorted(REPORTS))
    breakdowns, narrowed = REPORTS[slug]
    values: dict[str | None, list[str | None]] = {
        "source": [SOURCE, "& other", "nobody"],
        "status": ["success", "failed", "pending"],
        None: [None],
    }
    start, end = sorted(random.choices(days, k=2))
    return Asked(
        slug=slug,
        window=random.choice(["day", "week"]),
        date_from=start,
        date_to=end,
        breakdown=random.choice(breakdowns),
        only=random.choice([None, *values[narrowed]]),
        limit=random.choice([1, 3, 1000]),
        offset=random.choice([0, 0, 2]),
    )


async def write_at_random(connection: Connection, random: Random, days: list[date]) -> None:
    """A few hundred events on `days`, of odd names."""
    for source in (SOURCE, "& other"):
        await add_source(connection, source)
    moments = await connection.fetch(
        "SELECT day::date::timestamp AT TIME ZONE 'UTC' + INTERVAL '86399.999999 s' * n / 4 AS at "
        "FROM unnest($1::date[]) AS day, generate_series(0, 4) AS n",
        days,
    )
    events = [
        Event(
            external_ref=f"random-{n}",
            source=random.choice([SOURCE, "& other"]),
            entity_id=random.choice(["", " ", "Ä", "a", "B", "\U0001f600", "%", '"', "\\"]),
            status=random.choice(["success", "failed", "pending"]),
            occurred_at=random.choice(moments)["at"],
        )
        for n in range(400)
    ]
    await write(connection, events)
