"""The two ways to the answer of `/reports/{slug}/run`, in the same words.

`Hits` is the shortest one, in front of everything else and past it, to an answer that this process has in memory. A
cached answer shall cost what it costs to hand bytes to a socket, so nothing is parsed or built here that was parsed or
built before: the query string is known, and so is the body. Whatever is not so goes on.

`Misses` is behind the gateway, like everything else, but before the router: of what a short report costs, a router
would be a good part.
"""

import time
from collections.abc import Awaitable
from functools import lru_cache
from typing import Final, TypeAlias

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pg_analytics.errors import ServiceError, method_not_allowed
from pg_analytics.http.body import ANNOUNCING_BODY
from pg_analytics.http.envelope import failure
from pg_analytics.http.gateway import new_request_id, sane_request_id
from pg_analytics.reports.catalog import Catalog, Known
from pg_analytics.reports.memory import Kept, Told
from pg_analytics.reports.run import Question, ReportRunner

_log: Final = structlog.get_logger(__name__)

_Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]

#: Hits are not logged one by one, but counted; the count is logged at most once in so many seconds.
_COUNT_S: Final = 10.0
#: For how many seconds longer than an answer lives a client's cache may use it: while it asks anew, and while we fail.
_WHILE_REVALIDATING_S: Final = 30
_IF_ERROR_S: Final = 3600
_METHODS: Final = ("GET", "HEAD")
_RUN: Final = "/run"
_NO_STORE: Final = (b"cache-control", b"no-store")
_VARY: Final = (b"vary", b"accept-encoding")
_JSON: Final = (b"content-type", b"application/json")
_GZIP: Final = (b"content-encoding", b"gzip")
_NO_BODY: Final[Message] = {"type": "http.response.body", "body": b""}


def caching_headers(tag: bytes | None, max_age_s: int | None, age_s: int) -> _Headers:
    """What caches on the way are told. `tag`, without its `W/`, is that of the answer; None: it is not to be kept."""
    if tag is None or max_age_s is None:
        return (_NO_STORE, _VARY)
    return ((b"etag", b"W/" + tag), _cache_control(max_age_s), _VARY, (b"age", b"%d" % age_s))


#: Those of answers that are asked for again and again.
_known_headers: Final = lru_cache(maxsize=1024)(caching_headers)


@lru_cache(maxsize=256)
def _cache_control(max_age_s: int) -> tuple[bytes, bytes]:
    control = f"max-age={max_age_s}, stale-while-revalidate={_WHILE_REVALIDATING_S}, stale-if-error={_IF_ERROR_S}"
    return b"cache-control", control.encode()


def is_known(tag: bytes, if_none_match: bytes) -> bool:
    """Whether a client that sends `If-None-Match` has the answer already."""
    return tag in if_none_match or if_none_match.strip() == b"*"


@lru_cache(maxsize=256)
def accepts_gzip(accept_encoding: bytes) -> bool:
    """Whether a client takes gzip, by its `Accept-Encoding`."""
    weights = {}
    for part in accept_encoding.lower().split(b","):
        name, _, parameter = part.partition(b";")
        weights[name.strip()] = parameter.replace(b" ", b"").removeprefix(b"q=").rstrip(b"0.") != b"" or not parameter
    return weights.get(b"gzip", weights.get(b"*", False))


class Hits:
    """Answers from memory, and hands on what is not there."""

    def __init__(self, application: ASGIApp, catalog: Catalog, runner: ReportRunner, *, below: str) -> None:
        """`below` is the path below which reports lie, such as `/api/v1/reports/`."""
        self._application = application
        self._catalog = catalog
        self._runner = runner
        self._below = below
        self._count = 0
        self._count_since = time.monotonic()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer, or hand on. What hands on is no coroutine, here and below: each one that a request waits in costs it
        something whenever it goes on.
        """
        answer = self._answer(scope) if scope["type"] == "http" else None
        if answer is None:
            return self._application(scope, receive, send)
        self._count += 1
        if time.monotonic() - self._count_since >= _COUNT_S:
            self._log_count()
        return _send(*answer, send)

    def _find(self, scope: Scope) -> tuple[Question, Kept, int] | None:
        """What is asked for, and its answer and age, if the answer is in memory and known to be current."""
        slug = _slug(scope["path"], self._below)
        if slug is None or scope["method"] not in _METHODS:
            return None
        question = self._runner.recall(slug, scope["query_string"])
        if question is None or question.asked.fresh:
            return None
        version = self._catalog.current_version(question.slug)
        found = None if version is None else self._runner.recent(question, version)
        return None if found is None else (question, *found)

    def _answer(self, scope: Scope) -> tuple[Message, Message] | None:
        """The two messages of the answer, if there is one here."""
        found = self._find(scope)
        if found is None:
            return None
        question, kept, age_s = found
        request_id, gzip, not_modified = b"", False, False
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                request_id = sane_request_id(value)
            elif name == b"accept-encoding":
                gzip = accepts_gzip(value)
            elif name == b"if-none-match":
                not_modified = not_modified or is_known(kept.tag, value)
            elif name in ANNOUNCING_BODY:
                return None  # somebody has to take it in
        headers = _known_headers(kept.tag, question.shape.cache_ttl_seconds, age_s)
        named = (b"x-request-id", request_id or new_request_id())
        if not_modified:
            return _not_modified([*headers, named])
        start, body = _answered(scope["method"], self._runner.tell(question, kept), headers, gzip=gzip)
        start["headers"].append(named)
        return start, body

    def _log_count(self) -> None:
        now = time.monotonic()
        _log.info("hits", count=self._count, during_s=round(now - self._count_since, 1))
        self._count, self._count_since = 0, now


class Misses:
    """Answers what `Hits` hands on, and hands on what is not a report."""

    def __init__(self, application: ASGIApp, runner: ReportRunner, *, below: str) -> None:
        """As for `Hits`."""
        self._application = application
        self._runner = runner
        self._below = below

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer, or hand on."""
        slug = _slug(scope["path"], self._below)
        return self._application(scope, receive, send) if slug is None else self._answer(slug, scope, receive, send)

    async def _answer(self, slug: str, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["method"] not in _METHODS:
                raise method_not_allowed(", ".join(_METHODS))
            question, known = await self._runner.resolve(slug, scope["query_string"])
            gzip, unchanged = _conditions(scope, question, known)
            if unchanged is None:
                answer = await self._runner.answer(question, known)
                headers = caching_headers(answer.tag, answer.max_age_s, answer.age_s)
                start, body = _answered(scope["method"], answer.told, headers, gzip=gzip)
            else:
                start, body = _not_modified([*caching_headers(unchanged, known.entry.cache_ttl_seconds, 0)])
        except ServiceError as error:
            await failure(error)(scope, receive, send)
            return
        await send(start)
        await send(body)


def _conditions(scope: Scope, question: Question, known: Known) -> tuple[bool, bytes | None]:
    """Whether the client takes gzip; and the tag of the answer, if the client says that it has that already."""
    gzip, if_none_match = False, []
    for name, value in scope["headers"]:
        if name == b"accept-encoding":
            gzip = accepts_gzip(value)
        elif name == b"if-none-match":
            if_none_match.append(value)
    if if_none_match and known.entry.cache_ttl_seconds and not known.degraded and not question.asked.fresh:
        tag = question.tag(known.entry.version)
        if any(is_known(tag, value) for value in if_none_match):
            return gzip, tag
    return gzip, None


async def _send(start: Message, body: Message, send: Send) -> None:
    await send(start)
    await send(body)


def _slug(path: str, below: str) -> str | None:
    """The slug in `{below}{slug}/run`; None if the path is another one."""
    if not path.startswith(below) or not path.endswith(_RUN):
        return None
    slug = path[len(below) : -len(_RUN)]
    return slug if slug and "/" not in slug else None


def _not_modified(headers: list[tuple[bytes, bytes]]) -> tuple[Message, Message]:
    return {"type": "http.response.start", "status": 304, "headers": headers}, _NO_BODY


def _answered(method: str, told: Told, headers: _Headers, *, gzip: bool) -> tuple[Message, Message]:
    """The answer for a client that takes gzip or does not."""
    compressed = told.compressed() if gzip else None
    body = told.body if compressed is None else compressed
    described = [_JSON, *headers, (b"content-length", b"%d" % len(body))]
    if compressed is not None:
        described.append(_GZIP)
    start: Message = {"type": "http.response.start", "status": 200, "headers": described}
    return start, _NO_BODY if method == "HEAD" else {"type": "http.response.body", "body": body}
