"""The catalogue as this process knows it: which reports there are, and which version of each is current.

A cached answer must not cost a query, and yet must never be older than a recomputation that somebody was told
is complete. Both hold by a lease. A listener polls the catalogue several times per `LEASE_S`; what a poll saw
may be trusted for `LEASE_S` from the moment *before* it was sent, by the monotonic clock. A worker
waits `LEASE_S` after its last commit before it calls the run completed (`recompute.worker`). So whoever
saw "completed" asks later than the end of every lease from before that commit:

    process:   poll sees v4 ──── lease ────┤ (may answer v4)      ├─ poll sees v5
    worker:         commit v5 ─────────── LEASE_S ──────────┤ run completed
    client:                                                    sees completed, asks, gets v5

`NOTIFY` only makes the next poll come sooner. When a lease has run out, a request reads the catalogue
itself; when that fails, PostgreSQL is lost and what is known is used, marked as degraded.

A cached answer also says how many of its buckets are stale. The days that are come with the same poll, read before the
versions and believed after them: a day that a rebuild has just made fresh is then at worst still called stale, and the
old numbers of a day are never called fresh because its rebuild was noticed before its version.
"""

import asyncio
import math
import time
from dataclasses import replace
from typing import Final

import msgspec
import structlog

from pg_analytics.errors import not_found
from pg_analytics.postgres.listener import Listener
from pg_analytics.postgres.pool import LOST, Connection, Postgres, lost
from pg_analytics.reports import store
from pg_analytics.reports.cache import ReportCache
from pg_analytics.reports.definition import builtin_definitions
from pg_analytics.reports.memory import Memory
from pg_analytics.reports.staleness import StaleDays, Staleness
from pg_analytics.reports.store import CatalogEntry
from pg_analytics.snapshots.rebuild import VERSIONS_CHANNEL

_log: Final = structlog.get_logger(__name__)

#: How long a process may trust the versions that it read, in seconds.
LEASE_S: Final = 1.0

_POLL_S: Final = LEASE_S / 4
_DIRECT_READ_S: Final = 1.0
_MIRROR_S: Final = 10.0
#: How long requests take a PostgreSQL that refused a connection for lost, before one of them tries again.
_REFUSED_RETRY_S: Final = 0.02


class Known(msgspec.Struct, frozen=True, gc=False):
    """A report, and whether PostgreSQL was lost when it was looked up."""

    entry: CatalogEntry
    degraded: bool


async def install_builtin_reports(connection: Connection) -> None:
    """Enter the reports that come with the service into the catalogue, where they are missing."""
    async with connection.transaction():
        for definition in builtin_definitions().values():
            await store.install_report(connection, definition)


class Catalog:
    """Looks reports up in memory while the lease holds."""

    def __init__(self, url: str, postgres: Postgres, cache: ReportCache, memory: Memory) -> None:
        self._postgres = postgres
        self._cache = cache
        self._memory = memory
        self._entries: dict[str, CatalogEntry] = {}
        #: The entries but for their versions: the same objects until something else of them changes.
        self._shapes: dict[str, CatalogEntry] = {}
        self._staleness = Staleness(lifetime_s=LEASE_S)
        self._lease_ends = 0.0
        self._lost = False
        self._retry_at = 0.0
        self._mirrored: dict[str, int] = {}
        self._mirror_due = 0.0
        self._reading = asyncio.Lock()
        self._listener = Listener(
            url,
            VERSIONS_CHANNEL,
            beat_s=_POLL_S,
            on_beat=self._poll,
            on_lost=self._mark_lost,
        )

    async def start(self) -> None:
        """Begin to follow the catalogue."""
        await self._listener.start()

    async def stop(self) -> None:
        """Stop following it."""
        await self._listener.stop()

    async def lookup(self, slug: str) -> Known:
        """The report `slug`; 404 if there is none, 503 if PostgreSQL is lost and nothing is known."""
        degraded = not (self._leased() or await self._read())
        entry = self._entries.get(slug)
        if entry is not None:
            return Known(entry, degraded)
        if degraded and not self._entries:
            raise lost()
        raise not_found("report")

    def current_version(self, slug: str) -> int | None:
        """The version of the report `slug`, if it is known without asking anybody."""
        entry = self._entries.get(slug) if self._leased() else None
        return None if entry is None else entry.version

    def heard(self, slug: str, version: int) -> None:
        """A statement has seen this version of the report `slug`: it may be newer than the last look."""
        entry = self._entries.get(slug)
        if entry is not None and version > entry.version:
            self._entries[slug] = replace(entry, version=version)
            self._memory.forget_older(slug, version)

    def shape(self, slug: str) -> CatalogEntry | None:
        """The report `slug` but for its version: another object once anything else of it has changed."""
        return self._shapes.get(slug)

    def stale_days(self, rollup: str) -> StaleDays | None:
        """Days with changes that no rebuild has seen, the same object while they stay the same; None if not known."""
        return self._staleness.known(rollup)

    def _leased(self) -> bool:
        return time.monotonic() < self._lease_ends

    async def _read(self) -> bool:
        """Read the catalogue for a request whose lease has run out; False if PostgreSQL is lost."""
        async with self._reading:
            # Whoever waited here learns what the one before found out, a loss included: waits must not add up.
            if self._leased():
                return True
            if self._lost and time.monotonic() < self._retry_at:
                return False
            started = time.monotonic()
            try:
                async with asyncio.timeout(_DIRECT_READ_S), self._postgres.borrowed() as connection:
                    self._accept(await store.read_catalog(connection), started)
            except LOST as error:
                self._lost = True
                # To be refused costs nothing. A server that hangs costs time: it is left to the listener.
                self._retry_at = math.inf if isinstance(error, TimeoutError) else time.monotonic() + _REFUSED_RETRY_S
                return False
            self._lost = False
            return True

    async def _poll(self, connection: Connection) -> None:
        look = await self._staleness.look(connection)
        started = time.monotonic()
        self._accept(await store.read_catalog(connection), started)
        if look is not None:
            self._staleness.accept(look)
        self._lost, self._retry_at = False, 0.0
        await self._mirror()

    def _accept(self, entries: dict[str, CatalogEntry], started: float) -> None:
        lease_ends = started + LEASE_S
        if lease_ends < self._lease_ends:
            return  # a later read, on another connection, was quicker
        # It may yet have seen the older state: a version never goes back.
        self._entries = {
            slug: replace(entry, version=max(entry.version, self._version_of(entry))) for slug, entry in entries.items()
        }
        shapes = {slug: replace(entry, version=0) for slug, entry in entries.items()}
        if shapes != self._shapes:
            self._shapes = {
                slug: known if (known := self._shapes.get(slug)) == shape else shape for slug, shape in shapes.items()
            }
        for entry in self._entries.values():
            self._memory.forget_older(entry.slug, entry.version)
        # An empty catalogue is one that is being set up. Its reports are asked for the moment that they are there.
        self._lease_ends = lease_ends if entries else 0.0

    def _version_of(self, entry: CatalogEntry) -> int:
        known = self._entries.get(entry.slug)
        return known.version if known is not None and known.cache_epoch == entry.cache_epoch else 0

    def _mark_lost(self) -> None:
        self._lost = True

    async def _mirror(self) -> None:
        """Raise the versions in Redis when they moved, and now and then in case Redis forgot them."""
        versions = {slug: entry.version for slug, entry in self._entries.items()}
        if versions != self._mirrored or time.monotonic() >= self._mirror_due:
            self._mirrored, self._mirror_due = versions, time.monotonic() + _MIRROR_S
            await self._cache.mirror_versions(versions)
