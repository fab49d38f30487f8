"""One flight per key: whoever wants what is being fetched already waits for it, instead of fetching it too."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class _GaveUpError(Exception):
    """Who was fetching it does so no more."""


class SingleFlight(Generic[T]):
    """What this process is fetching at the moment, by key."""

    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Future[T]] = {}

    async def join(self, key: str, fetch: Callable[[], Awaitable[T]]) -> T:
        """What `fetch` returns or raises, for everybody who joins under `key` until it is there. The first one fetches
        it; where that one gives up, the next does.
        """
        while (flight := self._under_way.get(key)) is not None:
            try:
                # One who waits and gives up takes nobody along.
                return await asyncio.shield(flight)
            except _GaveUpError:
                continue
        flight = self._under_way[key] = asyncio.get_running_loop().create_future()
        try:
            fetched = await fetch()
        except BaseException as error:
            flight.set_exception(error if isinstance(error, Exception) else _GaveUpError())
            flight.exception()  # where nobody waits, asyncio shall not complain
            raise
        else:
            flight.set_result(fetched)
            return fetched
        finally:
            del self._under_way[key]
