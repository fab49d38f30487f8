"""Who may ask PostgreSQL for a report, and together with whom: a few at a time, some who wait for a moment, and no
more.

A server that takes on more than it can do answers everybody late, and in the end nobody. Here those who are let in find
PostgreSQL as quick as ever; the others are told after a short wait to come back. They wait also where there is no hope
for them: who is sent away at once asks again at once, and to send the same clients away again and again would take the
time of those who are let in.

Short questions of one kind are answered together: to send a statement, to begin it and to be woken by its answer costs
more than the few rows that each of them reads. Nobody waits for company. A batch begins at once while fewer than two of
its kind are under way; whoever comes meanwhile goes with the next. So a question that comes alone is answered alone,
and the more of them come, the more share a statement. Databases write their logs in this way, and call it group commit.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from pg_analytics.errors import unavailable

Q = TypeVar("Q")
A = TypeVar("A")

#: How many batches of a kind begin at once: while the answers of one are handed out, PostgreSQL has another. A third
#: begins when it is full.
_AT_ONCE: Final = 2


class Batches(Generic[Q, A]):
    """Answers questions, a few batches at a time."""

    def __init__(
        self, answer: Callable[[list[Q]], Awaitable[Sequence[A]]], *, places: int, queue: int, patience_s: float
    ) -> None:
        """`answer` answers questions of one kind, in their order. At most `places` batches are under way; at most
        `queue` questions wait, each for at most `patience_s` seconds. Whoever comes when the queue is full has waited
        in vain after as many.
        """
        self._answer = answer
        self._free = places
        self._queue = queue
        self._patience_s = patience_s
        self._kinds: dict[str, _Kind[Q, A]] = {}
        self._waiting = 0
        self._beginning: asyncio.Handle | None = None
        self._sending_away: asyncio.TimerHandle | None = None

    async def ask(self, name: str, question: Q, *, share: float) -> A:
        """The answer; `ServiceError` (503) when there is no place to be had. Questions of the kind `name` go together,
        up to a sum of their `share` of 1: what has that goes alone.
        """
        kind = self._kinds.get(name)
        if kind is None:
            kind = self._kinds[name] = _Kind()
        loop = asyncio.get_running_loop()
        asked: _Asked[Q, A] = _Asked(question, share, loop.create_future(), loop.time())
        kind.add(asked)
        self._waiting += 1
        if self._waiting > self._queue:
            self._begin()
            if asked.batch is None:
                self._leave_queue(kind, asked)
                await asyncio.sleep(self._patience_s)
                raise _overloaded()
        elif self._beginning is None:
            # In a moment: those who ask at the same moment go along.
            self._beginning = loop.call_soon(self._begin)
        if self._sending_away is None:
            self._sending_away = loop.call_later(self._patience_s, self._send_away)
        try:
            return await asked.answer
        except asyncio.CancelledError:
            if asked.batch is not None:
                asked.batch.cancel_if_nobody_waits()
            elif asked in kind.queue:
                self._leave_queue(kind, asked)
            raise

    def _begin(self) -> None:
        """Begin whatever may begin, in the order of who has waited for longest."""
        self._beginning = None
        for kind in sorted(self._kinds.values(), key=_Kind.waits_since):
            while self._free and kind.may_begin:
                batch = kind.take()
                self._waiting -= len(batch.members)
                self._free -= 1
                # A context of its own: it is nobody's alone.
                batch.task = asyncio.create_task(self._perform(kind, batch), name="report-batch", context=Context())

    async def _perform(self, kind: "_Kind[Q, A]", batch: "_Batch[Q, A]") -> None:
        try:
            answers = await self._answer([asked.question for asked in batch.members])
        except BaseException as error:
            batch.fail(error)
            if not isinstance(error, Exception):
                raise
        else:
            batch.succeed(answers)
        finally:
            self._free += 1
            kind.under_way -= 1
            self._begin()

    def _send_away(self) -> None:
        """Tell those who have waited for too long, and look again when the next has."""
        loop = asyncio.get_running_loop()
        since = loop.time() - self._patience_s
        for kind in self._kinds.values():
            while kind.queue and kind.queue[0].since <= since:
                asked = kind.queue[0]
                self._leave_queue(kind, asked)
                asked.answer.set_exception(_overloaded())
        oldest = min((kind.queue[0].since for kind in self._kinds.values() if kind.queue), default=None)
        self._sending_away = None if oldest is None else loop.call_at(oldest + self._patience_s, self._send_away)

    def _leave_queue(self, kind: "_Kind[Q, A]", asked: "_Asked[Q, A]") -> None:
        kind.remove(asked)
        self._waiting -= 1


@dataclass(slots=True, eq=False)
class _Asked(Generic[Q, A]):
    """A question, and who waits for its answer. Without a `batch`, it is in the queue."""

    question: Q
    share: float
    answer: asyncio.Future[A]
    since: float
    batch: "_Batch[Q, A] | None" = None


@dataclass(slots=True, eq=False)
class _Batch(Generic[Q, A]):
    """Questions that are answered together."""

    members: list[_Asked[Q, A]]
    task: asyncio.Task[None] | None = None

    def succeed(self, answers: Sequence[A]) -> None:
        for asked, answer in zip(self.members, answers, strict=True):
            if not asked.answer.done():
                asked.answer.set_result(answer)

    def fail(self, error: BaseException) -> None:
        for asked in self.members:
            if asked.answer.done():
                continue
            if isinstance(error, asyncio.CancelledError):
                asked.answer.cancel()
            else:
                asked.answer.set_exception(error)

    def cancel_if_nobody_waits(self) -> None:
        if self.task is not None and all(asked.answer.done() for asked in self.members):
            self.task.cancel()


@dataclass(slots=True, eq=False)
class _Kind(Generic[Q, A]):
    """The questions of one kind that wait, first come first, and how many batches of it are under way."""

    queue: deque[_Asked[Q, A]] = field(default_factory=deque)
    share: float = 0.0
    under_way: int = 0

    @property
    def may_begin(self) -> bool:
        return bool(self.queue) and (self.under_way < _AT_ONCE or self.share >= 1)

    def waits_since(self) -> float:
        return self.queue[0].since if self.queue else 0.0

    def add(self, asked: _Asked[Q, A]) -> None:
        self.queue.append(asked)
        self.share += asked.share

    def remove(self, asked: _Asked[Q, A]) -> None:
        self.queue.remove(asked)
        self.share -= asked.share

    def take(self) -> _Batch[Q, A]:
        """The next batch, which is under way from now on."""
        members: list[_Asked[Q, A]] = []
        room = 1.0
        while self.queue and (not members or self.queue[0].share <= room):
            asked = self.queue.popleft()
            self.share -= asked.share
            room -= asked.share
            members.append(asked)
        batch = _Batch(members)
        for asked in members:
            asked.batch = batch
        self.under_way += 1
        return batch


def _overloaded() -> Exception:
    return unavailable("more reports are asked for than can be computed at once; try again in a moment")
