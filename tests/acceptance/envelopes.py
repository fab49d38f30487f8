"""What every answer must look like, success or failure."""

import re
from typing import Any, Final

import httpx

_STATUS: Final = {
    "invalid_request": 400,
    "unauthorized": 401,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "payload_too_large": 413,
    "unprocessable": 422,
    "internal_error": 500,
    "service_unavailable": 503,
}


def succeeded(answer: httpx.Response, status: int = 200) -> Any:
    """The envelope of a success; fails if the answer is none."""
    assert answer.status_code == status, answer.text
    assert set(answer.json()) - {"meta"} == {"data"}
    _check_headers(answer)
    return answer.json()


def failed(answer: httpx.Response, code: str) -> Any:
    """The `error` of a failure with that code; fails if the answer is none."""
    assert answer.status_code == _STATUS[code], answer.text
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert set(error) - {"details"} == {"code", "message"}
    assert error["code"] == code
    assert error["message"]
    _check_headers(answer)
    return error


def refused(answer: httpx.Response, parameter: str) -> str:
    """What would have been allowed, of a 400 that names `parameter`; fails if the answer is none."""
    error = failed(answer, "invalid_request")
    assert error["details"]["parameter"] == parameter, error
    assert error["message"] == f"{parameter}: {error['details']['allowed']}"
    return str(error["details"]["allowed"])


def _check_headers(answer: httpx.Response) -> None:
    assert answer.headers["content-type"] == "application/json"
    assert re.fullmatch(r"[A-Za-z0-9._:/+=-]{1,128}", answer.headers["x-request-id"])
    assert len(answer.headers.get_list("x-request-id")) == 1
