"""Who may ask PostgreSQL for a report, together with whom, who waits, and who is sent away."""

import asyncio
import gc
import weakref
from contextvars import ContextVar

import pytest

from pg_analytics.errors import ErrorCode, ServiceError
from pg_analytics.reports import batches
from pg_analytics.reports.batches import Batches

pytestmark = pytest.mark.anyio

LONG_S = 60.0
ALONE = 1.0
QUARTER = 0.25


class _Answerer:
    """Answers a question with its tenfold, once it is released; knows which questions came together."""

    def __init__(self, *, places: int = 2, queue: int = 50, patience_s: float = LONG_S) -> None:
        self.batches = Batches(self._answer, places=places, queue=queue, patience_s=patience_s)
        self.began: list[list[int]] = []
        self.under_way = 0
        self.most = 0
        self.release = asyncio.Event()
        self.error: Exception | None = None

    async def _answer(self, questions: list[int]) -> list[int]:
        self.began.append(questions)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.release.wait()
        finally:
            self.under_way -= 1
        if self.error is not None:
            raise self.error
        return [10 * question for question in questions]

    def ask(self, question: int, *, kind: str = "kind", share: float = QUARTER) -> asyncio.Task[int]:
        return asyncio.create_task(self.batches.ask(kind, question, share=share))


async def _settled() -> None:
    """Until every task has gone as far as it can."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_who_asks_at_one_moment_is_answered_together_each_with_its_own_answer() -> None:
    answerer = _Answerer()
    answerer.release.set()

    assert await asyncio.gather(*(answerer.ask(number) for number in range(4))) == [0, 10, 20, 30]
    assert answerer.began == [[0, 1, 2, 3]]


async def test_a_question_that_comes_alone_does_not_wait_for_company() -> None:
    answerer = _Answerer()
    answerer.release.set()

    assert await answerer.ask(7) == 70


async def test_who_comes_while_a_batch_is_under_way_goes_with_the_next_one() -> None:
    answerer = _Answerer()
    tasks = [answerer.ask(1)]
    await _settled()
    for number in (2, 3):
        tasks.append(answerer.ask(number))
        await _settled()
    assert answerer.began == [[1]]

    answerer.release.set()
    assert await asyncio.gather(*tasks) == [10, 20, 30]
    assert answerer.began == [[1], [2, 3]]


async def test_while_batches_are_quick_a_full_one_waits_for_the_one_before_it() -> None:
    answerer = _Answerer()
    tasks = [answerer.ask(0)]
    await _settled()
    tasks += [answerer.ask(number) for number in range(1, 6)]
    await _settled()
    assert answerer.began == [[0]]

    answerer.release.set()
    await asyncio.gather(*tasks)
    assert answerer.began == [[0], [1, 2, 3, 4], [5]]


async def test_where_batches_are_not_quick_a_full_one_begins_though_another_one_is_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answerer = _Answerer()
    answerer.release.set()
    monkeypatch.setattr(batches, "_QUICK_S", 0.0)  # however quick, that is not
    await answerer.ask(0)
    answerer.release.clear()

    tasks = [answerer.ask(1)]
    await _settled()
    tasks += [answerer.ask(number) for number in range(2, 7)]
    await _settled()
    assert answerer.began[1:] == [[1], [2, 3, 4, 5]]

    monkeypatch.setattr(batches, "_QUICK_S", LONG_S)
    answerer.release.set()
    await asyncio.gather(*tasks)
    answerer.release.clear()
    tasks = [answerer.ask(7)]
    await _settled()
    tasks += [answerer.ask(number) for number in range(8, 12)]
    await _settled()
    assert answerer.began[3:] == [[6], [7]], "quick again"
    answerer.release.set()
    await asyncio.gather(*tasks)


async def test_the_next_batch_begins_before_anybody_deals_with_the_answers_of_the_last() -> None:
    answerer = _Answerer(places=1)
    began_by_then: list[int] = []

    async def ask(number: int) -> None:
        await answerer.batches.ask("kind", number, share=ALONE)
        began_by_then.append(len(answerer.began))

    tasks = [asyncio.create_task(ask(number)) for number in (1, 2)]
    await _settled()
    assert answerer.began == [[1]]

    answerer.release.set()
    await asyncio.gather(*tasks)
    assert began_by_then == [2, 2]


async def test_what_fills_a_batch_goes_alone_and_holds_up_no_short_ones() -> None:
    answerer = _Answerer(places=3)
    tasks = [answerer.ask(1, share=ALONE), answerer.ask(2, share=ALONE)]
    await _settled()
    tasks += [answerer.ask(3), answerer.ask(4)]
    await _settled()

    assert answerer.began == [[1], [2], [3, 4]]
    answerer.release.set()
    await asyncio.gather(*tasks)


async def test_what_took_long_goes_by_itself_and_side_by_side_until_it_is_quick_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answerer = _Answerer(places=3)
    answerer.release.set()
    monkeypatch.setattr(batches, "_BATCH_S", 0.0)  # however quick, that is long
    await answerer.ask(0)
    answerer.release.clear()

    tasks = [answerer.ask(number) for number in (1, 2, 3)]
    await _settled()
    assert answerer.began[1:] == [[1], [2], [3]]

    monkeypatch.setattr(batches, "_BATCH_S", LONG_S)
    answerer.release.set()
    await asyncio.gather(*tasks)
    assert await asyncio.gather(*(answerer.ask(number) for number in (4, 5, 6))) == [40, 50, 60]
    assert answerer.began[4:] == [[4, 5, 6]]


@pytest.mark.parametrize(
    "share,took_s,room", [(1.0, 0.2, 0.25), (0.5, 0.2, 0.125), (0.25, 0.0125, 1.0), (1.0, 1e-6, 1.0)]
)
async def test_a_batch_is_as_long_as_what_the_last_one_would_have_managed_in_50_ms(
    share: float, took_s: float, room: float
) -> None:
    assert batches.room_after(share, took_s=took_s) == pytest.approx(room)


async def test_a_batch_that_hangs_holds_up_the_others_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    answerer = _Answerer(places=2)
    monkeypatch.setattr(batches, "_BATCH_S", 0.0)
    tasks = [answerer.ask(1)]
    await _settled()
    monkeypatch.setattr(batches, "_BATCH_S", LONG_S)
    tasks.append(answerer.ask(2))
    while len(answerer.began) < 2:  # noqa: ASYNC110 - until the timer has run out
        await asyncio.sleep(0)

    assert answerer.began == [[1], [2]]
    answerer.release.set()
    assert await asyncio.gather(*tasks) == [10, 20]
    assert await asyncio.gather(*(answerer.ask(number) for number in (3, 4))) == [30, 40], "and all is as before"


async def test_nothing_of_a_question_is_left_for_the_collector_of_cycles() -> None:
    class Question:
        """One that can be watched."""

    async def answer(questions: list[Question]) -> list[int]:
        await asyncio.sleep(0)
        return [1 for _ in questions]

    batches = Batches(answer, places=1, queue=9, patience_s=LONG_S)
    watched: list[weakref.ref[Question]] = []

    async def ask() -> int:
        question = Question()
        watched.append(weakref.ref(question))
        return await batches.ask("kind", question, share=QUARTER)

    gc.disable()
    try:
        assert await asyncio.gather(*(ask() for _ in range(3))) == [1, 1, 1]
        await _settled()
        assert [question() for question in watched] == [None, None, None]
    finally:
        gc.enable()


async def test_questions_of_different_kinds_are_not_answered_together() -> None:
    answerer = _Answerer()
    tasks = [answerer.ask(1, kind="one"), answerer.ask(2, kind="other")]
    await _settled()

    assert answerer.began == [[1], [2]]
    answerer.release.set()
    await asyncio.gather(*tasks)


async def test_no_more_are_under_way_than_there_are_places_and_who_has_waited_for_longest_comes_next() -> None:
    answerer = _Answerer(places=2)
    tasks = []
    for number, kind in enumerate(("a", "b", "c", "a", "b")):
        tasks.append(answerer.ask(number, kind=kind, share=ALONE))
        await _settled()
    assert answerer.began == [[0], [1]]

    answerer.release.set()
    await asyncio.gather(*tasks)
    assert answerer.most == 2
    assert answerer.began == [[0], [1], [2], [3], [4]]


async def test_each_batch_gives_back_one_place() -> None:
    answerer = _Answerer(places=2)
    answerer.release.set()
    for number in range(5):
        await answerer.ask(number, share=ALONE)
    answerer.release.clear()

    tasks = [answerer.ask(number, share=ALONE) for number in range(5, 9)]
    await _settled()
    assert answerer.under_way == 2
    answerer.release.set()
    await asyncio.gather(*tasks)


async def test_whoever_finds_the_queue_full_is_sent_away_though_a_place_is_free_by_then() -> None:
    answerer = _Answerer(places=1, queue=0, patience_s=0.0)
    inside = answerer.ask(1, share=ALONE)
    await _settled()
    refused = answerer.ask(2, share=ALONE)
    answerer.release.set()
    await inside

    with pytest.raises(ServiceError) as error:
        await refused
    assert error.value.code is ErrorCode.SERVICE_UNAVAILABLE
    assert "Retry-After" in error.value.headers


async def test_whoever_finds_the_queue_full_waits_as_long_as_the_others_before_it_is_told() -> None:
    answerer = _Answerer(places=1, queue=1)
    tasks = [answerer.ask(number, share=ALONE) for number in range(3)]
    await _settled()

    assert not any(task.done() for task in tasks)
    assert answerer.began == [[0]]
    tasks[2].cancel()
    answerer.release.set()
    assert await asyncio.gather(*tasks[:2]) == [0, 10]


async def test_nobody_waits_for_longer_than_the_patience() -> None:
    answerer = _Answerer(places=1, queue=5, patience_s=0.01)
    inside = answerer.ask(1, share=ALONE)
    await _settled()

    for _ in range(2):
        waiting = [answerer.ask(number) for number in (2, 3)]
        for error in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(error, ServiceError)
            assert "more reports are asked for" in str(error)

    answerer.release.set()
    assert await inside == 10, "who is being answered is not sent away"
    assert await answerer.ask(4) == 40


async def test_everybody_of_a_batch_gets_its_error_and_the_next_one_another_chance() -> None:
    answerer = _Answerer()
    answerer.release.set()
    answerer.error = ValueError("no")

    tasks = [answerer.ask(number) for number in range(3)]
    assert [str(error) for error in await asyncio.gather(*tasks, return_exceptions=True)] == ["no"] * 3

    answerer.error = None
    assert await answerer.ask(1) == 10


async def test_a_batch_speaks_in_the_name_of_its_first_question() -> None:
    name: ContextVar[int] = ContextVar("name")
    spoke: list[int] = []

    async def speak(questions: list[int]) -> list[int]:
        spoke.append(name.get())
        await asyncio.sleep(0)
        return questions

    batches = Batches(speak, places=1, queue=9, patience_s=LONG_S)

    async def ask(number: int) -> None:
        name.set(number)
        await batches.ask("kind", number, share=ALONE)

    await asyncio.gather(*(ask(number) for number in range(3)))
    assert spoke == [0, 1, 2]


async def test_fewer_answers_than_questions_are_an_error() -> None:
    async def too_few(questions: list[int]) -> list[int]:
        return questions[:1]

    batches = Batches(too_few, places=1, queue=1, patience_s=LONG_S)
    tasks = [asyncio.create_task(batches.ask("kind", number, share=QUARTER)) for number in range(2)]

    _, error = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(error, ValueError)


async def test_one_who_gives_up_takes_nobody_along_and_the_last_one_ends_the_batch() -> None:
    answerer = _Answerer()
    first, second = answerer.ask(1), answerer.ask(2)
    await _settled()

    first.cancel()
    await _settled()
    assert answerer.under_way == 1

    second.cancel()
    await _settled()
    assert answerer.under_way == 0
    assert first.cancelled()
    assert second.cancelled()


@pytest.mark.parametrize("queue", [1, 50])
async def test_places_and_queue_are_given_back_by_those_who_give_up_however_far_they_have_come(queue: int) -> None:
    answerer = _Answerer(places=1, queue=queue)
    for steps in range(10):
        inside, waiting = answerer.ask(1, share=ALONE), answerer.ask(2, share=ALONE)
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in (waiting, inside):
            task.cancel()
        await asyncio.gather(inside, waiting, return_exceptions=True)

    again = [answerer.ask(number, share=ALONE) for number in range(2)]
    await _settled()
    answerer.release.set()
    assert await asyncio.gather(*again) == [0, 10]
