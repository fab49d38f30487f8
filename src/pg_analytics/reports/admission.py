"""Who may ask PostgreSQL for a report: a few at a time, some who wait for a moment, and no more.

A server that takes on more than it can do answers everybody late, and in the end nobody. Here those who are let in find
PostgreSQL as quick as ever; the others are told after a short wait to come back. They wait also where there is no hope
for them: who is sent away at once asks again at once, and to send the same clients away again and again would take the
time of those who are let in.
"""

import asyncio

from pg_analytics.errors import unavailable


class Admission:
    """Places, and a short queue for them. `async with` it: a place for the length of the block, or `ServiceError` (503)
    when there is none to be had.
    """

    def __init__(self, *, places: int, queue: int, patience_s: float) -> None:
        """At most `places` at once; at most `queue` wait for one, each for at most `patience_s` seconds. Whoever comes
        when the queue is full has waited in vain after as many.
        """
        self._places = asyncio.Semaphore(places)
        self._queue = queue
        self._patience_s = patience_s
        self._waiting = 0

    async def __aenter__(self) -> None:
        if not self._places.locked():
            await self._places.acquire()
            return
        if self._waiting >= self._queue:
            await asyncio.sleep(self._patience_s)
            raise _overloaded()
        self._waiting += 1
        try:
            async with asyncio.timeout(self._patience_s):
                await self._places.acquire()
        except TimeoutError:
            raise _overloaded() from None
        finally:
            self._waiting -= 1

    async def __aexit__(self, *_: object) -> None:
        self._places.release()


def _overloaded() -> Exception:
    return unavailable("more reports are asked for than can be computed at once; try again in a moment")
