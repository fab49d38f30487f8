"""Triggering, reading and cancelling recompute runs."""

from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from tests.acceptance import dataset
from tests.acceptance.envelopes import failed, refused, succeeded
from tests.acceptance.wire import KEY_HEADER, ask, get, posting, request
from tests.running import AUTHORISED, BASE_PATH, Service, serving

pytestmark = [pytest.mark.anyio]

_DAYS: Final = (date(2020, 1, 1) + timedelta(days=number) for number in count())

#: A body whose dates no test triggers a run for: every use of it is refused.
BODY: Final = {"report_slug": "top-entities", "window": "day", "date_from": "2019-01-01", "date_to": "2019-01-02"}


def body(**changes: object) -> dict[str, object]:
    """A body for a day that no other test has asked for."""
    day = next(_DAYS).isoformat()
    return {"report_slug": "top-entities", "window": "day", "date_from": day, "date_to": day} | changes


def trigger(service: Service, asked: object, headers: dict[str, str] | None = None) -> httpx.Response:
    return service.http.post("/recomputations", json=asked, headers=AUTHORISED | (headers or {}))


def triggered(service: Service, asked: object, headers: dict[str, str] | None = None) -> Any:
    return succeeded(trigger(service, asked, headers), 202)["data"]


def cancel(service: Service, run_id: str) -> httpx.Response:
    return service.http.post(f"/recomputations/{run_id}/cancel", headers=AUTHORISED)


def test_a_trigger_is_accepted_with_the_run_and_where_to_find_it(idle_service: Service) -> None:
    before = datetime.now(UTC)
    asked = body(requested_by="alice")

    answer = trigger(idle_service, asked)

    run = succeeded(answer, 202)["data"]
    assert answer.headers["Location"] == f"{BASE_PATH}/recomputations/{run['id']}"
    assert idle_service.run(run["id"]) == run
    assert UUID(run.pop("id")).version == 4
    assert before <= datetime.fromisoformat(run.pop("requested_at")) <= datetime.now(UTC)
    assert run == asked | {
        "mode": "rebuild",
        "scheduled": False,
        "status": "pending",
        "summary": {},
        "covers": {"from": asked["date_from"], "to": asked["date_to"]},
        "progress": {"buckets_done": 0, "buckets_total": 1},
        "attempt": 0,
    }


async def test_a_completed_run_tells_what_it_did(loaded_database: str, redis_url: str, tmp_path: Path) -> None:
    with serving({"DATABASE_URL": loaded_database, "REDIS_URL": redis_url}, tmp_path) as service:
        connection = await asyncpg.connect(loaded_database)
        await connection.execute("TRUNCATE rollup_entity, rollup_source_status")
        await connection.close()
        first, last = date(2024, 2, 14), date(2024, 2, 28)  # two Wednesdays, of three weeks

        run = service.recompute("top-entities", "week", first, last)

    events = dataset.between(date(2024, 2, 12), date(2024, 3, 3))
    by_entity = {(dataset.day_of(event), event.entity_id) for event in events}
    by_source_and_status = {(dataset.day_of(event), event.source, event.status) for event in events}
    assert run["covers"] == {"from": "2024-02-12", "to": "2024-03-03"}
    assert run["progress"] == {"buckets_done": 3, "buckets_total": 3}
    assert run["summary"].pop("duration_ms") >= 0
    assert run["summary"] == {
        "rows_deleted": 0,
        "rows_inserted": len(by_entity) + len(by_source_and_status),
        "rows_unchanged": 0,
        "bucket_count": 3,
        "events_read": len(events),
    }
    moments = [datetime.fromisoformat(run[name]) for name in ("requested_at", "started_at", "finished_at")]
    assert moments == sorted(moments)
    assert run["attempt"] == 1
    assert "error_message" not in run


@pytest.mark.parametrize(
    "given,header,name",
    [
        ({"requested_by": "alice"}, "bob", "alice"),
        ({"requested_by": "alice"}, None, "alice"),
        ({"requested_by": "zoë ☕"}, None, "zoë ☕"),
        ({"requested_by": "x" * 255}, None, "x" * 255),
        ({}, "bob", "bob"),
        ({"requested_by": ""}, "bob", "bob"),
        ({"requested_by": "  "}, "bob", "bob"),
        ({"requested_by": ""}, None, "management-api"),
        ({}, "", "management-api"),
        ({}, None, "management-api"),
    ],
)
def test_requested_by_falls_back_to_the_actor_and_then_to_the_interface(
    idle_service: Service, given: dict[str, str], header: str | None, name: str
) -> None:
    run = triggered(idle_service, body(**given), {} if header is None else {"X-Actor": header})

    assert run["requested_by"] == name
    entries = idle_service.http.get("/audit-entries", params={"limit": "100"}, headers=AUTHORISED).json()["data"]
    assert [entry["actor"] for entry in entries if entry["resource_id"] == run["id"]] == [name]


def test_an_actor_may_be_any_utf_8(idle_service: Service) -> None:
    sent = str(body()).replace("'", '"').encode()

    answer = ask(idle_service, posting(sent, headers=KEY_HEADER + "X-Actor: zoë ☕\r\n".encode()))

    assert succeeded(answer, 202)["data"]["requested_by"] == "zoë ☕"


@pytest.mark.parametrize("actor", [b"\xff", b"zo\xeb", b"x" * 256, "\u202etxt".encode(), b"a\tb"])
def test_an_actor_that_is_no_printable_text_is_refused(idle_service: Service, actor: bytes) -> None:
    refused(ask(idle_service, posting(b"{}", headers=KEY_HEADER + b"X-Actor: " + actor + b"\r\n")), "X-Actor")


def test_the_window_may_be_written_in_any_case(idle_service: Service) -> None:
    assert triggered(idle_service, body(window="WEEK"))["window"] == "week"


@pytest.mark.parametrize("name", ["report_slug", "window", "date_from", "date_to"])
def test_a_member_that_is_missing_or_of_another_type_is_refused(idle_service: Service, name: str) -> None:
    without = {member: value for member, value in BODY.items() if member != name}

    assert refused(trigger(idle_service, without), name) == "must be given"
    for wrong in (None, 5, True, ["day"], {"day": 1}):
        assert refused(trigger(idle_service, BODY | {name: wrong}), name).startswith("expected `str`, got ")


@pytest.mark.parametrize(
    "changes,parameter",
    [
        ({"requested_by": None}, "requested_by"),
        ({"requested_by": 7}, "requested_by"),
        ({"requested_by": "x" * 256}, "requested_by"),
        ({"requested_by": "a\nb"}, "requested_by"),
        ({"requested_by": "a\x00b"}, "requested_by"),
        ({"report_slug": ""}, "report_slug"),
        ({"report_slug": "a\x00"}, "report_slug"),
        ({"report_slug": "x" * 256}, "report_slug"),
        ({"window": ""}, "window"),
        ({"window": "month"}, "window"),
        ({"window": "wee\N{KELVIN SIGN}"}, "window"),
        ({"window": " day"}, "window"),
        ({"date_from": ""}, "date_from"),
        ({"date_from": "2019-1-1"}, "date_from"),
        ({"date_from": "2019-02-29"}, "date_from"),
        ({"date_from": "2019-01-01T00:00:00Z"}, "date_from"),
        ({"date_to": "20190102"}, "date_to"),
        ({"date_to": "9999-12-27"}, "date_to"),
        ({"date_to": "\u0662019-01-02"}, "date_to"),
        ({"date_from": "2019-01-03"}, "date_from"),  # after date_to
        ({"date_from": "2018-01-01"}, "date_from"),  # 367 days
        ({"mode": ""}, "mode"),
        ({"mode": None}, "mode"),
        ({"mode": "Rebuild"}, "mode"),
        ({"mode": "dry-run"}, "mode"),
        ({"priority": 1}, "priority"),
        ({"Window": "day"}, "Window"),
        ({"": "day"}, ""),
    ],
)
def test_a_wrong_or_unknown_member_is_refused_by_name(
    idle_service: Service, changes: dict[str, object], parameter: str
) -> None:
    assert refused(trigger(idle_service, BODY | changes), parameter)


def test_a_query_is_refused(idle_service: Service) -> None:
    refused(idle_service.http.post("/recomputations?dry_run=1", json=BODY, headers=AUTHORISED), "dry_run")


@pytest.mark.parametrize("slug", ["unknown", "Top-Entities", " top-entities", "top-entities/run", "%"])
def test_a_report_that_is_unknown_is_404(idle_service: Service, slug: str) -> None:
    failed(trigger(idle_service, BODY | {"report_slug": slug}), "not_found")


def test_a_second_active_run_of_a_scope_is_a_conflict_that_names_the_first(idle_service: Service) -> None:
    asked = body()
    run = triggered(idle_service, asked)

    for again in (asked, asked | {"requested_by": "somebody else"}, asked | {"window": "DAY"}):
        assert failed(trigger(idle_service, again), "conflict")["details"] == {"run_id": run["id"]}


def test_scopes_that_overlap_without_being_equal_are_accepted(idle_service: Service) -> None:
    asked = body() | {"date_to": next(_DAYS).isoformat()}
    triggered(idle_service, asked)

    triggered(idle_service, asked | {"date_to": asked["date_from"]})
    triggered(idle_service, asked | {"window": "week"})
    triggered(idle_service, asked | {"report_slug": "volume-by-period"})


async def test_a_full_backlog_is_unavailable_for_a_while(loaded_database: str, redis_url: str, tmp_path: Path) -> None:
    environment = {
        "DATABASE_URL": loaded_database,
        "REDIS_URL": redis_url,
        "RECOMPUTE_WORKERS": "0",
        "RECOMPUTE_QUEUE_SIZE": "2",
    }
    with serving(environment, tmp_path) as service:
        first, second, third = body(), body(), body()
        run = triggered(service, first)
        triggered(service, second)

        answer = trigger(service, third)
        failed(answer, "service_unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        assert failed(trigger(service, first), "conflict")["details"] == {"run_id": run["id"]}

        succeeded(cancel(service, run["id"]))
        triggered(service, third)


@pytest.mark.parametrize(
    "run_id",
    [
        *("1", "x", "null", "%20", "..", "x" * 300, "5dbe6290-3fec-44c9-b698-c84cd1167e3", "zoë", "%zz"),
        *("5dbe6290-3fec-44c9-b698-c84cd1167e3c0", "5dbe6290-3fec-44c9-b698-c84cd1167e3g", "';--"),
        "5dbe6290-3fec-44c9-b698-c84cd1167e3c",
    ],
)
def test_a_run_that_is_malformed_or_unknown_is_404(idle_service: Service, run_id: str) -> None:
    path = f"{BASE_PATH}/recomputations/{run_id}".encode()

    failed(ask(idle_service, request(path, headers=KEY_HEADER)), "not_found")
    failed(ask(idle_service, request(path + b"/cancel", method=b"POST", headers=KEY_HEADER)), "not_found")


def test_a_run_is_found_by_its_id_in_capitals(idle_service: Service) -> None:
    run = triggered(idle_service, body())

    assert idle_service.run(run["id"].upper()) == run


def test_a_cancelled_run_has_ended_and_frees_its_scope(idle_service: Service) -> None:
    asked = body()
    run = triggered(idle_service, asked)

    cancelled = succeeded(cancel(idle_service, run["id"]))["data"]

    assert cancelled["status"] == "cancelled"
    assert datetime.fromisoformat(cancelled["finished_at"]) >= datetime.fromisoformat(run["requested_at"])
    assert idle_service.run(run["id"]) == cancelled
    assert failed(cancel(idle_service, run["id"]), "conflict")["details"] == {"status": "cancelled"}
    assert triggered(idle_service, asked)["id"] != run["id"]


def test_one_run_takes_no_parameters(idle_service: Service) -> None:
    path = f"/recomputations/{uuid4()}"

    refused(idle_service.http.get(path, params={"verbose": "1"}, headers=AUTHORISED), "verbose")
    refused(idle_service.http.post(f"{path}/cancel", params={"force": "1"}, headers=AUTHORISED), "force")
    failed(get(idle_service, path), "unauthorized")
