"""The list of recompute runs: newest first, narrowed and paged."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.acceptance.conftest import copy_of
from tests.acceptance.envelopes import refused, succeeded
from tests.acceptance.wire import KEY_HEADER, ask, request
from tests.running import AUTHORISED, BASE_PATH, Service, serving

pytestmark = [pytest.mark.anyio]


def listed(service: Service, **parameters: object) -> Any:
    given = {name: str(value) for name, value in parameters.items()}
    return succeeded(service.http.get("/recomputations", params=given, headers=AUTHORISED))


@pytest.fixture(scope="module")
async def history(template: str) -> AsyncIterator[str]:
    """A database with nine runs: three of each report, three of each status, four that verify, some requested at the
    same moment.
    """
    async with copy_of(template) as url:
        connection = await asyncpg.connect(url)
        slugs, states = ("volume-by-period", "status-counts", "top-entities"), ("completed", "failed", "cancelled")
        await connection.executemany(
            """
            INSERT INTO recompute_runs
            (id, report_slug, status, requested_at, error_message, mode, window_name, requested_by,
            date_from, date_to, covers_from, covers_until, remaining_until)
            VALUES ($1, $2, $3, $4, $5, $6, 'day', 'test',
            '2024-01-01', '2024-01-01', '2024-01-01', '2024-01-02', '2024-01-01')
            """,
            [
                (
                    uuid4(),
                    slugs[number // 3],
                    states[number % 3],
                    datetime(2024, 1, 1, number // 2, tzinfo=UTC),
                    "a reason" if states[number % 3] == "failed" else None,
                    "verify" if number % 2 else "rebuild",
                )
                for number in range(9)
            ],
        )
        await connection.close()
        yield url


@pytest.fixture(scope="module")
def historian(history: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service over `history`."""
    with serving({"DATABASE_URL": history, "REDIS_URL": redis_url}, tmp_path_factory.mktemp("history")) as service:
        yield service


def test_runs_are_listed_newest_first(historian: Service) -> None:
    envelope = listed(historian)

    runs = envelope["data"]
    assert len(runs) == 9
    assert runs == sorted(runs, key=lambda run: (run["requested_at"], run["id"]), reverse=True)
    assert envelope["meta"] == {"pagination": {"limit": 20, "offset": 0, "total": 9}}
    assert [historian.run(run["id"]) for run in runs] == runs
    assert {run["status"]: run.get("error_message") for run in runs} == {
        "completed": None,
        "failed": "a reason",
        "cancelled": None,
    }


@pytest.mark.parametrize(
    "wanted,total",
    [
        ({"status": "failed"}, 3),
        ({"report_slug": "top-entities"}, 3),
        ({"status": "failed", "report_slug": "top-entities"}, 1),
        ({"mode": "rebuild"}, 5),
        ({"mode": "verify"}, 4),
        ({"mode": "verify", "status": "failed", "report_slug": "status-counts"}, 0),
        ({"mode": "rebuild", "status": "failed", "report_slug": "status-counts"}, 1),
        ({"status": "pending"}, 0),
        ({"report_slug": "unknown"}, 0),
        ({"report_slug": "top"}, 0),
    ],
)
def test_the_list_is_narrowed_by_status_report_and_mode(historian: Service, wanted: dict[str, str], total: int) -> None:
    envelope = listed(historian, **wanted)

    every = listed(historian)["data"]
    assert envelope["data"] == [run for run in every if wanted.items() <= run.items()]
    assert len(envelope["data"]) == envelope["meta"]["pagination"]["total"] == total


@pytest.mark.parametrize("limit", [1, 2, 5, 100])
def test_pages_put_together_are_the_whole_list(historian: Service, limit: int) -> None:
    pages = [listed(historian, limit=limit, offset=offset)["data"] for offset in range(0, 10, limit)]

    assert [run for page in pages for run in page] == listed(historian)["data"]


@pytest.mark.parametrize(
    "query,parameter",
    [
        ("status=done", "status"),
        ("status=FAILED", "status"),
        ("status=", "status"),
        ("status=failed&status=failed", "status"),
        ("mode=plan", "mode"),
        ("mode=Verify", "mode"),
        ("mode=", "mode"),
        ("report_slug=", "report_slug"),
        ("report_slug=" + "x" * 256, "report_slug"),
        ("report_slug=a%00", "report_slug"),
        ("report_slug=%ff", "report_slug"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=abc", "limit"),
        ("offset=-1", "offset"),
        ("window=day", "window"),
    ],
)
def test_a_wrong_parameter_of_the_list_is_refused_by_name(historian: Service, query: str, parameter: str) -> None:
    path = f"{BASE_PATH}/recomputations?{query}".encode()

    refused(ask(historian, request(path, headers=KEY_HEADER)), parameter)
