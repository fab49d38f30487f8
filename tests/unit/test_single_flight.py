"""Whoever wants what is being fetched already waits for it."""

import asyncio

import pytest

from pg_analytics.reports.single_flight import SingleFlight

pytestmark = pytest.mark.anyio


class _Source:
    """What is fetched: once it is released."""

    def __init__(self, error: Exception | None = None) -> None:
        self.fetched = 0
        self.released = asyncio.Event()
        self._error = error

    async def fetch(self) -> int:
        self.fetched += 1
        number = self.fetched
        await self.released.wait()
        if self._error is not None:
            raise self._error
        return number


async def _joined(flights: SingleFlight[int], source: _Source, count: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(flights.join("key", source.fetch)) for _ in range(count)]
    while not source.fetched:  # noqa: ASYNC110 - the tasks begin when the loop comes to them
        await asyncio.sleep(0)
    return tasks


async def test_a_thousand_who_want_the_same_fetch_it_once() -> None:
    source = _Source()
    tasks = await _joined(SingleFlight(), source, 1000)
    source.released.set()

    assert await asyncio.gather(*tasks) == [1] * 1000
    assert source.fetched == 1


async def test_who_comes_after_it_landed_fetches_anew() -> None:
    flights: SingleFlight[int] = SingleFlight()
    source = _Source()
    source.released.set()

    assert [await flights.join("key", source.fetch), await flights.join("key", source.fetch)] == [1, 2]


async def test_everybody_gets_the_error_and_the_next_one_another_chance() -> None:
    flights: SingleFlight[int] = SingleFlight()
    failing = _Source(ValueError("no"))
    tasks = await _joined(flights, failing, 3)
    failing.released.set()

    assert [str(error) for error in await asyncio.gather(*tasks, return_exceptions=True)] == ["no"] * 3
    works = _Source()
    works.released.set()
    assert await flights.join("key", works.fetch) == 1


async def test_one_who_waits_and_gives_up_takes_nobody_along() -> None:
    source = _Source()
    first, second, third = await _joined(SingleFlight(), source, 3)

    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    source.released.set()

    assert [await first, await third] == [1, 1]
    assert source.fetched == 1


async def test_where_the_one_who_fetches_gives_up_the_next_one_fetches() -> None:
    source = _Source()
    first, *others = await _joined(SingleFlight(), source, 4)

    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    while source.fetched < 2:  # noqa: ASYNC110 - one of the others begins when the loop comes to it
        await asyncio.sleep(0)
    source.released.set()

    assert await asyncio.gather(*others) == [2] * 3
    assert source.fetched == 2
