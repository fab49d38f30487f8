"""A client of the original system, working through what that one documented. Nothing here is ours to change."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from redis import Redis

from tests.acceptance.conftest import copy_of
from tests.running import KEY, Service, serving

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

RANGE = {"date_from": "2024-02-26", "date_to": "2024-03-03"}
TRIGGER = {"report_slug": "volume-by-period", "window": "day"} | RANGE


@pytest.fixture(scope="module")
async def database(loaded: str) -> AsyncIterator[str]:
    """The database of this module: the client cleans it with plain SQL."""
    async with copy_of(loaded) as url:
        yield url


@pytest.fixture(scope="module")
def service(database: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A service with a worker."""
    with serving({"DATABASE_URL": database, "REDIS_URL": redis_url}, tmp_path_factory.mktemp("original")) as running:
        yield running


@pytest.fixture
async def client(service: Service, database: str, redis_url: str) -> AsyncIterator[httpx.Client]:
    """The client, after it has wiped runs, trail and cache, as it does before each of its tests."""
    connection = await asyncpg.connect(database)
    await connection.execute("DELETE FROM audit_entries")
    await connection.execute("DELETE FROM recompute_runs")
    await connection.close()
    with Redis.from_url(redis_url) as redis:
        for key in [*redis.scan_iter("report:*"), *redis.scan_iter("recompute:*")]:
            redis.delete(key)
    with httpx.Client(base_url=f"{service.url}/api/v1") as client:
        yield client


def manage(actor: str = "integration-test") -> dict[str, str]:
    return {"X-Management-Key": KEY, "X-Actor": actor}


def trigger(client: httpx.Client, **changes: str) -> httpx.Response:
    return client.post("/recomputations", json=TRIGGER | changes, headers=manage())


def poll(client: httpx.Client, run_id: str) -> Any:
    """The run once it has completed: asked for at most 30 times, a tenth of a second apart, as the client does."""
    for _ in range(30):
        run = client.get(f"/recomputations/{run_id}", headers=manage()).json()["data"]
        if run["status"] == "completed":
            return run
        time.sleep(0.1)
    raise AssertionError(client.get(f"/recomputations/{run_id}", headers=manage()).text)


def test_the_service_is_healthy(client: httpx.Client) -> None:
    answer = client.get("/health")

    assert answer.status_code == 200
    data = answer.json()["data"]
    assert data["status"] == "ok"
    assert data["dependencies"] == {"postgres": "ok", "redis": "ok"}
    assert {"service", "version", "timestamp"} <= set(data)


def test_the_catalogue_is_paged(client: httpx.Client) -> None:
    envelope = client.get("/reports?limit=2&offset=0").json()

    assert len(envelope["data"]) == 2
    assert envelope["meta"]["pagination"] == {"limit": 2, "offset": 0, "total": 3}


def test_a_report_describes_itself(client: httpx.Client) -> None:
    data = client.get("/reports/status-counts").json()["data"]

    assert data["slug"] == "status-counts"
    assert data["cache_ttl_seconds"] == 90
    assert data["default_window"] == "day"
    assert data["allowed_windows"] == ["day", "week"]
    assert data["supported_filters"]["status"] == "success|failed|pending"


def test_an_unknown_report_is_not_found(client: httpx.Client) -> None:
    answer = client.get("/reports/no-such-report/run")

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("slug", ["volume-by-period", "status-counts", "top-entities"])
def test_every_report_runs_and_its_second_run_is_a_hit(client: httpx.Client, slug: str) -> None:
    first = client.get(f"/reports/{slug}/run", params=RANGE).json()
    second = client.get(f"/reports/{slug}/run", params=RANGE).json()

    assert first["data"]["report_slug"] == slug
    assert first["data"]["row_count"] == len(first["data"]["rows"]) > 0
    assert (first["data"]["cache_hit"], first["meta"]["cache_hit"]) == (False, False)
    assert (second["data"]["cache_hit"], second["meta"]["cache_hit"]) == (True, True)
    assert (first["data"]["source_system"], second["data"]["source_system"]) == ("postgres", "memory")
    assert first["data"]["rows"] == second["data"]["rows"]


@pytest.mark.parametrize("parameters", [{"window": "month"}, {"date_from": "2024-03-03", "date_to": "2024-02-26"}])
def test_a_wrong_run_is_an_invalid_request(client: httpx.Client, parameters: dict[str, str]) -> None:
    answer = client.get("/reports/volume-by-period/run", params=parameters)

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert answer.json()["error"]["message"]


def test_management_needs_the_key(client: httpx.Client) -> None:
    for answer in (client.post("/recomputations", json=TRIGGER), client.get("/audit-entries")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")


def test_a_recomputation_completes_and_is_audited(client: httpx.Client) -> None:
    accepted = trigger(client)
    assert accepted.status_code == 202
    assert accepted.json()["data"]["status"] == "pending"
    assert accepted.json()["data"]["requested_by"] == "integration-test"

    run = poll(client, accepted.json()["data"]["id"])

    assert {"rows_deleted", "rows_inserted", "bucket_count"} <= set(run["summary"])
    assert {name: run[name] for name in TRIGGER} == TRIGGER
    entries = client.get("/audit-entries?action=recompute.triggered", headers=manage()).json()
    assert [(entry["action"], entry["actor"], entry["resource_id"]) for entry in entries["data"]] == [
        ("recompute.triggered", "integration-test", run["id"])
    ]
    assert entries["meta"]["pagination"] == {"limit": 20, "offset": 0, "total": 1}
    completed = client.get("/audit-entries?actor=recompute-worker", headers=manage()).json()["data"]
    assert [entry["action"] for entry in completed] == ["recompute.completed"]


def test_a_report_goes_on_being_answered_after_a_recomputation(client: httpx.Client) -> None:
    client.get("/reports/volume-by-period/run", params=RANGE)

    poll(client, trigger(client).json()["data"]["id"])

    again = client.get("/reports/volume-by-period/run", params=RANGE).json()["data"]
    assert again["row_count"] == 7


def test_an_empty_requested_by_counts_as_absent(client: httpx.Client) -> None:
    run = trigger(client, requested_by="").json()["data"]

    assert run["requested_by"] == "integration-test"
    poll(client, run["id"])


def test_a_finished_scope_can_be_triggered_again(client: httpx.Client) -> None:
    first = poll(client, trigger(client).json()["data"]["id"])
    second = poll(client, trigger(client).json()["data"]["id"])

    assert first["id"] != second["id"]


async def test_a_second_trigger_of_a_waiting_scope_is_a_conflict(
    loaded_database: str, redis_url: str, tmp_path: Path
) -> None:
    settings = {"DATABASE_URL": loaded_database, "REDIS_URL": redis_url, "RECOMPUTE_WORKERS": "0"}
    with serving(settings, tmp_path) as service:
        first, second = trigger(service.http), trigger(service.http)

    assert (first.status_code, second.status_code) == (202, 409)
    assert second.json()["error"]["code"] == "conflict"
