"""What holds for every answer: the envelope, the request id, methods, paths, and nothing said of the inside."""

import json
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import pytest

from tests.acceptance.conftest import serving_with_defects
from tests.acceptance.envelopes import failed, refused, succeeded
from tests.acceptance.wire import KEY_HEADER, Wire, ask, request
from tests.running import AUTHORISED, BASE_PATH, KEY, Service
from tests.waiting import until

pytestmark = [pytest.mark.anyio]

REPORT = f"{BASE_PATH}/reports/volume-by-period"
RUN = f"{BASE_PATH}/recomputations/5dbe6290-3fec-44c9-b698-c84cd1167e3c"
FIXED_DAYS = "?date_from=2024-02-12&date_to=2024-02-18"

#: Every route with the methods that it answers.
ROUTES = {
    "/livez": {"GET", "HEAD"},
    "/readyz": {"GET", "HEAD"},
    f"{BASE_PATH}/health": {"GET", "HEAD"},
    f"{BASE_PATH}/reports": {"GET", "HEAD"},
    REPORT: {"GET", "HEAD"},
    f"{REPORT}/run": {"GET", "HEAD"},
    f"{BASE_PATH}/recomputations": {"GET", "HEAD", "POST"},
    RUN: {"GET", "HEAD"},
    f"{RUN}/events": {"GET", "HEAD"},
    f"{RUN}/cancel": {"POST"},
    f"{BASE_PATH}/audit-entries": {"GET", "HEAD"},
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "REPORT")
READABLE = [path for path, methods in ROUTES.items() if "GET" in methods]


def send(service: Service, method: str, path: str) -> httpx.Response:
    """The answer to a request with the management key."""
    with Wire(service) as wire:
        wire.send(request(path.encode(), method=method.encode(), headers=KEY_HEADER))
        return wire.answer(without_body=method == "HEAD")


@pytest.mark.parametrize("path", [path for path in READABLE if not path.startswith(RUN)])
def test_a_success_is_data_and_meta_and_nothing_else(shared_service: Service, path: str) -> None:
    succeeded(send(shared_service, "GET", path))


def test_json_is_utf_8_with_every_character_as_itself(shared_service: Service) -> None:
    answer = shared_service.http.get(f"/reports/top-entities/run{FIXED_DAYS}")

    assert '"entity_id":"zoë ☕"'.encode() in answer.content


def test_absent_members_are_left_out(shared_service: Service) -> None:
    answer = shared_service.http.get("/reports/top-entities/run", params={"date_to": "2001-01-01"})

    assert b"null" not in answer.content
    assert "computed_at" not in answer.json()["meta"]


@pytest.mark.parametrize("sane", ["a", "abc-1", "4bf92f35:7/+=._Z", "x" * 128])
@pytest.mark.parametrize("path", ["/livez", "/nowhere"])
def test_a_sane_request_id_comes_back(shared_service: Service, path: str, sane: str) -> None:
    answer = httpx.get(shared_service.url + path, headers={"X-Request-Id": sane})

    assert answer.headers.get_list("X-Request-Id") == [sane]


@pytest.mark.parametrize("insane", [b"", b"a b", b"x" * 129, b"<script>", b'a"b', b"a,b", b"\xff", "é".encode()])
def test_any_other_request_id_is_replaced_by_ours(shared_service: Service, insane: bytes) -> None:
    asked = request(b"/livez", headers=b"X-Request-Id: " + insane + b"\r\n")

    first, second = ask(shared_service, asked), ask(shared_service, asked)

    succeeded(first)
    assert first.headers["X-Request-Id"].encode() != insane
    assert first.headers["X-Request-Id"] != second.headers["X-Request-Id"]


def test_a_request_is_logged_under_its_id(shared_service: Service) -> None:
    request_id = uuid4().hex
    shared_service.http.get("/reports", headers={"X-Request-Id": request_id})

    # The line follows the answer.
    [line] = until(lambda: [line for line in shared_service.log().splitlines() if request_id in line])

    entry = json.loads(line)
    assert (entry["event"], entry["path"], entry["status"]) == ("request", f"{BASE_PATH}/reports", 200)


@pytest.mark.parametrize(
    "path,method", [(path, method) for path, allowed in ROUTES.items() for method in METHODS if method not in allowed]
)
def test_a_method_that_a_route_lacks_is_405_with_allow(shared_service: Service, path: str, method: str) -> None:
    answer = send(shared_service, method, path)

    assert answer.status_code == 405
    assert set(answer.headers["Allow"].split(", ")) == ROUTES[path]
    if method != "HEAD":
        failed(answer, "method_not_allowed")


@pytest.mark.parametrize(
    "path",
    [
        *READABLE,
        f"{REPORT}/run{FIXED_DAYS}",
        f"{REPORT}/run?limit=abc",
        f"{BASE_PATH}/reports/unknown",
        "/nowhere",
        f"{BASE_PATH}/reports/%00",
    ],
)
def test_head_answers_what_get_answers_without_the_body(shared_service: Service, path: str) -> None:
    send(shared_service, "GET", path)  # so that a report is cached for both that follow
    with_body, without = send(shared_service, "GET", path), send(shared_service, "HEAD", path)

    assert without.status_code == with_body.status_code
    assert {name: value for name, value in without.headers.items() if name not in {"x-request-id", "date"}} == {
        name: value for name, value in with_body.headers.items() if name not in {"x-request-id", "date"}
    }
    assert int(without.headers["Content-Length"]) == len(with_body.content)


@pytest.mark.parametrize("path", ROUTES)
def test_a_trailing_slash_is_404_and_no_redirect(shared_service: Service, path: str) -> None:
    failed(send(shared_service, "GET", f"{path}/"), "not_found")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "//",
        "*",
        "/favicon.ico",
        "/health",
        "/reports",
        "/api",
        "/api/v1",
        "/api/v1/",
        "/api/v2/reports",
        "/API/V1/reports",
        "/api/v1/Reports",
        "//api/v1/reports",
        "/api/v1//reports",
        "/api/v1/reports//run",
        "/api/v1/livez",
        "/api/v1/reports/volume-by-period/runs",
        "/api/v1/reports/volume-by-period/run/more",
        "/api/v1/../api/v1/reports",
    ],
)
def test_a_path_that_is_no_route_is_404(shared_service: Service, path: str) -> None:
    failed(send(shared_service, "GET", path), "not_found")


@pytest.mark.parametrize("escape", ["%ff", "%c0%80", "%ed%a0%80", "%f0%9f%98"])
@pytest.mark.parametrize("path", ["/nowhere/", f"{BASE_PATH}/reports/", f"{BASE_PATH}/recomputations/"])
def test_a_path_that_is_not_utf_8_is_refused(shared_service: Service, path: str, escape: str) -> None:
    assert refused(send(shared_service, "GET", path + escape), "path") == "must be UTF-8"


@pytest.mark.parametrize("path", ["/%00", f"{REPORT}%00", f"{BASE_PATH}/reports/a%00b/run", f"{RUN}%00"])
def test_a_path_with_a_nul_character_is_refused(shared_service: Service, path: str) -> None:
    assert refused(send(shared_service, "GET", path), "path") == "must not hold a NUL character"


@pytest.mark.parametrize("slug", ["%zz", "%", "100%25", "zo%C3%AB", "zoë", "%2e%2e", "x" * 5000, "Volume-By-Period"])
def test_odd_names_of_reports_are_merely_unknown(shared_service: Service, slug: str) -> None:
    failed(send(shared_service, "GET", f"{BASE_PATH}/reports/{slug}"), "not_found")
    failed(send(shared_service, "GET", f"{BASE_PATH}/reports/{slug}/run"), "not_found")


def test_a_percent_encoded_path_is_the_path(shared_service: Service) -> None:
    succeeded(send(shared_service, "GET", f"{BASE_PATH}/reports/volume%2Dby%2dperiod"))


async def test_a_defect_is_told_to_the_log_and_not_to_the_caller(
    loaded_database: str, redis_url: str, tmp_path: Path
) -> None:
    connection = await asyncpg.connect(loaded_database)
    await connection.execute("ALTER TABLE rollup_entity RENAME TO lost_rollup")
    await connection.execute("ALTER TABLE audit_entries RENAME TO lost_trail")
    await connection.close()
    body = {"report_slug": "top-entities", "window": "day", "date_from": "2024-03-01", "date_to": "2024-03-01"}

    with serving_with_defects({"DATABASE_URL": loaded_database, "REDIS_URL": redis_url}, tmp_path) as service:
        broken = {
            "rollup_entity": service.http.get(f"/reports/top-entities/run{FIXED_DAYS}"),
            "audit_entries": service.http.get("/audit-entries", headers=AUTHORISED),
            'relation "audit_entries"': service.http.post("/recomputations", json=body, headers=AUTHORISED),
        }
        listed = service.http.get("/recomputations", headers=AUTHORISED)
        service.terminate()  # so that the log is whole

    for cause, answer in broken.items():
        request_id = answer.headers["X-Request-Id"]
        error = failed(answer, "internal_error")
        assert error["message"] == f"internal error; request id {request_id}"
        assert error["details"] == {"request_id": request_id}
        [defect] = [line for line in service.log().splitlines() if '"event":"defect"' in line and request_id in line]
        assert cause in json.loads(defect)["exception"][0]["exc_value"]
    assert KEY not in service.log()
    assert succeeded(listed)["data"] == []
