"""Waiting for a state that can only be asked for: never for a time.

The bound is a guard against a hang, far beyond what any machine needs; nothing is measured by it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from pg_analytics.postgres.pool import Connection

T = TypeVar("T")

_GUARD_S: Final = 60
_PAUSE_S: Final = 0.01
_PARKED: Final = """
    SELECT EXISTS(
        SELECT FROM pg_locks AS l JOIN pg_database AS d ON l.database = d.oid
        WHERE d.datname = current_database() AND l.locktype = 'advisory' AND NOT l.granted
    )
"""
_UNLOCKED: Final = """
    SELECT NOT EXISTS(
        SELECT FROM pg_locks AS l JOIN pg_database AS d ON l.database = d.oid
        WHERE d.datname = current_database() AND l.locktype = 'advisory'
    )
"""


async def until_true(
    connection: Connection,
    question: str,
    *arguments: object,
    unless: "asyncio.Task[Any] | None" = None,
    within_s: float = _GUARD_S,
) -> None:
    """Until the database answers `question` with true, or `unless` is done."""
    deadline = time.monotonic() + within_s
    while not await connection.fetchval(question, *arguments):
        if unless is not None and unless.done():
            return
        assert time.monotonic() < deadline, f"never true: {question}"
        await asyncio.sleep(_PAUSE_S)


async def until_blocked(
    observer: Connection, pid: int, *, by: str = "advisory", unless: "asyncio.Task[Any] | None" = None
) -> None:
    """Until the backend `pid` waits for a lock of the type `by`, or `unless` is done."""
    waits = "SELECT EXISTS(SELECT FROM pg_locks WHERE pid = $1 AND locktype = $2 AND NOT granted)"
    await until_true(observer, waits, pid, by, unless=unless)


async def until_parked(observer: Connection) -> None:
    """Until some session of this database waits for an advisory lock."""
    await until_true(observer, _PARKED)


async def until_unlocked(observer: Connection) -> None:
    """Until no session of this database has an advisory lock, or waits for one."""
    await until_true(observer, _UNLOCKED)


def until(probe: Callable[[], T | None]) -> T:
    """The first answer of `probe` that is not None or False."""
    deadline = time.monotonic() + _GUARD_S
    while not (answer := probe()):
        assert time.monotonic() < deadline, f"never: {probe}"
        time.sleep(_PAUSE_S)
    return answer


async def until_answered(probe: Callable[[], Awaitable[T | None]]) -> T:
    """As `until`, where what answers lives in the event loop."""
    deadline = time.monotonic() + _GUARD_S
    while not (answer := await probe()):
        assert time.monotonic() < deadline, f"never: {probe}"
        await asyncio.sleep(_PAUSE_S)
    return answer
