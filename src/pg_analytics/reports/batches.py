"""Who may ask PostgreSQL for a report, and together with whom: a few at a time, some who wait for a moment, and no
more.

A server that takes on more than it can do answers everybody late, and in the end nobody. Here those who are let in find
PostgreSQL as quick as ever; the others are told after a short wait to come back. They wait also where there is no hope
for them: who is sent away at once asks again at once, and to send the same clients away again and again would take the
time of those who are let in.

Short questions of one kind are answered together: to send a statement, to begin it and to be woken by its answer costs
more than the few rows that each of them reads. Nobody waits for company: a batch begins at once while none of its kind
is under way. Whoever comes meanwhile goes with the next one, which begins when that one has ended or takes long. So a
question that comes alone is answered alone, and the more of them come, the more share a statement. Databases write
their logs in this way, and call it group commit.

Where batches are quick, that is all: PostgreSQL answers the next one while this process deals with the answers of the
last, and a second one at the same time would only make all of them wait for both. Where batches are not quick, one
that is full begins at once, whatever else is under way. And where the last one took long, the next one is as much
shorter: what is not short goes by itself, and side by side.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Generic, TypeVar

import msgspec

from pg_analytics.errors import unavailable

Q = TypeVar("Q")
A = TypeVar("A")

#: How long a batch may take; one that takes less could be longer for all we know.
_BATCH_S: Final = 0.05
#: What takes less is quick: a few times as long as this process needs for the answers of a full batch. Two that begin
#: together each take longer for it; what is quick alone must not pass for slow because of that, or it would stay so.
_QUICK_S: Final = 0.006


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
        asked: _Asked[Q, A] = _Asked(question, share, loop.create_future(), loop.time(), copy_context())
        kind.add(asked)
        self._waiting += 1
        if self._waiting > self._queue:
            self._begin()
            if asked.batch is None and self._waiting > self._queue:
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
                asked.batch.leave()
            elif asked in kind.queue:
                self._leave_queue(kind, asked)
            raise

    def _begin(self) -> None:
        """Begin whatever may begin, whoever has waited for longest first."""
        self._beginning = None
        while self._free:
            ready = [kind for kind in self._kinds.values() if kind.may_begin]
            if not ready:
                return
            kind = min(ready, key=_Kind.waits_since)
            batch, members = kind.take()
            self._waiting -= len(members)
            self._free -= 1
            # What it has to say, it says in the name of the first.
            batch.task = asyncio.create_task(self._perform(batch, members), context=members[0].context)
            # One that hangs, as on a connection that leads nowhere, holds up the others for a moment only.
            batch.overdue = asyncio.get_running_loop().call_later(_BATCH_S, self._let_go, batch)
            # Also here: a task that is cancelled before its first step does nothing at all.
            batch.task.add_done_callback(partial(self._end, batch))

    async def _perform(self, batch: "_Batch[Q, A]", members: "list[_Asked[Q, A]]") -> None:
        try:
            answers = await self._answer([asked.question for asked in members])
            self._end(batch)  # the next one shall be under way while these are dealt with
            for asked, answer in zip(members, answers, strict=True):
                asked.succeed(answer)
        except BaseException as error:
            for asked in members:
                asked.fail(error)
            if not isinstance(error, Exception):
                raise

    def _end(self, batch: "_Batch[Q, A]", _task: object = None) -> None:
        """PostgreSQL has no more to do for `batch`."""
        if batch.has_ended:
            return
        batch.has_ended = True
        if batch.overdue is not None:
            batch.overdue.cancel()
        self._free += 1
        batch.kind.learn(batch.share, took_s=time.perf_counter() - batch.started)
        self._let_go(batch)

    def _let_go(self, batch: "_Batch[Q, A]") -> None:
        """Nobody waits for `batch` to end any more."""
        batch.kind.under_way -= batch.is_counted
        batch.is_counted = False
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


class _Batch(msgspec.Struct, Generic[Q, A], eq=False):
    """Questions that are answered together: how much they are and since when, how many still want to know, whether the
    next ones of their kind wait until it has ended, who answers them, and what lets go of the next ones if that takes
    long. They know of it, and it does not know them: neither would go before the collector of cycles came by.
    """

    kind: "_Kind[Q, A]"
    share: float
    started: float
    waiting: int
    is_counted: bool
    has_ended: bool = False
    task: asyncio.Task[None] | None = None
    overdue: asyncio.TimerHandle | None = None

    def leave(self) -> None:
        """One wants to know no more. Where nobody does, nobody answers."""
        self.waiting -= 1
        if not self.waiting and self.task is not None:
            self.task.cancel()


class _Asked(msgspec.Struct, Generic[Q, A], eq=False):
    """A question, and who waits for its answer. Without a `batch`, it is in the queue."""

    question: Q
    share: float
    answer: asyncio.Future[A]
    since: float
    context: Context
    batch: _Batch[Q, A] | None = None

    def succeed(self, answer: A) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)

    def fail(self, error: BaseException) -> None:
        if self.answer.done():
            return
        if isinstance(error, asyncio.CancelledError):
            self.answer.cancel()
        else:
            self.answer.set_exception(error)


@dataclass(slots=True, eq=False)
class _Kind(Generic[Q, A]):
    """The questions of one kind that wait, first come first; how many of its batches are under way, but for questions
    that filled one by themselves; and of the last one, whether it was quick, and how much may thus be in the next.
    """

    queue: deque[_Asked[Q, A]] = field(default_factory=deque)
    share: float = 0.0
    under_way: int = 0
    room: float = 1.0
    is_quick: bool = True

    @property
    def may_begin(self) -> bool:
        return bool(self.queue) and (not self.under_way or (self.share >= self.room and not self.is_quick))

    def waits_since(self) -> float:
        return self.queue[0].since

    def add(self, asked: _Asked[Q, A]) -> None:
        self.queue.append(asked)
        self.share += asked.share

    def remove(self, asked: _Asked[Q, A]) -> None:
        self.queue.remove(asked)
        self.share -= asked.share

    def take(self) -> tuple[_Batch[Q, A], list[_Asked[Q, A]]]:
        """The next batch, which is under way from now on, and its questions."""
        members: list[_Asked[Q, A]] = []
        share = 0.0
        while self.queue and (not members or share + self.queue[0].share <= self.room):
            asked = self.queue.popleft()
            share += asked.share
            members.append(asked)
        self.share -= share
        is_counted = len(members) > 1 or share < self.room
        self.under_way += is_counted
        batch = _Batch(self, share, time.perf_counter(), len(members), is_counted)
        for asked in members:
            asked.batch = batch
        return batch, members

    def learn(self, share: float, *, took_s: float) -> None:
        """A batch of so much took so long."""
        self.room = room_after(share, took_s=took_s)
        self.is_quick = took_s < _QUICK_S


def room_after(share: float, *, took_s: float) -> float:
    """How much fits into a batch, after one of `share` took so long."""
    return min(1.0, share * _BATCH_S / took_s)


def _overloaded() -> Exception:
    return unavailable("more reports are asked for than can be computed at once; try again in a moment")
