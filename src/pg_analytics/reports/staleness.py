"""Which days are stale, as this process last saw them: a cached answer says so without a query."""

import time
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Final

import asyncpg

from pg_analytics.postgres.pool import Connection
from pg_analytics.reports import store
from pg_analytics.windows import DayRange, Window

#: Days that are kept in mind per rollup, the newest; whoever asks for older ones is not told.
_MOST_DAYS: Final = 5000
#: The log may be long where nobody rebuilds: between two looks, this many times what the last one took, or this many
#: seconds, if that is less: what takes so long waits for a lock.
_REST: Final = 20
_MAX_REST_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class StaleDays:
    """The stale days of a rollup from `known_from` on: per window, the first days of their buckets, ascending."""

    bucket_starts: dict[Window, list[date]]
    known_from: date

    @classmethod
    def of(cls, days: Iterable[date], *, known_from: date) -> "StaleDays":
        """Of the stale `days`, in any order."""
        listed = list(days)
        return cls({window: sorted({window.bucket_start(day) for day in listed}) for window in Window}, known_from)

    def count_buckets(self, covers: DayRange, window: Window) -> int | None:
        """How many buckets of `covers`, which is made of whole ones, are stale; None if that is not known."""
        if covers.start < self.known_from:
            return None
        starts = self.bucket_starts[window]
        return bisect_left(starts, covers.end) - bisect_left(starts, covers.start)


class Staleness:
    """What the last look at the stale days found, and when the next one is due."""

    def __init__(self, *, lifetime_s: float) -> None:
        """A look is good for `lifetime_s` seconds longer than the rest that follows it."""
        self._lifetime_s = lifetime_s
        self._listed: dict[str, list[date]] = {}
        self._stale: dict[str, StaleDays] = {}
        self._due = 0.0
        self._known_until = 0.0

    async def look(self, connection: Connection) -> "Look | None":
        """Look at the stale days, if it is time. What was seen is to be accepted later, by `accept`."""
        started = time.monotonic()
        if started < self._due:
            return None
        try:
            listed = await store.read_stale_days(connection, most=_MOST_DAYS)
        except (asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError):  # somebody holds the log; not a loss
            listed = {}
        rest_s = min(_REST * (time.monotonic() - started), _MAX_REST_S)
        self._due = started + rest_s
        return Look(listed, started + rest_s + self._lifetime_s)

    def accept(self, look: "Look") -> None:
        """Answer from `look` from now on."""
        self._known_until = look.known_until
        if look.listed != self._listed:
            self._listed = look.listed
            self._stale = {
                rollup: StaleDays.of(days, known_from=days[-1] if len(days) == _MOST_DAYS else date.min)
                for rollup, days in look.listed.items()
            }

    def known(self, rollup: str) -> StaleDays | None:
        """The stale days of `rollup`, the same object for as long as they stay the same; None if they are not known."""
        return self._stale.get(rollup) if time.monotonic() < self._known_until else None


@dataclass(frozen=True, slots=True)
class Look:
    """The stale days per rollup, newest first, and until when (monotonic clock) they may be told."""

    listed: dict[str, list[date]]
    known_until: float
