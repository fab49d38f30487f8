"""The connection to Redis when what comes in is not what was asked for. The Redis is real; somebody is in between."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest

from pg_analytics.redis.client import RedisClient
from tests.conftest import Servers

pytestmark = pytest.mark.anyio


class _Between:
    """Hands everything on between clients and Redis, and says things of its own to the clients."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._clients: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.connections = 0
        self.port = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._clients.append(writer)
        from_redis, to_redis = await asyncio.open_connection(*self._target)
        self._tasks.append(asyncio.create_task(_hand_on(reader, to_redis)))
        self._tasks.append(asyncio.create_task(_hand_on(from_redis, writer)))

    async def say(self, text: bytes) -> None:
        """Say `text` to all clients, and let them hear it."""
        for writer in self._clients:
            writer.write(text)
        await asyncio.sleep(0.1)

    async def cut(self) -> None:
        """End all connections, and let the clients notice."""
        while self._clients:
            self._clients.pop().close()
        await asyncio.sleep(0.1)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while received := await reader.read(65_536):
            writer.write(received)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@pytest.fixture
async def between(servers: Servers) -> AsyncIterator[_Between]:
    """Somebody between Redis and its client."""
    target = urlsplit(servers.redis_url)
    assert target.hostname
    assert target.port
    between = _Between(target.hostname, target.port)
    async with await asyncio.start_server(between.connected, "127.0.0.1", 0) as server:
        between.port = server.sockets[0].getsockname()[1]
        yield between
        await between.close()


@pytest.fixture
async def client(servers: Servers, between: _Between) -> AsyncIterator[RedisClient]:
    """A client that reaches Redis by way of `between`."""
    target = urlsplit(servers.redis_url)
    account, _, _ = target.netloc.rpartition("@")
    url = urlunsplit(target._replace(netloc=f"{account}@127.0.0.1:{between.port}"))
    client = RedisClient(url, timeout=timedelta(seconds=5))
    yield client
    await client.close()


@pytest.fixture
async def key(client: RedisClient) -> str:
    """A key with a value, which the client knows how to get."""
    key = f"test:{uuid4()}"
    client.put_soon(key, b"right", ttl_s=60)
    assert await client.get(key) == b"right"
    return key


async def test_an_answer_that_nobody_asked_for_is_taken_for_nobodys(
    client: RedisClient, between: _Between, key: str
) -> None:
    """If it were taken for the next one's, each later command would have the answer of the one before it."""
    await between.say(b"$5\r\nwrong\r\n")

    assert await client.get(key) == b"right"
    assert between.connections == 2, "who is out of step begins anew"


async def test_what_is_no_protocol_at_all_costs_a_connection(client: RedisClient, between: _Between, key: str) -> None:
    await between.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    assert await client.get(key) == b"right"
    assert between.connections == 2


async def test_news_that_redis_pushes_is_no_answer(client: RedisClient, between: _Between, key: str) -> None:
    await between.say(b">2\r\n+invalidate\r\n*1\r\n$3\r\nkey\r\n")

    assert await client.get(key) == b"right"
    assert between.connections == 1


async def test_a_connection_that_ended_while_nobody_used_it_is_made_anew(
    client: RedisClient, between: _Between, key: str
) -> None:
    await between.cut()

    assert await client.get(key) == b"right", "nothing was lost"


async def test_many_commands_at_once_each_get_their_own_answer(client: RedisClient, key: str) -> None:
    keys = [f"{key}:{number}" for number in range(500)]
    for number, one in enumerate(keys):
        client.put_soon(one, b"%d" % number * 100, ttl_s=60)

    found = await asyncio.gather(*(client.get(one) for one in keys))

    assert found == [b"%d" % number * 100 for number in range(500)]
