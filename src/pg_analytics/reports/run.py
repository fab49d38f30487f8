"""Running a report: version first, then the cache, then PostgreSQL, and the answer stored under that version."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from pg_analytics.errors import not_found
from pg_analytics.http import envelope
from pg_analytics.http.params import Query
from pg_analytics.postgres.pool import Postgres, lost
from pg_analytics.reports import parameters, store
from pg_analytics.reports.cache import ReportCache, entry_key
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
        clock: Callable[[], datetime],
    ) -> None:
        self._catalog = catalog
        self._cache = cache
        self._postgres = postgres
        self._max_range_days = max_range_days
        self._clock = clock

    async def run(self, slug: str, query: Query) -> Answer:
        """The answer to `query`; `ServiceError` 404, 400, or 503 when it is not cached and PostgreSQL is lost."""
        known = await self._catalog.lookup(slug)
        definition = builtin_definitions().get(slug)
        if definition is None:
            raise not_found("report")
        asked = parameters.read(query, definition, known.entry, now=self._clock(), max_days=self._max_range_days)
        key = entry_key(known.entry, await self._version(known), asked.identity())
        ttl_s = known.entry.cache_ttl_seconds
        hit = await self._cache.get(key) if ttl_s > 0 else None
        if known.degraded:
            if hit is None:
                raise lost()
            return Answer(_marked_degraded(hit), 0)
        if hit is not None:
            return Answer(hit, ttl_s)
        miss, hit = await self._compute(definition, asked)
        await self._cache.put(key, hit, ttl_s=ttl_s)
        return Answer(miss, ttl_s)

    async def _version(self, known: Known) -> int:
        """The version to answer from. With PostgreSQL lost, another process may have known a newer one."""
        if not known.degraded:
            return known.entry.version
        return max(known.entry.version, await self._cache.mirrored_version(known.entry.slug))

    async def _compute(self, definition: ReportDefinition, asked: RunParameters) -> tuple[bytes, bytes]:
        """The body of this answer, and the body of the hits that will follow it."""
        started = time.perf_counter()
        async with self._postgres.connection() as connection:
            found = await store.run_report(
                connection,
                definition.statement(asked.breakdown),
                days=asked.days,
                window=asked.window,
                limit=asked.limit,
                offset=asked.offset,
                filters=list(asked.filters.values()),
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
        meta = _meta(asked, found)
        return (
            envelope.body(data | {"cache_hit": False, "source_system": "postgres"}, meta | {"cache_hit": False}),
            envelope.body(data | {"cache_hit": True, "source_system": "redis"}, meta | {"cache_hit": True}),
        )


def _meta(asked: RunParameters, found: ReportRows) -> dict[str, Any]:
    meta = envelope.pagination(limit=asked.limit, offset=asked.offset, total=found.total)
    meta["covers"] = {"from": asked.days.start, "to": asked.days.last}
    if found.computed_at is not None:
        meta["computed_at"] = found.computed_at.astimezone(UTC)
    return meta


class _Kept(msgspec.Struct):
    data: msgspec.Raw
    meta: dict[str, Any]


def _marked_degraded(hit: bytes) -> bytes:
    kept = msgspec.json.decode(hit, type=_Kept)
    return envelope.body(kept.data, kept.meta | {"degraded": True})
