"""The audit trail: who did what, newest first, and nothing but what was asked for."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.acceptance.conftest import copy_of
from tests.acceptance.envelopes import failed, refused, succeeded
from tests.acceptance.wire import KEY_HEADER, ask, request
from tests.running import AUTHORISED, BASE_PATH, Service, serving

pytestmark = [pytest.mark.anyio]

#: actor, action, resource id, hour: some at the same moment, some names that a sloppy filter would confuse.
ENTRIES = [
    ("alice", "recompute.triggered", "run-1", 1),
    ("recompute-worker", "recompute.completed", "run-1", 1),
    ("Alice", "recompute.triggered", "run-2", 2),
    ("alice%", "recompute.triggered", "run-3", 2),
    ("alice", "recompute.rejected", None, 3),
    ("zoë ☕", "recompute.cancelled", "run-2", 3),
    ("alice", "recompute.triggered", "run-4", 0),  # written last, by a clock that went back
]


@pytest.fixture(scope="module")
async def service(template: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A service with `ENTRIES` in its trail."""
    async with copy_of(template) as url:
        connection = await asyncpg.connect(url)
        await connection.executemany(
            """
            INSERT INTO audit_entries (actor, action, resource_type, resource_id, metadata, created_at)
            VALUES ($1, $2, 'recompute_run', $3, '{"note": "☕", "nested": {"n": 1}}', $4)
            """,
            [(actor, action, run, datetime(2024, 1, 1, hour, tzinfo=UTC)) for actor, action, run, hour in ENTRIES],
        )
        await connection.close()
        with serving({"DATABASE_URL": url, "REDIS_URL": redis_url}, tmp_path_factory.mktemp("audit")) as running:
            yield running


def listed(service: Service, **parameters: object) -> Any:
    given = {name: str(value) for name, value in parameters.items()}
    return succeeded(service.http.get("/audit-entries", params=given, headers=AUTHORISED))


def test_entries_come_newest_first_and_those_of_one_moment_by_descending_id(service: Service) -> None:
    envelope = listed(service)

    assert [entry["id"] for entry in envelope["data"]] == [6, 5, 4, 3, 2, 1, 7]
    assert envelope["meta"] == {"pagination": {"limit": 20, "offset": 0, "total": 7}}


def test_an_entry_has_the_members_of_the_contract(service: Service) -> None:
    newest, without_resource, *_ = listed(service)["data"]

    assert newest == {
        "id": 6,
        "actor": "zoë ☕",
        "action": "recompute.cancelled",
        "resource_type": "recompute_run",
        "resource_id": "run-2",
        "metadata": {"note": "☕", "nested": {"n": 1}},
        "created_at": "2024-01-01T03:00:00Z",
    }
    assert set(without_resource) == set(newest) - {"resource_id"}


@pytest.mark.parametrize(
    "wanted,ids",
    [
        ({"actor": "alice"}, [5, 1, 7]),
        ({"actor": "Alice"}, [3]),
        ({"actor": "alice%"}, [4]),
        ({"actor": "zoë ☕"}, [6]),
        ({"actor": "ali"}, []),
        ({"actor": "%"}, []),
        ({"action": "recompute.triggered"}, [4, 3, 1, 7]),
        ({"action": "recompute"}, []),
        ({"action": "recompute_triggered"}, []),
        ({"action": "RECOMPUTE.TRIGGERED"}, []),
        ({"actor": "alice", "action": "recompute.triggered"}, [1, 7]),
        ({"actor": "x" * 255}, []),
    ],
)
def test_actor_and_action_are_compared_exactly(service: Service, wanted: dict[str, str], ids: list[int]) -> None:
    envelope = listed(service, **wanted)

    assert [entry["id"] for entry in envelope["data"]] == ids
    assert envelope["meta"]["pagination"]["total"] == len(ids)


@pytest.mark.parametrize("limit", [1, 3, 7, 100])
def test_pages_put_together_are_the_whole(service: Service, limit: int) -> None:
    pages = [listed(service, limit=limit, offset=offset) for offset in range(0, 8, limit)]

    assert [entry for page in pages for entry in page["data"]] == listed(service)["data"]
    assert [page["meta"]["pagination"] for page in pages] == [
        {"limit": limit, "offset": offset, "total": 7} for offset in range(0, 8, limit)
    ]


@pytest.mark.parametrize(
    "query,parameter",
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=abc", "limit"),
        ("limit=", "limit"),
        ("limit=1&limit=2", "limit"),
        ("offset=-1", "offset"),
        ("offset=1e3", "offset"),
        ("actor=", "actor"),
        ("actor=a&actor=b", "actor"),
        ("actor=" + "x" * 256, "actor"),
        ("actor=a%00", "actor"),
        ("actor=%ff", "actor"),
        ("action=", "action"),
        ("action=%zz", "action"),
        ("resource_id=run-1", "resource_id"),
        ("order=asc", "order"),
        ("Actor=alice", "Actor"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(service: Service, query: str, parameter: str) -> None:
    refused(ask(service, request(f"{BASE_PATH}/audit-entries?{query}".encode(), headers=KEY_HEADER)), parameter)


async def test_every_act_on_a_run_leaves_its_entry(loaded_database: str, redis_url: str, tmp_path: Path) -> None:
    settings = {"DATABASE_URL": loaded_database, "REDIS_URL": redis_url}
    scope = {"report_slug": "top-entities", "window": "day", "date_from": "2024-02-12", "date_to": "2024-02-13"}
    asked = scope | {"requested_by": "alice"}
    with serving(settings | {"RECOMPUTE_WORKERS": "0"}, tmp_path) as service:
        first = service.http.post("/recomputations", json=asked, headers=AUTHORISED).json()["data"]["id"]
        failed(service.http.post("/recomputations", json=asked, headers=AUTHORISED), "conflict")
        actor = AUTHORISED | {"X-Actor": "bob"}
        succeeded(service.http.post(f"/recomputations/{first}/cancel", headers=actor))
        second = service.http.post("/recomputations", json=asked, headers=AUTHORISED).json()["data"]["id"]
    with serving(settings, tmp_path) as service:
        service.wait_until_ended(second)
        trail = listed(service)["data"]

    assert [(entry["actor"], entry["action"], entry["resource_id"]) for entry in reversed(trail)] == [
        ("alice", "recompute.triggered", first),
        ("alice", "recompute.rejected", first),
        ("bob", "recompute.cancelled", first),
        ("alice", "recompute.triggered", second),
        ("recompute-worker", "recompute.completed", second),
    ]
    assert all(entry["resource_type"] == "recompute_run" for entry in trail)
    assert all(scope.items() <= entry["metadata"].items() for entry in trail)
