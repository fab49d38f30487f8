"""The outermost layer: every request gets an id, a deadline, a log line and, whatever happens, an envelope."""

import asyncio
import re
import time
from collections.abc import Sequence
from contextvars import Context
from datetime import timedelta
from random import getrandbits
from typing import Final
from urllib.parse import unquote_to_bytes

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pg_analytics.errors import ErrorCode, ServiceError, invalid, method_not_allowed, not_found, unavailable
from pg_analytics.http.body import Incoming
from pg_analytics.http.envelope import failure

#: The type of server-sent events.
EVENT_STREAM: Final = b"text/event-stream"

_log: Final = structlog.get_logger(__name__)
_SANE_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")


def router(routes: Sequence[BaseRoute]) -> ASGIApp:
    """The ASGI application that serves `routes`."""
    application = Starlette(
        routes=routes,
        exception_handlers={HTTPException: _routing_failed, ServiceError: _service_error, Exception: _defect},
    )
    application.router.redirect_slashes = False
    return application


class Gateway:
    """Stands in front of an ASGI application."""

    def __init__(self, application: ASGIApp, *, deadline: timedelta) -> None:
        """A request that takes longer than `deadline` is answered 503. A stream of events must only have begun by
        then.
        """
        self._application = application
        self._deadline_s = deadline.total_seconds()
        self._answered: list[dict[str, object]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request_id = _request_id(scope)
        incoming = Incoming(scope, receive)
        name = request_id.decode("ascii")
        scope.setdefault("state", {})["request_id"] = name
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
                if _is_stream(message):
                    deadline.cancel()
            await send(message)

        started = time.perf_counter()
        # The server gives each request a context of its own: nothing need be unbound.
        structlog.contextvars.bind_contextvars(request_id=name)
        deadline = _Deadline(self._deadline_s)
        try:
            wrong = _wrong_path(scope)
            answer = self._application if wrong is None else failure(wrong)
            await answer(scope, incoming.receive, send_with_id)
        except (Exception, asyncio.CancelledError) as error:
            # The caller gets an opaque answer; the cause goes to the log.
            if deadline.has_ended():
                told = unavailable(f"no answer within {self._deadline_s:g} seconds")
            elif isinstance(error, asyncio.CancelledError):
                raise
            else:
                told = _internal_error(name)
                _log.exception("defect", method=scope["method"], path=scope["path"], exc_info=error)
            if status == 0:
                await failure(told)(scope, incoming.receive, send_with_id)
        finally:
            deadline.cancel()
        self._log_soon(
            request_id=name,
            method=scope["method"],
            path=scope["path"],
            status=status,
            duration_ms=round((time.perf_counter() - started) * 1000, 2),
        )
        await incoming.drain()

    def _log_soon(self, **answered: object) -> None:
        """Log a request at the end of this turn of the loop, with all others of the turn: a line alone, between so much
        else, takes several times as long.
        """
        self._answered.append(answered)
        if len(self._answered) == 1:
            asyncio.get_running_loop().call_soon(self._log_answered, context=Context())

    def _log_answered(self) -> None:
        answered, self._answered = self._answered, []
        for request in answered:
            _log.info("request", **request)


class _Deadline:
    """Cancels the current task in `seconds`. As `asyncio.timeout` does, which every request would pay for more dearly
    than for its line in the log.
    """

    __slots__ = ("_ended", "_task", "_timer")

    def __init__(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task(loop)
        self._ended = False
        self._timer = loop.call_later(seconds, self._end)

    def _end(self) -> None:
        self._ended = True
        if self._task is not None:
            self._task.cancel()

    def cancel(self) -> None:
        """There is no deadline any more."""
        self._timer.cancel()

    def has_ended(self) -> bool:
        """Whether the task was cancelled by this deadline, and by nobody else."""
        return self._ended and self._task is not None and self._task.uncancel() == 0


def sane_request_id(value: bytes) -> bytes:
    """What a client calls its request, or nothing if that would not do on a line of a log."""
    return value if _SANE_REQUEST_ID.fullmatch(value) else b""


def new_request_id() -> bytes:
    """An id for a request whose client has none."""
    return b"%032x" % getrandbits(128)


def _request_id(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and sane_request_id(value):
            return bytes(value)
    return new_request_id()


def _wrong_path(scope: Scope) -> ServiceError | None:
    """The server decodes a path leniently; here it must be text without NUL."""
    raw = scope["raw_path"]
    try:
        decoded = (unquote_to_bytes(raw) if b"%" in raw else raw).decode("utf-8")
    except UnicodeDecodeError:
        return invalid("path", "must be UTF-8")
    return invalid("path", "must not hold a NUL character") if "\x00" in decoded else None


def _is_stream(start: Message) -> bool:
    """Whether the answer that begins is one that goes on for as long as somebody listens."""
    for name, value in start["headers"]:
        if name == b"content-type":
            return bool(value.startswith(EVENT_STREAM))
    return False


async def _service_error(_request: Request, error: Exception) -> Response:
    return failure(error) if isinstance(error, ServiceError) else await _defect(_request, error)


async def _routing_failed(_request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and error.status_code == ErrorCode.METHOD_NOT_ALLOWED.status:
        allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
        return failure(method_not_allowed(allowed))
    return failure(not_found("route"))


async def _defect(request: Request, _error: Exception) -> Response:
    return failure(_internal_error(request.scope["state"]["request_id"]))


def _internal_error(request_id: str) -> ServiceError:
    return ServiceError(
        ErrorCode.INTERNAL_ERROR, f"internal error; request id {request_id}", details={"request_id": request_id}
    )
