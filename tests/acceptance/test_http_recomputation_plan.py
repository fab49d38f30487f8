"""What a run would do, told without entering one."""

import json
from collections.abc import AsyncIterator, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from pg_analytics.postgres.pool import Connection
from tests.acceptance import dataset
from tests.acceptance.envelopes import failed, refused, succeeded
from tests.events import insert
from tests.running import AUTHORISED, Service, serving

pytestmark = [pytest.mark.anyio]

ENTER_RUN = """
    INSERT INTO recompute_runs
    (id, report_slug, window_name, date_from, date_to, requested_by, status, mode, requested_at, summary,
    covers_from, covers_until, remaining_until)
    VALUES ($1, 'top-entities', 'day', '2024-01-01', '2024-01-01', 'test', $2, $3, $4, $5,
    '2024-01-01', '2024-01-02', '2024-01-01')
"""


@pytest.fixture
async def database(loaded_database: str) -> AsyncIterator[Connection]:
    """A connection to the database of `planner`: the events of `dataset`, with their snapshots."""
    connection = await asyncpg.connect(loaded_database)
    yield connection
    await connection.close()


@pytest.fixture
def planner(loaded_database: str, redis_url: str, tmp_path: Path) -> Iterator[Service]:
    """A service without workers, whose backlog has room for two."""
    environment = {
        "DATABASE_URL": loaded_database,
        "REDIS_URL": redis_url,
        "RECOMPUTE_WORKERS": "0",
        "RECOMPUTE_QUEUE_SIZE": "2",
    }
    with serving(environment, tmp_path) as service:
        yield service


def body(first: date, last: date, window: str = "day", slug: str = "volume-by-period") -> dict[str, str]:
    return {"report_slug": slug, "window": window, "date_from": str(first), "date_to": str(last), "mode": "plan"}


def planned(service: Service, asked: dict[str, str]) -> Any:
    answer = service.http.post("/recomputations", json=asked, headers=AUTHORISED)
    assert "Location" not in answer.headers
    return succeeded(answer)["data"]


async def record_run(
    connection: Connection,
    events: int,
    milliseconds: int,
    *,
    status: str = "completed",
    mode: str = "rebuild",
    age: int,
) -> None:
    """A run of the past, `age` hours ago."""
    requested_at = datetime.fromisoformat("2026-01-01T00:00:00Z") - timedelta(hours=age)
    summary = json.dumps({"events_read": events, "duration_ms": milliseconds})
    await connection.execute(ENTER_RUN, uuid4(), status, mode, requested_at, summary)


@pytest.mark.parametrize("window,last", [("day", dataset.FIRST + timedelta(days=9)), ("week", dataset.LAST)])
async def test_a_plan_lists_every_bucket_as_its_last_rebuild_left_it(
    planner: Service, database: Connection, window: str, last: date
) -> None:
    plan = planned(planner, body(dataset.FIRST, last, window))

    events = dataset.between(dataset.FIRST, last)
    counts = {row["bucket_date"]: row["event_count"] for row in dataset.volume(events, window)}
    computed_at = await database.fetchval("SELECT DISTINCT computed_at FROM snapshot_buckets")
    buckets = plan.pop("buckets")
    step = timedelta(days=7 if window == "week" else 1)
    assert [bucket["bucket_date"] for bucket in buckets] == [
        str(dataset.FIRST + number * step) for number in range(len(buckets))
    ]
    assert [bucket["event_count"] for bucket in buckets] == [counts.get(bucket["bucket_date"], 0) for bucket in buckets]
    assert {datetime.fromisoformat(bucket["computed_at"]) for bucket in buckets} == {computed_at}
    assert not any(bucket["stale"] or bucket["frozen"] for bucket in buckets)
    assert plan == body(dataset.FIRST, last, window) | {
        "covers": {"from": str(dataset.FIRST), "to": str(last)},
        "buckets_total": 10 if window == "day" else 4,
        "buckets_stale": 0,
        "events": len(events),
        "estimated_seconds": None,
    }


async def test_a_plan_enters_nothing(planner: Service, database: Connection) -> None:
    for _ in range(3):
        planned(planner, body(dataset.FIRST, dataset.LAST))

    assert await database.fetchval("SELECT count(*) FROM recompute_runs") == 0
    assert await database.fetchval("SELECT count(*) FROM audit_entries") == 0


async def test_a_plan_takes_whole_buckets(planner: Service) -> None:
    plan = planned(planner, body(date(2024, 2, 15), date(2024, 2, 20), "week"))

    assert plan["covers"] == {"from": "2024-02-12", "to": "2024-02-25"}
    assert [bucket["bucket_date"] for bucket in plan["buckets"]] == ["2024-02-12", "2024-02-19"]
    assert plan["events"] == len(dataset.between(date(2024, 2, 12), date(2024, 2, 25)))


async def test_a_plan_tells_which_buckets_are_stale(planner: Service, database: Connection) -> None:
    before = planned(planner, body(dataset.FIRST, dataset.LAST, "week"))
    await insert(database, date(2024, 2, 21), 5)

    days = planned(planner, body(date(2024, 2, 20), date(2024, 2, 22)))
    weeks = planned(planner, body(dataset.FIRST, dataset.LAST, "week"))

    assert [bucket["stale"] for bucket in days["buckets"]] == [False, True, False]
    assert [bucket["stale"] for bucket in weeks["buckets"]] == [False, True, False, False]
    assert (days["buckets_stale"], weeks["buckets_stale"]) == (1, 1)
    # As of the last rebuild, which has not seen them.
    assert weeks["events"] == before["events"]


async def test_a_bucket_that_was_never_rebuilt_has_no_time_of_a_rebuild(planner: Service) -> None:
    plan = planned(planner, body(date(2023, 1, 1), date(2023, 1, 1)))

    assert plan["buckets"] == [
        {"bucket_date": "2023-01-01", "event_count": 0, "computed_at": None, "stale": False, "frozen": False}
    ]


async def test_the_estimate_follows_from_the_last_twenty_rebuilds(planner: Service, database: Connection) -> None:
    asked = body(dataset.FIRST, dataset.LAST)
    await record_run(database, 10**9, 1, age=1, status="failed")
    await record_run(database, 10**9, 1, age=2, mode="verify")
    assert planned(planner, asked)["estimated_seconds"] is None

    for number in range(20):
        await record_run(database, 100 + number % 2 * 200, 1000, age=10 + number)  # 200 a second between them
    await record_run(database, 10**9, 1, age=100)

    plan = planned(planner, asked)
    assert plan["events"] == len(dataset.EVENTS)
    assert plan["estimated_seconds"] == len(dataset.EVENTS) / 200


async def test_there_is_no_estimate_where_nobody_has_counted_the_events(planner: Service, database: Connection) -> None:
    await record_run(database, 100, 1000, age=1)
    await insert(database, date(2023, 1, 2), 5)

    assert planned(planner, body(date(2023, 1, 1), date(2023, 1, 1)))["estimated_seconds"] == 0
    assert planned(planner, body(date(2023, 1, 1), date(2023, 1, 2)))["estimated_seconds"] is None


async def test_a_plan_tells_which_buckets_are_frozen_and_that_a_run_would_be_refused(
    planner: Service, database: Connection
) -> None:
    await database.execute("UPDATE horizons SET kept_from = '2024-02-21' WHERE subject = 'events'")

    days = planned(planner, body(date(2024, 2, 20), date(2024, 2, 21)))
    weeks = planned(planner, body(date(2024, 2, 21), date(2024, 2, 28), "week"))
    later = planned(planner, body(date(2024, 2, 26), date(2024, 2, 28), "week"))

    assert [bucket["frozen"] for bucket in days["buckets"]] == [True, False]
    assert [bucket["frozen"] for bucket in weeks["buckets"]] == [True, False]
    assert days["refused"]["code"] == weeks["refused"]["code"] == "unprocessable"
    assert days["refused"]["details"] == {"kept_from": "2024-02-21"}
    assert "refused" not in later
    refused_run = body(date(2024, 2, 20), date(2024, 2, 21)) | {"mode": "rebuild"}
    answer = planner.http.post("/recomputations", json=refused_run, headers=AUTHORISED)
    assert failed(answer, "unprocessable") == days["refused"]


async def test_a_plan_tells_of_an_active_run_and_of_a_full_backlog(planner: Service) -> None:
    asked = body(dataset.FIRST, dataset.FIRST)
    run_id = planner.trigger("volume-by-period", "day", dataset.FIRST, dataset.FIRST)

    refusal = planned(planner, asked)["refused"]
    assert (refusal["code"], refusal["details"]) == ("conflict", {"run_id": run_id})
    assert "refused" not in planned(planner, body(dataset.FIRST, dataset.LAST))

    planner.trigger("top-entities", "day", dataset.FIRST, dataset.FIRST)
    assert planned(planner, body(dataset.FIRST, dataset.LAST))["refused"]["code"] == "service_unavailable"


@pytest.mark.parametrize(
    "changes,parameter",
    [
        ({"window": "month"}, "window"),
        ({"date_from": "2024-02-30"}, "date_from"),
        ({"date_from": "2024-03-02"}, "date_from"),  # after date_to
        ({"date_from": "2023-02-28"}, "date_from"),  # 367 days
        ({"requested_by": "a\nb"}, "requested_by"),
        ({"days": 3}, "days"),
    ],
)
def test_a_plan_of_a_wrong_scope_is_refused_like_its_run(
    idle_service: Service, changes: dict[str, object], parameter: str
) -> None:
    asked = body(date(2024, 2, 28), date(2024, 2, 29)) | changes

    refused(idle_service.http.post("/recomputations", json=asked, headers=AUTHORISED), parameter)


def test_a_plan_of_an_unknown_report_is_404(idle_service: Service) -> None:
    asked = body(date(2024, 2, 28), date(2024, 2, 29), slug="unknown")

    failed(idle_service.http.post("/recomputations", json=asked, headers=AUTHORISED), "not_found")


def test_the_longest_range_can_be_planned(idle_service: Service) -> None:
    plan = planned(idle_service, body(date(2024, 1, 1), date(2024, 12, 31)))

    assert plan["buckets_total"] == len(plan["buckets"]) == 366
