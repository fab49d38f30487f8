"""Connections to PostgreSQL: one way to open them, one way to borrow one, one way to say that it is lost.

Every connection speaks UTC, has a statement timeout, and loses an open transaction that idles. A pool opens
its connections when they are first needed, so that a service may start, and answer from Redis, before
PostgreSQL is back.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import structlog

from pg_analytics.errors import ServiceError, unavailable

if TYPE_CHECKING:  # asyncpg's classes are generic in its stubs only
    from asyncpg.pool import PoolConnectionProxy

    _Lent = PoolConnectionProxy[asyncpg.Record]
    Connection = asyncpg.Connection[asyncpg.Record] | _Lent
    _Pool = asyncpg.Pool[asyncpg.Record]
else:
    Connection = asyncpg.Connection

_log: Final = structlog.get_logger(__name__)

#: How long a server may take to cancel a statement before its connection is dropped.
_CANCEL_PATIENCE_S: Final = 0.5

#: How long a start waits for connections that it could also do without.
_WARM_UP_S: Final = 1.0

#: How long preparing a statement waits for a table that somebody has locked.
_PREPARE_LOCK_TIMEOUT: Final = "20ms"

#: What asyncpg raises when PostgreSQL is gone, going, starting, full, read-only or too slow to answer.
LOST: Final = (
    OSError,  # refused, reset, and TimeoutError
    EOFError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # an idle connection that has been told of its end, and not yet lost it
)

#: What asyncpg raises when another session kept a lock for too long: nobody's fault, and worth another try.
BLOCKED: Final = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)


class Postgres:
    """A bounded pool of connections to one database."""

    def __init__(
        self,
        url: str,
        *,
        size: int,
        timeout: timedelta,
        name: str,
        statement_timeout: timedelta | None = None,
        lock_timeout: timedelta | None = None,
        work_mem: str | None = None,
        parallel: bool = True,
        generic_plans: bool = False,
        prepared: Sequence[str] = (),
    ) -> None:
        """`timeout` bounds the wait for a connection and, unless `statement_timeout` says otherwise, each
        statement; `lock_timeout` each wait for a lock inside it. `name` shows in `pg_stat_activity`. `work_mem`, such
        as `16MB`, is for sessions whose statements build tables in memory; without `parallel`, a statement keeps to one
        core. With `generic_plans`, a statement is planned once per connection, whatever its arguments.

        `prepared` are statements that each connection prepares when it opens, so that it need not inside a transaction
        (see `transaction`).
        """
        self._url = url
        self._size = size
        self._timeout_s = timeout.total_seconds()
        self._options = connection_options(name, timeout, statement_timeout, lock_timeout)
        if work_mem is not None:
            self._options["server_settings"]["work_mem"] = work_mem
        if generic_plans:
            self._options["server_settings"]["plan_cache_mode"] = "force_generic_plan"
        if not parallel:
            self._options["server_settings"]["max_parallel_workers_per_gather"] = "0"
        self._prepared = prepared
        self._lender: _Lender | None = None

    async def open(self) -> None:
        """Make the pool; no connection is opened yet."""
        pool = await asyncpg.create_pool(
            self._url,
            min_size=0,
            max_size=self._size,
            reset=_keep_session,
            init=self._prepare,
            # Statements are known for as long as their connection lives, and it lives for as long as it works.
            max_cached_statement_lifetime=0,
            max_inactive_connection_lifetime=0,
            **self._options,
        )
        self._lender = _Lender(pool, self._timeout_s)

    async def _prepare(self, connection: Connection) -> None:
        if not self._prepared:
            return
        # A table may be locked for as long as somebody likes. What needs it is then prepared when it is first run.
        await connection.execute(f"SET lock_timeout = '{_PREPARE_LOCK_TIMEOUT}'")
        for sql in self._prepared:
            with suppress(*BLOCKED):
                await _learn(connection, sql)
        await connection.execute("RESET lock_timeout")

    async def warm_up(self) -> None:
        """Open every connection now, unless PostgreSQL lacks what they need or cannot be reached within a second."""
        with suppress(*LOST, asyncpg.PostgresError):
            async with asyncio.timeout(_WARM_UP_S), AsyncExitStack() as opened:
                for _ in range(self._size):
                    await opened.enter_async_context(self.borrowed())

    async def close(self) -> None:
        """Close every connection, at once if they do not end within a second."""
        if self._lender is not None:
            lender, self._lender = self._lender, None
            await lender.close()

    def connection(self) -> "_Loan":
        """Borrow a connection for a block. `ServiceError` (503) when PostgreSQL is lost, before or during it."""
        return _Loan(self._lender, told_as_lost=True)

    def borrowed(self) -> "_Loan":
        """Borrow a connection for a block, with the driver's own errors (for workers, which tell them apart)."""
        return _Loan(self._lender, told_as_lost=False)


class _Lender:
    """The driver's pool, and at hand those connections of it that nobody uses now: to give one back to it and take the
    next costs as much as to run a short statement. Where anybody waits at the pool, connections go back there.
    """

    def __init__(self, pool: "_Pool", timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._at_hand: list[_Lent] = []
        self._waiting = 0
        self._closing = False

    async def take(self) -> "_Lent":
        """A connection; the driver's errors if there is none to be had in time."""
        while self._at_hand:
            connection = self._at_hand.pop()
            if _is_usable(connection):
                return connection
            await self._pool.release(connection)
        self._waiting += 1
        try:
            return await self._pool.acquire(timeout=self._timeout_s)
        finally:
            self._waiting -= 1

    async def give_back(self, connection: "_Lent") -> None:
        """For the next one."""
        if self._waiting or self._closing or not _is_usable(connection):
            await self._pool.release(connection)
        else:
            self._at_hand.append(connection)

    async def close(self) -> None:
        """Close every connection, at once if they do not end within a second."""
        self._closing = True
        try:
            async with asyncio.timeout(1):
                while self._at_hand:
                    await self._pool.release(self._at_hand.pop())
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()


class _Loan:
    """A connection for the length of a block. A class, since every report passes here: two generators cost more than
    what they do.
    """

    __slots__ = ("_connection", "_lender", "_told_as_lost")

    def __init__(self, lender: "_Lender | None", *, told_as_lost: bool) -> None:
        self._lender = lender
        self._told_as_lost = told_as_lost

    async def __aenter__(self) -> Connection:
        try:
            if self._lender is None:
                raise ConnectionError("the pool is closed")
            self._connection = await self._lender.take()
        except LOST as error:
            self._tell(error)
            raise
        return self._connection

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _where: TracebackType | None
    ) -> None:
        if error is None:
            await self._give_back()
            return
        try:
            if isinstance(error, TimeoutError | asyncio.CancelledError):
                # A statement was left half-way, and the driver has asked the server to cancel it. One that lives does
                # so, and lets go of its locks; one that is hung is left to its own time limits after a moment.
                with suppress(Exception):
                    await self._connection.close(timeout=_CANCEL_PATIENCE_S)
        finally:
            await self._give_back()
        self._tell(error)

    async def _give_back(self) -> None:
        assert self._lender is not None  # noqa: S101 - it lent the connection
        try:
            await self._lender.give_back(self._connection)
        except LOST as error:
            self._tell(error)
            raise

    def _tell(self, error: BaseException) -> None:
        if self._told_as_lost and isinstance(error, LOST) and not isinstance(error, asyncpg.DataError):
            _log.warning("postgres_lost", error=describe(error))
            raise lost() from error


@asynccontextmanager
async def transaction(connection: Connection, *, prepare: Sequence[str] = ()) -> AsyncIterator[None]:
    """A READ COMMITTED transaction on a borrowed connection, whatever the database's default; inside one, a savepoint.

    `prepare` are the statements of the block, where its connection has not prepared them when it was opened. The driver
    prepares in two steps. A process that is paused between them keeps its locks for as long as it is paused: PostgreSQL
    takes that session for a busy one, which none of its time limits ends. Before the block, those are locks that only
    a change of the schema waits for. In it, where all is prepared, a paused session is an idle one, and ended by
    `idle_in_transaction_session_timeout`.

    asyncpg's own block would send ROLLBACK even where a statement was left half-way, and wait for the answer of a
    server that may be hung. Here nothing more is sent then: the connection is about to be dropped.
    """
    for sql in prepare:
        await _learn(connection, sql)
    begun = connection.transaction(isolation="read_committed")
    await begun.start()
    try:
        yield
    except (TimeoutError, asyncio.CancelledError):
        raise
    except BaseException:
        # The connection may be closed, or its end may not have been read yet; the reason is what is being raised.
        with suppress(asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresConnectionError):
            await begun.rollback()
        raise
    await begun.commit()


async def _learn(connection: Connection, sql: str) -> None:
    """Prepare a statement, unless this connection has."""
    # The public `prepare` keeps its statement from every later call with the same text.
    await connection._prepare(sql, use_cache=True)  # type: ignore[union-attr] # noqa: SLF001


def lost() -> ServiceError:
    """503: PostgreSQL is needed and cannot be reached, or does not answer in time."""
    return unavailable("the database cannot be reached or did not answer in time")


def describe(error: BaseException) -> str:
    """One line about an error for the log: its type and first line, without addresses or parameters."""
    text = str(error).splitlines()
    return f"{type(error).__name__}: {text[0]}" if text and not isinstance(error, OSError) else type(error).__name__


def connection_options(
    name: str, timeout: timedelta, statement_timeout: timedelta | None = None, lock_timeout: timedelta | None = None
) -> dict[str, Any]:
    """Keyword arguments of `asyncpg.connect` that every connection of ours shares.

    The client's own time limit is a little longer than the server's: a server that is alive ends the statement
    itself, and the client gives up only on one that is hung.
    """
    statement_s = (statement_timeout or timeout).total_seconds()
    lock_s = lock_timeout.total_seconds() if lock_timeout else statement_s
    return {
        "timeout": timeout.total_seconds(),
        "command_timeout": statement_s + 1,
        "server_settings": {
            "application_name": f"pg-analytics {name}",
            "timezone": "UTC",
            # What each statement's own snapshot is good for is told in `snapshots`.
            "default_transaction_isolation": "read committed",
            "statement_timeout": f"{statement_s * 1000:.0f}",
            "lock_timeout": f"{lock_s * 1000:.0f}",
            "idle_in_transaction_session_timeout": "10000",
            # Compiling a short statement takes longer than running it.
            "jit": "off",
        },
    }


def _is_usable(connection: Connection) -> bool:
    """Whether it can be lent as it is."""
    try:
        return not connection.is_closed() and not connection.is_in_transaction()
    except asyncpg.InterfaceError:  # the driver has taken it back
        return False


async def _keep_session(connection: Connection) -> None:
    """Give a connection back as it is: no statement of ours leaves session state, only perhaps a transaction.

    asyncpg's own reset costs a round trip per request.
    """
    if connection.is_in_transaction():
        await connection.execute("ROLLBACK")
