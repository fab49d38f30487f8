"""The errors that a client may see: one class, one table of codes.

A module that decides that a request cannot be answered raises `ServiceError`; `http.envelope` is the one
place that renders it. Any other exception is a defect or a lost dependency and stays opaque to the caller.
"""

from collections.abc import Mapping
from enum import Enum


class ErrorCode(Enum):
    """Every error code of the HTTP interface with its status. The reference page `errors.md` is held to it."""

    INVALID_REQUEST = ("invalid_request", 400)
    UNAUTHORIZED = ("unauthorized", 401)
    FORBIDDEN = ("forbidden", 403)
    NOT_FOUND = ("not_found", 404)
    METHOD_NOT_ALLOWED = ("method_not_allowed", 405)
    CONFLICT = ("conflict", 409)
    PAYLOAD_TOO_LARGE = ("payload_too_large", 413)
    UNPROCESSABLE = ("unprocessable", 422)
    RATE_LIMITED = ("rate_limited", 429)
    INTERNAL_ERROR = ("internal_error", 500)
    SERVICE_UNAVAILABLE = ("service_unavailable", 503)

    def __init__(self, code: str, status: int) -> None:
        self.code = code
        self.status = status


class ServiceError(Exception):
    """A request that cannot be answered, in words that its sender may read.

    `code` fixes the HTTP status; `details` (JSON-able) lets a program act on it; `headers` go out with it.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        details: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details
        self.headers = dict(headers or {})


def invalid(parameter: str, message: str) -> ServiceError:
    """400 that names the parameter, body field or header which was wrong and says what is allowed."""
    return ServiceError(
        ErrorCode.INVALID_REQUEST,
        f"{parameter}: {message}",
        details={"parameter": parameter, "allowed": message},
    )


def not_found(what: str) -> ServiceError:
    """404 for `what` ("report", "recompute run", …)."""
    return ServiceError(ErrorCode.NOT_FOUND, f"{what} was not found")


def method_not_allowed(allowed: str) -> ServiceError:
    """405; `allowed` lists the methods that would have been, as `Allow` does."""
    return ServiceError(ErrorCode.METHOD_NOT_ALLOWED, f"this route answers {allowed}", headers={"Allow": allowed})


def unavailable(message: str, *, retry_after_s: int = 1) -> ServiceError:
    """503 with `Retry-After` in seconds: the request may succeed unchanged a little later."""
    return ServiceError(ErrorCode.SERVICE_UNAVAILABLE, message, headers={"Retry-After": str(retry_after_s)})
