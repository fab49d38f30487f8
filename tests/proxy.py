"""A TCP proxy between the service and a server: the network, as a test wants it to be.

It passes bytes on, until it is told to refuse connections, to hang (accept and never answer, as a frozen machine or a
lost route does), to cut what is open, or to be slow. It runs in a thread of its own, so tests of either kind, plain
and asynchronous, steer it by plain calls that return once the change has taken effect.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

from pg_analytics.embedded.process import free_port

_ENDED = (OSError, EOFError)


class _Route:
    """What becomes of the bytes of the connections that were opened over it."""

    def __init__(self) -> None:
        self.passing = asyncio.Event()
        self.passing.set()
        self.answering = asyncio.Event()
        self.answering.set()
        self.lost = False


class Proxy:
    """Passes connections on to the server of a URL, for the length of a `with` block."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self.port = free_port()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._listening: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._route = _Route()
        self._held: list[_Route] = []
        self._delay_s = 0.0

    @property
    def url(self) -> str:
        """The server's URL, by way of this proxy."""
        account, _, _ = self._target.netloc.rpartition("@")
        return urlunsplit(self._target._replace(netloc=f"{account}@127.0.0.1:{self.port}"))

    def restore(self) -> None:
        """Be a good network again. What hung goes on where it stood, as TCP does."""
        self._call(self._restore)

    def refuse(self) -> None:
        """Refuse connections, and cut those that are open."""
        self._call(self._refuse)

    def hang(self) -> None:
        """Let not one byte through, either way; connections are accepted, and closed only by those who made them."""
        self._call(self._hang)

    def lose_route(self) -> None:
        """Let not one byte more through what is open, for good; new connections pass."""
        self._call(self._lose_route)

    def hold_answers(self) -> None:
        """Keep back what the server says on what is open, until the network is restored; new connections pass."""
        self._call(self._hold_answers)

    def cut(self) -> None:
        """Cut every connection that is open; new ones pass."""
        self._call(self._cut)

    def delay(self, seconds: float) -> None:
        """Hold back everything that arrives, either way, for so long."""
        self._delay_s = seconds

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._restore)
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, change: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.run_coroutine_threadsafe(change(), self._loop).result()

    async def _restore(self) -> None:
        self._delay_s = 0
        self._route.passing.set()
        while self._held:
            self._held.pop().answering.set()
        if self._listening is None:
            self._listening = await asyncio.start_server(self._connected, "127.0.0.1", self.port)

    async def _refuse(self) -> None:
        if self._listening is not None:
            # A connection that was accepted a moment ago must find its server open, or asyncio leaves it half-made.
            for listening in self._listening.sockets:
                self._loop.remove_reader(listening.fileno())
            await asyncio.sleep(0)
            self._listening.close()
            self._listening = None
        self._route.passing.set()
        await self._cut()

    async def _hang(self) -> None:
        self._route.passing.clear()

    async def _lose_route(self) -> None:
        self._route.lost = True
        self._route.passing.set()
        self._route = _Route()

    async def _hold_answers(self) -> None:
        self._route.answering.clear()
        self._held.append(self._route)
        self._route = _Route()

    async def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)  # both ends learn of it in the next round of the loop

    async def _close(self) -> None:
        await self._refuse()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        route = self._route
        # Cancelled by `_close` alone; asyncio would complain of a connection's task that ends so.
        with self._open(to_client), suppress(*_ENDED, asyncio.CancelledError):
            await route.passing.wait()
            from_server, to_server = await asyncio.open_connection(self._target.hostname, self._target.port)
            with self._open(to_server):
                ways = (
                    self._pump(from_client, to_server, route, (route.passing,)),
                    self._pump(from_server, to_client, route, (route.passing, route.answering)),
                )
                tasks = [asyncio.create_task(way) for way in ways]
                # When one way ends, so does the other: neither PostgreSQL nor Redis speaks on half a connection.
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    @contextmanager
    def _open(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        self._writers.add(writer)
        try:
            yield
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        route: _Route,
        gates: tuple[asyncio.Event, ...],
    ) -> None:
        with suppress(*_ENDED):
            while received := await reader.read(65_536):
                await asyncio.sleep(self._delay_s)
                for gate in gates:
                    await gate.wait()
                if not route.lost:
                    writer.write(received)
                    await writer.drain()
