"""The error codes: each stands once in the code and once on the reference page, with one status."""

import re
from collections import Counter
from pathlib import Path

import pytest

from pg_analytics.errors import ErrorCode, ServiceError, invalid, not_found, unavailable

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "errors.md"

CONTRACT = {
    "invalid_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "payload_too_large": 413,
    "unprocessable": 422,
    "rate_limited": 429,
    "internal_error": 500,
    "service_unavailable": 503,
}


def test_the_codes_are_those_of_the_contract() -> None:
    assert {code.code: code.status for code in ErrorCode} == CONTRACT


def test_each_code_and_each_status_stands_once_in_the_code() -> None:
    assert len(ErrorCode.__members__) == len(CONTRACT), "two names for one value would be an alias"
    assert max(Counter(code.code for code in ErrorCode).values()) == 1
    assert max(Counter(code.status for code in ErrorCode).values()) == 1


def test_the_reference_page_has_a_row_for_each_code_and_no_other() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| .+ \|$", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE)

    assert [(code, int(status)) for code, status in rows] == [(code.code, code.status) for code in ErrorCode]


@pytest.mark.parametrize(
    "error,code,headers",
    [
        (invalid("limit", "must be small"), ErrorCode.INVALID_REQUEST, {}),
        (not_found("report"), ErrorCode.NOT_FOUND, {}),
        (unavailable("too busy"), ErrorCode.SERVICE_UNAVAILABLE, {"Retry-After": "1"}),
        (unavailable("too busy", retry_after_s=5), ErrorCode.SERVICE_UNAVAILABLE, {"Retry-After": "5"}),
    ],
)
def test_each_kind_of_error_has_its_code_and_headers(
    error: ServiceError, code: ErrorCode, headers: dict[str, str]
) -> None:
    assert (error.code, error.headers) == (code, headers)
    assert str(error) == error.message


def test_a_refusal_names_the_parameter_and_what_is_allowed() -> None:
    error = invalid("limit", "must be a whole number")

    assert error.message == "limit: must be a whole number"
    assert error.details == {"parameter": "limit", "allowed": "must be a whole number"}
