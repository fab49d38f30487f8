"""What clients were told, and when, and what of it must not be: stale answers, mixed ones, and two under one tag.

Numbers are of *generations*: what is told of a subject (some days) belongs to one of them, or to none, and then it is
mixed. A history is judged when it is over. It knows nothing of how the service comes to its answers; times are of one
monotonic clock, that of the clients: `asked_at` from before a request was sent, `told_at` from after its answer was
there, so a judgement errs only towards the service.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

#: An answer that did not come: refused, or cut off.
NONE: Final = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a question about a subject.

    `generation` is that of its rows (None: of no generation, so they are mixed, or there are none). Of a 304, rows and
    generation are those that the client has under the tag which it sent. `source` says where rows come from.
    """

    service: str
    report: str
    question: str
    subject: str
    asked_at: float
    told_at: float
    status: int
    tag: str | None = None
    source: str | None = None
    degraded: bool = False
    compressed: bool = False
    rows: str | None = None
    generation: int | None = None

    @property
    def kind(self) -> str:
        """What kind of answer it is, for counting."""
        if self.status == 200:
            return f"degraded, {self.source}" if self.degraded else str(self.source)
        return {304: "not modified", NONE: "none"}.get(self.status, str(self.status))

    @property
    def is_vouched_for(self) -> bool:
        """Whether the service says that this is how things are."""
        return self.status in {200, 304} and not self.degraded

    @property
    def version(self) -> int | None:
        """The version of the report that the tag names: `W/"5-…"` is of version 5."""
        return None if self.tag is None else int(self.tag.removeprefix('W/"').partition("-")[0])


@dataclass(frozen=True, slots=True)
class Completed:
    """At `told_at` somebody was told that a run is completed which began after `generation` was written."""

    subject: str
    generation: int
    told_at: float


@dataclass(slots=True)
class Trouble:
    """What `service` needs was taken away from it, from `began` to `ended`: it may fail, and it may be degraded."""

    service: str
    began: float
    ended: float = float("inf")


@dataclass(slots=True)
class History:
    """Everything that was told. Threads may append."""

    answers: list[Answer] = field(default_factory=list)
    completed: list[Completed] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)

    def kinds(self, service: str) -> Counter[str]:
        """How many answers of each kind a service gave."""
        return Counter(answer.kind for answer in self.answers if answer.service == service)

    def complaints(self) -> list[str]:
        """Everything that must not be, one line each."""
        return [
            f"{meaning}: {found}"
            for meaning, search in (
                ("mixed", self._mixed),
                ("stale", self._stale),
                ("two answers under one tag", self._ambiguous),
                ("a version went back", self._gone_back),
                ("degraded, and yet to be kept", self._kept_though_degraded),
                ("no answer, and no trouble", self._unexplained),
            )
            for found in search()
        ]

    def _mixed(self) -> Iterator[str]:
        yield from (str(answer) for answer in self.answers if answer.status == 200 and answer.generation is None)

    def _stale(self) -> Iterator[str]:
        """Asked after somebody was told that a run is completed, and answered from before it."""
        for subject in {completed.subject for completed in self.completed}:
            told = sorted((c for c in self.completed if c.subject == subject), key=attrgetter("told_at"))
            times = [completed.told_at for completed in told]
            newest = [max(c.generation for c in told[: n + 1]) for n in range(len(told))]
            for answer in self.answers:
                before = bisect_left(times, answer.asked_at)
                if answer.subject != subject or not answer.is_vouched_for or not before:
                    continue
                if answer.generation is not None and answer.generation < newest[before - 1]:
                    late = answer.asked_at - times[bisect_left(newest, answer.generation + 1)]
                    yield f"{newest[before - 1]} was completed {late:.3f} s before the question; {answer}"

    def _ambiguous(self) -> Iterator[str]:
        """One tag stands for one answer, whichever process gives it."""
        first: dict[tuple[str, str], Answer] = {}
        for answer in self.answers:
            if answer.status == 200 and answer.tag is not None:
                same = first.setdefault((answer.report, answer.tag), answer)
                if same.rows != answer.rows or same.question != answer.question:
                    yield f"{same} and {answer}"

    def _gone_back(self) -> Iterator[str]:
        """A process that has told of a version tells of no older one to whoever asks afterwards."""
        tagged: dict[tuple[str, str], list[Answer]] = defaultdict(list)
        for answer in self.answers:
            if answer.tag is not None:
                tagged[answer.service, answer.report].append(answer)
        for answers in tagged.values():
            told = sorted(answers, key=attrgetter("told_at"))
            newest, position = told[0], 0
            for answer in sorted(answers, key=attrgetter("asked_at")):
                while told[position].told_at < answer.asked_at:
                    newest = max(newest, told[position], key=attrgetter("version"))
                    position += 1
                if newest.told_at < answer.asked_at and (newest.version or 0) > (answer.version or 0):
                    yield f"{newest} and then {answer}"

    def _kept_though_degraded(self) -> Iterator[str]:
        yield from (str(answer) for answer in self.answers if answer.degraded and answer.tag is not None)

    def _unexplained(self) -> Iterator[str]:
        """200 and 304 are answers; 503, or none at all, is for those in trouble; anything else is for nobody."""
        failed = [answer for answer in self.answers if answer.status not in {200, 304}]
        yield from (str(each) for each in failed if each.status not in {503, NONE} or not self._in_trouble(each))

    def _in_trouble(self, answer: Answer) -> bool:
        return any(
            trouble.service == answer.service and trouble.began <= answer.told_at and answer.asked_at <= trouble.ended
            for trouble in self.troubles
        )
