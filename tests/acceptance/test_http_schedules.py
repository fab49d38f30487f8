"""The schedules over HTTP, by somebody with the management key."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from pg_analytics.windows import DayRange
from tests.acceptance.envelopes import failed, refused, succeeded
from tests.events import insert
from tests.oracle import assert_snapshots_equal_events
from tests.rebuilding import rebuild
from tests.running import AUTHORISED, Service, serving
from tests.waiting import until, until_true

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

#: Report, window, minutes from one run to the next.
BUILT_IN = [
    ("status-counts", "day", 60),
    ("status-counts", "week", 240),
    ("top-entities", "day", 120),
    ("top-entities", "week", 360),
    ("volume-by-period", "day", 60),
    ("volume-by-period", "week", 240),
]
DAILY = "/schedules/volume-by-period/day"


def get(service: Service, path: str, **headers: str) -> httpx.Response:
    return service.http.get(path, headers=AUTHORISED | headers)


def patch(service: Service, body: object, path: str = DAILY, **headers: str) -> httpx.Response:
    return service.http.patch(path, json=body, headers=AUTHORISED | headers)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def newest_entry(service: Service) -> Any:
    """The newest audit entry of a changed schedule, or None."""
    parameters = {"action": "schedule.changed", "limit": "1"}
    entries = service.http.get("/audit-entries", params=parameters, headers=AUTHORISED).json()["data"]
    return entries[0] if entries else None


def test_all_schedules_are_listed_by_report_and_window(idle_service: Service) -> None:
    schedules = succeeded(get(idle_service, "/schedules"))["data"]

    assert [(s["report_slug"], s["window"], s["refresh_interval_minutes"]) for s in schedules] == BUILT_IN
    for schedule in schedules:
        assert set(schedule) == {
            *("report_slug", "window", "refresh_interval_minutes", "retention_days"),
            *("paused", "next_run_at", "updated_at"),
        }
        assert (schedule["retention_days"], schedule["paused"]) == (None, False)
        assert moment(schedule["next_run_at"]).tzinfo is not None
        one = succeeded(get(idle_service, f"/schedules/{schedule['report_slug']}/{schedule['window']}"))["data"]
        assert one == schedule


def test_a_change_is_answered_kept_and_audited(service: Service) -> None:
    before = succeeded(get(service, DAILY))["data"]

    changed = succeeded(
        patch(service, {"refresh_interval_minutes": 15, "retention_days": 400, "paused": True}, **{"X-Actor": "ada"})
    )["data"]

    assert changed == succeeded(get(service, DAILY))["data"]
    assert (changed["refresh_interval_minutes"], changed["retention_days"], changed["paused"]) == (15, 400, True)
    assert moment(changed["next_run_at"]) == moment(changed["updated_at"]) + timedelta(minutes=15)
    entry = newest_entry(service)
    assert (entry["actor"], entry["resource_type"], entry["resource_id"]) == ("ada", "schedule", "volume-by-period/day")
    names = ("refresh_interval_minutes", "retention_days", "paused")
    assert entry["metadata"] == {
        "before": {name: before[name] for name in names},
        "after": {name: changed[name] for name in names},
    }


def test_what_is_not_given_stays(service: Service) -> None:
    succeeded(patch(service, {"retention_days": 400}))
    before = succeeded(get(service, DAILY))["data"]

    after = succeeded(patch(service, {"paused": True}))["data"]

    assert after | {"paused": False, "updated_at": before["updated_at"]} == before
    assert newest_entry(service)["actor"] == "management-api"
    assert succeeded(patch(service, {"retention_days": None}))["data"]["retention_days"] is None


def test_a_change_to_what_it_is_already_is_no_change(idle_service: Service) -> None:
    path = "/schedules/top-entities/week"
    before = succeeded(get(idle_service, path))["data"]

    assert succeeded(patch(idle_service, {"refresh_interval_minutes": 360, "paused": False}, path))["data"] == before
    assert newest_entry(idle_service) is None


@pytest.mark.parametrize(
    "body,parameter",
    [
        ({}, "body"),
        ([], "body"),
        ("paused", "body"),
        ({"refresh_interval_minutes": 0}, "refresh_interval_minutes"),
        ({"refresh_interval_minutes": 525_601}, "refresh_interval_minutes"),
        ({"refresh_interval_minutes": 10**30}, "refresh_interval_minutes"),
        ({"refresh_interval_minutes": -1}, "refresh_interval_minutes"),
        ({"refresh_interval_minutes": "60"}, "refresh_interval_minutes"),
        ({"refresh_interval_minutes": 60.5}, "refresh_interval_minutes"),
        ({"refresh_interval_minutes": True}, "refresh_interval_minutes"),
        ({"refresh_interval_minutes": None}, "refresh_interval_minutes"),
        ({"retention_days": 0}, "retention_days"),
        ({"retention_days": 36_601}, "retention_days"),
        ({"retention_days": "ever"}, "retention_days"),
        ({"paused": 1}, "paused"),
        ({"paused": None}, "paused"),
        ({"paused": True, "next_run_at": "2026-01-01T00:00:00Z"}, "next_run_at"),
        ({"paused": True, "window": "week"}, "window"),
    ],
)
def test_a_wrong_change_is_refused_and_changes_nothing(idle_service: Service, body: object, parameter: str) -> None:
    before = succeeded(get(idle_service, DAILY))["data"]

    refused(patch(idle_service, body), parameter)

    assert succeeded(get(idle_service, DAILY))["data"] == before
    assert newest_entry(idle_service) is None


def test_a_refusal_says_what_is_allowed(idle_service: Service) -> None:
    minutes, days = {"refresh_interval_minutes": 0}, {"retention_days": 0}

    assert refused(patch(idle_service, minutes), "refresh_interval_minutes") == (
        "must be a whole number from 1 to 525600"
    )
    assert refused(patch(idle_service, days), "retention_days") == (
        "must be a whole number from 1 to 36600, or null: for ever"
    )


@pytest.mark.parametrize(
    "raw", [b"", b"{", b'{"paused": true, "paused": false}', b'{"paused": \xff}', b'{"paused": NaN}']
)
def test_a_body_that_is_no_json_object_or_says_something_twice_is_refused(idle_service: Service, raw: bytes) -> None:
    answer = idle_service.http.patch(DAILY, content=raw, headers=AUTHORISED)

    failed(answer, "invalid_request")
    assert newest_entry(idle_service) is None


@pytest.mark.parametrize("path", ["nobody/day", "%01/day", "volume-by-period/month", "volume-by-period/DAY"])
@pytest.mark.parametrize("method", ["GET", "PATCH"])
def test_an_unknown_schedule_is_not_found(idle_service: Service, method: str, path: str) -> None:
    body = {"paused": True} if method == "PATCH" else None
    answer = idle_service.http.request(method, f"/schedules/{path}", json=body, headers=AUTHORISED)

    failed(answer, "not_found")


@pytest.mark.parametrize("path", ["/schedules", DAILY])
def test_schedules_take_no_parameters_and_no_other_method(idle_service: Service, path: str) -> None:
    refused(get(idle_service, f"{path}?limit=1"), "limit")
    answer = idle_service.http.delete(path, headers=AUTHORISED)

    failed(answer, "method_not_allowed")
    allowed = {"GET", "HEAD"} | ({"PATCH"} if path == DAILY else set())
    assert {method.strip() for method in answer.headers["allow"].split(",")} == allowed


@pytest.mark.parametrize("method,path", [("GET", "/schedules"), ("GET", DAILY), ("PATCH", DAILY)])
def test_schedules_are_for_who_has_the_key(idle_service: Service, method: str, path: str) -> None:
    failed(idle_service.http.request(method, path), "unauthorized")


async def test_a_schedule_that_is_due_is_performed_and_tells_of_its_run(
    service: Service, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await connection.execute("UPDATE aggregate_windows SET next_run_at = now() WHERE window_name = 'day'")
    await until_true(connection, "SELECT count(*) = 3 FROM recompute_runs WHERE status = 'completed'")

    schedule = succeeded(get(service, DAILY))["data"]

    run = service.run(schedule["last_run"]["id"])
    assert schedule["last_run"] == {name: run[name] for name in ("id", "status", "requested_at")}
    assert (run["requested_by"], run["window"]) == ("schedule", "day")
    assert moment(schedule["next_run_at"]) > datetime.now(UTC)
    assert "last_run" not in succeeded(get(service, "/schedules/volume-by-period/week"))["data"]


async def test_a_service_drops_what_no_window_asks_for_and_its_reports_tell(
    connection: "asyncpg.Connection[asyncpg.Record]", environment: dict[str, str], tmp_path: Path
) -> None:
    first, last = date(2026, 1, 1), date(2026, 1, 31)
    await insert(connection, first, 5, last_day=last)
    await rebuild(connection, DayRange.inclusive(first, last))
    await connection.execute("UPDATE aggregate_windows SET retention_days = 1 WHERE report_slug = 'top-entities'")
    with serving(environment, tmp_path) as service:
        await until_true(connection, "SELECT NOT EXISTS(SELECT FROM rollup_entity)")
        days = {"date_from": first, "date_to": last}
        entities = until(lambda: (found := service.report("top-entities", **days))["data"]["rows"] == [] and found)
        volume = service.report("volume-by-period", **days)

    kept_from = await connection.fetchval("SELECT kept_from FROM horizons WHERE subject = 'entity'")
    assert entities["meta"]["retained_from"] == str(kept_from)
    assert sum(row["event_count"] for row in volume["data"]["rows"]) == 31 * 5
    assert "retained_from" not in volume["meta"]
    await assert_snapshots_equal_events(connection)
