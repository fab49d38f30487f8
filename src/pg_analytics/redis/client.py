"""Redis behind a time limit and a breaker: whoever asks gets an answer, or a value that stands for none, in time.

Redis is never needed, so its loss is not an error here. Commands go out together: those that come while others are
under way wait for these, and are then one pipeline, so that under load a command costs a fraction of a round trip. A
batch has `REDIS_TIMEOUT` for its answers. After a failure the breaker opens: calls return at once, and one background
task probes until Redis answers again. A lost Redis thus costs the requests of one moment at most two time limits, their
own batch's and that of the one before it, and later ones nothing. A command that Redis refuses, as when it is full, is
only unanswered: the others go on.
"""

import asyncio
import time
from collections.abc import Awaitable
from contextvars import Context
from datetime import timedelta
from typing import Any, Final, cast

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from pg_analytics.redis.link import NO_ANSWER, Command, Link, Word

_log: Final = structlog.get_logger(__name__)
_PROBE_INTERVAL_S: Final = 0.5
#: Most commands that go out together: their answers shall fit well into the time limit.
_BATCH: Final = 128
#: How often it is told, at most, that Redis refuses commands.
_TELL_EVERY_S: Final = 10.0

#: What stands under a key that somebody is to put a value under.
_LEAD: Final = b"in the making"

_RAISE_TO: Final = """
local known = tonumber(redis.call('GET', KEYS[1]) or '0')
if known == nil or known < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], ARGV[1]) end
"""
_RENEW_IF: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end"
_DELETE_IF: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end"


class RedisClient:
    """The commands that this service needs. Each returns a neutral value when Redis does not answer."""

    def __init__(self, url: str, *, timeout: timedelta) -> None:
        self._timeout_s = timeout.total_seconds()
        # Time limits, and whether to try again, are decided here; what the driver did about them would add to both.
        self._redis: Redis = Redis.from_url(
            url, socket_timeout=None, socket_connect_timeout=self._timeout_s, retry=Retry(NoBackoff(), 0)
        )
        self._link: Link | None = None
        self._waiting: list[Command] = []
        self._sending: asyncio.Task[None] | None = None
        self._probe: asyncio.Task[None] | None = None
        self._told_at = -_TELL_EVERY_S

    async def close(self) -> None:
        """Close every connection."""
        for task in (self._probe, self._sending):
            if task is not None:
                task.cancel()
        await self._drop_link()
        await self._redis.aclose()

    async def ping(self) -> bool:
        """Whether Redis answers now, breaker or not."""
        try:
            async with asyncio.timeout(self._timeout_s * 2):
                return bool(await cast("Awaitable[Any]", self._redis.ping()))
        except (RedisError, OSError):
            return False

    async def get(self, key: str) -> bytes | None:
        """The value of `key`; None if there is none, or no answer."""
        return cast("bytes | None", await self._send_soon(None, "GET", key))

    async def get_or_lead(self, key: str, *, lead_ttl: timedelta) -> tuple[bytes | None, bool]:
        """The value of `key`; if there is none, whether we are the one who shall put it there: for `lead_ttl`, all
        others are told that somebody does. True also if Redis does not answer.
        """
        taken = await self._send_soon(NO_ANSWER, "SET", key, _LEAD, "NX", "GET", "PX", _milliseconds(lead_ttl))
        # Refused, as by a Redis that is full, or by one older than 7.0.
        value = cast("bytes | None", await self.get(key) if taken is NO_ANSWER else taken)
        return (None, False) if value == _LEAD else (value, value is None)

    def put_soon(self, key: str, value: bytes, *, ttl_s: int) -> None:
        """Store `value` for `ttl_s` seconds, in a moment."""
        self._tell_soon("SET", key, value, "EX", ttl_s)

    def prolong_soon(self, key: str, *, ttl_s: int) -> None:
        """Let `key` live for another `ttl_s` seconds."""
        self._tell_soon("EXPIRE", key, ttl_s)

    def delete_soon(self, key: str) -> None:
        """Delete `key`, in a moment."""
        self._tell_soon("DEL", key)

    async def raise_to(self, key: str, number: int) -> None:
        """Set `key` to `number` unless it holds a higher one."""
        await self._run(_RAISE_TO, key, number)

    async def acquire(self, key: str, token: str, *, ttl: timedelta) -> bool:
        """Set `key` to `token` if it is free. True also if Redis does not answer: the lock is only a first gate."""
        return bool(await self._send_soon(True, "SET", key, token, "PX", _milliseconds(ttl), "NX"))  # noqa: FBT003

    async def renew(self, key: str, token: str, *, ttl: timedelta) -> None:
        """Prolong the life of `key` if it still holds `token`."""
        await self._run(_RENEW_IF, key, token, _milliseconds(ttl))

    async def release(self, key: str, token: str) -> None:
        """Delete `key` if it still holds `token`."""
        await self._run(_DELETE_IF, key, token)

    async def _run(self, script: str, key: str, *arguments: Word) -> None:
        await self._send_soon(None, "EVAL", script, 1, key, *arguments)

    def _send_soon(self, default: Any, *words: Word) -> asyncio.Future[Any]:
        """The answer to a command, which goes out before those that come later; `default` if there is none."""
        answer = asyncio.get_running_loop().create_future()
        if self._probe is not None:
            answer.set_result(default)
            return answer
        self._enqueue(Command(words, default, answer))
        return answer

    def _tell_soon(self, *words: Word) -> None:
        """The same, but nobody wants to know."""
        if self._probe is None:
            self._enqueue(Command(words))

    def _enqueue(self, command: Command) -> None:
        self._waiting.append(command)
        if self._sending is None:
            # A context of its own, here and below: the task outlives the request that started it.
            self._sending = asyncio.create_task(self._send_all(), context=Context())

    async def _send_all(self) -> None:
        """Send batches until nobody waits."""
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
                await self._send(batch)
        finally:
            self._sending = None

    async def _send(self, batch: list[Command]) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                link = await self._connected()
                await link.exchange(batch)
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            _log.warning("redis_lost", error=type(error).__name__)
            self._probe = asyncio.create_task(self._probe_until_answered(), context=Context())
            await self._give_up(batch)
        except BaseException:
            await self._give_up(batch)
            raise
        else:
            if link.refusal is not None:
                self._refused(link.refusal)
                link.refusal = None

    async def _give_up(self, batch: list[Command]) -> None:
        """Whatever has happened, nobody waits for ever. What is under way on the connection belongs to nobody."""
        for command in batch + self._waiting:
            command.answered(NO_ANSWER)
        self._waiting = []
        await self._drop_link()

    async def _connected(self) -> Link:
        if self._link is not None and self._link.is_lost:
            await self._drop_link()
        if self._link is None:
            self._link = await Link.connect(self._redis)
        return self._link

    async def _drop_link(self) -> None:
        if self._link is not None:
            link, self._link = self._link, None
            await link.close()

    def _refused(self, error: ResponseError) -> None:
        now = time.monotonic()
        if now - self._told_at >= _TELL_EVERY_S:
            self._told_at = now
            _log.warning("redis_refuses", error=str(error).partition(" ")[0])

    async def _is_quick(self) -> bool:
        """Whether Redis answers as soon as a batch needs it to, on a connection that is there for the next one. To
        connect may take as long again.
        """
        try:
            async with asyncio.timeout(self._timeout_s * 2):
                link = await self._connected()
                async with asyncio.timeout(self._timeout_s):
                    await link.exchange([Command(("PING",))])
        except (RedisError, OSError):
            await self._drop_link()
            return False
        return True

    async def _probe_until_answered(self) -> None:
        while not await self._is_quick():  # noqa: ASYNC110 - nothing in this process could set an event
            await asyncio.sleep(_PROBE_INTERVAL_S)
        self._probe = None
        _log.info("redis_back")


def _milliseconds(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1000)
