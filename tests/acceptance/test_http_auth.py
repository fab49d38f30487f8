"""The management key: who has it, in which form, and that it is asked for before anything else."""

from pathlib import Path

import httpx
import pytest

from tests.acceptance.envelopes import failed, succeeded
from tests.acceptance.wire import Wire, ask, request
from tests.running import BASE_PATH, KEY, Service, serving

pytestmark = [pytest.mark.anyio]

PROTECTED = [
    ("GET", "/recomputations"),
    ("HEAD", "/recomputations"),
    ("POST", "/recomputations"),
    ("GET", "/recomputations/5dbe6290-3fec-44c9-b698-c84cd1167e3c"),
    ("GET", "/recomputations/5dbe6290-3fec-44c9-b698-c84cd1167e3c/events"),
    ("POST", "/recomputations/5dbe6290-3fec-44c9-b698-c84cd1167e3c/cancel"),
    ("GET", "/audit-entries"),
    ("HEAD", "/audit-entries"),
]
AUDIT = f"{BASE_PATH}/audit-entries".encode()
KEY_BYTES = KEY.encode()


def assert_unauthorized(answer: httpx.Response) -> None:
    failed(answer, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("method,path", PROTECTED)
def test_every_management_route_asks_for_the_key(shared_service: Service, method: str, path: str) -> None:
    for headers in ({}, {"X-Management-Key": "wrong"}, {"Authorization": "Bearer wrong"}):
        answer = shared_service.http.request(method, path, headers=headers)

        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        if method != "HEAD":
            assert_unauthorized(answer)


@pytest.mark.parametrize(
    "header",
    [
        b"X-Management-Key:",
        b"X-Management-Key: " + KEY_BYTES + b"x",
        b"X-Management-Key: " + KEY_BYTES[:-1],
        b"X-Management-Key: " + KEY_BYTES.upper(),
        b"X-Management-Key: Bearer " + KEY_BYTES,
        b"X-Management-Key: \xff\xfe",
        "X-Management-Key: schlüssel ☕".encode(),
        b"X-Management-Key: " + b"x" * 8000,
        b"Authorization:",
        b"Authorization: " + KEY_BYTES,
        b"Authorization: Bearer",
        b"Authorization: Bearer" + KEY_BYTES,
        b"Authorization: Bearer \xff\xfe",
        b"Authorization: Bearer " + KEY_BYTES + b", " + KEY_BYTES,
        b"Authorization: Basic " + KEY_BYTES,
        b"Cookie: X-Management-Key=" + KEY_BYTES,
    ],
)
def test_anything_but_the_key_is_wrong(shared_service: Service, header: bytes) -> None:
    assert_unauthorized(ask(shared_service, request(AUDIT, headers=header + b"\r\n")))


@pytest.mark.parametrize("query", ["key=", "X-Management-Key=", "x_management_key=", "access_token="])
def test_the_key_is_not_looked_for_in_the_query(shared_service: Service, query: str) -> None:
    assert_unauthorized(shared_service.http.get(f"/audit-entries?{query}{KEY}"))


@pytest.mark.parametrize(
    "headers",
    [
        b"X-Management-Key: " + KEY_BYTES,
        b"x-management-KEY:   " + KEY_BYTES + b"  ",
        b"Authorization: Bearer " + KEY_BYTES,
        b"authorization: bearer " + KEY_BYTES,
        b"AUTHORIZATION: BEARER   " + KEY_BYTES,
        b"X-Management-Key: " + KEY_BYTES + b"\r\nAuthorization: Bearer " + KEY_BYTES,
        b"X-Management-Key: wrong\r\nAuthorization: Bearer " + KEY_BYTES,
        b"X-Management-Key: " + KEY_BYTES + b"\r\nAuthorization: Basic abc",
    ],
)
def test_the_key_opens_in_either_header(shared_service: Service, headers: bytes) -> None:
    succeeded(ask(shared_service, request(AUDIT, headers=headers + b"\r\n")))


def test_the_key_comes_before_every_other_check(shared_service: Service) -> None:
    assert_unauthorized(shared_service.http.get("/audit-entries?limit=abc"))
    assert_unauthorized(shared_service.http.get("/recomputations/malformed"))
    assert_unauthorized(
        shared_service.http.post("/recomputations", content=b"not JSON", headers={"X-Actor": "x" * 999})
    )


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"])
def test_the_key_is_asked_for_before_the_body_has_come(shared_service: Service, expect: bytes) -> None:
    with Wire(shared_service) as wire:
        announced = b"Content-Length: 3000000\r\n" + expect
        wire.send(request(f"{BASE_PATH}/recomputations".encode(), method=b"POST", headers=announced))

        assert_unauthorized(wire.answer())


def test_public_routes_do_not_look_at_the_key(shared_service: Service) -> None:
    succeeded(shared_service.http.get("/reports", headers={"X-Management-Key": "wrong"}))


async def test_a_key_beyond_ascii_is_compared_byte_by_byte(
    loaded_database: str, redis_url: str, tmp_path: Path
) -> None:
    environment = {"DATABASE_URL": loaded_database, "REDIS_URL": redis_url, "MANAGEMENT_API_KEY": "schlüssel"}
    with serving(environment, tmp_path) as service:
        as_utf_8, as_latin_1 = "schlüssel".encode(), "schlüssel".encode("latin-1")

        succeeded(service.http.get("/audit-entries", headers=[(b"X-Management-Key", as_utf_8)]))
        assert_unauthorized(service.http.get("/audit-entries", headers=[(b"X-Management-Key", as_latin_1)]))
