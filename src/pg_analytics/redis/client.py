"""Redis behind a time limit and a breaker: whoever asks gets an answer, or `None`, within `REDIS_TIMEOUT`.

Redis is never needed, so its loss is not an error here: every call has a value that stands for "no answer".
After a failure the breaker opens: calls return at once, and one background task probes until Redis answers
again. A lost Redis thus costs the requests of one moment one time limit each, and later ones nothing.
"""

import asyncio
from collections.abc import Awaitable
from contextvars import Context
from datetime import timedelta
from typing import Any, Final, TypeVar, cast

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

T = TypeVar("T")

_log: Final = structlog.get_logger(__name__)
_PROBE_INTERVAL_S: Final = 0.5
_MAX_CONNECTIONS: Final = 64

_RAISE_TO: Final = """
local known = tonumber(redis.call('GET', KEYS[1]) or '0')
if known == nil or known < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], ARGV[1]) end
"""
_GET_OR_LEAD: Final = """
local value = redis.call('GET', KEYS[1])
if value then redis.call('EXPIRE', KEYS[1], ARGV[1]) return {value, 0} end
if redis.call('SET', KEYS[2], ARGV[2], 'NX', 'PX', ARGV[3]) then return {false, 1} end
return {false, 0}
"""
_RENEW_IF: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end"
_DELETE_IF: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end"


class RedisClient:
    """The commands that this service needs. Each returns a neutral value when Redis does not answer."""

    def __init__(self, url: str, *, timeout: timedelta) -> None:
        self._timeout_s = timeout.total_seconds()
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_MAX_CONNECTIONS,
            timeout=self._timeout_s,
            socket_timeout=self._timeout_s,
            socket_connect_timeout=self._timeout_s,
            # The breaker decides about trying again; a retry inside a request would only add to its wait.
            retry=Retry(NoBackoff(), 0),
        )
        self._redis: Redis = Redis(connection_pool=pool)
        self._probe: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Close every connection."""
        if self._probe is not None:
            self._probe.cancel()
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    async def ping(self) -> bool:
        """Whether Redis answers now, breaker or not."""
        try:
            async with asyncio.timeout(self._timeout_s * 2):
                return bool(await cast("Awaitable[Any]", self._redis.ping()))
        except (RedisError, OSError):
            return False

    async def get(self, key: str) -> bytes | None:
        """The value of `key`; None if there is none, or no answer."""
        return cast("bytes | None", await self._guarded(self._redis.get(key), None))

    async def get_or_lead(
        self, key: str, lead_key: str, token: str, *, ttl_s: int, lead_ttl: timedelta
    ) -> tuple[bytes | None, bool]:
        """The value of `key`, which then lives for another `ttl_s` seconds; if there is none, whether `lead_key` was
        free and holds `token` now. True also if Redis does not answer.
        """
        milliseconds = str(int(lead_ttl.total_seconds() * 1000))
        asked = self._redis.eval(_GET_OR_LEAD, 2, key, lead_key, str(ttl_s), token, milliseconds)
        value, leads = await self._guarded(asked, (None, 1))
        return value, bool(leads)

    async def put(self, key: str, value: bytes, *, ttl_s: int) -> None:
        """Store `value` for `ttl_s` seconds."""
        await self._guarded(self._redis.set(key, value, ex=ttl_s), None)

    async def raise_to(self, key: str, number: int) -> None:
        """Set `key` to `number` unless it holds a higher one."""
        await self._guarded(self._redis.eval(_RAISE_TO, 1, key, str(number)), None)

    async def acquire(self, key: str, token: str, *, ttl: timedelta) -> bool:
        """Set `key` to `token` if it is free. True also if Redis does not answer: the lock is only a first gate."""
        taken = self._redis.set(key, token, px=int(ttl.total_seconds() * 1000), nx=True)
        return bool(await self._guarded(taken, default=True))

    async def renew(self, key: str, token: str, *, ttl: timedelta) -> None:
        """Prolong the life of `key` if it still holds `token`."""
        milliseconds = str(int(ttl.total_seconds() * 1000))
        await self._guarded(self._redis.eval(_RENEW_IF, 1, key, token, milliseconds), None)

    async def release(self, key: str, token: str) -> None:
        """Delete `key` if it still holds `token`."""
        await self._guarded(self._redis.eval(_DELETE_IF, 1, key, token), None)

    async def _guarded(self, command: Awaitable[Any], default: T) -> Any | T:
        if self._probe is not None:
            _discard(command)
            return default
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await command
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            if self._probe is None:
                _log.warning("redis_lost", error=type(error).__name__)
                # A context of its own: the probe outlives the request that started it.
                self._probe = asyncio.create_task(self._probe_until_answered(), context=Context())
            return default
        # The driver sends by way of asyncio.wait_for, which up to Python 3.11 may return in place of a cancellation.
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise asyncio.CancelledError
        return answer

    async def _probe_until_answered(self) -> None:
        while not await self.ping():  # noqa: ASYNC110 - nothing in this process could set an event
            await asyncio.sleep(_PROBE_INTERVAL_S)
        self._probe = None
        _log.info("redis_back")


def _discard(command: Awaitable[Any]) -> None:
    """Drop a command that was never sent, without the interpreter's warning about it."""
    if asyncio.iscoroutine(command):
        command.close()
