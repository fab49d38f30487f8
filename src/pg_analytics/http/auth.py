"""Management authentication: one key, in `X-Management-Key` or as a bearer token.

The key is compared in constant time and over bytes, so that a header which is not text is merely wrong. The
check comes before the body is read: a stranger is answered without a byte of it being looked at.
"""

import functools
import hmac
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from pg_analytics.errors import ErrorCode, ServiceError

Endpoint = Callable[[Request], Awaitable[Response]]

_BEARER: Final = b"bearer "


class ManagementKey:
    """The key that management endpoints ask for."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def protect(self, endpoint: Endpoint) -> Endpoint:
        """`endpoint`, answered with 401 unless the request carries the key."""

        @functools.wraps(endpoint)
        async def protected(request: Request) -> Response:
            self.check(request)
            return await endpoint(request)

        return protected

    def check(self, request: Request) -> None:
        """`ServiceError` (401) unless the request carries the key."""
        if not any(hmac.compare_digest(candidate, self._key) for candidate in _candidates(request)):
            raise ServiceError(
                ErrorCode.UNAUTHORIZED,
                "a valid management key is required, as X-Management-Key or as a bearer token",
                headers={"WWW-Authenticate": "Bearer"},
            )


def _candidates(request: Request) -> list[bytes]:
    found = []
    for name, value in request.scope["headers"]:
        if name == b"x-management-key":
            found.append(value)
        elif name == b"authorization" and value[: len(_BEARER)].lower() == _BEARER:
            found.append(value[len(_BEARER) :].strip())
    return found
