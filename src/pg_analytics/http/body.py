"""Request bodies: bounded, on time, and JSON without surprises (duplicate members, stray types, odd encodings).

A body may be refused before it has come in. What is left of it is then taken in and dropped after the answer
(`Incoming.drain`): a socket that is closed with unread bytes in it is reset, and the reset can overtake the
answer, so that a sender of 3 MB would see a broken connection instead of a 413.
"""

import asyncio
import json
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope

from pg_analytics.errors import ErrorCode, ServiceError, invalid

T = TypeVar("T", bound=msgspec.Struct)

MAX_BODY_BYTES: Final = 64 * 1024

#: Headers without which a request has no body.
ANNOUNCING_BODY: Final = (b"content-length", b"transfer-encoding")
_DRAIN_BYTES: Final = 16 * 1024 * 1024
_DRAIN_S: Final = 5
_SHOWN_CHARACTERS: Final = 64


class Incoming:
    """What a client sends as the body of one request; `receive` hands it on."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._unread = any(name in ANNOUNCING_BODY for name, _ in scope["headers"])

    async def receive(self) -> Message:
        """The next piece, as ASGI has it."""
        message = await self._receive()
        self._unread = bool(message.get("more_body"))
        return message

    async def drain(self) -> None:
        """Drop what nobody read, within bounds: who sends on for longer is cut off."""
        if not self._unread:
            return
        left = _DRAIN_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                while left > 0 and self._unread:
                    left -= len((await self.receive()).get("body", b""))


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
    return _convert(members, type_)


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


def _convert(members: Any, type_: type[T]) -> T:
    """`members` as a `type_`; a refusal names the member that is wrong."""
    if not isinstance(members, dict):
        raise invalid("body", "must be a JSON object")
    fields = msgspec.structs.fields(type_)
    known = [field.encode_name for field in fields]
    for name in members:
        if name not in known:
            raise invalid(_shown(name), f"unknown member; the body takes {', '.join(known)}")
    for field in fields:
        if field.required and field.encode_name not in members:
            raise invalid(field.encode_name, "must be given")
    try:
        return msgspec.convert(members, type_, strict=True)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        raise invalid(path.rstrip("`") or "body", reason.lower()) from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise invalid(_shown(name), "must be given once")
        members[name] = value
    return members


def _shown(name: str) -> str:
    """A stranger's word in an answer of ours: short, and text (JSON can spell half a surrogate pair, UTF-8 cannot)."""
    return (name if name.isprintable() else ascii(name))[:_SHOWN_CHARACTERS]


def _no_constant(name: str) -> Any:
    raise ValueError(name)
