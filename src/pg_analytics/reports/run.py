"""Running a report: version first, then the cache, then PostgreSQL, and the answer stored under that version.

A fresh answer goes past the cache both ways: it is of one moment, which no version names.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from pg_analytics.errors import ErrorCode, ServiceError, not_found
from pg_analytics.http import envelope
from pg_analytics.http.params import Query
from pg_analytics.postgres.pool import Postgres, lost
from pg_analytics.reports import parameters, store
from pg_analytics.reports.cache import ReportCache, entry_key, with_meta
from pg_analytics.reports.catalog import Catalog, Known
from pg_analytics.reports.definition import ReportDefinition, builtin_definitions
from pg_analytics.reports.parameters import RunParameters
from pg_analytics.reports.store import ReportRows


@dataclass(frozen=True, slots=True)
class Answer:
    """The JSON body of a report, and for how many seconds a client may keep it."""

    body: bytes
    max_age_s: int


class ReportRunner:
    """Answers requests for reports."""

    def __init__(
        self,
        catalog: Catalog,
        cache: ReportCache,
        postgres: Postgres,
        *,
        max_range_days: int,
        max_fresh_days: int,
        clock: Callable[[], datetime],
    ) -> None:
        """`max_fresh_days` bounds how many days' events a fresh answer may count."""
        self._catalog = catalog
        self._cache = cache
        self._postgres = postgres
        self._max_range_days = max_range_days
        self._max_fresh_days = max_fresh_days
        self._clock = clock

    async def run(self, slug: str, query: Query) -> Answer:
        """The answer to `query`; `ServiceError` 404, 400, 422 when there is too much to count for a fresh answer, or
        503 when PostgreSQL is lost and the answer is not cached.
        """
        known = await self._catalog.lookup(slug)
        definition = builtin_definitions().get(slug)
        if definition is None:
            raise not_found("report")
        asked = parameters.read(query, definition, known.entry, now=self._clock(), max_days=self._max_range_days)
        return await (self._fresh if asked.fresh else self._cached)(known, definition, asked)

    async def _cached(self, known: Known, definition: ReportDefinition, asked: RunParameters) -> Answer:
        """What the snapshots say, from the cache where it is there."""
        key = entry_key(known.entry, await self._version(known), asked.identity())
        ttl_s = known.entry.cache_ttl_seconds
        hit = await self._cache.get(key) if ttl_s > 0 else None
        if known.degraded:
            if hit is None:
                raise lost()
            return Answer(with_meta(hit, {"degraded": True}), 0)
        if hit is not None:
            stale_buckets = self._catalog.stale_buckets(definition.rollup, asked.days, asked.window)
            return Answer(with_meta(hit, _told(stale_buckets)), ttl_s)
        data, found = await self._compute(definition, asked)
        meta = _meta(asked, found)
        hit = envelope.body(data | {"cache_hit": True, "source_system": "redis"}, meta | {"cache_hit": True})
        await self._cache.put(key, hit, ttl_s=ttl_s)
        return Answer(_body_from_postgres(data, meta | _told(found.stale_buckets)), ttl_s)

    async def _fresh(self, known: Known, definition: ReportDefinition, asked: RunParameters) -> Answer:
        """What the events say at this moment."""
        if known.degraded:
            raise lost()
        data, found = await self._compute(definition, asked, max_fresh_days=self._max_fresh_days)
        if found.fresh_days is not None and found.fresh_days > self._max_fresh_days:
            raise _too_stale(found.fresh_days, self._max_fresh_days)
        meta = _meta(asked, found) | _told(found.stale_buckets) | {"fresh": True}
        return Answer(_body_from_postgres(data, meta), 0)

    async def _version(self, known: Known) -> int:
        """The version to answer from. With PostgreSQL lost, another process may have known a newer one."""
        if not known.degraded:
            return known.entry.version
        return max(known.entry.version, await self._cache.mirrored_version(known.entry.slug))

    async def _compute(
        self, definition: ReportDefinition, asked: RunParameters, *, max_fresh_days: int | None = None
    ) -> tuple[dict[str, Any], ReportRows]:
        """What PostgreSQL answers, and `data` made of it, but for where it comes from."""
        started = time.perf_counter()
        async with self._postgres.connection() as connection:
            found = await store.run_report(
                connection,
                definition,
                asked.breakdown,
                days=asked.days,
                window=asked.window,
                limit=asked.limit,
                offset=asked.offset,
                filters=list(asked.filters.values()),
                max_fresh_days=max_fresh_days,
            )
        data = {
            "report_slug": definition.slug,
            "window": asked.window.value,
            "date_from": asked.date_from,
            "date_to": asked.date_to,
            "generated_at": self._clock(),
            "rows": msgspec.Raw(found.rows.encode()),
            "row_count": found.row_count,
            "execution_ms": round((time.perf_counter() - started) * 1000),
        }
        return data, found


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
