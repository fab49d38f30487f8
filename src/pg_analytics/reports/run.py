"""Running a report: version first, then memory, Redis and PostgreSQL.

What PostgreSQL answers is kept under the version that its snapshot has, which may be newer than the one that was asked
for. So a version, and a tag, stands for one answer, whichever process gives it.

A fresh answer goes past the caches both ways: it is of one moment, which no version names.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from contextvars import Context
from datetime import UTC, date, datetime
from heapq import nlargest
from typing import Any, Final

import msgspec

from pg_analytics.errors import ErrorCode, ServiceError, not_found
from pg_analytics.http import envelope
from pg_analytics.http.params import Query
from pg_analytics.postgres.pool import lost
from pg_analytics.reports import parameters, store
from pg_analytics.reports.batches import Batches
from pg_analytics.reports.cache import (
    ReportCache,
    entry_key,
    from_memory,
    from_postgres,
    identity_of,
    took_ms,
    with_meta,
)
from pg_analytics.reports.catalog import Catalog, Known
from pg_analytics.reports.definition import ReportDefinition, builtin_definitions
from pg_analytics.reports.memory import Kept, Memory, Told
from pg_analytics.reports.parameters import DATE_TO, RunParameters
from pg_analytics.reports.single_flight import SingleFlight
from pg_analytics.reports.staleness import StaleDays
from pg_analytics.reports.store import CatalogEntry, ReportCall, ReportRows

#: Requests whose meaning is kept in mind, and the longest query string of one.
_REMEMBERED: Final = 10_000
_REMEMBERED_BYTES: Final = 512
#: How long a process waits for another one that computes the same answer, and how often it looks.
_FLEET_PATIENCE_S: Final = 2.0
_FLEET_LOOK_S: Final = 0.025


class Question(msgspec.Struct, frozen=True, gc=False):
    """What a question means. Equal requests have one `identity`. It means so for as long as the report's `shape` in the
    catalogue stays, and, where it does not say until when (`today`), the day.
    """

    slug: str
    definition: ReportDefinition
    shape: CatalogEntry
    asked: RunParameters
    identity: str
    today: date | None

    def tag(self, version: int) -> bytes:
        """The entity tag, but for its `W/`, of the answer of `version`: rows and all that stays true of them."""
        return b'"%d-%b"' % (version, self.identity[:32].encode())


class Answer(msgspec.Struct, frozen=True, gc=False):
    """An answer. `max_age_s` is for how many seconds it may be kept from the moment that was `age_s` ago; None: not at
    all, and then it has no `tag`.
    """

    told: Told
    tag: bytes | None = None
    max_age_s: int | None = None
    age_s: int = 0


class _Computed(msgspec.Struct, frozen=True, gc=False):
    """What a flight brought: the body of a hit and its tag, and, if it comes from PostgreSQL, what was true of that
    moment.
    """

    tag: bytes
    hit: bytes
    momentary: Mapping[str, object] | None = None

    def tell(self, momentary: Mapping[str, object]) -> bytes:
        """The body of the answer. A hit is told with what is `momentary` now."""
        if self.momentary is None:
            return with_meta(self.hit, momentary)
        return with_meta(from_postgres(self.hit), self.momentary)


class ReportRunner:
    """Answers requests for reports."""

    def __init__(
        self,
        catalog: Catalog,
        cache: ReportCache,
        memory: Memory,
        batches: Batches[ReportCall, ReportRows],
        *,
        max_range_days: int,
        max_fresh_days: int,
        warm_up: int,
        clock: Callable[[], datetime],
    ) -> None:
        """`max_fresh_days` bounds how many days' events a fresh answer may count; `warm_up` how many answers of a
        report are computed again, once its version has moved on, before anybody asks for them.
        """
        self._catalog = catalog
        self._cache = cache
        self._memory = memory
        self._batches = batches
        self._max_range_days = max_range_days
        self._max_fresh_days = max_fresh_days
        self._clock = clock
        self._flights: SingleFlight[_Computed] = SingleFlight()
        self._questions: OrderedDict[tuple[str, bytes], Question] = OrderedDict()
        self._warm_up = warm_up
        self._favourites: dict[str, list[Question]] = {}
        self._warming: asyncio.Task[None] | None = None
        if warm_up:
            memory.on_outdated = self._remember_favourites

    def recall(self, slug: str, query: bytes) -> Question | None:
        """What a request means, if it came before and means the same today."""
        question = self._questions.get((slug, query))
        return question if question is not None and self._holds(question) else None

    def _holds(self, question: Question) -> bool:
        """Whether a request would still mean that."""
        if question.shape is not self._catalog.shape(question.slug):
            return False
        return question.today is None or question.today == self._clock().date()

    def recent(self, question: Question, version: int) -> tuple[Kept, int] | None:
        """The answer of `version` in memory, and how many seconds ago its time to live began: no query, no wait."""
        kept = self._memory.get(question.slug, version, question.identity)
        if kept is None:
            return None
        age_s = time.monotonic() - kept.since
        if age_s > question.shape.cache_ttl_seconds:
            # Its version is current, so it is right: another life, in Redis too.
            kept.since, age_s = time.monotonic(), 0.0
            self._renew(question, version, kept)
        return kept, int(age_s)

    def tell(self, question: Question, kept: Kept) -> Told:
        """The answer as it is true at this moment."""
        stale = self._catalog.stale_days(question.definition.rollup)
        if kept.told is not None and kept.moment is stale:
            return kept.told
        return kept.tell(_momentary(question, stale), stale)

    async def resolve(self, slug: str, query: bytes) -> tuple[Question, Known]:
        """What a request means, and what is known of its report; `ServiceError` 404, 400, or 503 when PostgreSQL is
        lost and nothing is known.
        """
        known = await self._catalog.lookup(slug)
        if (recalled := self.recall(slug, query)) is not None:
            return recalled, known
        definition = builtin_definitions().get(slug)
        shape = self._catalog.shape(slug)
        if definition is None or shape is None:
            raise not_found("report")
        given, now = Query(query), self._clock()
        asked = parameters.read(given, definition, known.entry, now=now, max_days=self._max_range_days)
        today = now.date() if given.value(DATE_TO) is None else None
        question = Question(slug, definition, shape, asked, identity_of(known.entry, asked), today)
        # Not at once: what is asked for once may never be asked for again.
        if len(query) <= _REMEMBERED_BYTES and self._memory.has(slug, known.entry.version, question.identity):
            if len(self._questions) >= _REMEMBERED:
                self._questions.popitem(last=False)
            self._questions[slug, query] = question
        return question, known

    def answer(self, question: Question, known: Known) -> Awaitable[Answer]:
        """The answer; `ServiceError` 422 when there is too much to count for a fresh one, or 503 when PostgreSQL is
        lost or has too much to do and the answer is not cached.
        """
        return (self._fresh if question.asked.fresh else self._cached)(question, known)

    def _remember_favourites(self, slug: str, outdated: list[Kept]) -> None:
        favourites = nlargest(self._warm_up, outdated, key=lambda kept: kept.asked)
        self._favourites[slug] = [kept.question for kept in favourites if isinstance(kept.question, Question)]
        if self._warming is None:
            # A context of its own: the request that learned of the version has nothing to do with it.
            self._warming = asyncio.create_task(self._warm(), name="warm-up", context=Context())

    async def _warm(self) -> None:
        """Compute the favourites anew, one after the other, so that they take one place at most."""
        try:
            while self._favourites:
                _, questions = self._favourites.popitem()
                for question in questions:
                    await self._warm_one(question)
        finally:
            self._warming = None

    async def _warm_one(self, question: Question) -> None:
        if not self._holds(question):
            return
        with suppress(ServiceError):  # whoever asks will be told
            known = await self._catalog.lookup(question.slug)
            if not known.degraded:
                await self._cached(question, known)

    async def _cached(self, question: Question, known: Known) -> Answer:
        """What the snapshots say, from the nearest cache that has it."""
        if known.degraded:
            return Answer(await self._degraded(question, known))
        version, ttl_s = known.entry.version, known.entry.cache_ttl_seconds
        if ttl_s == 0:
            data, meta, momentary, _ = await self._compute(question)
            return Answer(Told(_body_from_postgres(data, meta | momentary)))
        if (found := self.recent(question, version)) is not None:
            kept, age_s = found
            return Answer(self.tell(question, kept), kept.tag, ttl_s, age_s)
        key = entry_key(question.slug, version, question.identity)
        computed = await self._flights.join(key, lambda: self._fetch(question, version, key, ttl_s))
        stale = self._catalog.stale_days(question.definition.rollup)
        return Answer(Told(computed.tell(_momentary(question, stale))), computed.tag, ttl_s)

    async def _fetch(self, question: Question, version: int, key: str, ttl_s: int) -> _Computed:
        """From Redis, from whoever computes it already, or from PostgreSQL."""
        hit = await self._follow(key, ttl_s)
        if hit is not None:
            return _Computed(self._remember(question, version, hit, took_ms(hit)), hit)
        try:
            data, meta, momentary, seen = await self._compute(question)
        except BaseException:
            self._cache.give_up(key)
            raise
        hit = envelope.body(data | {"cache_hit": True, "source_system": "redis"}, meta | {"cache_hit": True})
        if seen > version:  # it is lower only where a backup was restored under a running process
            version = seen
            self._cache.put(entry_key(question.slug, version, question.identity), hit, ttl_s=ttl_s)
            self._cache.give_up(key)
        else:
            self._cache.put(key, hit, ttl_s=ttl_s)
        return _Computed(self._remember(question, version, hit, data["execution_ms"]), hit, momentary)

    def _remember(self, question: Question, version: int, hit: bytes, cost_ms: int) -> bytes:
        """Keep an answer; its tag."""
        tag = question.tag(version)
        about = question if self._warm_up else None
        self._memory.put(question.slug, version, question.identity, hit, tag=tag, cost_ms=cost_ms, question=about)
        return tag

    async def _follow(self, key: str, ttl_s: int) -> bytes | None:
        """The body under `key`, once another process has put it there; None: we are to do that."""
        waits_until = time.monotonic() + _FLEET_PATIENCE_S
        while True:
            hit, leading = await self._cache.get_or_lead(key, ttl_s=ttl_s)
            if hit is not None or leading or time.monotonic() >= waits_until:
                return hit
            await asyncio.sleep(_FLEET_LOOK_S)

    async def _degraded(self, question: Question, known: Known) -> Told:
        """What was the answer when PostgreSQL was there last, until its time is up: of the version that Redis knows of,
        since another process may have heard of a newer one.
        """
        mirrored = await self._cache.mirrored_version(question.slug)
        kept = self._memory.get(question.slug, mirrored, question.identity)
        if kept is not None and time.monotonic() - kept.since <= known.entry.cache_ttl_seconds:
            return Told(with_meta(from_memory(kept.hit), {"degraded": True}))
        version = max(known.entry.version, mirrored)
        hit = await self._cache.get(entry_key(question.slug, version, question.identity))
        if hit is None:
            raise lost()
        return Told(with_meta(hit, {"degraded": True}))

    async def _fresh(self, question: Question, known: Known) -> Answer:
        """What the events say at this moment."""
        if known.degraded:
            raise lost()
        data, meta, momentary, _ = await self._compute(question, max_fresh_days=self._max_fresh_days)
        return Answer(Told(_body_from_postgres(data, meta | momentary | {"fresh": True})))

    async def _compute(
        self, question: Question, *, max_fresh_days: int | None = None
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, int], int]:
        """What PostgreSQL answers: `data` but for where it comes from, `meta` for as long as the version holds, what is
        true of this moment, and the version.
        """
        asked, definition = question.asked, question.definition
        call = store.report_call(
            definition,
            asked.breakdown,
            days=asked.days,
            window=asked.window,
            limit=asked.limit,
            offset=asked.offset,
            filters=list(asked.filters.values()),
            max_fresh_days=max_fresh_days,
        )
        found = await self._batches.ask(call.statement, call, share=call.share)
        self._catalog.heard(question.slug, found.version)
        if max_fresh_days is not None and found.fresh_days is not None and found.fresh_days > max_fresh_days:
            raise _too_stale(found.fresh_days, max_fresh_days)
        data = {
            "report_slug": definition.slug,
            "window": asked.window.value,
            "date_from": asked.date_from,
            "date_to": asked.date_to,
            "generated_at": self._clock(),
            "rows": msgspec.Raw(found.rows.encode()),
            "row_count": found.row_count,
            "execution_ms": round(found.took_s * 1000),
        }
        return data, _meta(asked, found), _told(found.stale_buckets), found.version

    def _renew(self, question: Question, version: int, kept: Kept) -> None:
        key = entry_key(question.slug, version, question.identity)
        self._cache.put(key, kept.hit, ttl_s=question.shape.cache_ttl_seconds)


def _body_from_postgres(data: dict[str, Any], meta: dict[str, Any]) -> bytes:
    return envelope.body(data | {"cache_hit": False, "source_system": "postgres"}, meta | {"cache_hit": False})


def _meta(asked: RunParameters, found: ReportRows) -> dict[str, Any]:
    """What stays true of an answer for as long as the report's version does."""
    meta = envelope.pagination(limit=asked.limit, offset=asked.offset, total=found.total)
    meta["covers"] = {"from": asked.days.start, "to": asked.days.last}
    if found.computed_at is not None:
        meta["computed_at"] = found.computed_at.astimezone(UTC)
    if found.retained_from is not None:
        meta["retained_from"] = found.retained_from
    return meta


def _momentary(question: Question, stale: StaleDays | None) -> dict[str, int]:
    """What is true of an answer at this moment only."""
    return _told(None if stale is None else stale.count_buckets(question.asked.days, question.asked.window))


def _told(stale_buckets: int | None) -> dict[str, int]:
    """How stale an answer is, where that is known: true of the moment of asking only, so never kept."""
    return {} if stale_buckets is None else {"stale_buckets": stale_buckets}


def _too_stale(stale_days: int, most: int) -> ServiceError:
    return ServiceError(
        ErrorCode.UNPROCESSABLE,
        f"{stale_days} days of the range have changes that no rebuild has seen yet; a fresh answer counts the events "
        f"of at most {most}: wait until the snapshots have caught up, recompute the range, or ask for fewer days",
        details={"stale_days": stale_days, "max": most},
    )
