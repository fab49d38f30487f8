"""Who may ask PostgreSQL for a report, who waits, and who is sent away."""

import asyncio

import pytest

from pg_analytics.errors import ErrorCode, ServiceError
from pg_analytics.reports.admission import Admission

pytestmark = pytest.mark.anyio

LONG_S = 60.0


class _Visitors:
    """Who has a place, and leaves it when told to."""

    def __init__(self, admission: Admission) -> None:
        self.inside = 0
        self.most = 0
        self.leave = asyncio.Event()
        self._admission = admission

    async def visit(self) -> None:
        async with self._admission:
            self.inside += 1
            self.most = max(self.most, self.inside)
            await self.leave.wait()
            self.inside -= 1


async def _settled() -> None:
    """Until every task has gone as far as it can."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_no_more_are_let_in_than_there_are_places_and_those_who_wait_come_next() -> None:
    visitors = _Visitors(Admission(places=2, queue=3, patience_s=LONG_S))
    tasks = [asyncio.create_task(visitors.visit()) for _ in range(5)]
    await _settled()
    assert visitors.inside == 2

    visitors.leave.set()
    await asyncio.gather(*tasks)
    assert visitors.most == 2


async def test_whoever_finds_the_queue_full_is_sent_away_though_a_place_is_free_by_then() -> None:
    visitors = _Visitors(Admission(places=1, queue=0, patience_s=0.0))
    inside = asyncio.create_task(visitors.visit())
    await _settled()
    refused = asyncio.create_task(visitors.visit())
    visitors.leave.set()
    await inside

    with pytest.raises(ServiceError) as error:
        await refused
    assert error.value.code is ErrorCode.SERVICE_UNAVAILABLE
    assert "Retry-After" in error.value.headers


async def test_whoever_finds_the_queue_full_waits_as_long_as_the_others_before_it_is_told() -> None:
    visitors = _Visitors(Admission(places=1, queue=1, patience_s=LONG_S))
    tasks = [asyncio.create_task(visitors.visit()) for _ in range(3)]
    await _settled()

    assert not any(task.done() for task in tasks)
    assert visitors.inside == 1
    tasks[2].cancel()
    visitors.leave.set()
    await asyncio.gather(*tasks[:2])


async def test_nobody_waits_for_longer_than_the_patience() -> None:
    visitors = _Visitors(Admission(places=1, queue=1, patience_s=0.0))
    inside = asyncio.create_task(visitors.visit())
    await _settled()

    with pytest.raises(ServiceError, match="more reports are asked for"):
        await visitors.visit()

    visitors.leave.set()
    await inside


async def test_places_and_queue_are_given_back_by_those_who_fail_or_give_up() -> None:
    visitors = _Visitors(Admission(places=1, queue=1, patience_s=LONG_S))
    inside, waiting = [asyncio.create_task(visitors.visit()) for _ in range(2)]
    await _settled()
    for task in (waiting, inside):
        task.cancel()
    await asyncio.gather(inside, waiting, return_exceptions=True)

    again = [asyncio.create_task(visitors.visit()) for _ in range(2)]
    await _settled()
    visitors.leave.set()
    await asyncio.gather(*again)
