"""Answers kept in this process: a bounded number of bytes, of which the least valuable leave first.

What an answer is worth is what it would cost without it: how often it was asked for, times how long it takes to
compute, per byte. To that is added the worth of the last one that left, at the moment when this one was asked for: so
whatever nobody asks for any more is overtaken in the end, however popular it was. This is the policy that is known as
GreedyDual-Size-Frequency (L. Cherkasova, 1998). A heap finds the one that leaves, so that keeping an answer costs time
with the logarithm of how many are kept. Answers that were asked for since the heap was told of them are weighed anew
when they come up: their worth has only grown.

An answer belongs to a version of its report. When that moves on, all answers of older versions leave at once.
"""

import gzip
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final

import msgspec

from pg_analytics.reports.cache import from_memory, with_meta

#: Bytes that an answer takes beside its body, about.
_OVERHEAD: Final = 1024
#: How many times its body: as it is kept, as it was last told, and that compressed.
_COPIES: Final = 2.5
#: Shorter bodies fit into a packet or two as they are.
_WORTH_COMPRESSING: Final = 1024
_COMPRESSION_LEVEL: Final = 6


class Told(msgspec.Struct, gc=False):
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


class Kept(msgspec.Struct, eq=False, gc=False):
    """An answer of one version of its report. `since`, of the monotonic clock, is when its time to live began.
    `question` is what the caller wants to find with it.

    `told` is the answer as it went out last, with what was true of that moment: it goes out again for as long as that
    stays true.
    """

    question: object
    tag: bytes
    hit: bytes
    since: float
    size: int
    cost_ms: int
    asked: int = 0
    worth: float = 0.0
    gone: bool = False
    told: Told | None = None
    momentary: Mapping[str, object] | None = None
    #: What `momentary` was made of. The same object: it need not be made again.
    moment: object = None

    def tell(self, momentary: Mapping[str, object], moment: object) -> Told:
        """The answer with what is true of this `moment` only."""
        if self.told is None or self.momentary != momentary:
            self.told, self.momentary = Told(with_meta(from_memory(self.hit), momentary)), momentary
        self.moment = moment
        return self.told


@dataclass(slots=True)
class _OfReport:
    version: int
    answers: dict[str, Kept] = field(default_factory=dict)


class Memory:
    """The answers of this process."""

    def __init__(self, *, max_bytes: int) -> None:
        """0 bytes keep nothing."""
        #: Is told of the answers of a report that left since its version moved on.
        self.on_outdated: Callable[[str, list[Kept]], None] | None = None
        self._max_bytes = max_bytes
        self._reports: dict[str, _OfReport] = {}
        self._heap: list[tuple[float, int, _OfReport, str, Kept]] = []
        self._numbers = count()  # no two entries of the heap are equal, so that nothing else of them is compared
        self._floor = 0.0
        self.bytes = 0

    def get(self, slug: str, version: int, key: str) -> Kept | None:
        """The answer under `key`, if it is of `version`."""
        report = self._reports.get(slug)
        if report is None or report.version != version:
            return None
        kept = report.answers.get(key)
        if kept is not None:
            self._weigh(kept)
        return kept

    def has(self, slug: str, version: int, key: str) -> bool:
        """Whether there is an answer of `version` under `key`. It does not count as asked for."""
        report = self._reports.get(slug)
        return report is not None and report.version == version and key in report.answers

    def put(
        self, slug: str, version: int, key: str, hit: bytes, *, tag: bytes, cost_ms: int, question: object = None
    ) -> None:
        """Keep the body of a hit that took `cost_ms` to compute, unless newer numbers are known or it would take too
        much of the room.
        """
        self.forget_older(slug, version)
        report = self._reports[slug]
        kept = Kept(question, tag, hit, time.monotonic(), _OVERHEAD + int(_COPIES * len(hit)), 1 + cost_ms)
        if version < report.version or kept.size > self._max_bytes / 10:
            return
        self._remove(report, key)
        self._weigh(kept)
        report.answers[key] = kept
        self.bytes += kept.size
        self._enter(report, key, kept)
        while self.bytes > self._max_bytes:
            self._remove_least()

    def forget_older(self, slug: str, version: int) -> None:
        """`version` of a report is known now: nobody asks for older ones any more."""
        report = self._reports.get(slug)
        if report is not None and report.version >= version:
            return
        self._reports[slug] = _OfReport(version)
        if report is not None and report.answers:
            outdated = list(report.answers.values())
            for key in list(report.answers):
                self._remove(report, key)
            self._heap = [entry for entry in self._heap if not entry[-1].gone]
            heapify(self._heap)
            if self.on_outdated is not None:
                self.on_outdated(slug, outdated)

    def _weigh(self, kept: Kept) -> None:
        kept.asked += 1
        kept.worth = self._floor + kept.asked * kept.cost_ms / kept.size

    def _enter(self, report: _OfReport, key: str, kept: Kept) -> None:
        heappush(self._heap, (kept.worth, next(self._numbers), report, key, kept))

    def _remove_least(self) -> None:
        worth, _, report, key, kept = heappop(self._heap)
        if kept.gone:
            return
        if kept.worth > worth:
            self._enter(report, key, kept)
            return
        self._floor = worth
        self._remove(report, key)

    def _remove(self, report: _OfReport, key: str) -> None:
        kept = report.answers.pop(key, None)
        if kept is not None:
            kept.gone = True
            self.bytes -= kept.size
