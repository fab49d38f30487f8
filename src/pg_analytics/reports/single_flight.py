"""One flight per key: whoever wants what is being fetched already waits for it, instead of fetching it too."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """What this process is fetching at the moment, by key."""

    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Task[T]] = {}

    async def join(self, key: str, fetch: Callable[[], Awaitable[T]]) -> T:
        """What `fetch` returns or raises, for everybody who joins under `key` until it is there. It goes on although
        one who waits gives up: others may still wait.
        """
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.create_task(_awaited(fetch), name="report-flight")
            task.add_done_callback(lambda done: self._landed(key, done))
        return await asyncio.shield(task)

    def _landed(self, key: str, done: "asyncio.Task[T]") -> None:
        del self._under_way[key]
        if not done.cancelled():
            done.exception()  # those who waited have it; where nobody does any more, asyncio shall not complain


async def _awaited(fetch: Callable[[], Awaitable[T]]) -> T:
    return await fetch()
