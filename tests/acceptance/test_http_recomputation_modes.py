"""Runs that only compare, and days that no run may touch any more."""

from collections.abc import AsyncIterator, Iterator
from datetime import date, timedelta
from itertools import count
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx
import pytest

from pg_analytics.postgres.pool import Connection
from tests.acceptance import dataset
from tests.acceptance.envelopes import failed, succeeded
from tests.events import insert
from tests.running import AUTHORISED, Service, serving

pytestmark = [pytest.mark.anyio]

_DAYS: Final = (date(2022, 1, 1) + timedelta(days=number) for number in count())
DRIFTED: Final = date(2024, 2, 14)


@pytest.fixture
async def database(loaded_database: str) -> AsyncIterator[Connection]:
    """A connection to the database of `verifier`: the events of `dataset`, with their snapshots."""
    connection = await asyncpg.connect(loaded_database)
    yield connection
    await connection.close()


@pytest.fixture
def verifier(loaded_database: str, redis_url: str, tmp_path: Path) -> Iterator[Service]:
    """A service with a worker, which only follows the events where it is told to."""
    environment = {"DATABASE_URL": loaded_database, "REDIS_URL": redis_url, "REFRESH_INTERVAL": "0"}
    with serving(environment, tmp_path) as service:
        yield service


def body(first: date, last: date | None = None, *, mode: str = "verify", window: str = "day") -> dict[str, str]:
    last = last or first
    return {
        "report_slug": "volume-by-period",
        "window": window,
        "date_from": str(first),
        "date_to": str(last),
        "mode": mode,
    }


def trigger(service: Service, asked: dict[str, str]) -> httpx.Response:
    return service.http.post("/recomputations", json=asked, headers=AUTHORISED)


def ended(service: Service, asked: dict[str, str]) -> Any:
    """The run of `asked`, once it has ended."""
    return service.wait_until_ended(succeeded(trigger(service, asked), 202)["data"]["id"])


async def test_a_verification_of_right_numbers_finds_no_drift(verifier: Service) -> None:
    run = ended(verifier, body(dataset.FIRST, dataset.LAST, window="week"))

    assert (run["status"], run["mode"], run["drift"]) == ("completed", "verify", [])
    assert run["progress"] == {"buckets_done": 4, "buckets_total": 4}
    assert run["summary"].pop("duration_ms") >= 0
    assert run["summary"] == {
        "rows_deleted": 0,
        "rows_inserted": 0,
        "rows_unchanged": 0,
        "bucket_count": 4,
        "events_read": len(dataset.EVENTS),
        "drifted_days": 0,
        "stale_days": 0,
    }


async def test_a_verification_names_what_differs_and_a_rebuild_mends_it(
    verifier: Service, database: Connection
) -> None:
    await database.execute("UPDATE rollup_entity SET event_count = event_count + 1 WHERE day = $1", DRIFTED)
    await database.execute("DELETE FROM rollup_source_status WHERE day = $1", DRIFTED)
    entities = await database.fetchval("SELECT count(*) FROM rollup_entity WHERE day = $1", DRIFTED)
    groups = len({(event.source, event.status) for event in dataset.between(DRIFTED, DRIFTED)})
    stale = DRIFTED + timedelta(days=1)
    await insert(database, stale, 3)

    found = ended(verifier, body(dataset.FIRST, dataset.LAST))
    rebuilt = ended(verifier, body(DRIFTED, mode="rebuild"))
    again = ended(verifier, body(dataset.FIRST, dataset.LAST))

    none = {"rows_missing": 0, "rows_surplus": 0, "rows_different": 0}
    assert sorted(found["drift"], key=lambda day: day["rollup"]) == [
        {"rollup": "entity", "day": str(DRIFTED)} | none | {"rows_different": entities},
        {"rollup": "source_status", "day": str(DRIFTED)} | none | {"rows_missing": groups},
    ]
    assert (found["summary"]["drifted_days"], found["summary"]["stale_days"]) == (2, 1)
    assert rebuilt["summary"]["rows_inserted"] == entities + groups
    assert "drift" not in rebuilt
    assert not {"drifted_days", "stale_days"} & set(rebuilt["summary"])
    assert again["drift"] == []


def test_a_verification_and_a_rebuild_of_one_scope_may_be_active_together(idle_service: Service) -> None:
    day = next(_DAYS)
    rebuild = succeeded(trigger(idle_service, body(day, mode="rebuild")), 202)["data"]
    verify = succeeded(trigger(idle_service, body(day)), 202)["data"]

    assert (rebuild["mode"], verify["mode"], verify["drift"]) == ("rebuild", "verify", [])
    assert "drift" not in rebuild
    assert failed(trigger(idle_service, body(day)), "conflict")["details"] == {"run_id": verify["id"]}
    assert failed(trigger(idle_service, body(day, mode="rebuild")), "conflict")["details"] == {"run_id": rebuild["id"]}


@pytest.mark.parametrize("mode", ["rebuild", "verify"])
def test_a_run_of_either_mode_can_be_cancelled_and_asked_for_again(idle_service: Service, mode: str) -> None:
    asked = body(next(_DAYS), mode=mode)
    run = succeeded(trigger(idle_service, asked), 202)["data"]

    cancelled = succeeded(idle_service.http.post(f"/recomputations/{run['id']}/cancel", headers=AUTHORISED))["data"]

    assert (cancelled["status"], cancelled["mode"]) == ("cancelled", mode)
    succeeded(trigger(idle_service, asked), 202)


@pytest.mark.parametrize(
    "asked,first_possible",
    [
        (body(date(2024, 2, 20), date(2024, 2, 28), mode="rebuild"), "2024-02-21"),
        (body(date(2024, 2, 19), mode="rebuild"), "2024-02-21"),
        # A Wednesday: its week is rebuilt whole or not at all.
        (body(date(2024, 2, 21), date(2024, 2, 28), mode="rebuild", window="week"), "2024-02-26"),
    ],
)
async def test_a_rebuild_of_frozen_days_is_refused_and_the_refusal_is_on_record(
    verifier: Service, database: Connection, asked: dict[str, str], first_possible: str
) -> None:
    await database.execute("UPDATE horizons SET kept_from = '2024-02-21' WHERE subject = 'events'")

    error = failed(trigger(verifier, asked | {"requested_by": "anna"}), "unprocessable")

    assert error["details"] == {"kept_from": "2024-02-21"}
    assert f"the first {asked['window']} that can be rebuilt: {first_possible}" in error["message"]
    assert await database.fetchval("SELECT count(*) FROM recompute_runs") == 0
    [entry] = verifier.http.get("/audit-entries", headers=AUTHORISED).json()["data"]
    assert (entry["actor"], entry["action"]) == ("anna", "recompute.rejected")
    assert entry["metadata"] == asked | {"reason": error["message"]}
    possible = asked | {"date_from": first_possible, "date_to": "2024-02-28"}
    assert ended(verifier, possible)["status"] == "completed"


async def test_a_verification_passes_over_frozen_days(verifier: Service, database: Connection) -> None:
    await database.execute("UPDATE horizons SET kept_from = '2024-02-21' WHERE subject = 'events'")
    await database.execute("ALTER TABLE analytics_events DISABLE TRIGGER USER")
    await database.execute("DELETE FROM analytics_events WHERE occurred_day = $1", DRIFTED)

    run = ended(verifier, body(dataset.FIRST, dataset.LAST))

    assert (run["status"], run["drift"]) == ("completed", [])
    assert run["summary"]["events_read"] == len(dataset.between(date(2024, 2, 21), dataset.LAST))
