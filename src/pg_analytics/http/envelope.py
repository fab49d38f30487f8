"""The envelope of every answer: `{"data": …, "meta": …}` on success, `{"error": …}` on failure."""

from collections.abc import Mapping
from typing import Final

import msgspec
from starlette.responses import Response

from pg_analytics.errors import ServiceError

JSON: Final = "application/json"
_ENCODER: Final = msgspec.json.Encoder()


def body(data: object, meta: Mapping[str, object] | None = None) -> bytes:
    """The envelope of a success as JSON bytes; `msgspec.Raw` in it goes out untouched."""
    return _ENCODER.encode({"data": data} if meta is None else {"data": data, "meta": meta})


def success(
    data: object,
    meta: Mapping[str, object] | None = None,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A response with `data`, and `meta` where there is any."""
    return rendered(body(data, meta), status=status, headers=headers)


def rendered(content: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A response whose envelope is JSON bytes already."""
    return Response(content, status_code=status, media_type=JSON, headers=dict(headers or {}))


def failure(error: ServiceError) -> Response:
    """The one place where an error becomes an answer."""
    return rendered(_ENCODER.encode({"error": described(error)}), status=error.code.status, headers=error.headers)


def described(error: ServiceError) -> Mapping[str, object]:
    """An error as clients read it."""
    members: dict[str, object] = {"code": error.code.code, "message": error.message}
    return members if error.details is None else members | {"details": error.details}


def pagination(*, limit: int, offset: int, total: int) -> dict[str, object]:
    """The `meta` of a page."""
    return {"pagination": {"limit": limit, "offset": offset, "total": total}}
