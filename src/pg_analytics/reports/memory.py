"""Answers kept in this process: a bounded number of bytes, of which the least valuable leave first.

What an answer is worth is what it would cost without it: how often it was asked for, times how long it takes to
compute, per byte. When there is no more room, all are weighed, the least valuable tenth of the bytes leaves, and the
counts of the others are halved, so that yesterday's favourite does not stay for ever, however slow it was. A weighing
costs time in proportion to the answers that are kept, and happens once for each tenth of the bytes that comes in, so an
answer's share of it is small.

An answer belongs to a version of its report. When that moves on, all answers of older versions leave at once.
"""

import gzip
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pg_analytics.reports.cache import from_memory, took_ms, with_meta

#: Bytes that an answer takes beside its body, about.
_OVERHEAD: Final = 1024
#: How many times its body: as it is kept, as it was last told, and that compressed.
_COPIES: Final = 2.5
_KEEP: Final = 0.9
#: Shorter bodies fit into a packet or two as they are.
_WORTH_COMPRESSING: Final = 1024
_COMPRESSION_LEVEL: Final = 6


@dataclass(slots=True)
class Told:
    """A body as it goes out, and, once somebody wanted it so, compressed."""

    body: bytes
    _compressed: bytes | None = None

    def compressed(self) -> bytes | None:
        """The body as gzip; None if it is not worth it."""
        if len(self.body) < _WORTH_COMPRESSING:
            return None
        if self._compressed is None:
            self._compressed = gzip.compress(self.body, _COMPRESSION_LEVEL, mtime=0)
        return self._compressed


@dataclass(slots=True)
class Kept:
    """An answer of one version of its report. `since`, of the monotonic clock, is when its time to live began.

    `told` is the answer as it went out last; it may go out again while `moment` is still the same object.
    """

    tag: bytes
    hit: bytes
    since: float
    asked: float = 1.0
    told: Told | None = None
    moment: object = None

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        return int(_OVERHEAD + _COPIES * len(self.hit))

    @property
    def value(self) -> float:
        """What keeping it is worth, per byte."""
        return self.asked * (1 + took_ms(self.hit)) / self.size

    def tell(self, momentary: Mapping[str, object], moment: object) -> Told:
        """The answer with what is true of this `moment` only."""
        self.told, self.moment = Told(with_meta(from_memory(self.hit), momentary)), moment
        return self.told


@dataclass(slots=True)
class _OfReport:
    version: int
    answers: dict[str, Kept] = field(default_factory=dict)


class Memory:
    """The answers of this process."""

    def __init__(self, *, max_bytes: int) -> None:
        """0 bytes keep nothing."""
        self._max_bytes = max_bytes
        self._reports: dict[str, _OfReport] = {}
        self.bytes = 0

    def get(self, slug: str, version: int, key: str) -> Kept | None:
        """The answer under `key`, if it is of `version`."""
        report = self._reports.get(slug)
        if report is None or report.version != version:
            return None
        kept = report.answers.get(key)
        if kept is not None:
            kept.asked += 1
        return kept

    def put(self, slug: str, version: int, key: str, tag: bytes, hit: bytes) -> None:
        """Keep the body of a hit, unless newer numbers are known or it would take too much of the room."""
        self.forget_older(slug, version)
        report = self._reports[slug]
        kept = Kept(tag, hit, time.monotonic())
        if version < report.version or kept.size > self._max_bytes / 10:
            return
        self._remove(report, key)
        report.answers[key] = kept
        self.bytes += kept.size
        if self.bytes > self._max_bytes:
            self._make_room()

    def forget_older(self, slug: str, version: int) -> None:
        """`version` of a report is known now: nobody asks for older ones any more."""
        report = self._reports.get(slug)
        if report is None or report.version < version:
            self._reports[slug] = _OfReport(version)
            self.bytes -= 0 if report is None else sum(kept.size for kept in report.answers.values())

    def _make_room(self) -> None:
        everything = [
            (kept.value, key, report) for report in self._reports.values() for key, kept in report.answers.items()
        ]
        everything.sort(key=lambda weighed: weighed[0])
        for _, key, report in everything:
            if self.bytes <= self._max_bytes * _KEEP:
                break
            self._remove(report, key)
        for report in self._reports.values():
            for kept in report.answers.values():
                kept.asked /= 2

    def _remove(self, report: _OfReport, key: str) -> None:
        kept = report.answers.pop(key, None)
        if kept is not None:
            self.bytes -= kept.size
