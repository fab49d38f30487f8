"""Request bodies: bounded, on time, and JSON without surprises (duplicate members, stray types, odd encodings)."""

import asyncio
import json
from datetime import timedelta
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from pg_analytics.errors import ErrorCode, ServiceError, invalid

T = TypeVar("T")

MAX_BODY_BYTES: Final = 64 * 1024


async def read_json(request: Request, type_: type[T], *, within: timedelta) -> T:
    """The body as a `type_` (a msgspec struct that forbids unknown fields).

    `ServiceError` 413 for a body over `MAX_BODY_BYTES`, 400 for one that is late, not UTF-8, not JSON, has a
    member twice, or does not fit `type_`.
    """
    raw = await _read(request, within)
    try:
        members = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise invalid("body", "must be UTF-8") from None
    except (ValueError, RecursionError):
        raise invalid("body", "must be a JSON object") from None
    try:
        return msgspec.convert(members, type_, strict=True)
    except msgspec.ValidationError as error:
        raise invalid("body", str(error)) from None


async def _read(request: Request, within: timedelta) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > MAX_BODY_BYTES:
        raise _too_large()
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(within.total_seconds()):
            async for chunk in request.stream():
                size += len(chunk)
                if size > MAX_BODY_BYTES:
                    raise _too_large()
                chunks.append(chunk)
    except TimeoutError:
        raise invalid("body", f"must arrive within {within.total_seconds():g} seconds") from None
    except ClientDisconnect:
        raise invalid("body", "was cut off") from None
    return b"".join(chunks)


def _too_large() -> ServiceError:
    return ServiceError(ErrorCode.PAYLOAD_TOO_LARGE, f"the body must not be larger than {MAX_BODY_BYTES} bytes")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        raise invalid(next(name for name in names if names.count(name) > 1), "must be given once")
    return members


def _no_constant(name: str) -> Any:
    raise ValueError(name)
